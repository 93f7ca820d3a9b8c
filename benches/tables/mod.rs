//! Route tables of any size, and requests that find every rule of them: for the bench of routing, and for the test
//! that a lookup does not grow with the table.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger::policy::caller::Caller;
use outrigger::snapshot::matcher::{Condition, Conditions, Facts, Key, Text};
use outrigger::snapshot::route::{PathRule, RouteTable, Rule};

/// A kind of table: its rule number `i`, and a request for that rule.
pub struct Shape {
    pub name: &'static str,
    rule: fn(usize) -> (Vec<String>, Rule),
    ask: fn(usize) -> Ask,
}

/// What a request says.
#[derive(Default)]
pub struct Ask {
    host: String,
    path: String,
    headers: HeaderMap,
}

pub const SHAPES: [Shape; 9] = [
    Shape {
        name: "exact path",
        rule: |i| (vec![], rule(i, PathRule::Exact(format!("/api/v1/exact-{i}")))),
        ask: |i| Ask::path(format!("/api/v1/exact-{i}")),
    },
    Shape {
        name: "prefix",
        rule: |i| (vec![], rule(i, PathRule::Prefix(format!("/api/v1/prefix-{i}")))),
        ask: |i| Ask::path(format!("/api/v1/prefix-{i}/more/of/it")),
    },
    Shape {
        name: "template",
        rule: |i| (vec![], rule(i, PathRule::Template(format!("/api/v1/kind-{i}/{{id}}/parts")))),
        ask: |i| Ask::path(format!("/api/v1/kind-{i}/4711/parts")),
    },
    Shape {
        name: "exact host",
        rule: |i| (vec![format!("host-{i}.example.com")], rule(i, PathRule::Any)),
        ask: |i| Ask::path("/api/v1".to_owned()).host(format!("host-{i}.example.com")),
    },
    Shape {
        name: "wildcard host",
        rule: |i| (vec![format!("*.zone-{i}.example.com")], rule(i, PathRule::Any)),
        ask: |i| Ask::path("/api/v1".to_owned()).host(format!("www.zone-{i}.example.com")),
    },
    Shape {
        name: "header value",
        rule: |i| (vec![], when(rule(i, PathRule::Exact("/same".to_owned())), "x-tenant", format!("tenant-{i}"))),
        ask: |i| Ask::path("/same".to_owned()).header("x-tenant", format!("tenant-{i}")),
    },
    Shape {
        // The first condition is the same everywhere: only the second tells the rules apart.
        name: "two headers",
        rule: |i| {
            let rule = when(rule(i, PathRule::Prefix("/pair".to_owned())), "x-env", "canary".to_owned());
            (vec![], when(rule, "x-tenant", format!("tenant-{i}")))
        },
        ask: |i| {
            let ask = Ask::path("/pair/more".to_owned()).header("x-env", "canary".to_owned());
            ask.header("x-tenant", format!("tenant-{i}"))
        },
    },
    Shape {
        name: "grid",
        rule: |i| {
            let rule = when(rule(i, PathRule::Exact("/grid".to_owned())), "x-env", format!("env-{}", i % 317));
            (vec![], when(rule, "x-tenant", format!("tenant-{}", i / 317)))
        },
        ask: |i| {
            let ask = Ask::path("/grid".to_owned()).header("x-env", format!("env-{}", i % 317));
            ask.header("x-tenant", format!("tenant-{}", i / 317))
        },
    },
    Shape { name: "mixed", rule: |i| (mixed(i).rule)(i), ask: |i| (mixed(i).ask)(i) },
];

fn mixed(i: usize) -> &'static Shape {
    const KINDS: usize = SHAPES.len() - 1;
    &SHAPES[i % KINDS]
}

impl Shape {
    pub fn table(&self, rules: usize) -> RouteTable {
        RouteTable::new((0..rules).map(self.rule).collect())
    }

    /// Requests for `count` rules, spread over a table of `rules`.
    pub fn asks(&self, rules: usize, count: usize) -> Vec<(usize, Ask)> {
        // An odd step, so that each kind of a mixed table has its turn.
        let step = (rules / count).max(1) | 1;
        (0..count).map(|n| n * step % rules).map(|i| (i, (self.ask)(i))).collect()
    }
}

impl Ask {
    fn path(path: String) -> Self {
        Self { host: "app.test".to_owned(), path, headers: HeaderMap::new() }
    }

    fn host(self, host: String) -> Self {
        Self { host, ..self }
    }

    fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.insert(name, HeaderValue::try_from(value).expect("a header value"));
        self
    }

    pub fn facts(&self) -> Facts<'_> {
        Facts {
            caller: Caller::NOBODY,
            method: &Method::GET,
            host: &self.host,
            path: &self.path,
            query: None,
            headers: &self.headers,
            grpc: false,
            attributes: &[],
        }
    }
}

fn rule(route: usize, path: PathRule) -> Rule {
    Rule { route, index: 0, path, conditions: Conditions { line: route, ..Conditions::default() } }
}

fn when(mut rule: Rule, header: &'static str, value: String) -> Rule {
    let key = Key::Header(HeaderName::from_static(header));
    rule.conditions.all.push(Condition { key, text: Text::Exact(value.into()) });
    rule
}
