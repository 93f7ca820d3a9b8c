//! Paths without what tells one customer from another: numbers and identifiers are of no matter to routing, unless
//! they are written in the configuration.

use std::collections::HashSet;

/// What stands for a number and for an identifier where requests are counted.
pub const NUMBER: &str = "{n}";
pub const IDENTIFIER: &str = "{id}";

/// Digits from which a number is an identifier (an account, a card), and so is a hexadecimal word.
const HEX_MIN: usize = 16;
/// No word of a path is longer.
const WORD_MAX: usize = 32;
/// Longest form of a masked segment that is kept.
const MASKED_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Word,
    Number,
    Identifier,
}

/// A path as it is counted, and as it is decided about.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// With `{n}` and `{id}` in place of numbers and identifiers.
    pub counted: String,
    /// With letters and digits of identifiers replaced by others: of the same form, which a pattern may ask for.
    pub sample: String,
}

impl Shape {
    /// Segments in `written` stay as they are.
    pub fn of(path: &str, written: &HashSet<Box<str>>) -> Self {
        let (mut counted, mut sample) = (String::with_capacity(path.len()), String::with_capacity(path.len()));
        for (index, segment) in path.split('/').enumerate() {
            if index > 0 {
                counted.push('/');
                sample.push('/');
            }
            let kind = if written.contains(segment) { Segment::Word } else { kind(segment) };
            match kind {
                Segment::Word => {
                    counted.push_str(segment);
                    sample.push_str(segment);
                }
                Segment::Number => {
                    counted.push_str(NUMBER);
                    sample.push_str(segment);
                }
                Segment::Identifier => {
                    counted.push_str(IDENTIFIER);
                    mask(&mut sample, segment);
                }
            }
        }
        Self { counted, sample }
    }
}

/// Whether a value is a hexadecimal word or a UUID: a token, a session, a trace.
pub fn is_token(text: &str) -> bool {
    let uuid = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() >= HEX_MIN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        || text.len() == 36 && text.bytes().enumerate().all(uuid)
}

fn kind(segment: &str) -> Segment {
    if is_token(segment) || segment.len() > WORD_MAX {
        Segment::Identifier
    } else if !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()) {
        Segment::Number
    } else {
        Segment::Word
    }
}

/// No digit becomes 0: `%00` would be refused.
fn mask(out: &mut String, segment: &str) {
    if segment.len() > MASKED_MAX {
        out.extend(std::iter::repeat_n('a', MASKED_MAX));
        return;
    }
    // Byte by byte, so that a masked identifier is as long, and still one.
    out.extend(segment.bytes().map(|byte| match byte {
        b'0'..=b'9' => '1',
        b'A'..=b'Z' => 'A',
        b'a'..=b'z' | 0x80.. => 'a',
        byte => char::from(byte),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(path: &str) -> (String, String) {
        let shape = Shape::of(path, &HashSet::from(["0123456789abcdef".into(), "7".into()]));
        (shape.counted, shape.sample)
    }

    #[test]
    fn numbers_and_identifiers_are_of_one_shape() {
        for (path, counted, sample) in [
            ("/", "/", "/"),
            ("/api/v1//x/", "/api/v1//x/", "/api/v1//x/"),
            ("/items/42", "/items/{n}", "/items/42"),
            ("/items/7", "/items/7", "/items/7"),
            ("/f/0123456789abcdef", "/f/0123456789abcdef", "/f/0123456789abcdef"),
            ("/f/fedcba9876543210/x", "/f/{id}/x", "/f/aaaaaa1111111111/x"),
            ("/card/4111111111111111", "/card/{id}", "/card/1111111111111111"),
            ("/u/2F1B0F3A-7a52-4f0e-9c0c-0c8e3a0b8a77", "/u/{id}", "/u/1A1A1A1A-1a11-1a1a-1a1a-1a1a1a1a1a11"),
            ("/t/a%2Fb.cdefghijklmnopqrstuvwxyz0123456", "/t/{id}", "/t/a%1Aa.aaaaaaaaaaaaaaaaaaaaaaaa1111111"),
        ] {
            assert_eq!(shape(path), (counted.to_owned(), sample.to_owned()), "{path}");
        }
        let (counted, sample) = shape(&format!("/t/{}", "é".repeat(500)));
        assert_eq!((counted.as_str(), sample.len()), ("/t/{id}", 3 + MASKED_MAX));
    }

    proptest::proptest! {
        #[test]
        fn any_path_has_a_shape_that_is_stable(path in "(/[a-f0-9%.é-]{0,40}){0,4}") {
            let first = shape(&path);
            proptest::prop_assert_eq!(&shape(&first.1).0, &first.0, "the sample is of the same shape");
            proptest::prop_assert_eq!(path.matches('/').count(), first.0.matches('/').count());
        }
    }
}
