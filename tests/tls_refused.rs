//! What comes to a listener that takes in proven clients only, and is not let in: refused, counted by its reason, in
//! time, and others are served meanwhile.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use common::mesh::{Mesh, STRICT, Tap};
use common::tls::{Client, s_client};
use common::{Conn, Origin, Proxy, SOON, Setup, send, show, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";

/// How long a handshake may take in these tests, and by when its end has to be seen.
const QUICK: &str = ", tls: { mode: strict, handshakeTimeout: 500ms }";
const IN_TIME: Duration = Duration::from_secs(3);

struct Ground {
    mesh: Mesh,
    origin: Origin,
    proxy: Proxy,
}

impl Ground {
    fn new(listener: &str) -> Self {
        let (mesh, origin) = (Mesh::new(), Origin::ok());
        let proxy = mesh.inbound(origin.addr(), Setup { listener, ..Setup::default() });
        Self { mesh, origin, proxy }
    }

    fn hello(&self) -> Vec<u8> {
        Client::of(&self.mesh.web).hello()
    }

    /// An innocent client is served, and nobody else was.
    fn serves(&self) {
        self.origin.forget();
        Client::of(&self.mesh.web).served(self.proxy.addr());
        assert_eq!(self.origin.seen().len(), 1);
    }

    /// Sends these bytes, has them refused in time, and says by which cause that was counted.
    fn refuses(&self, bytes: &[u8]) -> String {
        let cause = self.proxy.cause_of(|| {
            let mut conn = Conn::connect(self.proxy.addr());
            conn.try_write(bytes);
            let begin = Instant::now();
            let answer = conn.read_to_end();
            assert!(begin.elapsed() < IN_TIME, "{:?} of {}", begin.elapsed(), show(bytes));
            // A ServerHello and an alert at most: nothing of an application.
            assert!(answer.is_empty() || matches!(answer[0], 21 | 22), "{}", show(&answer));
        });
        self.serves();
        cause
    }
}

#[test]
fn clients_that_prove_nothing() {
    let ground = Ground::new(STRICT);
    let pki = &ground.mesh.pki;
    let table = [
        (pki.unknown_authority("shop", "web"), "unknown_authority"),
        (pki.self_signed("shop", "web"), "unknown_authority"),
        (pki.broken_chain("shop", "web"), "unknown_authority"),
        (pki.expired("shop", "web"), "expired"),
        (pki.valid_in(3600, "shop", "web"), "not_yet_valid"),
        (pki.valid_in(120, "shop", "web"), "not_yet_valid"),
        (pki.wrong_trust_domain("shop", "web"), "wrong_identity"),
        (pki.two_uris("shop", "web"), "wrong_identity"),
        (pki.no_uri(), "wrong_identity"),
        (pki.foreign_uri(), "wrong_identity"),
        (pki.no_purpose("shop", "web"), "bad_purpose"),
        (pki.only_server("shop", "web"), "bad_purpose"),
    ];
    let causes = table.iter().map(|(pair, _)| {
        let causes = [&["h2", "http/1.1", "outrigger"][..], &[]].map(|alpn| {
            let cause = ground.proxy.cause_of(|| {
                let said = Client::of(pair).alpn(alpn).refused(ground.proxy.addr());
                assert!(said.contains("alert"), "told by an alert, and not by `{said}`");
            });
            ground.serves();
            cause
        });
        assert_eq!(causes[0], causes[1]);
        causes[0].clone()
    });
    let causes: Vec<String> = causes.collect();
    assert_eq!(causes, table.each_ref().map(|(_, cause)| *cause));
    assert!(Client::anonymous().refused(ground.proxy.addr()).contains("CertificateRequired"));
    ground.proxy.await_failed("no_certificate", 1.0);
    // A clock that is behind ours by less than the tolerance, and a certificate for clients alone.
    for pair in [pki.valid_in(30, "shop", "web"), pki.only_client("shop", "web")] {
        Client::of(&pair).served(ground.proxy.addr());
    }
}

/// Which clock is wrong is seen where both times are.
#[test]
fn a_certificate_of_tomorrow_is_told_with_both_times() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
telemetry: {{ log: {{ level: debug }}, accessLog: {{ format: off }} }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}"{STRICT} }}]
services: {{ app: {{ endpoints: {{ static: ["{{up}}"] }} }} }}
routes: [{{ name: all, to: app }}]
{}"#,
        mesh.identity(&mesh.reviews)
    );
    let proxy = Proxy::start(&config, &[("up", origin.addr())]);
    Client::of(&mesh.pki.valid_in(86_400, "shop", "web")).refused(proxy.addr());
    let day = |ahead: i64| (time::OffsetDateTime::now_utc() + time::Duration::days(ahead)).date().to_string();
    let (today, tomorrow) = (day(0), day(1));
    until("a line with both times", SOON, || {
        proxy.stderr_text().lines().any(|line| {
            // The time of the line itself is another one.
            line.contains(&tomorrow) && line.matches(&today).count() >= 2
        })
    });
}

#[test]
fn old_versions_and_strange_offers() {
    let ground = Ground::new(STRICT);
    let text = |path: &std::path::Path| path.display().to_string();
    let (crt, key) = (text(&ground.mesh.web.certificate), text(&ground.mesh.web.key));
    let base = ["-cert", &crt, "-key", &key];
    let table = [
        (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..], "protocol_version"),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "protocol_version"),
        (&["-tls1_2"], "protocol_version"),
        (&["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"], "no_common_cipher"),
        (&["-tls1_3", "-alpn", "spdy/1,imap"], "no_common_protocol"),
        (&["-tls1_3", "-groups", "ffdhe2048"], "no_common_cipher"),
    ];
    let causes = table.map(|(args, _)| {
        let cause = ground.proxy.cause_of(|| {
            let out = s_client(ground.proxy.addr(), &[&base[..], args].concat(), GET);
            assert!(!out.contains("HTTP/1.1") && out.contains("alert"), "{args:?}: {out}");
        });
        ground.serves();
        cause
    });
    assert_eq!(causes, table.map(|(_, cause)| cause));
    // The one before them all, in its own form of a hello.
    let oldest = b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80\x03\x00\x80";
    assert_eq!(ground.refuses(oldest), "plaintext");
}

#[test]
fn plaintext() {
    let ground = Ground::new(STRICT);
    let table: [&[u8]; 5] = [
        GET.as_bytes(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x15\x03\x01\x00\x02\x02\x28",
    ];
    for (n, bytes) in table.into_iter().enumerate() {
        let answer = show(&send(ground.proxy.addr(), bytes));
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4") || n > 0, "{answer}");
        assert!(!answer.contains("200 OK"), "{answer}");
        ground.proxy.await_failed("plaintext", (n + 1) as f64);
        ground.serves();
    }
}

#[test]
fn bytes_that_are_no_handshake() {
    let ground = Ground::new(QUICK);
    let hello = ground.hello();
    let record = |kind: u8, length: u16, body: &[u8]| [&[kind, 3, 1][..], &length.to_be_bytes(), body].concat();
    // A ClientHello that says that it is of 1 MiB, in records of the greatest length there is.
    let mut huge = Vec::new();
    let mut message = vec![1, 0x10, 0, 0, 3, 3];
    message.resize(4 + (1 << 20), 0x55);
    for part in message.chunks(1 << 14) {
        huge.extend(record(22, part.len() as u16, part));
    }
    let (before, _) = ground.proxy.memory();
    let too_long = record(22, 0x4801, &[1; 0x4801]);
    let table = [
        huge,
        too_long,
        record(22, 0xffff, &[0; 100]),
        [&hello[..], b"garbage that is no record, and goes on for a while\r\n\r\n"].concat(),
        [&hello[..], &record(23, 0xffff, &[7; 1000])].concat(),
        [&hello[..], &hello[..]].concat(),
        record(22, 4, &[1, 0, 0, 0]),
        record(22, 8, &[2, 0, 0, 4, 3, 3, 0, 0]),
        record(22, 50, &[&[1, 0, 0, 46, 3, 3][..], &[9; 44]].concat()),
    ];
    let causes = table.map(|bytes| ground.refuses(&bytes));
    assert_eq!(causes, ["malformed"; 9]);
    let (after, _) = ground.proxy.memory();
    assert!(after < before + 8 * 1024, "from {before} to {after} KiB");
    // Empty records are no progress.
    assert_eq!(ground.refuses(&record(22, 0, b"").repeat(1000)), "malformed");
}

#[test]
fn a_hello_in_the_smallest_pieces_is_taken() {
    let ground = Ground::new(STRICT);
    let slow = Tap::bytewise(ground.proxy.addr());
    Client::of(&ground.mesh.web).alpn(&["http/1.1", "outrigger"]).served(slow.addr());
    // Each byte in a record of its own: RFC 8446, section 5.1.
    let hello = ground.hello();
    let pieces: Vec<u8> = hello[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    let mut conn = Conn::connect(ground.proxy.addr());
    conn.write(pieces);
    assert_eq!(conn.read_exact(1), [22], "a ServerHello");
}

#[test]
fn handshakes_that_stall() {
    let ground = Ground::new(QUICK);
    let hello = ground.hello();
    for part in [&hello[..1], &hello[..5], &hello[..hello.len() - 1], &hello[..]] {
        assert_eq!(ground.refuses(part), "timeout");
    }
    // A byte now and then is no progress.
    let before = ground.proxy.failed("timeout");
    let mut conn = Conn::connect(ground.proxy.addr());
    let begin = Instant::now();
    let mut bytes = hello.iter();
    while conn.is_quiet(Duration::from_millis(40)) {
        assert!(begin.elapsed() < IN_TIME, "it lives");
        conn.try_write([*bytes.next().expect("bytes enough for the whole time")]);
    }
    ground.proxy.await_failed("timeout", before + 1.0);
    // Somebody who says nothing at all does not stay.
    let mut conn = Conn::connect(ground.proxy.addr());
    assert_eq!(show(&conn.read_to_end()), "");
    // One who leaves is not waited for.
    for part in [&hello[..5], &hello[..]] {
        let before = ground.proxy.failed("closed");
        let conn = Conn::connect(ground.proxy.addr());
        (&mut { conn.stream() }).write_all(part).expect("write");
        drop(conn);
        ground.proxy.await_failed("closed", before + 1.0);
    }
    ground.serves();
}

/// After the handshake: a second one, and records that are none.
#[test]
fn intrusions() {
    let ground = Ground::new(STRICT);
    let hello = ground.hello();
    let table = [hello, vec![23, 3, 3, 0xff, 0xff, 0, 0], b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![23, 3, 3, 0, 20]];
    for (n, bytes) in table.into_iter().enumerate() {
        let mut tls = Client::of(&ground.mesh.web).session(ground.proxy.addr());
        tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").expect("write");
        let mut answer = [0; 12];
        tls.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
        tls.sock.write_all(&bytes).expect("write");
        // Cut in mid-record, where it would otherwise wait for the rest.
        let _ = tls.sock.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = tls.sock.read_to_end(&mut rest);
        ground.serves();
        assert_eq!(ground.proxy.metric("outrigger_worker_panics_total", &[]), 0.0, "{n}");
    }
    // New keys at the client's wish are made; a thousand in a row are an attack.
    for (many, served) in [(10, true), (1000, false)] {
        let mut tls = Client::of(&ground.mesh.web).session(ground.proxy.addr());
        tls.write_all(b"GET / HTTP/1.1\r\n").expect("write");
        for _ in 0..many {
            tls.conn.refresh_traffic_keys().expect("new keys");
        }
        let mut answer = [0; 12];
        let told = tls.write_all(b"Host: app.test\r\n\r\n").and_then(|()| tls.read_exact(&mut answer));
        assert_eq!(told.is_ok() && &answer == b"HTTP/1.1 200", served, "{many}: {told:?}");
    }
    ground.serves();
}

/// Half of them have said nothing yet, half have had their answer and do not go on.
#[test]
fn a_flood_of_half_open_handshakes() {
    const MANY: usize = 3000;
    let raise = ["--pid", &std::process::id().to_string(), "--nofile=8192:"];
    assert!(Command::new("prlimit").args(raise).status().expect("run prlimit").success());
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let listener = ", tls: { mode: strict, handshakeTimeout: 4s }";
    let wrap = &["prlimit", "--nofile=8192:"];
    let proxy = mesh.inbound(origin.addr(), Setup { listener, wrap, ..Setup::default() });
    let client = Client::of(&mesh.web);
    client.served(proxy.addr());
    let (before, _) = proxy.memory();
    let hello = client.hello();
    let begin = Instant::now();
    let mut held = Vec::new();
    for n in 0..MANY {
        let mut stream = TcpStream::connect_timeout(&proxy.addr(), SOON).expect("connect");
        let part = if n % 2 == 0 { &hello[..] } else { &hello[..hello.len() / 2] };
        let _ = stream.write_all(part);
        held.push(stream);
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let ask = Instant::now();
        client.served(proxy.addr());
        slowest = slowest.max(ask.elapsed());
    }
    let (_, peak) = proxy.memory();
    let more = peak - before;
    assert!(more < 32 * 1024, "{more} KiB for {MANY} half-open handshakes");
    assert!(slowest < Duration::from_secs(2), "the others waited for {slowest:?}");
    until("they are gone", SOON, || proxy.failed("timeout") >= MANY as f64);
    assert!(begin.elapsed() < SOON * 2, "{:?}", begin.elapsed());
    until("nothing is left of them", SOON, || proxy.metric("outrigger_worker_connections_active", &[]) < 10.0);
    client.served(proxy.addr());
}
