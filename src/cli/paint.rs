//! What the subcommands print alike: colours where a terminal shows them, and text of others made harmless.

use std::fmt;
use std::io::IsTerminal;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Whether to colour. <https://no-color.org> is heeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

/// Prints between the two sequences of the terminal, or plainly; width and alignment count what is seen.
#[derive(Debug, Clone, Copy)]
pub struct Painted<T> {
    code: Option<u8>,
    inner: T,
}

impl Paint {
    pub const PLAIN: Self = Self { on: false };

    /// For standard output.
    pub fn stdout() -> Self {
        let said = |name| std::env::var_os(name).unwrap_or_default();
        Self { on: std::io::stdout().is_terminal() && said("NO_COLOR").is_empty() && said("TERM") != "dumb" }
    }

    pub fn bold<T>(self, inner: T) -> Painted<T> {
        self.with(1, inner)
    }

    pub fn dim<T>(self, inner: T) -> Painted<T> {
        self.with(2, inner)
    }

    pub fn red<T>(self, inner: T) -> Painted<T> {
        self.with(31, inner)
    }

    pub fn green<T>(self, inner: T) -> Painted<T> {
        self.with(32, inner)
    }

    pub fn yellow<T>(self, inner: T) -> Painted<T> {
        self.with(33, inner)
    }

    fn with<T>(self, code: u8, inner: T) -> Painted<T> {
        Painted { code: self.on.then_some(code), inner }
    }
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(code) = self.code else { return self.inner.fmt(f) };
        write!(f, "\u{1b}[{code}m")?;
        self.inner.fmt(f)?;
        f.write_str("\u{1b}[0m")
    }
}

/// Text of others as a terminal may show it: what would move its cursor, or turn the direction of what follows, is
/// spelt out.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        match turns || character.is_control() {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_takes_no_width() {
        let paint = Paint { on: true };
        assert_eq!(format!("{:>4}|", paint.red("ab")), "\u{1b}[31m  ab\u{1b}[0m|");
        assert_eq!(format!("{:<4}|", Paint::PLAIN.bold("ab")), "ab  |");
        let all = [paint.bold(1), paint.dim(1), paint.green(1), paint.yellow(1)].map(|painted| painted.to_string());
        assert_eq!(all, ["1", "2", "32", "33"].map(|code| format!("\u{1b}[{code}m1\u{1b}[0m")));
    }

    #[test]
    fn nothing_of_others_is_obeyed() {
        assert_eq!(
            harmless("ä\u{1b}[2J\r\n\u{9b}m\u{202e}gnp\u{feff}"),
            "ä\\u{1b}[2J\\r\\n\\u{9b}m\\u{202e}gnp\\u{feff}"
        );
    }
}
