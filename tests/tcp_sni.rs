//! TLS that is passed through by the name that the client asks for: nothing is terminated, and nothing is changed.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use common::{Conn, Origin, Proxy, SOON, TempDir, eventually, free_addr, run, show, tool, until};
use serde_json::Value;

/// `openssl s_server` with a certificate of this name, which answers with the lines that it gets, reversed.
struct Server {
    child: Child,
    addr: SocketAddr,
    dir: TempDir,
}

impl Server {
    fn start(name: &str) -> Self {
        let (dir, addr) = (TempDir::new("s-server"), free_addr());
        let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let names = format!("subjectAltName=DNS:{name},DNS:*.{name}");
        let (cert, key) = (file("cert.pem"), file("key.pem"));
        let kind = "ec_paramgen_curve:prime256v1";
        run(
            "openssl",
            &[
                &["req", "-x509", "-newkey", "ec", "-pkeyopt", kind, "-nodes", "-days", "2", "-subj", "/CN=test"][..],
                &["-addext", &names, "-out", &cert, "-keyout", &key],
            ]
            .concat(),
        );
        let child = Command::new(tool("openssl"))
            .args(["s_server", "-accept", &addr.to_string(), "-cert", &cert, "-key", &key, "-rev", "-quiet"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start openssl");
        until("openssl listens", SOON, || TcpStream::connect(addr).is_ok());
        Self { child, addr, dir }
    }

    fn certificate(&self) -> String {
        self.dir.path().join("cert.pem").to_string_lossy().into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says `hello` to whoever has proven to be `name` by this certificate; the answer, empty where there is none.
fn ask(proxy: &Proxy, server: &Server, name: &str, more: &[&str]) -> String {
    let mut client = Command::new(tool("openssl"))
        .args(["s_client", "-connect", &proxy.addr().to_string(), "-quiet", "-verify_return_error"])
        .args(["-servername", name, "-verify_hostname", name, "-CAfile", &server.certificate()])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start openssl");
    let mut input = client.stdin.take().expect("its input");
    let _ = input.write_all(b"hello\n");
    let mut output = std::io::BufReader::new(client.stdout.take().expect("its output"));
    let mut line = String::new();
    let _ = std::io::BufRead::read_line(&mut output, &mut line);
    drop(input);
    let _ = client.kill();
    let _ = client.wait();
    line.trim_end().to_owned()
}

const LISTENER: &str = "tls: { mode: \"off\", handshakeTimeout: 400ms }";

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

#[test]
fn the_name_decides_and_the_certificate_is_the_servers() {
    let (one, below, rest) = (Server::start("one.test"), Server::start("below.test"), Server::start("rest.test"));
    let routes = "  - { name: one, hosts: [One.Test], to: one }\n  - { name: below, hosts: [\"*.below.test\"], to: below }\n  \
                  - { name: rest, to: rest }\n";
    let proxy = front(&[("one", one.addr), ("below", below.addr), ("rest", rest.addr)], routes);
    assert_eq!(ask(&proxy, &one, "one.test", &[]), "olleh");
    assert_eq!(ask(&proxy, &one, "ONE.test", &["-tls1_2"]), "olleh");
    assert_eq!(ask(&proxy, &below, "a.below.test", &["-max_send_frag", "512", "-split_send_frag", "512"]), "olleh");
    assert_eq!(ask(&proxy, &rest, "rest.test", &[]), "olleh");
    // Nobody else answers to the name.
    assert_eq!(ask(&proxy, &below, "one.test", &[]), "");
    let told = lines(&proxy, 5);
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let mut told: Vec<_> = told.iter().map(|line| (text(line, "host"), text(line, "route"))).collect();
    told.sort();
    let wanted = [
        ("a.below.test", "below"),
        ("one.test", "one"),
        ("one.test", "one"),
        ("one.test", "one"),
        ("rest.test", "rest"),
    ];
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

#[test]
fn what_asks_for_no_name_goes_where_the_rest_goes() {
    let (origin, told) = recorder();
    let (other, others) = recorder();
    let routes = "  - { name: named, hosts: [\"*.example\"], to: named }\n  - { name: rest, to: rest }\n";
    let proxy = front(&[("named", other.addr()), ("rest", origin.addr())], routes);
    // TLS without a name, or with one that no route has; and what is no TLS.
    let nameless: &[u8] = include_bytes!("../fuzz/corpus/client_hello/openssl_tls10");
    let unknown = String::from_utf8_lossy(b"api.example").replace("example", "exemple");
    let unknown = replaced(HELLO, b"api.example", unknown.as_bytes());
    for bytes in [nameless, &unknown, b"GET / HTTP/1.1\r\n\r\n", b"x", b""] {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(bytes);
        conn.finish();
        assert_eq!(show(&told.recv_timeout(SOON).expect("a connection")), show(bytes));
    }
    assert!(others.try_recv().is_err(), "nothing was for it");

    // A server that speaks first is waited for no longer than a handshake is.
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

#[test]
fn without_a_route_for_the_rest_it_is_closed() {
    let (origin, told) = recorder();
    let proxy = front(&[("up", origin.addr())], "  - { name: named, hosts: [other.example], to: up }\n");
    for bytes in [HELLO, b"GET / HTTP/1.1\r\n\r\n"] {
        let mut conn = Conn::connect(proxy.addr());
        conn.write(bytes);
        assert_eq!(show(&conn.read_to_end()), "");
    }
    let mut silent = Conn::connect(proxy.addr());
    assert_eq!(show(&silent.read_to_end()), "");
    proxy.await_counted("no_route", 3.0);
    assert!(told.try_recv().is_err(), "nothing was sent on");
    let told = lines(&proxy, 3);
    assert_eq!(
        told.iter().map(|line| line["host"].as_str().unwrap_or("")).collect::<Vec<_>>(),
        ["api.example", "", ""]
    );
}

#[test]
fn bad_hellos_are_refused_within_their_bounds() {
    let (origin, told) = recorder();
    let routes = "  - { name: named, hosts: [api.example], to: up }\n  - { name: rest, to: up }\n";
    let proxy = front(&[("up", origin.addr())], routes);
    // A hello of a mebibyte, one that says that it is too large, an empty record, and rubbish inside a record.
    let mut large = b"\x16\x03\x01\x40\x00\x01\x0f\xff\xff".to_vec();
    large.resize(1 << 20, b'x');
    let mut honest = Vec::new();
    for _ in 0..64 {
        honest.extend(b"\x16\x03\x01\x40\x00");
        honest.extend(if honest.len() == 5 { &b"\x01\x00\xf0\x00"[..] } else { b"xxxx" });
        honest.resize(honest.len() + (1 << 14) - 4, b'x');
    }
    let rubbish = replaced(HELLO, b"api.example", b"api\0example");
    for bytes in [&large, &honest, &b"\x16\x03\x01\0\0\x01"[..], &rubbish] {
        let mut conn = Conn::connect(proxy.addr());
        conn.try_write(bytes);
        assert_eq!(show(&conn.read_to_end()), "");
    }
    proxy.await_counted("bad_request", 4.0);
    // Half a hello, and then nothing.
    let mut stalls = Conn::connect(proxy.addr());
    stalls.write(&HELLO[..100]);
    assert_eq!(show(&stalls.read_to_end()), "");
    proxy.await_counted("header_timeout", 1.0);
    // Half a hello, and gone.
    let mut leaves = Conn::connect(proxy.addr());
    leaves.write(&HELLO[..100]);
    leaves.finish();
    assert_eq!(show(&leaves.read_to_end()), "");
    proxy.await_counted("client_reset", 1.0);
    assert!(told.try_recv().is_err(), "nothing was sent on");

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
    let (_, peak) = proxy.memory();
    assert!(peak < 40 * 1024, "peak memory of {peak} KiB");
    proxy.await_counted("header_timeout", 201.0);
    drop(held);
}

/// curl knows nothing of a proxy in between.
#[test]
fn curl_is_served() {
    let server = Server::start("web.test");
    let routes = "  - { name: web, hosts: [web.test], to: web }\n";
    let proxy = front(&[("web", server.addr)], routes);
    let to = format!("web.test:443:{}", proxy.addr());
    let output = Command::new(tool("curl"))
        .args(["-sS", "--max-time", "5", "--http0.9", "--cacert", &server.certificate(), "--connect-to", &to])
        .args(["-o", "-", "-v", "https://web.test/"])
        .output()
        .expect("start curl");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("SSL certificate verify ok"), "{told}");
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
