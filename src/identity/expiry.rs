//! How much of the life of a certificate is left.

use std::time::SystemTime;

/// Percent of the life; each is worth a word when no more than it is left.
pub const MARKS: [u8; 3] = [50, 25, 10];

/// The last of the marks that has been passed.
pub fn passed(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Option<u8> {
    let left = not_after.duration_since(now).unwrap_or_default().as_millis();
    let life = not_after.duration_since(not_before).unwrap_or_default().as_millis();
    MARKS.into_iter().rfind(|mark| left * 100 <= life * u128::from(*mark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_mark_has_its_time() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (now, mark) in [
            (0, None),
            (1000, None),
            (1499, None),
            (1500, Some(50)),
            (1749, Some(50)),
            (1750, Some(25)),
            (1899, Some(25)),
            (1900, Some(10)),
            (2000, Some(10)),
            (9999, Some(10)),
        ] {
            assert_eq!(passed(at(1000), at(2000), at(now)), mark, "{now}");
        }
    }
}
