//! What a row of health checks says of an endpoint. The first check of all decides alone, since nothing else is known;
//! after that it takes some in a row to change a mind.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub healthy_after: u32,
    pub unhealthy_after: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streak {
    known: bool,
    unhealthy: bool,
    /// Checks in a row that say otherwise.
    against: u32,
}

impl Streak {
    /// One more check; whether the endpoint is held to be unhealthy now, where that has changed.
    pub fn next(&mut self, passed: bool, thresholds: Thresholds) -> Option<bool> {
        let first = !std::mem::replace(&mut self.known, true);
        if passed != self.unhealthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.unhealthy { thresholds.healthy_after } else { thresholds.unhealthy_after };
        if !first && self.against < needed {
            return None;
        }
        (self.unhealthy, self.against) = (!passed, 0);
        Some(self.unhealthy)
    }

    pub fn is_known(&self) -> bool {
        self.known
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO_THREE: Thresholds = Thresholds { healthy_after: 2, unhealthy_after: 3 };

    fn changes(results: &[bool]) -> Vec<Option<bool>> {
        let mut streak = Streak::default();
        results.iter().map(|passed| streak.next(*passed, TWO_THREE)).collect()
    }

    #[test]
    fn the_first_decides_alone_and_then_it_takes_some_in_a_row() {
        assert_eq!(changes(&[true, false, false, true, false]), [None; 5]);
        assert_eq!(changes(&[true, false, false, false]), [None, None, None, Some(true)]);
        assert_eq!(changes(&[false, true, false, true, true]), [Some(true), None, None, None, Some(false)]);
    }

    proptest! {
        /// Against a model that reads the whole history anew for each check.
        #[test]
        fn it_is_what_the_last_of_a_row_say(
            results in prop::collection::vec(any::<bool>(), 1..60),
            healthy_after in 1u32..5,
            unhealthy_after in 1u32..5,
        ) {
            let thresholds = Thresholds { healthy_after, unhealthy_after };
            let mut streak = Streak::default();
            let (mut unhealthy, mut since) = (false, 0);
            for (index, passed) in results.iter().enumerate() {
                let needed = if unhealthy { healthy_after } else { unhealthy_after } as usize;
                let row = results[since..=index].iter().rev().take_while(|one| **one == unhealthy).count();
                let turns = row >= needed || index == 0 && !passed;
                if turns {
                    (unhealthy, since) = (!unhealthy, index + 1);
                }
                prop_assert_eq!(streak.next(*passed, thresholds), turns.then_some(unhealthy), "check {}", index);
            }
        }
    }
}
