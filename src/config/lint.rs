//! The rules of an organisation, from a file of their own: what must not be written, in which range a value lies, what
//! has to be there. They judge configurations that are sound already.

mod key;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::OnceLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde_json::Value as Json;

use super::problem::{Problem, Report, RuleId, Severity, mark};
use super::schema::Route;
use super::tree::{self, Node, step};
use super::units::{Duration, Size};
use super::{Config, Source, check, merge, plain_report, read, report};
use key::{Found, Key, Unit};

/// Rules in which nothing is wrong; none by default.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug, Clone)]
pub struct Rule {
    pub name: String,
    pub severity: Severity,
    pub why: Option<String>,
    asks: Asks,
}

#[derive(Debug, Clone)]
enum Asks {
    /// Must not be written; or, with a value, must not be in force.
    Forbid(Key, Option<Scalar>),
    Range(Range),
    Require(Key, Vec<String>),
}

#[derive(Debug, Clone)]
struct Range {
    keys: Vec<(Key, Unit)>,
    /// In milliseconds, bytes, or as they are.
    min: Option<f64>,
    max: Option<f64>,
    /// As they are written.
    words: String,
}

/// The file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    lint: Vec<Written>,
}

/// Exactly one of `forbid`, `range` and `require` says what the rule asks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Written {
    #[schemars(extend("format" = "name"))]
    name: String,
    #[serde(default)]
    severity: Severity,
    why: Option<String>,
    forbid: Option<String>,
    value: Option<Scalar>,
    range: Option<WrittenRange>,
    require: Option<WrittenRequire>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenRange {
    #[schemars(length(min = 1))]
    keys: Vec<String>,
    min: Option<Scalar>,
    max: Option<Scalar>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenRequire {
    key: String,
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Number(f64),
    Text(String),
}

/// Reads rules. Problems have the file's places, as those of a configuration have.
pub fn load(path: &Path) -> Result<Rules, Report> {
    let source = read(path).map_err(|problem| Report::from(problem.rule(RuleId::Unreadable)))?;
    parse(source)
}

fn parse(source: Source) -> Result<Rules, Report> {
    let mut problems = Vec::new();
    let rules = match tree::parse(&source.file, &source.text) {
        Ok(tree) => understand(&tree, &mut problems),
        Err(problem) => {
            problems.push(problem.rule(RuleId::Syntax));
            Vec::new()
        }
    };
    if problems.is_empty() { Ok(Rules(rules)) } else { Err(plain_report(problems, &source)) }
}

fn understand(tree: &Node, problems: &mut Vec<Problem>) -> Vec<Rule> {
    let json = check::against(tree, schema(), problems);
    mark(problems, 0, &RuleId::Structure);
    let file = match json.map(serde_json::from_value::<File>) {
        Some(Ok(file)) => file,
        Some(Err(error)) => {
            problems.push(Problem::at(&tree.place, "", format!("cannot be understood: {error}")));
            return Vec::new();
        }
        None => return Vec::new(),
    };
    let mut reader = Reader { tree, path: String::new(), problems };
    let mut rules: Vec<Rule> = Vec::new();
    for (index, written) in file.lint.into_iter().enumerate() {
        reader.path = format!("lint[{index}]");
        if let Some(first) = rules.iter().position(|rule| rule.name == written.name) {
            let (path, first) = (format!("lint[{index}].name"), format!("lint[{first}].name"));
            let find = |path: &str| tree.find(path).unwrap_or(&tree.place);
            let problem = merge::twice(find(&path), &path, &format!("`{}`", written.name), find(&first));
            reader.problems.push(problem);
        }
        rules.extend(reader.rule(written));
    }
    rules
}

/// Without references, which is all that `check::against` understands.
fn schema() -> &'static Json {
    static SCHEMA: OnceLock<Json> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let settings = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
        settings.into_generator().into_root_schema_for::<File>().to_value()
    })
}

struct Reader<'a> {
    tree: &'a Node,
    /// Of the rule.
    path: String,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    /// A problem at a path below the rule's.
    fn push(&mut self, below: &str, message: impl Into<String>, remedy: Option<String>) {
        let path = format!("{}{below}", self.path);
        let place = self.tree.find(&path).unwrap_or(&self.tree.place);
        self.problems.push(Problem { remedy, ..Problem::at(place, path, message) });
    }

    fn rule(&mut self, written: Written) -> Option<Rule> {
        let Written { name, severity, why, forbid, value, range, require } = written;
        if value.is_some() && forbid.is_none() {
            self.push(".value", "`value` belongs to `forbid`", Some("remove it".to_owned()));
        }
        let asks = match (forbid, range, require) {
            (Some(key), None, None) => Asks::Forbid(self.key(".forbid", &key)?, value),
            (None, Some(range), None) => Asks::Range(self.range(&range)?),
            (None, None, Some(require)) => self.require(require)?,
            (None, None, None) => {
                let remedy = "add one of `forbid`, `range` or `require`".to_owned();
                self.push("", "the rule does not say what it asks", Some(remedy));
                return None;
            }
            _ => {
                let message = "`forbid`, `range` and `require` exclude each other";
                self.push("", message, Some("make it several rules".to_owned()));
                return None;
            }
        };
        Some(Rule { name, severity, why, asks })
    }

    fn key(&mut self, below: &str, text: &str) -> Option<Key> {
        key::parse(text).map_err(|(message, remedy)| self.push(below, message, remedy)).ok()
    }

    fn range(&mut self, written: &WrittenRange) -> Option<Range> {
        let before = self.problems.len();
        let mut keys = Vec::new();
        for (index, text) in written.keys.iter().enumerate() {
            let below = format!(".range.keys[{index}]");
            let Some(key) = self.key(&below, text) else { continue };
            match (key.unit(), keys.first()) {
                (None, _) => self.push(&below, format!("`{text}` is no duration, size or number"), None),
                (Some(unit), Some((_, first))) if unit != *first => {
                    let remedy = "make it several rules".to_owned();
                    self.push(
                        &below,
                        format!("`{text}` is {}, and the first key is {}", unit.name(), first.name()),
                        Some(remedy),
                    );
                }
                (Some(unit), _) => keys.push((key, unit)),
            }
        }
        let unit = keys.first()?.1;
        let (min, max) = (
            self.bound(".range.min", written.min.as_ref(), unit),
            self.bound(".range.max", written.max.as_ref(), unit),
        );
        let words = match (&written.min, &written.max) {
            (Some(min), Some(max)) => format!("from {min} to {max}"),
            (Some(min), None) => format!("at least {min}"),
            (None, Some(max)) => format!("at most {max}"),
            (None, None) => {
                self.push(".range", "the range has no ends", Some("add `min`, `max` or both".to_owned()));
                return None;
            }
        };
        if min.zip(max).is_some_and(|(min, max)| min > max) {
            self.push(".range.min", "`min` is more than `max`", None);
        }
        (self.problems.len() == before).then_some(Range { keys, min, max, words })
    }

    fn bound(&mut self, below: &str, written: Option<&Scalar>, unit: Unit) -> Option<f64> {
        let written = written?;
        let bound = unit.measure(&written.json());
        if bound.is_none() {
            self.push(
                below,
                format!("`{written}` is not {}", unit.name()),
                Some("write it as the key is written".to_owned()),
            );
        }
        bound
    }

    fn require(&mut self, written: WrittenRequire) -> Option<Asks> {
        let key = self.key(".require.key", &written.key)?;
        if key.parent().is_none() {
            self.push(".require.key", "what is required is a key", Some("end it in a name".to_owned()));
            return None;
        }
        if !written.labels.is_empty() && !key.is_names() {
            let message = format!("`{}` is no mapping from names, so it has no labels", written.key);
            self.push(".require.labels", message, Some("remove them".to_owned()));
            return None;
        }
        Some(Asks::Require(key, written.labels))
    }
}

/// What the rules have to say, with places in the configuration's files.
pub fn lint(rules: &Rules, config: &Config) -> Vec<Problem> {
    if rules.0.is_empty() {
        return Vec::new();
    }
    let effective = serde_json::to_value(config.root()).unwrap_or_default();
    let mut problems = Vec::new();
    for rule in &rules.0 {
        let before = problems.len();
        match &rule.asks {
            Asks::Forbid(key, value) => rule.forbid(key, value.as_ref(), &effective, config, &mut problems),
            Asks::Range(range) => rule.range(range, &effective, config, &mut problems),
            Asks::Require(key, labels) => rule.require(key, labels, &effective, config, &mut problems),
        }
        mark(&mut problems, before, &RuleId::Lint(rule.name.clone()));
    }
    report(problems, Some(&config.tree), &config.sources).into_problems()
}

impl Rules {
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }
}

impl Rule {
    fn problem(&self, found: &Found<'_>, message: &str, remedy: &str) -> Problem {
        let why = self.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let message = format!("{message} (rule `{}`)", self.name);
        let problem = Problem::at(found.place, found.path.as_str(), message).remedy(format!("{remedy}{why}"));
        Problem { severity: self.severity, ..problem }
    }

    fn forbid(&self, key: &Key, value: Option<&Scalar>, json: &Json, config: &Config, problems: &mut Vec<Problem>) {
        for mut found in key.find(json, &config.tree) {
            match value {
                None if found.node.is_some() => {
                    problems.push(self.problem(
                        &found,
                        &format!("`{}` must not be written", last(&found.path)),
                        "remove it",
                    ));
                }
                Some(value) if value.is(found.value, key.unit()) => {
                    let message = format!("`{}` must not be `{value}`", last(&found.path));
                    let remedy = if found.node.is_some() { "write another value" } else { "it is so by default" };
                    found.place = found.value_place();
                    problems.push(self.problem(&found, &message, remedy));
                }
                _ => {}
            }
        }
    }

    fn range(&self, range: &Range, json: &Json, config: &Config, problems: &mut Vec<Problem>) {
        for (key, unit) in &range.keys {
            for mut found in key.find(json, &config.tree) {
                // `{ after: 2s, mode: … }`, `{ size: 1Mi, mode: … }`
                let off = found.value["mode"] == "off";
                let inner = if off { found.get("mode") } else { found.get("after").or_else(|| found.get("size")) };
                found = inner.unwrap_or(found);
                let measure = unit.measure(found.value);
                if off || measure.is_some_and(|measure| !range.holds(measure)) {
                    let what = if off { "off".to_owned() } else { text(found.value) };
                    let message = format!("`{what}` is out of range");
                    found.place = found.value_place();
                    problems.push(self.problem(&found, &message, &range.words));
                }
            }
            if key.text == "routes[].timeout" {
                self.inherited(range, config, problems);
            }
        }
    }

    /// Routes without a timeout have that of the defaults. Where the rule is about those, too, they are told once.
    fn inherited(&self, range: &Range, config: &Config, problems: &mut Vec<Problem>) {
        let timeout = config.root().defaults.timeout;
        let told = range.keys.iter().any(|(key, _)| key.text == "defaults.timeout");
        if told || range.holds(millis(timeout)) {
            return;
        }
        let path = |index: usize| format!("routes[{index}]");
        let routes = config.root().routes.iter().enumerate();
        for (index, _) in routes.filter(|(_, route)| route.timeout.is_none() && is_timed(config, route)) {
            let place = config.tree.find(&format!("{}.name", path(index))).unwrap_or(&config.tree.place);
            let found = Found { path: path(index), value: &Json::Null, node: None, place };
            let message = format!("`{timeout}`, the `timeout` by default, is out of range");
            problems.push(self.problem(&found, &message, &format!("add a `timeout`, {}", range.words)));
        }
    }

    fn require(&self, key: &Key, labels: &[String], json: &Json, config: &Config, problems: &mut Vec<Problem>) {
        let Some((parent, name)) = key.parent() else { return };
        for at in parent.find(json, &config.tree) {
            let found = at.get(name).filter(|found| found.node.is_some() && !is_empty(found.value));
            let Some(found) = found else {
                let path = format!("{}{}", at.path, step(name));
                let missing = Found { path: path.trim_start_matches('.').to_owned(), ..at };
                let message = format!("`{name}` is missing");
                let remedy = match labels {
                    _ if missing.node.is_none() => format!("add `{}`", missing.path),
                    [] => format!("add `{name}: …`"),
                    labels => format!(
                        "add `{name}` with {}",
                        check::listed(labels.iter().map(String::as_str)).replace(" or ", " and ")
                    ),
                };
                problems.push(self.problem(&missing, &message, &remedy));
                continue;
            };
            for label in labels.iter().filter(|label| found.get(label).is_none_or(|found| is_empty(found.value))) {
                problems.push(self.problem(
                    &found,
                    &format!("label `{label}` is missing"),
                    &format!("add `{label}: …`"),
                ));
            }
        }
    }
}

impl Range {
    fn holds(&self, measure: f64) -> bool {
        self.min.is_none_or(|min| measure >= min) && self.max.is_none_or(|max| measure <= max)
    }
}

impl Unit {
    /// With its article.
    fn name(self) -> &'static str {
        match self {
            Self::Duration => "a duration",
            Self::Size => "a size",
            Self::Number => "a number",
        }
    }

    /// `None` for what cannot be measured so, such as `auto`.
    fn measure(self, value: &Json) -> Option<f64> {
        match (self, value) {
            (Self::Duration, Json::String(text)) => text.parse().ok().map(millis),
            (Self::Size, Json::String(text)) => text.parse::<Size>().ok().map(|size| size.0 as f64),
            (Self::Size | Self::Number, Json::Number(number)) => number.as_f64(),
            _ => None,
        }
    }
}

impl Scalar {
    fn json(&self) -> Json {
        match self {
            Self::Bool(value) => Json::from(*value),
            Self::Number(value) => Json::from(*value),
            Self::Text(value) => Json::from(value.as_str()),
        }
    }

    /// Whether it is that value, however each is written, with a mode or without.
    fn is(&self, value: &Json, unit: Option<Unit>) -> bool {
        let inner = value.get("after").or(value.get("size")).filter(|_| unit.is_some());
        let value = inner.unwrap_or(value);
        let (own, measured) = (self.json(), |value: &Json| unit.and_then(|unit| unit.measure(value)));
        match (measured(&own), measured(value)) {
            (Some(own), Some(value)) => own == value,
            _ => own == *value,
        }
    }
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{}", value.escape_debug()),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_millis() as f64
}

fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.is_empty(),
        Json::Array(items) => items.is_empty(),
        Json::Object(entries) => entries.is_empty(),
        Json::Bool(_) | Json::Number(_) => false,
    }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or_default()
}

/// Whether the default timeout is in force for a route: one that forwards HTTP.
fn is_timed(config: &Config, route: &Route) -> bool {
    let services = &config.root().services;
    let service = |to: &String| services.get(to.split_once('/').map_or(to.as_str(), |(name, _)| name));
    let to = route.to.iter().chain(route.split.iter().flatten().map(|side| &side.to)).find_map(service);
    to.is_some_and(|service| service.protocol != super::schema::Protocol::Tcp)
}
