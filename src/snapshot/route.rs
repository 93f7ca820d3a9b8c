//! The route table of one listener: which route a request's head selects, by the precedence of the Gateway API.
//!
//! Host, then path, then the other conditions: each step is a hash lookup or a walk along the path's segments, so
//! that a lookup does not grow with the number of routes. Every rule has a rank (`Rank`), computed once; of the
//! rules that a request meets, the one with the lowest rank wins. Order of precedence, most telling first:
//!
//! 1. host: exact, then the longest wildcard, then none;
//! 2. path: exact, then prefix and template (segment by segment from the left: a literal before a parameter, more
//!    segments before fewer, a template before a prefix), then regex, then none;
//! 3. a method, before none;
//! 4. more headers, cookies and attributes; 5. more query values; 6. the earlier line.

use std::collections::HashMap;

use regex::{Regex, RegexSet};

use super::matcher::{Condition, Conditions, Facts, Key};

/// A rule is one `match` of a route.
#[derive(Debug)]
pub struct Rule {
    /// Index of the route in the snapshot.
    pub route: usize,
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

#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Paths>,
    /// By the part after `*`, with its dot.
    wildcards: HashMap<Box<str>, Paths>,
    any: Paths,
}

/// What a lookup found.
#[derive(Debug, Clone, Copy)]
pub struct Found<'t> {
    pub route: usize,
    pub rule: &'t Rule,
}

impl RouteTable {
    /// Rules come in file order, with the hosts that each is for (none: every host).
    pub fn new(rules: Vec<(Vec<String>, Rule)>) -> Self {
        let mut table = Self::default();
        let mut any = Vec::new();
        let mut exact: HashMap<Box<str>, Vec<Shared>> = HashMap::new();
        let mut wildcards: HashMap<Box<str>, Vec<Shared>> = HashMap::new();
        for (hosts, rule) in rules {
            let rule = Shared::new(rule);
            if hosts.is_empty() {
                any.push(rule.clone());
            }
            for host in hosts {
                let host = host.to_ascii_lowercase();
                match host.strip_prefix('*') {
                    Some(suffix) => wildcards.entry(suffix.into()).or_default().push(rule.clone()),
                    None => exact.entry(host.into()).or_default().push(rule.clone()),
                }
            }
        }
        table.any = Paths::new(any);
        table.exact = exact.into_iter().map(|(host, rules)| (host, Paths::new(rules))).collect();
        table.wildcards = wildcards.into_iter().map(|(host, rules)| (host, Paths::new(rules))).collect();
        table
    }

    pub fn find(&self, facts: &Facts<'_>) -> Option<Found<'_>> {
        self.hosts(facts.host).find_map(|paths| paths.find(facts))
    }

    /// The parts of the table that a host selects, the most telling first. `host` is in lower case.
    fn hosts<'t, 'h>(&'t self, host: &'h str) -> impl Iterator<Item = &'t Paths> + use<'t, 'h> {
        let wildcards = host.match_indices('.').filter_map(|(dot, _)| {
            if self.wildcards.is_empty() || dot == 0 {
                return None;
            }
            self.wildcards.get(host.get(dot..)?)
        });
        self.exact.get(host).into_iter().chain(wildcards).chain(std::iter::once(&self.any))
    }
}

type Shared = std::sync::Arc<Rule>;
type ByValue = HashMap<Box<str>, Vec<Shared>>;

/// The rules of one host.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Rules>,
    /// Prefixes and templates; node 0 is the root.
    tree: Vec<Node>,
    regexes: Option<(RegexSet, Vec<Shared>)>,
    any: Rules,
}

/// A place in the tree of path segments.
#[derive(Debug, Default)]
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
        // Sorted by rank, the first match of the set is the one that wins.
        regexes.sort_by_key(|rule| rule.conditions.rank());
        let set = RegexSet::new(regexes.iter().map(|rule| match &rule.path {
            PathRule::Regex(regex) => regex.as_str(),
            _ => "",
        }));
        let regexes = set.ok().filter(|set| !set.is_empty()).map(|set| (set, regexes));
        Self {
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
        let (set, rules) = self.regexes.as_ref()?;
        set.matches(facts.path)
            .into_iter()
            .filter_map(|index| rules.get(index))
            .find_map(|rule| rule.conditions.hold(facts).then(|| Found { route: rule.route, rule }))
    }
}

/// The node of a prefix or template, made where it is missing.
fn insert(tree: &mut Vec<(Node, Vec<Shared>, Vec<Shared>)>, path: &str) -> usize {
    let mut at = 0;
    let segments = path.strip_prefix('/').into_iter().flat_map(|path| path.split('/'));
    for segment in segments {
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

/// Rules with the same host and path. Those with a condition on an exact value are found by that value.
#[derive(Debug, Default)]
struct Rules {
    indexed: Vec<(Key, ByValue)>,
    rest: Vec<Shared>,
}

impl Rules {
    fn new(mut rules: Vec<Shared>) -> Self {
        // A stable sort: among equals the earlier line stays first.
        rules.sort_by_key(|rule| rule.conditions.rank());
        let mut this = Self::default();
        let mut shared: HashMap<(Key, Box<str>), usize> = HashMap::new();
        for (key, value) in rules.iter().flat_map(|rule| rule.conditions.exact()) {
            *shared.entry((key, value.into())).or_default() += 1;
        }
        for rule in rules {
            // By the value that the fewest others ask for, too.
            let rare = |(key, value): &(Key, &str)| shared.get(&(key.clone(), (*value).into())).copied();
            match rule.conditions.exact().min_by_key(rare) {
                Some((key, value)) => {
                    let place = match this.indexed.iter().position(|(known, _)| *known == key) {
                        Some(place) => place,
                        None => {
                            this.indexed.push((key, HashMap::new()));
                            this.indexed.len() - 1
                        }
                    };
                    if let Some((_, values)) = this.indexed.get_mut(place) {
                        values.entry(value.into()).or_default().push(rule);
                    }
                }
                None => this.rest.push(rule),
            }
        }
        this
    }

    fn find(&self, facts: &Facts<'_>) -> Option<Found<'_>> {
        let mut best: Option<&Shared> = None;
        for (key, values) in &self.indexed {
            key.each(facts, &mut |value| {
                let Some(rules) = values.get(value) else { return };
                better(&mut best, rules, facts);
            });
        }
        better(&mut best, &self.rest, facts);
        best.map(|rule| Found { route: rule.route, rule })
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

impl Condition {
    /// An exact value under a key, if the condition is one.
    pub(super) fn exact(&self) -> Option<(Key, &str)> {
        self.text.exact().map(|value| (self.key.clone(), value))
    }
}
