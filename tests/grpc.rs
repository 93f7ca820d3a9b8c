//! gRPC with a real server and client (grpcio), and the status that the proxy itself gives.

mod common;

use std::time::Duration;

use common::grpc::{Server, check};
use common::h2peer::{call, request};
use common::h2raw::{self, Peer};
use common::{Setup, free_addr};

#[test]
fn calls_of_every_kind() {
    let server = Server::start();
    for service in [", protocol: http2", ""] {
        let proxy = Setup { service, ..Setup::default() }.start(server.addr);
        for scenario in ["unary", "streams", "bidi", "errors", "deadline", "cancel"] {
            check(proxy.addr(), scenario);
        }
        for (code, least) in [
            ("OK", 203.0),
            ("FAILED_PRECONDITION", 1.0),
            ("UNIMPLEMENTED", 1.0),
            ("DATA_LOSS", 1.0),
            ("CANCELLED", 1.0),
        ] {
            proxy.await_metric("grpc_server_handled_total", &[("grpc_code", code)], least);
        }
    }
}

#[test]
fn a_route_timeout_is_a_deadline() {
    let server = Server::start();
    let proxy =
        Setup { service: ", protocol: http2", route: ", timeout: 300ms", ..Setup::default() }.start(server.addr);
    check(proxy.addr(), "timeout");
    proxy.await_metric("http_requests_total", &[("reason", "request_timeout")], 1.0);
    check(proxy.addr(), "unary");
}

/// What the proxy answers itself is a trailers-only response (gRPC over HTTP/2: status 200, grpc-status).
#[test]
fn local_replies_speak_grpc() {
    let table =
        [(", hosts: [elsewhere.test]", "12", "unimplemented", "no_route"), ("", "14", "unavailable", "connect_failed")];
    for (route, code, scenario, reason) in table {
        let proxy = Setup { service: ", protocol: http2", route, ..Setup::default() }.start(free_addr());
        check(proxy.addr(), scenario);
        let head = request("POST", "/test.Echo/Unary", &[("content-type", "application/grpc"), ("te", "trailers")]);
        let reply = call(proxy.addr(), head, b"\0\0\0\0\0", None).expect("an answer");
        assert_eq!(reply.head.status, 200);
        let field = |name| reply.head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        assert_eq!(field("grpc-status").as_deref(), Some(code));
        assert!(field("grpc-message").is_some_and(|message| !message.is_empty()));
        assert!(field("content-type").is_some_and(|kind| kind.starts_with("application/grpc")));
        assert_eq!((&reply.body[..], reply.trailers), (&b""[..], None));
        proxy.await_metric("http_requests_total", &[("reason", reason)], 2.0);
        // One that is not gRPC gets a status of HTTP from the same route.
        let reply = call(proxy.addr(), request("POST", "/", &[]), b"", None).expect("an answer");
        assert_eq!(reply.head.status, if code == "12" { 404 } else { 503 });
        assert!(!reply.head.headers.contains_key("grpc-status"));
    }
}

/// An HTTP/2 service that begins an answer of gRPC and never ends it.
fn stalls() -> h2raw::Server {
    h2raw::Server::start(&[], |mut peer, _| {
        while let Some(frame) = peer.next_within(Duration::from_secs(60)) {
            if frame.kind == h2raw::HEADERS {
                peer.headers(frame.stream, &[(":status", "200"), ("content-type", "application/grpc")], false);
                peer.data(frame.stream, b"xxxxx", false);
            }
        }
    })
}

/// The head of an answer is out: the status comes in trailers.
#[test]
fn deadlines_within_an_answer() {
    let server = stalls();
    let idle = "defaults: { streamIdleTimeout: 400ms }";
    let table = [("", Some("400m"), "4", "request_timeout"), (idle, None, "14", "idle_timeout")];
    for (top, timeout, code, reason) in table {
        let proxy = Setup { service: ", protocol: http2", top, workers: 1, ..Setup::default() }.start(server.addr);
        let mut fields = vec![("content-type", "application/grpc"), ("te", "trailers")];
        fields.extend(timeout.map(|timeout| ("grpc-timeout", timeout)));
        let reply =
            call(proxy.addr(), request("POST", "/test.Echo/Unary", &fields), b"\0\0\0\0\0", None).expect("an answer");
        assert_eq!((&reply.body[..], reply.reset), (&b"xxxxx"[..], None), "{reply:?}");
        let trailers = reply.trailers.expect("trailers");
        assert_eq!(trailers["grpc-status"], code);
        assert!(!trailers["grpc-message"].is_empty());
        proxy.await_reason(reason, 200);
        let name = if code == "4" { "DEADLINE_EXCEEDED" } else { "UNAVAILABLE" };
        proxy.await_metric("grpc_server_handled_total", &[("grpc_code", name)], 1.0);

        // Who has stopped reading cannot be told.
        let mut peer = Peer::client(proxy.addr(), &[(h2raw::INITIAL_WINDOW_SIZE, 0)]);
        peer.headers(1, &h2raw::request("POST", "/test.Echo/Unary", &fields), true);
        let end = peer.wait("a reset", |frame| frame.stream == 1 && frame.kind != h2raw::HEADERS);
        assert_eq!(end.kind, h2raw::RST_STREAM, "{end:?}");
        proxy.await_metric("http_requests_total", &[("reason", reason)], 2.0);
    }
}

/// An upload that grows too large while it is answered.
#[test]
fn a_body_that_is_too_large_within_an_answer() {
    let server = stalls();
    let setup = Setup { service: ", protocol: http2", route: ", maxBody: 10", workers: 1, ..Setup::default() };
    let proxy = setup.start(server.addr);
    let mut peer = Peer::client(proxy.addr(), &[]);
    peer.headers(1, &h2raw::request("POST", "/test.Echo/Bidi", &[("content-type", "application/grpc")]), false);
    peer.wait("the beginning", |frame| frame.kind == h2raw::DATA && frame.stream == 1);
    peer.data(1, &[0; 20], false);
    let end =
        peer.wait("the end", |frame| frame.stream == 1 && (frame.ends_stream() || frame.kind == h2raw::RST_STREAM));
    assert_eq!(end.kind, h2raw::HEADERS, "{end:?}");
    proxy.await_reason("body_too_large", 200);
    proxy.await_metric("grpc_server_handled_total", &[("grpc_code", "RESOURCE_EXHAUSTED")], 1.0);
}
