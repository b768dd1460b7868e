//! The one system call that no safe wrapper offers: reading the kernel's time discipline.

/// What `adjtimex` says, as far as it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timex {
    /// Return value of the call: the clock's state.
    pub state: i32,
    /// Status bits.
    pub status: i32,
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// Nanoseconds of the second if the status has [`STA_NANO`], else microseconds.
    pub fraction: i64,
    /// Maximum error, in microseconds.
    pub maxerror_us: i64,
}

/// The clock is not synchronized (return value).
pub(crate) const TIME_ERROR: i32 = 5;
/// The clock is not synchronized (status bit).
pub(crate) const STA_UNSYNC: i32 = 0x0040;
/// The fraction is in nanoseconds (status bit).
pub(crate) const STA_NANO: i32 = 0x2000;

/// Reads the kernel's clock and its error estimates; changes nothing and needs no privilege.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "adjtimex has no safe wrapper that returns maxerror")]
pub(crate) fn read() -> std::io::Result<Timex> {
    // SAFETY: `timex` is plain old data, for which all zeros is a valid value (`modes` 0 means "read only").
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, exclusively borrowed `timex`, which the call fills in.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(Timex {
        state,
        status: timex.status,
        seconds: timex.time.tv_sec,
        fraction: timex.time.tv_usec,
        maxerror_us: timex.maxerror,
    })
}

/// Elsewhere there is no such call.
#[cfg(not(target_os = "linux"))]
pub(crate) fn read() -> std::io::Result<Timex> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn constants_are_the_kernels() {
        assert_eq!((TIME_ERROR, STA_UNSYNC, STA_NANO), (libc::TIME_ERROR, libc::STA_UNSYNC, libc::STA_NANO));
    }

    #[test]
    fn the_kernel_answers() {
        let t = read().unwrap();
        assert!(t.seconds > 1_600_000_000 && t.maxerror_us >= 0, "{t:?}");
    }
}
