//! The compiled rules against the words of the documentation, over random entries and requests; and the cases that
//! matter most, one by one.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use regex::Regex;

use super::*;
use crate::config::{self, Config};
use crate::error::Reason;
use crate::snapshot::{self, Snapshot};
use crate::wire::path::normalise;
use crate::wire::spiffe::SpiffeId;

const HEAD: &str = r#"apiVersion: outrigger/v1
identity: { trustDomain: cluster.local, certificate: c.pem, privateKey: k.pem, trustBundle: b.pem }
listeners:
  - { name: edge, mode: proxy, address: "127.0.0.1:8080" }
  - { name: side, mode: proxy, address: "127.0.0.1:8081" }
services: { app: { endpoints: { static: ["127.0.0.1:1"] } } }
routes: [{ name: all, to: app }]
"#;

fn load(entries: &str) -> Config {
    let text = format!("{HEAD}authorization:\n{entries}");
    config::parse("t.yaml", &text, &|_| None).unwrap_or_else(|report| panic!("{report}\n{text}"))
}

fn compiled(entries: &str) -> Snapshot {
    snapshot::compile(Arc::new(load(entries)), 1, None)
}

#[derive(Debug, Clone)]
struct Asked {
    ip: IpAddr,
    id: Option<SpiffeId>,
    listener: usize,
    method: Method,
    host: String,
    path: String,
    headers: HeaderMap,
}

impl Asked {
    fn port(&self) -> u16 {
        [8080, 8081][self.listener]
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            caller: Caller::new(self.ip, self.id.as_ref(), self.port()),
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: None,
            headers: &self.headers,
            grpc: false,
            attributes: &[],
        }
    }

    fn ruling(&self, snapshot: &Snapshot) -> Ruling {
        judge(&snapshot.authorization, &snapshot.listeners[self.listener].authorization, &self.facts())
    }

    fn ruling_of_connection(&self, snapshot: &Snapshot) -> Ruling {
        let facts = self.facts();
        judge_connection(&snapshot.authorization, &snapshot.listeners[self.listener].authorization, &facts.caller)
    }
}

/// `GET /path from 10.0.0.1`, to the first listener.
fn get(path: &str) -> Asked {
    Asked {
        ip: [10, 0, 0, 1].into(),
        id: None,
        listener: 0,
        method: Method::GET,
        host: "a.test".to_owned(),
        path: normalise(path).expect("a path").text.into_owned(),
        headers: HeaderMap::new(),
    }
}

// The slow and obvious way, from what is written.

fn digits(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(v4) => format!("4{:032b}", v4.to_bits()),
        IpAddr::V6(v6) => format!("6{:0128b}", v6.to_bits()),
    }
}

fn in_block(block: &str, ip: IpAddr) -> bool {
    let (first, length) = block.split_once('/').unwrap_or((block, "999"));
    let first = digits(first.parse().expect("an address"));
    let length = first.len().min(1 + length.parse::<usize>().expect("a length"));
    digits(ip).starts_with(&first[..length])
}

fn is_identity(written: &schema::IdentityMatch, id: &str) -> bool {
    use schema::{IdentityMatch as I, IdentityMatcher as M};
    match written {
        I::Matcher(M::Exact(exact)) => exact == id,
        I::Matcher(M::Prefix(prefix)) => id.starts_with(prefix.as_str()),
        I::Pattern(pattern) => {
            let (body, rest) = pattern.strip_suffix('*').map_or((pattern.as_str(), ""), |body| (body, ".*"));
            let body = body.split('*').map(regex::escape).collect::<Vec<_>>().join("[^/]*");
            Regex::new(&format!("^{body}{rest}$")).expect("a pattern").is_match(id)
        }
    }
}

fn is_caller(from: &schema::Caller, asked: &Asked) -> bool {
    let id = asked.id.as_ref().map(SpiffeId::as_str);
    let namespace = |name: &String| {
        let rest = id.and_then(|id| id.strip_prefix(&format!("spiffe://cluster.local/ns/{name}/sa/")));
        rest.is_some_and(|rest| !rest.contains('/'))
    };
    let schema::Caller { identities, namespaces, cidrs } = from;
    (identities.is_empty() || id.is_some_and(|id| identities.iter().any(|one| is_identity(one, id))))
        && (namespaces.is_empty() || namespaces.iter().any(namespace))
        && (cidrs.is_empty() || cidrs.iter().any(|block| in_block(block, asked.ip)))
}

fn is_path(written: &schema::PathMatch, path: &str) -> bool {
    match written {
        schema::PathMatch::Exact(exact) => exact == path,
        schema::PathMatch::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/');
            prefix.is_empty() || path == prefix || path.starts_with(&format!("{prefix}/"))
        }
        schema::PathMatch::Template(template) => {
            let segment = |text: &str| if text.starts_with('{') { "[^/]+".to_owned() } else { regex::escape(text) };
            let all: Vec<String> = template.split('/').map(segment).collect();
            Regex::new(&format!("^{}$", all.join("/"))).expect("a template").is_match(path)
        }
        schema::PathMatch::Regex(pattern) => pattern.compile().is_match(path),
    }
}

fn is_text(written: &schema::Text, values: &[&str]) -> bool {
    use schema::TextMatcher as M;
    match written {
        schema::Text::Exact(exact) | schema::Text::Matcher(M::Exact(exact)) => values.contains(&exact.as_str()),
        schema::Text::Matcher(M::Prefix(prefix)) => values.iter().any(|value| value.starts_with(prefix.as_str())),
        schema::Text::Matcher(M::Suffix(suffix)) => values.iter().any(|value| value.ends_with(suffix.as_str())),
        schema::Text::Matcher(M::Regex(regex)) => values.iter().any(|value| regex.compile().is_match(value)),
        schema::Text::Matcher(M::Present(present)) => *present != values.is_empty(),
    }
}

/// `None` for the head where there is none.
fn is_asked(to: &schema::Operation, asked: &Asked, head: Option<()>, list: List) -> bool {
    let schema::Operation { ports, methods, paths, hosts, headers } = to;
    let host = |pattern: &String| match pattern.strip_prefix("*.") {
        Some(below) => asked.host.strip_suffix(below).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => asked.host == *pattern,
    };
    let header = |(name, text): (&String, &schema::Text)| {
        let values: Vec<&str> = asked.headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect();
        is_text(text, &values)
    };
    let about_head = (methods.is_empty() || methods.iter().any(|method| method == asked.method.as_str()))
        && (paths.is_empty() || paths.iter().any(|path| is_path(path, &asked.path)))
        && (hosts.is_empty() || hosts.iter().any(host))
        && headers.iter().all(header);
    let asks = methods.len() + paths.len() + hosts.len() + headers.len() > 0;
    let about_head = if head.is_some() { about_head } else { !asks || list == List::Deny };
    (ports.is_empty() || ports.contains(&asked.port())) && about_head
}

/// Whether these entries together refuse it.
fn refused(entries: &[&schema::Authorization], asked: &Asked, head: Option<()>) -> bool {
    let fits = |rules: &[schema::AuthorizationRule], list| {
        rules.iter().any(|rule| is_caller(&rule.from, asked) && is_asked(&rule.to, asked, head, list))
    };
    entries.iter().any(|entry| fits(&entry.deny, List::Deny))
        || entries.iter().any(|entry| !entry.allow.is_empty())
            && !entries.iter().any(|entry| fits(&entry.allow, List::Allow))
}

/// Which entries refuse it: any that is enforced, and those in shadow mode.
fn expected(root: &schema::Root, asked: &Asked, head: Option<()>) -> (bool, Vec<usize>) {
    let listener = &root.listeners[asked.listener].name;
    let here = |mode| {
        root.authorization.iter().enumerate().filter(move |(_, entry)| {
            entry.mode == mode
                && (entry.listeners.is_empty() || entry.listeners.contains(listener))
                && (entry.ports.is_empty() || entry.ports.contains(&asked.port()))
        })
    };
    let enforced: Vec<&schema::Authorization> = here(schema::RuleMode::Enforce).map(|(_, entry)| entry).collect();
    if refused(&enforced, asked, head) {
        return (true, Vec::new());
    }
    let would = |(_, entry): &(usize, &schema::Authorization)| {
        refused(&enforced.iter().copied().chain([*entry]).collect::<Vec<_>>(), asked, head)
    };
    (false, here(schema::RuleMode::Shadow).filter(would).map(|(number, _)| number).collect())
}

fn rule() -> impl Strategy<Value = String> {
    let from = subsequence(
        vec![
            r#"identities: ["spiffe://cluster.local/ns/shop/sa/web", { prefix: "spiffe://cluster.local/ns/ad" }]"#,
            r#"identities: ["spiffe://cluster.local/*/sa/web"]"#,
            r#"identities: ["*"]"#,
            "namespaces: [shop]",
            "namespaces: [shop, admin]",
            r#"cidrs: ["10.0.0.0/8", "fd00::/8"]"#,
            r#"cidrs: ["10.0.0.1"]"#,
        ],
        0..3,
    );
    let to = subsequence(
        vec![
            "ports: [8080]",
            "ports: [8080, 8081]",
            "methods: [GET, HEAD]",
            "methods: [POST]",
            "paths: [{ prefix: /a }]",
            "paths: [{ exact: /a/b }, { prefix: / }]",
            r#"paths: [{ template: "/{x}/b" }]"#,
            r#"paths: [{ regex: "/a.*" }, { exact: /c }]"#,
            "hosts: [a.test]",
            r#"hosts: ["*.test"]"#,
            r#"headers: { x-a: "1" }"#,
            "headers: { X-A: { prefix: p }, x-b: { present: false } }",
        ],
        0..4,
    );
    (from, to).prop_map(|(from, to)| {
        let half = |parts: Vec<&str>| {
            let mut keys: Vec<&str> = Vec::new();
            for part in parts {
                // A key stands in a mapping once.
                if keys.iter().all(|known| known.split(':').next() != part.split(':').next()) {
                    keys.push(part);
                }
            }
            keys.join(", ")
        };
        format!("{{ from: {{ {} }}, to: {{ {} }} }}", half(from), half(to))
    })
}

fn entries() -> impl Strategy<Value = String> {
    let scope =
        select(vec!["", "", "listeners: [edge], ", "ports: [8080], ", "ports: [8081], ", "listeners: [side], "]);
    let mode = select(vec!["", "", "mode: shadow, ", "mode: shadow, ", "mode: off, "]);
    let lists = (prop::collection::vec(rule(), 0..3), prop::collection::vec(rule(), 0..3));
    let entry = (scope, mode, lists).prop_map(|(scope, mode, (allow, deny))| {
        let list = |name: &str, rules: Vec<String>| match rules.is_empty() {
            true => String::new(),
            false => format!("{name}: [{}], ", rules.join(", ")),
        };
        let lists = format!("{}{}", list("allow", allow), list("deny", deny));
        format!("{scope}{mode}{}", if lists.is_empty() { "deny: [{ to: { ports: [8080] } }]" } else { &lists })
    });
    prop::collection::vec(entry, 1..5).prop_map(|entries| {
        entries.into_iter().enumerate().fold(String::new(), |mut text, (number, entry)| {
            writeln!(text, "  - {{ name: e{number}, {entry} }}").expect("a string");
            text
        })
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let ids = vec![
        None,
        Some("spiffe://cluster.local/ns/shop/sa/web"),
        Some("spiffe://cluster.local/ns/admin/sa/web"),
        Some("spiffe://cluster.local/ns/shop/web"),
        Some("spiffe://cluster.local/shop/sa/web"),
        Some("spiffe://elsewhere/ns/shop/sa/web"),
    ];
    let ips = vec!["10.0.0.1", "10.9.9.9", "::ffff:10.0.0.1", "11.0.0.1", "fd00::1", "::1"];
    let headers = subsequence(vec![("x-a", "1"), ("x-a", "2"), ("x-a", "pq"), ("x-b", "")], 0..4);
    let paths = select(vec!["/", "/a", "/a/", "/a/b", "/ab", "/x/b", "//b", "/c", "*"]);
    let hosts = select(vec!["a.test", "b.a.test", "test", "", "xa.test"]);
    let methods = select(vec![Method::GET, Method::HEAD, Method::POST, Method::PUT]);
    (select(ips), select(ids), 0..2usize, methods, hosts, paths, headers).prop_map(
        |(ip, id, listener, method, host, path, headers)| Asked {
            ip: ip.parse().expect("an address"),
            id: id.map(|id| SpiffeId::parse(id).expect("an id")),
            listener,
            method,
            host: host.to_owned(),
            path: path.to_owned(),
            headers: headers
                .into_iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect(),
        },
    )
}

/// What of random entries is sound: a rule for a port that its entry does not have is refused.
fn sound(entries: &str) -> Option<Config> {
    config::parse("t.yaml", &format!("{HEAD}authorization:\n{entries}"), &|_| None).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_compiled_rules_say_what_is_written(entries in entries(), requests in prop::collection::vec(asked(), 16)) {
        let Some(config) = sound(&entries) else { return Ok(()) };
        let snapshot = snapshot::compile(Arc::new(config), 1, None);
        let root = snapshot.config.root();
        for asked in requests {
            for (ruling, head) in [(asked.ruling(&snapshot), Some(())), (asked.ruling_of_connection(&snapshot), None)] {
                let (denied, would) = expected(root, &asked, head);
                prop_assert_eq!(ruling.denied.is_some(), denied, "{}{:?}{:?}", &entries, &asked, head);
                prop_assert_eq!(&ruling.would, &would, "{}{:?}{:?}", &entries, &asked, head);
                let mode = ruling.denied.map(|number| root.authorization[number].mode);
                prop_assert!(mode.is_none_or(|mode| mode == schema::RuleMode::Enforce));
            }
        }
    }
}

/// Most random entries have to be sound, or nothing is tested.
#[test]
fn random_entries_are_sound() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let made = (0..100).map(|_| entries().new_tree(&mut runner).expect("entries").current());
    let sound = made.filter(|entries| self::sound(entries).is_some()).count();
    assert!(sound > 50, "{sound} of 100");
}

/// Whoever would come to a path is asked about that path, however it is spelled.
#[test]
fn a_path_has_one_form() {
    let snapshot = compiled("  - { name: no-admin, deny: [{ to: { paths: [{ prefix: /admin }] } }] }\n");
    let denied = |path: &str| get(path).ruling(&snapshot).denied.is_some();
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/%61dmin",
        "/%61%64%6d%69%6e/x",
        "/./admin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/x/%2E./admin/y",
        "/../admin",
        "/admin/./x/..",
    ] {
        assert!(denied(path), "{path}");
    }
    // Other paths, to us and to whoever they are forwarded to byte for byte.
    for path in [
        "/",
        "/administrator",
        "/x/admin",
        "/Admin",
        "//admin",
        "/admin%2Fx",
        "/admin%2fx",
        "/x/..%2Fadmin",
        "/%2561dmin",
    ] {
        assert!(!denied(path), "{path}");
    }
    for path in ["/admin%00", "/%00admin", "/admin%", "/admin%zz"] {
        assert_eq!(normalise(path), Err(Reason::BadRequest), "{path}");
    }
    let encoded = compiled(r#"  - { name: slash, deny: [{ to: { paths: [{ regex: "/admin%2F.*" }] } }] }"#);
    assert!(get("/admin%2fx").ruling(&encoded).denied.is_some(), "in upper case");
}

#[test]
fn an_entry_that_is_off_says_nothing() {
    let snapshot = compiled("  - { name: off, deny: [{}], allow: [{ to: { methods: [PUT] } }], mode: off }\n");
    assert_eq!(get("/").ruling(&snapshot), Ruling::default());
}

#[test]
fn a_rule_without_conditions_fits_everything() {
    let snapshot = compiled("  - { name: all, allow: [{}] }\n  - { name: none, deny: [{}], listeners: [side] }\n");
    assert_eq!(get("/").ruling(&snapshot), Ruling::default());
    assert_eq!(Asked { listener: 1, ..get("/") }.ruling(&snapshot).denied, Some(1));
}

/// What cannot be known of a connection is not allowed by it, and is denied.
#[test]
fn a_connection_fails_closed() {
    let reads = compiled("  - { name: reads, allow: [{ to: { methods: [GET] } }] }\n");
    assert_eq!(get("/").ruling(&reads).denied, None);
    assert_eq!(get("/").ruling_of_connection(&reads).denied, Some(0));
    let writes =
        compiled(r#"  - { name: no-writes, deny: [{ from: { cidrs: ["10.0.0.0/8"] }, to: { methods: [POST] } }] }"#);
    assert_eq!(get("/").ruling(&writes).denied, None);
    assert_eq!(get("/").ruling_of_connection(&writes).denied, Some(0));
    assert_eq!(Asked { ip: [11, 0, 0, 1].into(), ..get("/") }.ruling_of_connection(&writes).denied, None);
}

/// Any line of a header may fulfil a condition.
#[test]
fn no_line_of_a_header_hides_another() {
    let snapshot = compiled(r#"  - { name: no-debug, deny: [{ to: { headers: { X-Debug: "1" } } }] }"#);
    let mut asked = get("/");
    asked.headers.append("x-debug", HeaderValue::from_static("0"));
    assert_eq!(asked.ruling(&snapshot).denied, None);
    asked.headers.append("x-debug", HeaderValue::from_static("1"));
    assert_eq!(asked.ruling(&snapshot).denied, Some(0));
}
