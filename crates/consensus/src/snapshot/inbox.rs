//! Who may write the staged files of a shard: one transfer at a time, and of several the newest.
//!
//! A sender whose connection broke comes again before the receiver has noticed. Its newer transfer ends the older one.
//! Files that are being installed are in nobody's way: their place is given back when openraft is done with them.

use meridian_clock::Mono;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

/// The place of the staged files of one shard.
pub(super) struct Inbox {
    place: Arc<Mutex<Left>>,
    newest: watch::Sender<u64>,
}

/// When the place was left, if there may be something in it.
type Left = Option<Mono>;

/// The right to write the staged files, or to have them installed.
pub(crate) struct Place {
    left: OwnedMutexGuard<Left>,
    emptied: bool,
}

/// A transfer's number among all.
pub(super) struct Turn {
    number: u64,
    newest: watch::Receiver<u64>,
}

impl Inbox {
    /// What an earlier process has left may be in it.
    pub(super) fn new() -> Self {
        Self { place: Arc::new(Mutex::new(Some(Mono::now()))), newest: watch::Sender::new(0) }
    }

    /// A new transfer: all before it are over.
    pub(super) fn turn(&self) -> Turn {
        let mut number = 0;
        self.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        Turn { number, newest: self.newest.subscribe() }
    }

    /// Waits until nobody writes or installs any more.
    pub(super) async fn enter(&self) -> Place {
        Place { left: self.place.clone().lock_owned().await, emptied: false }
    }

    /// The place, if it was left at `before` or earlier, and nobody is in it.
    pub(super) fn enter_if_left(&self, before: Mono) -> Option<Place> {
        let left = self.place.clone().try_lock_owned().ok()?;
        left.is_some_and(|at| at <= before).then_some(Place { left, emptied: false })
    }
}

impl Place {
    /// There is nothing in it any more.
    pub(super) fn emptied(mut self) {
        self.emptied = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.left = (!self.emptied).then(Mono::now);
    }
}

impl Turn {
    /// Returns when a newer transfer has come.
    pub(super) async fn over(&mut self) {
        let number = self.number;
        if self.newest.wait_for(|newest| *newest != number).await.is_err() {
            // The inbox is gone, and with it whoever could come.
            std::future::pending().await
        }
    }
}
