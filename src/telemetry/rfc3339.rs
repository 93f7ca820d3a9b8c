//! A moment as RFC 3339 writes it, in UTC, to the millisecond.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment that prints as `2026-11-21T03:28:01.123Z`; one before 1970 as its beginning.
#[derive(Debug, Clone, Copy)]
pub struct Rfc3339(pub SystemTime);

impl Rfc3339 {
    /// A moment of the clock that only runs forward; `now` is the same moment on both clocks.
    pub fn of(at: Instant, (now, wall): (Instant, SystemTime)) -> Self {
        let moment = match at.checked_duration_since(now) {
            Some(ahead) => wall.checked_add(ahead),
            None => wall.checked_sub(now.saturating_duration_since(at)),
        };
        Self(moment.unwrap_or(UNIX_EPOCH))
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = age.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let millis = age.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Days since 1970 to a date, by Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Reads what [`Rfc3339`] prints, and nothing else.
pub fn parse(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date.split('-'))?;
    let (time, millis) = time.split_once('.')?;
    let [hour, minute, second] = numbers(time.split(':'))?;
    // Beyond it is no moment that a clock here can have; and nothing below overflows before it.
    if !(1970..1 << 40).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = days(year, month, day).checked_mul(86_400)?.checked_add(hour * 3600 + minute * 60 + second)?;
    let age = Duration::new(seconds, 0).checked_add(Duration::from_millis(millis.parse().ok()?))?;
    let moment = UNIX_EPOCH.checked_add(age)?;
    (Rfc3339(moment).to_string() == text).then_some(moment)
}

/// Reads a moment as people write it: with or without a fraction of a second, in UTC or with an offset.
pub fn read(text: &str) -> Option<SystemTime> {
    let (local, ahead) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let (local, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let sign =
                if let Some(zone) = zone.strip_prefix('+') { (zone, 60) } else { (zone.strip_prefix('-')?, -60) };
            let (hours, minutes) = sign.0.split_once(':')?;
            let two = |digits: &str| digits.parse::<i64>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
            (local, sign.1 * (two(hours).filter(|h| *h < 24)? * 60 + two(minutes).filter(|m| *m < 60)?))
        }
    };
    let (whole, fraction) = local.split_once('.').unwrap_or((local, "0"));
    if !(1..=9).contains(&fraction.len()) || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis: String = fraction.chars().chain("00".chars()).take(3).collect();
    let moment = parse(&format!("{}.{millis}Z", whole.replacen(['t', ' '], "T", 1)))?;
    let offset = Duration::from_secs(ahead.unsigned_abs());
    if ahead < 0 { moment.checked_add(offset) } else { moment.checked_sub(offset) }
}

fn numbers<'a>(mut parts: impl Iterator<Item = &'a str>) -> Option<[u64; 3]> {
    let mut next = || parts.next()?.parse::<u64>().ok().filter(|number| *number < 1 << 40);
    Some([next()?, next()?, next()?])
}

/// The way back, by `days_from_civil`; not before 1970.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (1_795_231_681_123, "2026-11-21T03:28:01.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let moment = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(Rfc3339(moment).to_string(), text);
            assert_eq!(parse(text), Some(moment));
        }
    }

    #[test]
    fn every_day_can_be_read_back() {
        for day in 0..200 * 366 {
            let moment = UNIX_EPOCH + Duration::from_millis(day * 86_400_000 + day);
            assert_eq!(parse(&Rfc3339(moment).to_string()), Some(moment));
        }
        let late = UNIX_EPOCH + Duration::from_secs(1 << 44);
        assert_eq!(parse(&Rfc3339(late).to_string()), Some(late));
    }

    #[test]
    fn people_write_moments_in_several_ways() {
        let wanted = parse("2027-01-01T00:00:00.000Z");
        for text in ["2027-01-01T00:00:00Z", "2027-01-01t00:00:00.0z", "2027-01-01T01:30:00.000000+01:30"] {
            assert_eq!(read(text), wanted, "{text}");
        }
        assert_eq!(read("2026-12-31T19:00:00-05:00"), wanted);
        assert_eq!(read("2027-01-01T00:00:00.25Z"), wanted.map(|moment| moment + Duration::from_millis(250)));
        for text in
            ["", "2027-01-01", "2027-01-01T00:00:00", "2027-01-01T00:00:00.Z", "2027-13-01T00:00:00Z", "é+01:00"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_moment() {
        for text in [
            "",
            "Z",
            "1970-01-01T00:00:00Z",
            "1970-01-01 00:00:00.000Z",
            "1970-01-01T00:00:00.000",
            "1970-1-01T00:00:00.000Z",
            "1970-01-01T00:00:00.0001Z",
            "1970-00-01T00:00:00.000Z",
            "1969-12-31T00:00:00.000Z",
            "2023-02-29T00:00:00.000Z",
            "2024-01-32T00:00:00.000Z",
            "2024-01-01T24:00:00.000Z",
            "2024-01-01-01T00:00:00.000Z",
            "+2024-01-01T00:00:00.000Z",
            "999999999999-01-01T00:00:00.000Z",
            "99999999999999999999-01-01T00:00:00.000Z",
            "2024-01-01T99999999999:00:00.000Z",
            "2024-01-01T00:00:00.99999999999999999999Z",
            "é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
