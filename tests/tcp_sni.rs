//! TLS that is passed through by the name that the client asks for: nothing is terminated, and nothing is changed.

mod common;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use common::pki::Pki;
use common::tls::{OpenSsl, s_client};
use common::{Conn, Origin, Proxy, SOON, eventually, show, tool, until};
use serde_json::Value;

const LISTENER: &str = "tls: { mode: \"off\", handshakeTimeout: 600ms }";

/// Routes in front of these services, one each, all of them tcp.
fn front(services: &[(&str, SocketAddr)], routes: &str) -> Proxy {
    let all = services
        .iter()
        .map(|(name, _)| format!("  {name}: {{ protocol: tcp, endpoints: {{ static: [\"{{{name}}}\"] }} }}\n"));
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
runtime: {{ workers: 1 }}
telemetry: {{ accessLog: {{ format: json, sample: {{ errors: 100, others: 100, maxPerSecond: 0 }} }} }}
listeners: [{{ name: tls, mode: proxy, address: "{{listen}}", protocol: tcp, {LISTENER} }}]
services:
{}routes:
{routes}"#,
        all.collect::<String>()
    );
    Proxy::start(&config, services)
}

/// The bytes of every connection, each sent when the client has finished or fallen silent.
fn recorder() -> (Origin, Receiver<Vec<u8>>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let origin = Origin::raw(move |mut conn, _| {
        let _ = tell.lock().expect("a channel").send(conn.read_to_end());
    });
    (origin, told)
}

fn lines(proxy: &Proxy, count: usize) -> Vec<Value> {
    let lines =
        eventually(&format!("{count} lines"), SOON, || Some(proxy.stdout_lines()).filter(|all| all.len() >= count));
    lines.iter().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

const HELLO: &[u8] = include_bytes!("../fuzz/corpus/client_hello/curl");
const SPLIT: &[u8] = include_bytes!("../fuzz/corpus/client_hello/openssl_split");

/// The client verifies the server's own certificate.
#[test]
fn openssl_and_curl_notice_nothing() {
    let pki = Pki::new("outside.test");
    let names = ["one.test", "a.below.test", "rest.test"];
    let servers = names.map(|name| OpenSsl::serve(&pki.server(&[name]), &["-www"]));
    let [one, below, rest] = servers.each_ref().map(OpenSsl::addr);
    let routes = "  - { name: one, hosts: [One.Test], to: one }\n  - { name: below, hosts: [\"*.below.test\"], to: below }\n  \
                  - { name: rest, to: rest }\n";
    let proxy = front(&[("one", one), ("below", below), ("rest", rest)], routes);
    let ca = pki.bundle().display().to_string();
    let split: &[&str] = &["-max_send_frag", "512", "-split_send_frag", "512"];
    for (name, more) in [("one.test", &[][..]), ("ONE.test", &["-tls1_2"]), ("a.below.test", split), ("rest.test", &[])]
    {
        let args = ["-servername", name, "-CAfile", &ca, "-verify_return_error", "-verify_hostname", name];
        let out = s_client(proxy.addr(), &[&args, more].concat(), "GET / HTTP/1.0\r\n\r\n");
        assert!(out.contains("Verify return code: 0 (ok)") && out.contains("HTTP/1.0 200 ok"), "{name}: {out}");
    }
    let to = format!("one.test:443:{}", proxy.addr());
    let curl = ["-sS", "--max-time", "10", "--cacert", &ca, "--connect-to", &to, "https://one.test/"];
    let page = common::run(&tool("curl").display().to_string(), &curl);
    assert!(page.contains("s_server"), "{page}");

    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let mut told: Vec<_> = lines(&proxy, 5).iter().map(|line| (text(line, "host"), text(line, "route"))).collect();
    told.sort();
    let one = ("one.test", "one");
    let wanted = [("a.below.test", "below"), one, one, one, ("rest.test", "rest")];
    assert_eq!(told, wanted.map(|(host, route)| (host.to_owned(), route.to_owned())));

    let explained = proxy.cli_json(&["explain", "https://a.below.test/"]);
    assert_eq!(explained["route"]["name"], "below", "{explained:#}");
}

#[test]
fn no_byte_is_changed_however_they_come() {
    let (origin, told) = recorder();
    let proxy = front(&[("up", origin.addr())], "  - { name: named, hosts: [api.example], to: up }\n");
    for bytes in [HELLO, SPLIT] {
        for bytewise in [false, true] {
            let mut conn = Conn::connect(proxy.addr());
            let all = [bytes, b"and more"].concat();
            if bytewise {
                conn.write_bytewise(&all)
            } else {
                conn.write(&all)
            }
            conn.finish();
            let got = told.recv_timeout(SOON).expect("a connection");
            assert!(got == all, "{} came", show(&got));
        }
    }
}

/// What is no whole, sound ClientHello is not for us to judge: where there is a route for the rest, its bytes arrive.
#[test]
fn whatever_asks_for_no_name_goes_where_the_rest_goes() {
    let (origin, told) = recorder();
    let (other, others) = recorder();
    let routes = "  - { name: named, hosts: [\"*.example\"], to: named }\n  - { name: rest, to: rest }\n";
    let proxy = front(&[("named", other.addr()), ("rest", origin.addr())], routes);
    let nameless: &[u8] = include_bytes!("../fuzz/corpus/client_hello/openssl_tls10");
    let unknown = replaced(HELLO, b"api.example", b"api.exemple");
    let odd = replaced(HELLO, b"api.example", b"api\0example");
    for bytes in [nameless, &unknown, &odd, &HELLO[..100], &large(), b"GET / HTTP/1.1\r\n\r\n", b"x"] {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(bytes);
        conn.finish();
        let got = told.recv_timeout(SOON).expect("a connection");
        assert!(got == bytes, "{} came of {}", show(&got), show(bytes));
    }
    assert!(others.try_recv().is_err(), "nothing was for it");

    // A server that speaks first is waited for.
    let first = Origin::raw(|mut conn, _| {
        conn.write("ready");
        conn.read_to_end();
    });
    let proxy = front(&[("named", other.addr()), ("rest", first.addr())], routes);
    let mut silent = Conn::connect(proxy.addr());
    assert_eq!(silent.read_exact(5), b"ready");
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// A hello of a mebibyte.
fn large() -> Vec<u8> {
    let mut large = b"\x16\x03\x01\x40\x00\x01\x0f\xff\xfc".to_vec();
    large.resize(1 << 20, b'x');
    large
}

#[test]
fn without_a_route_for_the_rest_it_is_closed() {
    let (origin, told) = recorder();
    let proxy = front(&[("up", origin.addr())], "  - { name: named, hosts: [other.example], to: up }\n");
    // In records as they should be, one of which says how long the whole is.
    let mut honest = Vec::new();
    for number in 0..4 {
        honest.extend(b"\x16\x03\x01\x40\x00");
        honest.extend(if number == 0 { b"\x01\x00\xf0\x00" } else { b"xxxx" });
        honest.resize(honest.len() + (1 << 14) - 4, b'x');
    }
    for bytes in [HELLO, b"GET / HTTP/1.1\r\n\r\n", &large(), &honest, b"\x16\x03\x01\0\0\x01"] {
        let mut conn = Conn::connect(proxy.addr());
        conn.try_write(bytes);
        assert_eq!(show(&conn.read_to_end()), "");
    }
    let mut silent = Conn::connect(proxy.addr());
    assert_eq!(show(&silent.read_to_end()), "");
    proxy.await_counted("no_route", 6.0);
    assert!(told.try_recv().is_err(), "nothing was sent on");
    let told = lines(&proxy, 6);
    let mut hosts: Vec<_> = told.iter().map(|line| line["host"].as_str().unwrap_or_default()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["", "", "", "", "", "api.example"]);
}

#[test]
fn half_hellos_end_in_time_and_hold_nobody_up() {
    let (origin, told) = recorder();
    let routes = "  - { name: named, hosts: [api.example], to: up }\n  - { name: rest, to: up }\n";
    let proxy = front(&[("up", origin.addr())], routes);
    let held: Vec<Conn> = (0..200)
        .map(|_| {
            let mut conn = Conn::connect(proxy.addr());
            conn.write(&HELLO[..100]);
            conn
        })
        .collect();
    let mut good = Conn::connect(proxy.addr());
    good.write(HELLO);
    good.finish();
    assert!(told.recv_timeout(SOON).is_ok_and(|got| got == HELLO), "others are served");
    for mut conn in held {
        assert_eq!(show(&conn.read_to_end()), "");
    }
    proxy.await_metric("outrigger_worker_handshake_failures_total", &[("cause", "timeout")], 200.0);
    proxy.await_counted("handshake", 200.0);
    assert!(told.try_recv().is_err(), "nothing of them was sent on");
    let (_, peak) = proxy.memory();
    assert!(peak < 40 * 1024, "peak memory of {peak} KiB");
}

/// A reload moves new connections only.
#[test]
fn a_reload_moves_the_names() {
    let (one, ones) = recorder();
    let (two, twos) = recorder();
    let routes = "  - { name: named, hosts: [api.example], to: one }\n  - { name: rest, to: two }\n";
    let proxy = front(&[("one", one.addr()), ("two", two.addr())], routes);
    let mut stays = Conn::connect(proxy.addr());
    stays.write(HELLO);
    until("it is relayed", SOON, || one.open() == 1);
    proxy.reload("hosts: [api.example], to: one", "hosts: [api.test], to: one");
    let mut moved = Conn::connect(proxy.addr());
    moved.write(HELLO);
    moved.finish();
    assert!(twos.recv_timeout(SOON).is_ok_and(|got| got == HELLO));
    stays.write("more");
    stays.finish();
    assert!(ones.recv_timeout(SOON).is_ok_and(|got| got == [HELLO, b"more"].concat()));
}
