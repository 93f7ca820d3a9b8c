//! The route table of one listener: which route a request's head selects, by the precedence of the Gateway API.
//!
//! Host, then path, then the other conditions: each step is a hash lookup or a walk along the path's segments, so
//! that a lookup does not grow with the number of routes. (Regular expressions are the exception: 64 of them cost one
//! pass over the path. So are conditions on one path that are not on exact values.) Every rule has a rank (`Rank`), computed once; of the
//! rules that a request meets, the one with the lowest rank wins. Order of precedence, most telling first:
//!
//! 1. host: exact, then the longest wildcard, then none;
//! 2. path: exact, then prefix and template (segment by segment from the left: a literal before a parameter, more
//!    segments before fewer, a template before a prefix), then regex, then none;
//! 3. a method, before none;
//! 4. more headers, cookies and attributes; 5. more query values; 6. the earlier line.

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;
use regex::{Regex, RegexSet};

use super::hosts::Hosts;
use super::matcher::{Conditions, Facts, Key};
use crate::config::schema;

/// A rule is one `match` of a route.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Index of the route in the snapshot.
    pub route: usize,
    /// Which match of the route.
    pub index: usize,
    pub path: PathRule,
    pub conditions: Conditions,
}

#[derive(Debug, Clone)]
pub enum PathRule {
    Any,
    Exact(String),
    /// Without its last slash; empty for `/`.
    Prefix(String),
    Template(String),
    Regex(Regex),
}

#[derive(Debug, Clone, Default)]
pub struct RouteTable(Hosts<Paths>);

/// What a lookup found.
#[derive(Debug, Clone, Copy)]
pub struct Found<'t> {
    pub route: usize,
    pub rule: &'t Rule,
}

impl RouteTable {
    /// Rules come in file order, with the hosts that each is for (none: every host).
    pub fn new(rules: Vec<(Vec<String>, Rule)>) -> Self {
        let mut table: Hosts<Vec<Shared>> = Hosts::default();
        for (hosts, rule) in rules {
            let rule = Shared::new(rule);
            if hosts.is_empty() {
                table.at(None).push(rule.clone());
            }
            for host in hosts {
                table.at(Some(&host)).push(rule.clone());
            }
        }
        Self(table.map(Paths::new))
    }

    pub fn is_empty(&self) -> bool {
        !self.0.has_names() && !self.knows("")
    }

    /// Whether any rule may be for a host, in lower case.
    pub fn knows(&self, host: &str) -> bool {
        self.0.of(host).any(|paths| !paths.empty)
    }

    pub fn find(&self, facts: &Facts<'_>) -> Option<Found<'_>> {
        self.0.of(facts.host).find_map(|paths| paths.find(facts))
    }
}

type Shared = std::sync::Arc<Rule>;

/// Regular expressions matched in one pass. Larger sets outgrow what the library caches, and then its limits.
const SET: usize = 64;

/// The rules of one host.
#[derive(Debug, Clone, Default)]
struct Paths {
    /// There are none.
    empty: bool,
    exact: HashMap<Box<str>, Rules>,
    /// Prefixes and templates; node 0 is the root.
    tree: Vec<Node>,
    regexes: Vec<Regexes>,
    any: Rules,
}

/// A place in the tree of path segments.
#[derive(Debug, Clone, Default)]
struct Node {
    literals: HashMap<Box<str>, usize>,
    parameter: Option<usize>,
    /// Templates that end here.
    templates: Rules,
    /// Prefixes that end here.
    prefixes: Rules,
}

impl Paths {
    fn new(rules: Vec<Shared>) -> Self {
        let empty = rules.is_empty();
        let mut exact: HashMap<Box<str>, Vec<Shared>> = HashMap::new();
        let mut tree = vec![(Node::default(), Vec::new(), Vec::new())];
        let mut regexes = Vec::new();
        let mut any = Vec::new();
        for rule in rules {
            match &rule.path {
                PathRule::Any => any.push(rule),
                PathRule::Exact(path) => exact.entry(path.as_str().into()).or_default().push(rule),
                PathRule::Regex(_) => regexes.push(rule),
                PathRule::Prefix(path) => {
                    let at = insert(&mut tree, path);
                    if let Some(place) = tree.get_mut(at) {
                        place.2.push(rule);
                    }
                }
                PathRule::Template(path) => {
                    let at = insert(&mut tree, path);
                    if let Some(place) = tree.get_mut(at) {
                        place.1.push(rule);
                    }
                }
            }
        }
        let tree = tree
            .into_iter()
            .map(|(node, templates, prefixes)| Node {
                templates: Rules::new(templates),
                prefixes: Rules::new(prefixes),
                ..node
            })
            .collect();
        // By rank: the first that matches wins.
        regexes.sort_by_key(|rule| order(rule));
        let regexes = regexes.chunks(SET).map(Regexes::new).collect();
        Self {
            empty,
            exact: exact.into_iter().map(|(path, rules)| (path, Rules::new(rules))).collect(),
            tree,
            regexes,
            any: Rules::new(any),
        }
    }

    fn find(&self, facts: &Facts<'_>) -> Option<Found<'_>> {
        self.exact
            .get(facts.path)
            .and_then(|rules| rules.find(facts))
            .or_else(|| self.walk(0, facts.path.strip_prefix('/'), facts))
            .or_else(|| self.regex(facts))
            .or_else(|| self.any.find(facts))
    }

    /// Depth first, the more telling branch first: what is found first wins. `rest` is `None` past the last segment.
    fn walk(&self, at: usize, rest: Option<&str>, facts: &Facts<'_>) -> Option<Found<'_>> {
        let node = self.tree.get(at)?;
        match rest {
            None => node.templates.find(facts).or_else(|| node.prefixes.find(facts)),
            Some(rest) => {
                let (segment, tail) = match rest.split_once('/') {
                    Some((segment, tail)) => (segment, Some(tail)),
                    None => (rest, None),
                };
                let literal = node.literals.get(segment).and_then(|next| self.walk(*next, tail, facts));
                literal
                    .or_else(|| {
                        let next = node.parameter.filter(|_| !segment.is_empty())?;
                        self.walk(next, tail, facts)
                    })
                    .or_else(|| node.prefixes.find(facts))
            }
        }
    }

    fn regex(&self, facts: &Facts<'_>) -> Option<Found<'_>> {
        self.regexes.iter().find_map(|regexes| regexes.find(facts))
    }
}

/// Rules by regular expression, in order of rank. Together they are matched in one pass over the path.
#[derive(Debug, Clone)]
struct Regexes {
    /// None where the set would be larger than the library allows; then one is tried after the other.
    set: Option<RegexSet>,
    rules: Vec<Shared>,
}

impl Regexes {
    fn new(rules: &[Shared]) -> Self {
        let sources = rules.iter().filter_map(|rule| match &rule.path {
            PathRule::Regex(regex) => Some(regex.as_str()),
            PathRule::Any | PathRule::Exact(_) | PathRule::Prefix(_) | PathRule::Template(_) => None,
        });
        Self { set: RegexSet::new(sources).ok(), rules: rules.to_vec() }
    }

    fn find(&self, facts: &Facts<'_>) -> Option<Found<'_>> {
        let holds = |rule: &&Shared| rule.conditions.hold(facts);
        let rule = match &self.set {
            Some(set) => {
                let matched = set.matches(facts.path).into_iter().filter_map(|index| self.rules.get(index));
                matched.into_iter().find(holds)
            }
            None => self.rules.iter().filter(|rule| rule.path.fits(facts.path)).find(holds),
        };
        rule.map(|rule| Found { route: rule.route, rule })
    }
}

impl PathRule {
    pub fn compile(path: &schema::PathMatch) -> Self {
        match path {
            schema::PathMatch::Exact(path) => Self::Exact(path.clone()),
            schema::PathMatch::Prefix(path) => Self::Prefix(path.strip_suffix('/').unwrap_or(path).to_owned()),
            schema::PathMatch::Template(path) => Self::Template(path.clone()),
            schema::PathMatch::Regex(pattern) => Self::Regex(pattern.compile()),
        }
    }

    /// Whether a path fulfils this, whatever other rules there are. The table finds the same.
    pub fn fits(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => begins(prefix, path).is_some(),
            Self::Template(template) => begins(template, path).is_some_and(|mut rest| rest.next().is_none()),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// Segments of a path, of which `` has none and `/` one that is empty.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|path| path.split('/'))
}

/// The segments that are left of a path that begins with those of `written`.
fn begins<'p>(written: &str, path: &'p str) -> Option<impl Iterator<Item = &'p str>> {
    let mut found = segments(path);
    for wanted in segments(written) {
        found.next().filter(|found| *found == wanted || is_parameter(wanted) && !found.is_empty())?;
    }
    Some(found)
}

/// As it stands in the configuration, without the anchors that compiling puts around it.
pub fn written_regex(regex: &Regex) -> &str {
    let compiled = regex.as_str();
    compiled.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(compiled)
}

/// The node of a prefix or template, made where it is missing.
fn insert(tree: &mut Vec<(Node, Vec<Shared>, Vec<Shared>)>, path: &str) -> usize {
    let mut at = 0;
    for segment in segments(path) {
        let next = tree.len();
        let Some((node, ..)) = tree.get_mut(at) else { return at };
        at = if is_parameter(segment) {
            *node.parameter.get_or_insert(next)
        } else {
            *node.literals.entry(segment.into()).or_insert(next)
        };
        if at == next {
            tree.push(Default::default());
        }
    }
    at
}

/// `{id}`: matches any one segment that is not empty.
pub fn is_parameter(segment: &str) -> bool {
    segment.len() > 2 && segment.starts_with('{') && segment.ends_with('}')
}

/// Rules with the same host and path. Those with conditions on exact values are found by these values, one after the
/// other, so that a rule is held against the request only if its exact conditions hold.
#[derive(Debug, Clone, Default)]
struct Rules {
    indexed: Vec<(Key, ByValue)>,
    rest: Vec<Shared>,
}

type ByValue = HashMap<Box<str>, Rules>;

impl Rules {
    fn new(mut rules: Vec<Shared>) -> Self {
        // A stable sort: among equals the earlier line stays first.
        rules.sort_by_key(|rule| rule.conditions.rank());
        Self::index(rules, &[])
    }

    /// Below the keys `used`: by the key with most values that a rule has.
    fn index(rules: Vec<Shared>, used: &[&Key]) -> Self {
        // Nothing to tell apart.
        if rules.len() < 2 {
            return Self { indexed: Vec::new(), rest: rules };
        }
        let mut values: HashMap<&Key, HashSet<&str>> = HashMap::new();
        for (key, value) in rules.iter().flat_map(|rule| rule.conditions.exact()) {
            values.entry(key).or_default().insert(value);
        }
        let mut by: IndexMap<&Key, HashMap<&str, Vec<Shared>>> = IndexMap::new();
        let mut rest = Vec::new();
        for rule in &rules {
            let left = rule.conditions.exact().filter(|(key, _)| !used.contains(key));
            match left.max_by_key(|(key, _)| values.get(key).map_or(0, HashSet::len)) {
                Some((key, value)) => by.entry(key).or_default().entry(value).or_default().push(rule.clone()),
                None => rest.push(rule.clone()),
            }
        }
        let indexed = by.into_iter().map(|(key, values)| {
            let used: Vec<&Key> = used.iter().copied().chain([key]).collect();
            (key.clone(), values.into_iter().map(|(value, rules)| (value.into(), Self::index(rules, &used))).collect())
        });
        Self { indexed: indexed.collect(), rest }
    }

    fn find(&self, facts: &Facts<'_>) -> Option<Found<'_>> {
        let mut best = None;
        self.improve(&mut best, facts);
        best.map(|rule| Found { route: rule.route, rule })
    }

    fn improve<'t>(&'t self, best: &mut Option<&'t Shared>, facts: &Facts<'_>) {
        for (key, values) in &self.indexed {
            key.each(facts, &mut |value| {
                if let Some(rules) = values.get(value) {
                    rules.improve(best, facts);
                }
            });
        }
        better(best, &self.rest, facts);
    }
}

/// `rules` are in order of rank: the first that holds is their best.
fn better<'t>(best: &mut Option<&'t Shared>, rules: &'t [Shared], facts: &Facts<'_>) {
    for rule in rules {
        if best.is_some_and(|best| order(best) <= order(rule)) {
            return;
        }
        if rule.conditions.hold(facts) {
            *best = Some(rule);
            return;
        }
    }
}

/// Rank, then the earlier line.
fn order(rule: &Rule) -> (super::matcher::Rank, usize) {
    (rule.conditions.rank(), rule.conditions.line)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    #[test]
    fn no_number_of_regular_expressions_loses_a_route() {
        let rule = |i: usize| Rule {
            route: i,
            index: 0,
            path: PathRule::Regex(Regex::new(&format!("^(?:/item-{i}/\\d+)$")).expect("a regex")),
            conditions: Conditions { line: i, ..Conditions::default() },
        };
        let table = RouteTable::new((0..3000).map(|i| (Vec::new(), rule(i))).collect());
        let headers = HeaderMap::new();
        for i in [0, 1, 63, 64, 1500, 2999] {
            let path = format!("/item-{i}/7");
            let facts = Facts {
                caller: crate::policy::caller::Caller::NOBODY,
                method: &Method::GET,
                host: "a",
                path: &path,
                query: None,
                headers: &headers,
                grpc: false,
                attributes: &[],
            };
            assert_eq!(table.find(&facts).map(|found| found.route), Some(i));
        }
    }
}
