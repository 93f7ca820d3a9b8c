//! What is wrong with a configuration: a message, the place, what would have been right. All problems of one
//! configuration are one `Report`, which reads like a compiler's.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where something stands in a file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Place {
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
    /// Characters to underline; 0 is as far as the value seems to go.
    #[serde(default)]
    pub width: u32,
}

/// Whether a configuration with the problem is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    #[default]
    Error,
    Warning,
}

/// Which check found a problem. The spelling is stable: tools filter by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RuleId {
    Unreadable,
    Syntax,
    Structure,
    Environment,
    #[default]
    Meaning,
    /// A rule of the organisation, by its name.
    Lint(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Problem {
    pub severity: Severity,
    pub rule: RuleId,
    /// `None` where there is no text to point at: a file that cannot be read.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// Such as `routes[2].match[0].path`; empty at the root.
    pub path: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The line that the place points into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Every problem of one configuration, by place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Report(Vec<Problem>);

/// Longest part of a source line that is shown.
const SHOWN_MAX: usize = 120;

fn as_text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    String::deserialize(deserializer).map(Arc::from)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Problem {
    /// A problem without a place.
    pub fn new(message: impl Into<String>) -> Self {
        let (severity, rule) = (Severity::Error, RuleId::Meaning);
        Self { severity, rule, place: None, path: String::new(), message: message.into(), remedy: None, source: None }
    }

    pub fn at(place: &Place, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: Some(place.clone()), path: path.into(), ..Self::new(message) }
    }

    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    pub fn rule(mut self, rule: RuleId) -> Self {
        self.rule = rule;
        self
    }

    /// On one line and without the excerpt, for those who may not see the configuration.
    pub fn brief(&self) -> String {
        match &self.place {
            Some(place) => format!("{} ({}:{}:{})", self.message, place.file, place.line, place.column),
            None => self.message.clone(),
        }
    }

    /// Characters that the place covers; 0 without one.
    pub fn width(&self) -> usize {
        let line = self.source.as_deref().unwrap_or_default();
        self.place.as_ref().map_or(0, |place| excerpt(line, place).2)
    }
}

/// Says which check found what is in `problems` from index `from` on.
pub fn mark(problems: &mut [Problem], from: usize, rule: &RuleId) {
    problems.iter_mut().skip(from).for_each(|problem| problem.rule = rule.clone());
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl RuleId {
    /// Those that are always checked.
    pub const BUILT_IN: [Self; 5] = [Self::Unreadable, Self::Syntax, Self::Structure, Self::Environment, Self::Meaning];

    /// One sentence about a built-in one; nothing about an organisation's, which says `why` itself.
    pub fn sentence(&self) -> &'static str {
        match self {
            Self::Unreadable => "The file cannot be read as text.",
            Self::Syntax => "The file is not YAML within our bounds.",
            Self::Structure => "A key or a value is not one of the language.",
            Self::Environment => "A variable of the environment is missing or cannot be filled in.",
            Self::Meaning => "Parts of the configuration contradict each other, or lead nowhere.",
            Self::Lint(_) => "",
        }
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("configuration/unreadable"),
            Self::Syntax => f.write_str("configuration/syntax"),
            Self::Structure => f.write_str("configuration/structure"),
            Self::Environment => f.write_str("configuration/environment"),
            Self::Meaning => f.write_str("configuration/meaning"),
            Self::Lint(name) => write!(f, "lint/{name}"),
        }
    }
}

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RuleId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Some(name) = text.strip_prefix("lint/") {
            return Ok(Self::Lint(name.to_owned()));
        }
        let known = Self::BUILT_IN.into_iter().find(|id| id.to_string() == text);
        known.ok_or_else(|| de::Error::custom("there is no such rule"))
    }
}

impl Report {
    /// Sorts, and drops what is said twice.
    pub fn new(mut problems: Vec<Problem>) -> Self {
        let key = |p: &Problem| p.place.as_ref().map(|p| (p.file.clone(), p.line, p.column));
        problems.sort_by(|a, b| (key(a), &a.path, &a.message).cmp(&(key(b), &b.path, &b.message)));
        problems.dedup();
        Self(problems)
    }

    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.0
    }

    /// Whether there is more than warnings.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }
}

impl From<Problem> for Report {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|problem| writeln!(f, "{problem}"))?;
        let warnings = self.0.iter().filter(|problem| problem.severity == Severity::Warning).count();
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        match (self.0.len() - warnings, warnings) {
            (errors, 0) => f.write_str(&count(errors, "problem")),
            (0, warnings) => f.write_str(&count(warnings, "warning")),
            (errors, warnings) => write!(f, "{}, {}", count(errors, "problem"), count(warnings, "warning")),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.severity.name(), self.message)?;
        let Some(place) = &self.place else {
            return self.remedy.iter().try_for_each(|remedy| writeln!(f, "  {remedy}"));
        };
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        write!(f, "{margin}--> {}:{}:{}", place.file, place.line, place.column)?;
        match self.path.as_str() {
            "" => writeln!(f)?,
            path => writeln!(f, "   {path}")?,
        }
        let line = self.source.as_deref().unwrap_or_default();
        let (shown, before, width) = excerpt(line, place);
        writeln!(f, "{margin} |\n{number} | {shown}")?;
        let carets = format!("{}{}", " ".repeat(before), "^".repeat(width));
        writeln!(f, "{}", format!("{margin} | {carets} {}", self.remedy.as_deref().unwrap_or_default()).trim_end())
    }
}

/// The part of `line` around the place, how far into it the place is, and how much to underline.
fn excerpt(line: &str, place: &Place) -> (String, usize, usize) {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let characters: Vec<char> = line.chars().map(clean).collect();
    let column = (place.column.max(1) as usize - 1).min(characters.len());
    let start = if characters.len() > SHOWN_MAX { column.saturating_sub(SHOWN_MAX / 2) } else { 0 };
    let shown: Vec<char> = characters.iter().skip(start).take(SHOWN_MAX).copied().collect();
    let before = column - start;
    let rest = shown.iter().skip(before);
    let width = match place.width as usize {
        0 => rest.clone().take_while(|c| !c.is_whitespace()).count(),
        width => width.min(rest.count()),
    };
    (shown.into_iter().collect::<String>().trim_end().to_owned(), before, width.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_like_a_compilers() {
        let place = Place { file: "edge.yaml".into(), line: 14, column: 5, width: 6 };
        let mut unknown =
            Problem::at(&place, "routes[0].timeot", "unknown key `timeot`").remedy("did you mean `timeout`?");
        unknown.source = Some("    timeot: 2s".to_owned());
        let report = Report::new(vec![unknown.clone(), Problem::new("cannot read `x`"), unknown]);
        let expected = "\
error: cannot read `x`

error: unknown key `timeot`
  --> edge.yaml:14:5   routes[0].timeot
   |
14 |     timeot: 2s
   |     ^^^^^^ did you mean `timeout`?

2 problems";
        assert_eq!(report.to_string(), expected);
        let json = serde_json::to_value(&report).unwrap_or_default();
        assert_eq!(json[1]["line"], 14);
        assert_eq!(json[1]["file"], "edge.yaml");
        assert_eq!(json[1]["severity"], "error");
        assert_eq!(json[1]["rule"], "configuration/meaning");
    }

    #[test]
    fn warnings_are_told_apart() {
        let warning = Problem { severity: Severity::Warning, ..Problem::new("short") };
        let report = Report::new(vec![warning.clone()]);
        assert!(!report.has_errors());
        assert_eq!(report.to_string(), "warning: short\n\n1 warning");
        let report = Report::new(vec![warning, Problem::new("wrong"), Problem::new("false")]);
        assert!(report.has_errors());
        assert!(report.to_string().ends_with("2 problems, 1 warning"), "{report}");
    }

    #[test]
    fn any_place_can_be_shown() {
        let long = format!("{}x: \u{1b}[31m", "é".repeat(500));
        for (line, column, width) in [("", 0, 0), ("", 9, 9), (long.as_str(), 501, 1), ("a", u32::MAX, u32::MAX)] {
            let place = Place { file: "f".into(), line: 1, column, width };
            let shown = Problem { source: Some(line.to_owned()), ..Problem::at(&place, "", "m") }.to_string();
            assert!(shown.contains('^') && !shown.contains('\u{1b}') && shown.len() < 800, "{shown}");
        }
    }
}
