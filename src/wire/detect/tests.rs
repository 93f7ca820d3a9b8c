use proptest::prelude::*;

use super::*;

/// What clients begin with, most of it as real ones sent it.
const CLIENTS: [(&str, &[u8], Verdict); 41] = [
    ("curl", b"GET /ratings/1 HTTP/1.1\r\nHost: reviews.test:9080\r\nUser-Agent: curl/7.88.1\r\n\r\n", Verdict::Http1),
    ("shortest method", b"P /x HTTP/1.1\r\n", Verdict::Http1),
    ("empty line first", b"\r\nPOST /x HTTP/1.0\r\n\r\n", Verdict::Http1),
    ("asterisk", b"OPTIONS * HTTP/1.1\r\n", Verdict::Http1),
    ("to a forward proxy", b"GET HTTP://a/ HTTP/1.1\r\n", Verdict::Http1),
    ("to a forward proxy, https", b"GET https://a/ HTTP/1.1\r\n", Verdict::Http1),
    ("tunnel", b"CONNECT a:1 HTTP/1.1\r\n", Verdict::Http1),
    ("WebDAV", b"BASELINE-CONTROL /x HTTP/1.1\r\n", Verdict::Http1),
    ("almost the preface", b"PRI * HTTP/1.1\r\n\r\n", Verdict::Http1),
    ("almost the whole preface", b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n", Verdict::Http1),
    ("preface and settings", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d", Verdict::Http2),
    ("openssl", include_bytes!("../../../fuzz/corpus/client_hello/openssl"), Verdict::Tls),
    ("openssl, TLS 1.0", include_bytes!("../../../fuzz/corpus/client_hello/openssl_tls10"), Verdict::Tls),
    ("openssl, in small records", include_bytes!("../../../fuzz/corpus/client_hello/openssl_split"), Verdict::Tls),
    ("curl with TLS", include_bytes!("../../../fuzz/corpus/client_hello/curl"), Verdict::Tls),
    ("records of one byte", b"\x16\x03\x01\0\x01\x01\x16\x03\x01\0\x01\0", Verdict::Tls),
    ("TLS, but no ClientHello", b"\x16\x03\x03\0\x2a\x02\0\0\x26", Verdict::Opaque),
    ("TLS of no version", b"\x16\x05\x01\x02\0\x01", Verdict::Opaque),
    ("an empty record", b"\x16\x03\x01\0\0\x01", Verdict::Opaque),
    ("an endless record", b"\x16\x03\x01\x41\0\x01", Verdict::Opaque),
    ("redis-cli", b"*1\r\n$4\r\nping\r\n", Verdict::Opaque),
    ("Redis, inline", b"PING\r\n", Verdict::Opaque),
    ("Redis, inline with a key", b"GET key\r\n", Verdict::Opaque),
    ("Redis, inline with a key like a scheme", b"GET http:key\r\n", Verdict::Opaque),
    ("memcached", b"get user:1\r\n", Verdict::Opaque),
    ("memcached, binary", b"\x80\x01\0\x03\x08\0\0\0\0\0\0\x0b", Verdict::Opaque),
    ("psql asks for TLS", b"\0\0\0\x08\x04\xd2\x16\x2f", Verdict::Opaque),
    ("Postgres", b"\0\0\0\x25\0\x03\0\0user\0a\0database\0a\0\0", Verdict::Opaque),
    ("MySQL, after its greeting", b"\x20\0\0\x01\x85\xae\x3f\x20\0\0\0\x01\x21", Verdict::Opaque),
    ("MongoDB", b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0\0\0\0\0admin.$cmd\0", Verdict::Opaque),
    ("MongoDB, as long as a record of TLS", b"\x16\x03\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0", Verdict::Opaque),
    ("MongoDB, as long as a P", b"P\x01\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0", Verdict::Opaque),
    ("Kafka", b"\0\0\0\x2a\0\x12\0\x03\0\0\0\0\0\x06client", Verdict::Opaque),
    ("Cassandra", b"\x04\0\0\0\x05\0\0\0\0", Verdict::Opaque),
    ("AMQP", b"AMQP\0\0\x09\x01", Verdict::Opaque),
    ("MQTT", b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04anna", Verdict::Opaque),
    ("NATS", b"CONNECT {\"verbose\":false}\r\nPING\r\n", Verdict::Opaque),
    ("DNS over TCP", b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0", Verdict::Opaque),
    ("ssh", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u6\r\n", Verdict::Opaque),
    ("SMTP", b"EHLO mail.example\r\n", Verdict::Opaque),
    ("one word without an end", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Verdict::Opaque),
];

/// What servers say to a client that is silent.
const SERVERS: [(&str, &[u8], ServerSpeaks); 23] = [
    ("MySQL", b"\x4a\0\0\0\x0a8.0.36\0\x0b\0\0\0", ServerSpeaks::Opaque),
    ("MySQL, 256 bytes", b"\0\x01\0\0\x0a8.0.36\0", ServerSpeaks::Opaque),
    ("MySQL refuses the host", b"\x45\0\0\0\xff\x6a\x04Host", ServerSpeaks::Opaque),
    ("SMTP", b"220 mail.example ESMTP Postfix\r\n", ServerSpeaks::Opaque),
    ("FTP", b"220 (vsFTPd 3.0.5)\r\n", ServerSpeaks::Opaque),
    ("POP3", b"+OK ready\r\n", ServerSpeaks::Opaque),
    ("IMAP", b"* OK [CAPABILITY IMAP4rev1] ready\r\n", ServerSpeaks::Opaque),
    ("ssh", b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u6\r\n", ServerSpeaks::Opaque),
    ("NATS", b"INFO {\"server_id\":\"N\"}\r\n", ServerSpeaks::Opaque),
    ("ZooKeeper, and what else begins with zeros", b"\0\0\0\x29\0\0\0\0\0", ServerSpeaks::Opaque),
    ("VNC", b"RFB 003.008\n", ServerSpeaks::Opaque),
    ("telnet", b"\xff\xfd\x18\xff\xfd\x20", ServerSpeaks::Opaque),
    ("an H", b"HELO\r\n", ServerSpeaks::Opaque),
    ("HTTP of no version", b"HTTP/2 200\r\n", ServerSpeaks::Opaque),
    ("HTTP/1.1", b"HTTP/1.1 408 Request Timeout\r\n\r\n", ServerSpeaks::Http1),
    ("HTTP/1.0", b"HTTP/1.0 503 Busy\r\n\r\n", ServerSpeaks::Http1),
    ("h2", b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64", ServerSpeaks::Http2),
    ("gRPC", b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0\0\0\0\x04\x01\0\0\0\0", ServerSpeaks::Http2),
    ("HTTP/2 with default settings", b"\0\0\0\x04\0\0\0\0\0", ServerSpeaks::Http2),
    ("settings of an odd length", b"\0\0\x07\x04\0\0\0\0\0", ServerSpeaks::Opaque),
    ("settings that are acknowledged", b"\0\0\0\x04\x01\0\0\0\0", ServerSpeaks::Opaque),
    ("settings longer than a frame", b"\0\x41\x0a\x04\0\0\0\0\0", ServerSpeaks::Opaque),
    ("TLS", b"\x15\x03\x03\0\x02\x02\x50", ServerSpeaks::TlsAlert),
];

/// Every prefix waits or agrees with the whole.
fn agree<V: PartialEq + std::fmt::Debug + Copy>(name: &str, bytes: &[u8], whole: V, more: V, decide: fn(&[u8]) -> V) {
    assert_eq!(decide(bytes), whole, "{name}");
    let mut decided = false;
    for end in 0..bytes.len() {
        let early = decide(&bytes[..end]);
        let agrees = early == whole || early == more && !decided;
        assert!(agrees, "{name}: {early:?} after {}", bytes[..end].escape_ascii());
        decided = early != more;
    }
}

#[test]
fn every_prefix_of_a_client_waits_or_agrees() {
    for (name, bytes, verdict) in CLIENTS {
        agree(name, bytes, verdict, Verdict::More, detect);
    }
}

#[test]
fn every_prefix_of_a_server_waits_or_agrees() {
    for (name, bytes, speaks) in SERVERS {
        agree(name, bytes, speaks, ServerSpeaks::More, spoken_first);
    }
    assert_eq!(spoken_first(b""), ServerSpeaks::More);
}

#[test]
fn a_preface_is_known_only_when_it_is_whole() {
    for end in 0..PREFACE.len() {
        assert_eq!(detect(&PREFACE[..end]), Verdict::More, "{end} bytes");
    }
    assert_eq!(detect(PREFACE), Verdict::Http2);
}

/// Bytes that stay undecided longer than random ones would.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let fixtures = CLIENTS.map(|(_, bytes, _)| bytes).into_iter().chain(SERVERS.map(|(_, bytes, _)| bytes));
    let begun = (prop::sample::select(fixtures.collect::<Vec<_>>()), any::<prop::sample::Index>());
    let end = prop::collection::vec(any::<u8>(), 0..96);
    (begun, end).prop_map(|((fixture, cut), end)| [&fixture[..cut.index(fixture.len() + 1)], &end].concat())
}

/// The first verdict, if there is one; no later one may be another.
fn first<V: PartialEq + std::fmt::Debug + Copy>(bytes: &[u8], more: V, decide: fn(&[u8]) -> V) -> V {
    let mut first = more;
    for end in 0..=bytes.len().min(2 * BYTES_MAX) {
        let verdict = decide(&bytes[..end]);
        if first == more {
            first = verdict;
        }
        assert_eq!(verdict, first, "another verdict after {}", bytes[..end].escape_ascii());
    }
    first
}

proptest! {
    #[test]
    fn a_verdict_is_final_and_comes_in_time(bytes in prop_oneof![likely(), prop::collection::vec(any::<u8>(), 0..96)]) {
        let verdict = first(&bytes, Verdict::More, detect);
        prop_assert!(bytes.len() < BYTES_MAX || verdict != Verdict::More);
        let speaks = first(&bytes, ServerSpeaks::More, spoken_first);
        prop_assert!(bytes.len() < SPOKEN_MAX || speaks != ServerSpeaks::More);
    }
}
