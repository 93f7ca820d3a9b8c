use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use clap::Parser;
use serde_json::json;

use super::*;

const PAGE: &str = include_str!("../../../docs/why.md");

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    why: Why,
}

fn args(line: &str) -> Why {
    Cli::try_parse_from(["why"].into_iter().chain(line.split_whitespace())).unwrap().why
}

/// The text between the fences that follow a line of the documentation.
fn block(after: &str, fence: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(after).unwrap();
    let (_, rest) = rest.split_once(fence).unwrap();
    rest.split_once("\n```").unwrap().0
}

fn example() -> Value {
    serde_json::from_str(block("## The long form", "```json\n")).unwrap()
}

#[test]
fn the_path_says_what_is_asked_for() {
    assert_eq!(args("8f14-45_f.~A").path(), "/why/8f14-45_f.~A");
    assert_eq!(args("a/b?c#d%e").path(), "/why/a%2Fb%3Fc%23d%25e");
    assert_eq!(encoded(" ü\n"), "%20%C3%BC%0A");
    assert_eq!(args("").path(), "/why?filter=notable&limit=20");
    assert_eq!(args("--failed --limit 5").path(), "/why?filter=failed&limit=5");
    assert_eq!(args("--slow").path(), "/why?filter=slow&limit=20");
    assert_eq!(args("--all").path(), "/why?filter=all&limit=20");
}

#[test]
fn wrong_usage_is_refused() {
    for line in [&["why", ""][..], &["why", "id", "--failed"], &["why", "--limit", "0"], &["why", "--limit", "1001"]] {
        assert!(Cli::try_parse_from(line).is_err(), "{line:?}");
    }
}

#[test]
fn the_documentation_shows_what_is_printed() {
    let text = text::exchange(&example(), Paint::PLAIN);
    let shown = block("$ outrigger why 8f14e45f", "\n");
    assert!(text.trim_end() == shown, "docs/why.md shows\n{shown}\nand it is\n{text}");
    let list: Value = serde_json::from_str(block("## The short form", "```json\n")).unwrap();
    let text = text::list(&list, Paint::PLAIN);
    let shown = block("$ outrigger why\n", "");
    assert!(text.trim_end() == shown, "docs/why.md shows\n{shown}\nand it is\n{text}");
}

#[test]
fn an_exchange_that_went_well_is_short() {
    let fine = json!({
        "id": "a", "time": "2026-11-21T03:28:01.123Z", "method": "GET", "host": "h", "path": "/", "status": 200,
        "grpcStatus": 0, "failed": false, "slow": true, "truncated": true, "producer": "application",
        "bucket": { "number": 3, "sticky": false }, "service": "app", "subset": "v1", "attempts": [],
        "phases": { "queue": 0.0, "firstByte": 1.0, "body": 1.0, "total": 2.5 }, "attributes": {},
        "shadow": [{ "rule": "timeout", "limit": 1.5, "actual": 2.5, "unit": "ms" }],
    });
    assert_eq!(
        text::exchange(&fine, Paint::PLAIN),
        "\
GET h/: 200/0 in 2.500 ms, slow
  answer by   the application
  id          a
  began       2026-11-21T03:28:01.123Z
  service     app/v1 (bucket 3 of the split, by chance)

  queue            0.000 ms  ▏
  first byte       1.000 ms  ████████████████
  body             1.000 ms                  ████████████████
  other            0.500 ms
  total            2.500 ms

  shadow      timeout would have refused this: 2.500 ms, of 1.500 ms allowed
  truncated   some of this was too long to be kept whole
"
    );
}

#[test]
fn an_unknown_id_says_how_far_back_it_goes() {
    let answer = json!({
        "error": "no longer kept",
        "kept": {
            "exchanges": 18_402,
            "of": 1_203_441,
            "oldest": "2026-11-21T08:15:02.000Z",
            "since": "2026-11-21T08:20:11.004Z",
        },
    });
    let (out, code) = told(&args("id"), Ok((404, answer.clone())), Paint::PLAIN).unwrap();
    assert_eq!(
        (&*out, code),
        (
            "no longer kept, or never seen: the oldest that is kept is from 2026-11-21T08:15:02.000Z \
             (18,402 of 1,203,441 exchanges); since 2026-11-21T08:20:11.004Z all are\n",
            1
        )
    );
    let (out, code) = told(&args("id --format json"), Ok((404, answer.clone())), Paint::PLAIN).unwrap();
    assert_eq!((serde_json::from_str::<Value>(&out).unwrap(), code), (answer, 1));
    let none = json!({ "kept": { "exchanges": 0, "of": 0 } });
    assert_eq!(text::not_kept(&none, Paint::PLAIN), "no longer kept, or never seen: 0 of 0 exchanges are kept\n");
    assert_eq!(text::list(&none, Paint::PLAIN), "none of these is kept; 0 of 0 exchanges are kept\n");
}

#[test]
fn other_answers_are_no_answer() {
    for (status, value, said) in [
        (404, json!({ "error": "no such endpoint", "endpoints": [] }), "no such endpoint"),
        (404, json!({ "error": "telemetry.recent is 0" }), "telemetry.recent is 0"),
        (503, json!("upstream"), "upstream"),
        (500, json!(null), "without a reason"),
    ] {
        let why = told(&args("id"), Ok((status, value)), Paint::PLAIN).unwrap_err();
        assert_eq!(why, format!("127.0.0.1:15000 answered {status}: {said}"));
    }
    let why = told(&args("id"), Err(Unreachable::Late(args("").admin)), Paint::PLAIN).unwrap_err();
    assert_eq!(why, "127.0.0.1:15000 did not answer within 30 s");
}

#[test]
fn a_proxy_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let args = args(&format!("8f14e45f --format json --admin {}", listener.local_addr().unwrap()));
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut heard, mut buffer) = (Vec::new(), [0; 1024]);
        while !heard.ends_with(b"\r\n\r\n") {
            let count = stream.read(&mut buffer).unwrap();
            heard.extend_from_slice(&buffer[..count]);
        }
        let body = example().to_string();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8(heard).unwrap()
    });
    let (out, code) = told(&args, client::get(args.admin, &args.path(), "id"), Paint::PLAIN).unwrap();
    assert_eq!((serde_json::from_str::<Value>(&out).unwrap(), code), (example(), 0));
    assert!(server.join().unwrap().starts_with("GET /why/8f14e45f HTTP/1.1\r\n"));
}

/// Whatever answers, it is shown or not: it does not panic, and no terminal obeys it.
#[test]
fn nonsense_is_shown_as_far_as_it_goes() {
    let odd = [json!(null), json!(7), json!("\u{1b}"), json!([1]), json!({ "a": 1 }), json!(-1e300)];
    for odd in &odd {
        let mut whole = example();
        for key in whole.as_object().unwrap().keys().cloned().collect::<Vec<_>>() {
            let before = std::mem::replace(&mut whole[&key], odd.clone());
            let shown =
                text::exchange(&whole, Paint::PLAIN) + &text::list(&json!({ "exchanges": [whole] }), Paint::PLAIN);
            assert!(!shown.contains('\u{1b}'), "{shown}");
            whole[&key] = before;
        }
        text::exchange(odd, Paint::PLAIN);
        text::list(odd, Paint::PLAIN);
        text::not_kept(odd, Paint::PLAIN);
        let phases = json!({ "phases": { "total": odd, "queue": odd, "body": -5.0, "firstByte": 1e300 } });
        text::exchange(&phases, Paint::PLAIN);
    }
}
