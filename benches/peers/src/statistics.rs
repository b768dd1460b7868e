//! Medians and ratios.

/// The middle value, or the mean of the two in the middle; `None` without values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// `value / base`; `None` where that is no number.
pub(crate) fn ratio(value: f64, base: f64) -> Option<f64> {
    let ratio = value / base;
    ratio.is_finite().then_some(ratio)
}

/// The smallest and the largest ratio of two values that were taken in the same round.
pub(crate) fn ratio_range(values: &[f64], bases: &[f64]) -> Option<(f64, f64)> {
    let ratios = values.iter().zip(bases).filter_map(|(value, base)| ratio(*value, *base));
    ratios.fold(None, |range, r| match range {
        None => Some((r, r)),
        Some((low, high)) => Some((f64::min(low, r), f64::max(high, r))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_the_sorted_values() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[10.0, 2.0, 4.0, 1.0]), Some(3.0));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
        // As text, 10 would come before 9.
        assert_eq!(median(&[10.0, 9.0, 100.0]), Some(10.0));
    }

    #[test]
    fn ratios_are_of_the_first_to_the_second() {
        assert_eq!(ratio(30.0, 10.0), Some(3.0));
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(0.0, 0.0), None);
    }

    #[test]
    fn ranges_pair_what_was_measured_in_the_same_round() {
        // Both halved in the second round: a slow machine, and no change of the ratio.
        assert_eq!(ratio_range(&[30.0, 15.0], &[10.0, 5.0]), Some((3.0, 3.0)));
        assert_eq!(ratio_range(&[30.0, 30.0], &[10.0, 5.0]), Some((3.0, 6.0)));
        assert_eq!(ratio_range(&[30.0], &[]), None);
        assert_eq!(ratio_range(&[30.0, 8.0], &[0.0, 4.0]), Some((2.0, 2.0)));
    }
}
