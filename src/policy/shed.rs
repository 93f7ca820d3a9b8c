//! Which classes of requests are refused while memory is short: those that matter less first, and each until there is
//! clearly more again.

use super::class::Class;

/// Percentage points by which memory has to fall below a threshold before it counts as passed no more.
const BACK: f64 = 5.0;
/// Percentage points below the threshold at which sheddable requests are given up already.
const AHEAD: f64 = 5.0;

/// From which share of the memory on a class is refused, in percent.
pub fn threshold(class: Class, shed_at: f64) -> f64 {
    match class {
        Class::Sheddable => (shed_at - AHEAD).max(shed_at / 2.0),
        Class::Default => shed_at,
        Class::Critical => f64::midpoint(shed_at, 100.0),
    }
}

/// The class up to which all are refused now, if any. `before` is what that was at the last look.
pub fn look(before: Option<Class>, used: f64, shed_at: f64) -> Option<Class> {
    let refused = |class: &Class| {
        let threshold = threshold(*class, shed_at);
        used >= if before >= Some(*class) { threshold - BACK } else { threshold }
    };
    Class::ALL.into_iter().rev().find(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_matters_first_and_nothing_flaps() {
        let mut refused = None;
        let mut at = |used| {
            refused = look(refused, used, 90.0);
            refused
        };
        use Class::{Critical, Default, Sheddable};
        let up = [80.0, 85.0, 89.9, 90.0, 94.9, 95.0, 120.0].map(&mut at);
        let expected = [None, Some(Sheddable), Some(Sheddable), Some(Default), Some(Default), Some(Critical)];
        assert_eq!(up[..6], expected);
        assert_eq!(up[6], Some(Critical));
        let down = [94.0, 90.0, 89.9, 85.0, 84.9, 80.0, 79.9].map(&mut at);
        let expected = [Some(Critical), Some(Critical), Some(Default), Some(Default), Some(Sheddable), Some(Sheddable)];
        assert_eq!(down[..6], expected);
        assert_eq!(down[6], None);
    }

    #[test]
    fn a_low_threshold_has_one_below_it() {
        assert_eq!(look(None, 0.4, 1.0), None);
        assert_eq!(look(None, 0.5, 1.0), Some(Class::Sheddable));
        assert_eq!(look(None, 1.0, 1.0), Some(Class::Default));
        assert_eq!(look(Some(Class::Default), 0.0, 1.0), Some(Class::Default), "never below nothing");
    }
}
