//! Values that are written with a unit or in a language of their own: durations, sizes, regular expressions.
//!
//! Each has one parser, which serde and the checker (by the schema's `format`) both call.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A Gateway API duration (GEP-2257, and `d` for days): `250ms`, `10s`, `1m30s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

/// A Kubernetes quantity of bytes: `64Ki`, `10Mi`, `1500`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// A regular expression that has compiled, and matches a whole value.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: Box<str>,
    regex: regex::Regex,
}

/// The longest duration that its own grammar can write.
const HOURS_MAX: u64 = 99_999;
/// Bytes that one compiled expression may take: what a configuration can make us hold.
const REGEX_BYTES_MAX: usize = 1 << 20;

const DURATION_PATTERN: &str = "^([0-9]{1,5}(d|h|m|s|ms)){1,4}$";
const SIZE_PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$";

impl Duration {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl Deref for Duration {
    type Target = std::time::Duration;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration (such as `250ms`, `10s`, `1m30s`, `1h`)");
        let (mut rest, mut millis, mut parts) = (text, 0u64, 0);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let units = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(units);
            parts += 1;
            if !(1..=5).contains(&digits) || parts > 4 {
                return Err(wrong());
            }
            let scale = match unit {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(wrong()),
            };
            millis += number.parse::<u64>().map_err(|_| wrong())? * scale;
            rest = after;
        }
        match parts {
            0 => Err(wrong()),
            _ if millis > HOURS_MAX * 3_600_000 => Err(format!("`{text}` is longer than {HOURS_MAX}h")),
            _ => Ok(Self(std::time::Duration::from_millis(millis))),
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (millis.into(), "ms")];
        if parts.iter().all(|(number, _)| *number == 0) {
            return f.write_str("0s");
        }
        parts.iter().filter(|(number, _)| *number > 0).try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size (such as `64Ki`, `10Mi`, `1Gi` or a number of bytes)");
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let scale: u128 = match suffix {
            "" => 1,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || whole.len() + fraction.len() > 24 || fraction.contains('.') {
            return Err(wrong());
        }
        let tenths = 10u128.pow(fraction.len() as u32);
        let parse = |digits: &str| digits.parse::<u128>().map_err(|_| wrong());
        let scaled = (parse(whole)? * tenths + parse(fraction)?) * scale;
        if !scaled.is_multiple_of(tenths) {
            return Err(format!("`{text}` is not a whole number of bytes"));
        }
        u64::try_from(scaled / tenths).map(Self).map_err(|_| format!("`{text}` is too large"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffixes = [(1u64 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
        match suffixes.iter().find(|(scale, _)| self.0 > 0 && self.0.is_multiple_of(*scale)) {
            Some((scale, suffix)) => write!(f, "{}{suffix}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Pattern {
    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Anchored at both ends. Cheap: the compiled program is shared.
    pub fn compile(&self) -> regex::Regex {
        self.regex.clone()
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Alone first: `a)|(b` would become valid between the anchors' parentheses.
        let build = |text: &str| regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
        match build(text).and_then(|_| build(&format!("^(?:{text})$"))) {
            Ok(regex) => Ok(Self { source: text.into(), regex }),
            Err(regex::Error::CompiledTooBig(_)) => Err("the regular expression is too large".to_owned()),
            Err(error) => {
                let detail = error.to_string();
                let cause = detail.lines().last().unwrap_or_default().trim_start_matches("error: ");
                Err(format!("`{text}` is not a regular expression: {cause}"))
            }
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

macro_rules! written {
    ($type:ident, $schema:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

written!(Duration, json_schema!({ "type": "string", "format": "gatewayDuration", "pattern": DURATION_PATTERN }));
written!(
    Size,
    json_schema!({ "type": ["string", "integer"], "format": "quantity", "pattern": SIZE_PATTERN, "minimum": 0 })
);
written!(Pattern, json_schema!({ "type": "string", "format": "rustRegex" }));

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [("0s", 0), ("250ms", 250), ("1m30s", 90_000), ("1h", 3_600_000), ("2d", 172_800_000)] {
            assert_eq!(text.parse::<Duration>().map(|d| d.as_millis()), Ok(millis), "{text}");
        }
        for text in ["", "5", "s", "1.5s", "1s ", "-1s", "100000s", "1h1m1s1ms1s", "1us", "99999d", "1S"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("64Ki", 65536), ("1.5Ki", 1536), ("2k", 2000), ("1Gi", 1 << 30)] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        for text in
            ["", "Ki", "1KB", "1 Ki", "-1", "0.3Ki", "1.", ".5", "1.1.1", "99999999999999999999", "9999999999Ti"]
        {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_match_the_whole_value() {
        let regex = "a|b".parse::<Pattern>().map(|p| p.compile());
        assert!(regex.as_ref().is_ok_and(|r| r.is_match("b") && !r.is_match("ab") && !r.is_match("b\n")));
        for text in ["(", "a)|(b", "(a{1000}){1000}"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn durations_survive_a_round_trip(millis in 0..=HOURS_MAX * 3_600_000) {
            let duration = Duration(std::time::Duration::from_millis(millis));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn sizes_survive_a_round_trip(bytes: u64, shift in 0u32..50) {
            let size = Size(bytes >> shift << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = (text.parse::<Duration>(), text.parse::<Size>(), text.parse::<Pattern>());
        }
    }
}
