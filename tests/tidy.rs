//! Rules that the compiler does not know: who may name whom, how long a file may be, what must not be in the code,
//! and that the documentation names what the code offers. Reads text, so it is coarse; exceptions carry a reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

const FILE_LINES: usize = 600;

/// Files over the limit, and why.
const LONG: [(&str, &str); 1] = [("src/config/schema.rs", "one struct for each mapping of the language, and no logic")];

/// Bottom up; a module may name those of its own layer and of the layers below.
const LAYERS: [&[&str]; 5] = [
    &["wire", "policy", "error"],
    &["config", "identity", "telemetry"],
    &[
        "discovery",
        "state",
        "net",
        "upstream",
        "snapshot",
        "decide",
        "explain",
        "blast",
        "body",
        "drain",
        "health",
        "worker",
        "intercept",
    ],
    &["inbound", "http", "tcp"],
    &["admin", "app", "cli", "demo", "runtime", "main", "lib"],
];

/// File, the module above that it names, and why.
const UPWARDS: [(&str, &str, &str); 9] = [
    ("src/policy/balance/mod.rs", "config", "the enum of policies is the language's own, and has no logic"),
    ("src/policy/balance/group.rs", "config", "the same"),
    ("src/policy/balance/set.rs", "config", "the same"),
    ("src/policy/probation.rs", "telemetry", "the bounds of the histogram that it reads: numbers"),
    ("src/policy/probation/judge.rs", "telemetry", "the same bounds"),
    ("src/net/accept.rs", "inbound", "an accepted connection is handed up"),
    ("src/worker.rs", "inbound", "an accepted connection that came by mail is handed up"),
    ("src/worker.rs", "admin", "the table of health that a worker's heart beats into"),
    ("src/worker/memory.rs", "admin", "the same table, for what is left of the memory"),
];

/// Where a peer's bytes are handled: a panic there is a peer's to cause.
const PEER_FACING: [&str; 5] = ["wire", "net", "http", "tcp", "upstream"];

struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    /// Without tests and comments; line numbers are kept.
    code: String,
}

impl Source {
    fn module(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inner.split(['/', '.']).next().unwrap_or_default()
    }

    /// Lines of code that the pattern is found in, as `path:line: text`.
    fn hits(&self, pattern: &Regex) -> Vec<String> {
        let lines = self.code.lines().enumerate().filter(|(_, line)| pattern.is_match(line));
        lines.map(|(n, line)| format!("{}:{}: {}", self.path, n + 1, line.trim())).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn walk(folder: &str, extension: &str) -> Vec<String> {
    let (mut found, mut todo) = (Vec::new(), vec![root().join(folder)]);
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(relative(&path));
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("inside the repository").to_string_lossy().replace('\\', "/")
}

fn sources() -> Vec<Source> {
    let is_test = |path: &String| path.ends_with("/tests.rs") || path.contains("/tests/");
    let all = walk("src", "rs").into_iter().filter(|path| !is_test(path));
    let sources: Vec<Source> = all.map(|path| Source { code: strip(&read(&path)), path }).collect();
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

/// Removes line comments, and everything from the tests on, which are last in a file. Other items that are only for
/// tests are removed up to the brace in the first column that ends them.
fn strip(text: &str) -> String {
    let (mut out, mut skipping) = (String::new(), false);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let tests = line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod "));
        if tests {
            break;
        }
        skipping |= line.trim() == "#[cfg(test)]";
        if !skipping {
            out.push_str(line.split_once("//").map_or(line, |(code, _)| if code.ends_with(':') { line } else { code }));
        }
        if skipping && (line.trim_end() == "}" || line.trim_end() == "    }" || line.ends_with(';')) {
            skipping = false;
        }
        out.push('\n');
    }
    out
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of this test")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn assert_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

#[test]
fn modules_name_only_what_is_below_them() {
    let path = pattern(r"\bcrate::(?:\{([^}]*)\}|([a-z_]+))");
    let mut faults = Vec::new();
    for source in sources() {
        let Some(own) = layer(source.module()) else {
            faults.push(format!("{}: `{}` has no layer in tests/tidy.rs", source.path, source.module()));
            continue;
        };
        for found in path.captures_iter(&source.code) {
            let names = found.get(1).or(found.get(2)).map_or("", |names| names.as_str());
            let modules = names.split(',').map(|name| name.trim().split("::").next().unwrap_or_default());
            let above = modules
                .filter(|module| layer(module).is_some_and(|layer| layer > own))
                .filter(|module| !UPWARDS.iter().any(|(file, to, _)| *file == source.path && to == module));
            faults.extend(above.map(|module| format!("{} names crate::{module}, which is above it", source.path)));
        }
    }
    assert_none("layers", &faults);
}

#[test]
fn pure_modules_have_no_runtime_and_no_clock() {
    let impure = pattern(r"\b(tokio|hyper|rustls)::|\b(Instant|SystemTime)::now\b|\bstd::(net::Tcp|fs|thread|env)");
    let pure = sources().into_iter().filter(|source| layer(source.module()) == Some(0));
    let faults: Vec<String> = pure.flat_map(|source| source.hits(&impure)).collect();
    assert_none("input, output or time in a pure module", &faults);
}

#[test]
fn nothing_that_a_peer_controls_can_panic() {
    let panics = pattern(r"\.unwrap\(\)|\.expect\(|\b(panic|unreachable|todo|unimplemented)!");
    let facing = sources().into_iter().filter(|source| PEER_FACING.contains(&source.module()));
    let faults: Vec<String> = facing.flat_map(|source| source.hits(&panics)).collect();
    assert_none("unwrap, expect or panic where a peer's bytes are handled", &faults);
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut faults = Vec::new();
    for (path, _) in LONG {
        assert!(read(path).lines().count() > FILE_LINES, "{path} is short again: take it off the list");
    }
    for path in ["src", "tests", "benches", "fuzz"].into_iter().flat_map(|folder| walk(folder, "rs")) {
        if path.starts_with("fuzz/target") {
            continue;
        }
        let text = read(&path);
        let lines = text.lines().count();
        if lines > FILE_LINES && !LONG.iter().any(|(long, _)| *long == path) {
            faults.push(format!("{path}: {lines} lines, of {FILE_LINES}"));
        }
        if !text.starts_with("//!") && !path.ends_with("/tests.rs") && !path.contains("/tests/") {
            faults.push(format!("{path}: does not open with a `//!` that says what it owns"));
        }
    }
    assert_none("files", &faults);
}

#[test]
fn no_file_is_dead() {
    let mut faults = Vec::new();
    for path in walk("src", "rs") {
        if matches!(path.as_str(), "src/main.rs" | "src/lib.rs") {
            continue;
        }
        let file = PathBuf::from(&path);
        let (folder, name) = if path.ends_with("/mod.rs") {
            let folder = file.parent().expect("a folder");
            (folder.parent().expect("a folder").to_owned(), folder.file_name())
        } else {
            (file.parent().expect("a folder").to_owned(), file.file_stem())
        };
        let name = name.expect("a name").to_string_lossy().into_owned();
        let folder = folder.to_string_lossy().into_owned();
        let parents = match folder.as_str() {
            "src" => ["src/lib.rs".to_owned(), "src/main.rs".to_owned()],
            _ => [format!("{folder}/mod.rs"), format!("{folder}.rs")],
        };
        let declared = pattern(&format!(r"(?m)^\s*(pub(\([^)]*\))? )?mod {name};"));
        let mut texts = parents.iter().filter_map(|parent| fs::read_to_string(root().join(parent)).ok());
        if !texts.any(|text| declared.is_match(&text)) {
            faults.push(format!("{path}: no `mod {name};` in {}", parents.join(" or ")));
        }
    }
    assert_none("files that no module declares", &faults);
}

#[test]
fn nothing_is_left_for_later() {
    // In pieces, or this file would find itself.
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"], ["#[ign", "ore"], ["dbg", "!("]].map(|word| word.concat());
    let files = ["src", "tests", "benches"].into_iter().flat_map(|folder| walk(folder, "rs"));
    let faults: Vec<String> = files
        .flat_map(|path| {
            let text = read(&path);
            let found = words.iter().filter(|word| text.contains(word.as_str()));
            found.map(|word| format!("{path}: {word}")).collect::<Vec<_>>()
        })
        .collect();
    assert_none("unfinished work", &faults);
}

fn documentation() -> String {
    let pages = ["README.md", "ARCHITECTURE.md"].into_iter().map(str::to_owned);
    pages.chain(walk("docs", "md")).filter_map(|path| fs::read_to_string(root().join(path)).ok()).collect()
}

#[test]
fn every_example_is_in_the_documentation() {
    let text = documentation();
    let examples = walk("config", "yaml");
    assert!(!examples.is_empty(), "no example configuration");
    let faults: Vec<String> = examples.into_iter().filter(|path| !text.contains(path.as_str())).collect();
    assert_none("not named in README.md, ARCHITECTURE.md or docs/", &faults);
}

/// Name and type of every metric, as the samples are named.
fn offered() -> BTreeSet<(String, String)> {
    let text = outrigger::telemetry::metrics::Metrics::new(1, 5000).encode_classic();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

#[test]
fn the_metrics_reference_is_complete() {
    let offered = offered();
    assert!(offered.len() > 10, "no metrics: {offered:?}");
    let row = pattern(r"(?m)^\| `([a-z_]+)` \| (counter|gauge|histogram) \|");
    let page = read("docs/metrics.md");
    let documented = row.captures_iter(&page).map(|row| (row[1].to_owned(), row[2].to_owned())).collect();
    let rows = |metrics: &BTreeSet<(String, String)>, others| -> Vec<String> {
        metrics.difference(others).map(|(name, kind)| format!("| `{name}` | {kind} |")).collect()
    };
    assert_none("metrics that docs/metrics.md does not have", &rows(&offered, &documented));
    assert_none("rows of docs/metrics.md that no metric has", &rows(&documented, &offered));
}

/// What `docs/reasons.md` says above its tables.
const REASONS: &str = r#"# Reasons

<!-- Written by `UPDATE_DOCS=1 cargo test --test tidy`; the words are in src/error.rs. -->

Whatever the proxy answers, refuses or cuts by itself has one of these reasons, and nothing else has. The code is the
`reason` of the access log and of the metrics, and `details` in the `Proxy-Status` field (RFC 9209) of the answer. The
answer itself says it in the sentence of the column "meaning": as text, or as JSON with the hint and the id of the
request where `Accept` prefers `application/json` or names `application/problem+json` (RFC 9457). It has the id as
`x-request-id`, too.

```console
$ curl -H 'accept: application/json' http://localhost:8080/nowhere
{"status":404,"reason":"no_route","message":"no route matches this request","hint":"`outrigger explain` shows which condition of each route failed","requestId":"9b2f7b53-3f0e-4d43-9d3e-8f7a1d5a0c11"}
```

An answer that had begun keeps its status: what was cut after that is told by the reason alone.

## Who made the answer

`producer` in the access log says who made the head of the answer:

| producer | meaning |
| --- | --- |
| `application` | the service. Beside a reason: the answer had begun, and was cut |
| `proxy` | this proxy, for the reason beside it |
| `peer` | another proxy on the way to the service, by its own word: the answer is an error (status from 400 on, or a gRPC status other than 0), and a member of its `Proxy-Status` has an `error`. `peer_reason` is `details` of that member or else the `error`, of 128 characters at most; another Outrigger's is its reason |

"#;

/// What it says of gRPC, above the last table.
const REASONS_GRPC: &str = r#"
`direct_response`, `redirect` and `fallback` have the status that their route or fallback says. 499 is never sent. The codec of HTTP/1 refuses
some requests before they are any, as `bad_request` or `head_too_large`: with the status, and without a body.

## gRPC

A gRPC client (`content-type: application/grpc`) gets a status of gRPC in the head of an answer with status 200 and
without a body ("trailers-only"), with the sentence as `grpc-message`. That holds for `respond` and `redirect`, where the
first line of the body is the message, and for an answer of the service, or of a load balancer in front of it, that has
another status than 200 and is not gRPC; its other fields stay, and `Proxy-Status` has its status as `received-status`.
What such a status means is told by gRPC's own table:

"#;

/// What it says at the end.
const REASONS_END: &str = r#"
A `grpc-status` that a route's `responseHeaders` set, or that the service sent, holds before that.

When a call ends early after the head of its answer, over HTTP/2 the status comes in trailers: when the service breaks
off, when its `grpc-timeout` is over, or when nothing moves for `streamIdleTimeout`. A client that has stopped reading
cannot be told; its stream is reset. CONNECT is never gRPC: a status 200 would open a tunnel.
"#;

fn reasons() -> String {
    use http::StatusCode;
    use outrigger::error::Reason;
    use outrigger::telemetry::block::GRPC_NAMES;
    let code = |code: u8| format!("{code} {}", GRPC_NAMES[usize::from(code)]);
    let mut page = format!(
        "{REASONS}## All of them\n\n\
         | code | producer | status | gRPC | `Proxy-Status` error | meaning | hint |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    for reason in Reason::ALL.iter().copied().filter(|reason| !reason.code().is_empty()) {
        page += &format!(
            "| `{}` | {} | {} | {} | `{}` | {} | {} |\n",
            reason.code(),
            reason.producer().name(),
            reason.status().as_u16(),
            code(reason.grpc()),
            reason.proxy_error(),
            reason.sentence(),
            reason.hint()
        );
    }
    page += &format!("{REASONS_GRPC}| status | gRPC |\n| --- | --- |\n");
    let other = outrigger::wire::grpc::code(StatusCode::IM_A_TEAPOT);
    for status in (200..600).filter_map(|status| StatusCode::from_u16(status).ok()) {
        let own = outrigger::wire::grpc::code(status);
        if own != other {
            page += &format!("| {} | {} |\n", status.as_u16(), code(own));
        }
    }
    page + &format!("| others | {} |\n{REASONS_END}", code(other))
}

#[test]
fn the_page_of_reasons_is_that_of_the_code() {
    const PAGE: &str = "docs/reasons.md";
    let page = reasons();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join(PAGE), &page).expect("write the page");
    }
    let found = fs::read_to_string(root().join(PAGE)).unwrap_or_default();
    let differs = page.lines().zip(found.lines().chain(std::iter::repeat(""))).find(|(wanted, found)| wanted != found);
    assert!(
        page == found,
        "{PAGE} is not what the code says; `UPDATE_DOCS=1 cargo test --test tidy` writes it. First line: {differs:#?}"
    );
}

#[test]
fn reasons_say_something_of_their_own() {
    use outrigger::error::Reason;
    let told = Reason::ALL.iter().copied().filter(|reason| *reason != Reason::None);
    for words in [Reason::code, Reason::sentence, Reason::hint] {
        let all: BTreeSet<&str> = told.clone().map(words).collect();
        assert_eq!(all.len(), Reason::ALL.len() - 1, "two reasons say the same: {all:?}");
        // In a table, in a quoted string of `Proxy-Status`, and as one sentence.
        let faults: Vec<String> = all
            .into_iter()
            .filter(|text| text.is_empty() || text.contains(['|', '"', '\\', '\n']) || text.ends_with('.'))
            .map(str::to_owned)
            .collect();
        assert_none("words of a reason", &faults);
    }
}

#[test]
fn make_is_documented_by_itself() {
    let makefile = read("Makefile");
    for target in ["demo", "run", "test", "lint", "bench", "fuzz", "image", "clean", "bench-peers"] {
        let documented = pattern(&format!(r"(?m)^{target}:.* ## \S"));
        assert!(documented.is_match(&makefile), "`make` does not list {target}");
    }
}
