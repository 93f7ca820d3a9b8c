//! In which form a client wants to be told why: `Accept` (RFC 9110, section 12.5.1), read for the three forms that
//! our own answers have.

/// A form of an answer of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `text/plain`: the default.
    Text,
    /// `application/json`.
    Json,
    /// `application/problem+json` (RFC 9457): for those who ask for it by its name.
    Problem,
}

/// What the most specific range for a form says of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Wish {
    /// In thousandths. 0 is a refusal.
    weight: u16,
    /// 3 for a name, 2 for `type/*`, 1 for `*/*`.
    precision: u8,
    /// Of two that are wanted alike, the earlier.
    early: std::cmp::Reverse<usize>,
}

/// The form that is wanted most. Who accepts none of them gets text, for any answer is better than none.
pub fn form(accept: &[u8]) -> Form {
    let mut wishes = [(Form::Text, None::<Wish>), (Form::Json, None), (Form::Problem, None)];
    for (place, range) in accept.split(|byte| *byte == b',').enumerate() {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let Some(weight) = weight(parts) else { continue };
        for (form, wish) in &mut wishes {
            let precision = form.precision(name);
            if precision > wish.map_or(0, |wish| wish.precision) {
                *wish = Some(Wish { weight, precision, early: std::cmp::Reverse(place) });
            }
        }
    }
    let wanted =
        wishes.into_iter().filter_map(|(form, wish)| wish.filter(|wish| wish.weight > 0).map(|wish| (wish, form)));
    // The first of equals, which is text.
    wanted.reduce(|best, next| if next.0 > best.0 { next } else { best }).map_or(Form::Text, |(_, form)| form)
}

impl Form {
    /// How precisely a media range names this form; 0 where it does not.
    fn precision(self, range: &[u8]) -> u8 {
        let is = |name: &str| range.eq_ignore_ascii_case(name.as_bytes());
        match self {
            Self::Text if is("text/plain") => 3,
            Self::Text if is("text/*") => 2,
            Self::Json if is("application/json") => 3,
            Self::Json if is("application/*") => 2,
            Self::Problem if is("application/problem+json") => 3,
            Self::Text | Self::Json if is("*/*") => 1,
            Self::Text | Self::Json | Self::Problem => 0,
        }
    }
}

/// `q` among the parameters of a range, 1 where there is none; nothing where it is no weight.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    let Some(value) = parameters.find_map(|parameter| match parameter {
        [b'q' | b'Q', b'=', value @ ..] => Some(value),
        _ => None,
    }) else {
        return Some(1000);
    };
    let (whole, rest) = match value {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', rest @ ..] if rest.len() <= 3 => (whole, rest),
        _ => return None,
    };
    let digits = rest.iter().chain(b"000").take(3).try_fold(u16::from(whole - b'0'), |sum, digit| {
        digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0'))
    })?;
    (digits <= 1000).then_some(digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_wanted_most() {
        use Form::{Json, Problem, Text};
        let table = [
            ("", Text),
            ("*/*", Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Text),
            ("image/png", Text),
            ("application/json", Json),
            ("Application/JSON; charset=utf-8", Json),
            ("application/*", Json),
            ("text/*", Text),
            ("application/json, */*", Json),
            ("application/json, text/plain, */*", Json),
            ("text/plain, application/json", Text),
            ("text/plain;q=0.5, application/json;q=0.6", Json),
            ("application/json;q=0.5, text/*", Text),
            ("application/json;q=0.5, */*;q=0.1", Json),
            ("application/json;q=0, */*", Text),
            ("text/plain;q=0, */*;q=0.1", Json),
            ("text/plain;q=0, application/json;q=0", Text),
            ("application/problem+json", Problem),
            ("application/problem+json, application/json;q=0.9", Problem),
            ("application/json, application/problem+json", Json),
            ("application/problem+json;q=0.2, */*;q=0.1", Problem),
            // No weight, no wish.
            ("application/json;q=2", Text),
            ("application/json;q=1.001", Text),
            ("application/json;q=0.0001", Text),
            ("application/json;q=-1, */*", Text),
            ("application/json;q=", Text),
            ("application/json;q=1.000", Json),
            ("application/json;Q=0.001", Json),
            (",;,q=1,/", Text),
        ];
        for (accept, wanted) in table {
            assert_eq!(form(accept.as_bytes()), wanted, "{accept}");
        }
    }

    proptest! {
        /// No form is chosen while another is wanted more.
        #[test]
        fn nothing_is_wanted_more(wishes in prop::collection::vec((0..6usize, 0..=1000u16), 0..6)) {
            const RANGES: [&str; 6] =
                ["text/plain", "application/json", "application/problem+json", "text/*", "application/*", "*/*"];
            let range = |(range, weight): &(usize, u16)| format!("{};q={:.3}", RANGES[*range], f64::from(*weight) / 1000.0);
            let accept = wishes.iter().map(range).collect::<Vec<_>>().join(" , ");
            let chosen = form(accept.as_bytes());
            let named = |names: &[usize]| {
                let of = |name: &usize| wishes.iter().find(|(range, _)| range == name);
                names.iter().find_map(of).map_or(0, |(_, weight)| *weight)
            };
            let weights = [(Form::Text, named(&[0, 3, 5])), (Form::Json, named(&[1, 4, 5])), (Form::Problem, named(&[2]))];
            let most = weights.iter().map(|(_, weight)| *weight).max().unwrap();
            prop_assert!(weights.contains(&(chosen, most)) || (most, chosen) == (0, Form::Text), "{}", accept);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = form(&bytes);
        }
    }
}
