use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;

use super::*;

fn openssl() -> &'static [u8] {
    include_bytes!("../../../fuzz/corpus/client_hello/openssl")
}

fn hello(bytes: &[u8]) -> ClientHello {
    match parse(bytes) {
        Parsed::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

fn offers(hello: &ClientHello) -> Vec<String> {
    hello.alpn().map(|offer| String::from_utf8_lossy(offer).into_owned()).collect()
}

/// What rustls sends, post-quantum key share and all.
fn rustls(name: &'static str, alpn: &[&str]) -> Vec<u8> {
    let mut config =
        rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|offer| offer.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name).expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a ClientHello");
    bytes
}

/// The message inside of records.
fn payload(mut bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        message.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    message
}

/// A message in records of these sizes, the last of which is repeated.
fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut rest, mut at) = (message, 0);
    while !rest.is_empty() {
        let size = sizes.get(at).or(sizes.last()).copied().unwrap_or(rest.len()).min(rest.len());
        bytes.extend([22, 3, 1]);
        bytes.extend(u16::try_from(size).expect("a size").to_be_bytes());
        bytes.extend(&rest[..size]);
        (rest, at) = (&rest[size..], at + 1);
    }
    bytes
}

fn vector(width: usize, data: &[u8]) -> Vec<u8> {
    [&data.len().to_be_bytes()[8 - width..], data].concat()
}

/// Its number and its data.
type Extension = (u16, Vec<u8>);

/// A message with these extensions.
fn message(extensions: &[Extension]) -> Vec<u8> {
    let extensions = extensions.iter().flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), vector(2, data)].concat());
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector(1, &[]),
        &vector(2, &[0x13, 0x01]),
        &vector(1, &[0]),
        &vector(2, &extensions.collect::<Vec<u8>>()),
    ];
    [&[1][..], &vector(3, &body.concat())].concat()
}

fn sni(name: &[u8]) -> Extension {
    (0, vector(2, &[&[0][..], &vector(2, name)].concat()))
}

fn alpn(offers: &[&[u8]]) -> Extension {
    (16, vector(2, &offers.iter().flat_map(|offer| vector(1, offer)).collect::<Vec<u8>>()))
}

/// Asks as a caller does that has one byte more each time; how often it was asked.
fn bytewise(bytes: &[u8]) -> (Parsed, usize) {
    let (mut asked, mut wanted) = (0, 1);
    for end in 1..=bytes.len() {
        if end < wanted {
            continue;
        }
        asked += 1;
        match parse(&bytes[..end]) {
            Parsed::More { at_least } => {
                assert!((end + 1..=BYTES_MAX).contains(&at_least), "{at_least} after {end}");
                wanted = at_least;
            }
            parsed => return (parsed, asked),
        }
    }
    (Parsed::More { at_least: wanted }, asked)
}

#[test]
fn real_ones_are_read() {
    let of_openssl = hello(openssl());
    assert_eq!(of_openssl.server_name.as_deref(), Some("api.example"), "written `Api.Example`");
    assert_eq!(offers(&of_openssl), ["h2", "http/1.1"]);
    assert!(!of_openssl.is_ours());

    let old = hello(include_bytes!("../../../fuzz/corpus/client_hello/openssl_tls10"));
    assert_eq!((&old.server_name, offers(&old).len()), (&None, 0));

    let split = hello(include_bytes!("../../../fuzz/corpus/client_hello/openssl_split"));
    assert_eq!(split.server_name.as_deref(), Some("api.example"));
    assert_eq!(offers(&split).len(), 40);

    let curl = hello(include_bytes!("../../../fuzz/corpus/client_hello/curl"));
    assert_eq!(curl.server_name.as_deref(), Some("api.example"));
    assert_eq!(offers(&curl), ["h2", "http/1.1"]);

    let ours = hello(&rustls("reviews.shop", &["h2", "outrigger"]));
    assert_eq!((ours.server_name.as_deref(), ours.is_ours()), (Some("reviews.shop"), true));
    let nameless = hello(&rustls("10.0.0.1", &["outrigger-tcp"]));
    assert_eq!((nameless.server_name.as_deref(), nameless.is_ours()), (None, true));
    assert!(!hello(&rustls("a.example", &["outriggers", "xoutrigger"])).is_ours());
}

#[test]
fn every_prefix_waits_and_says_for_how_much() {
    let split = include_bytes!("../../../fuzz/corpus/client_hello/openssl_split");
    for bytes in [openssl(), split, &rustls("a.example", &["outrigger"]), &records(&payload(openssl()), &[1])] {
        for end in 0..bytes.len() {
            let Parsed::More { at_least } = parse(&bytes[..end]) else { panic!("decided on {end} bytes") };
            assert!((end + 1..=bytes.len()).contains(&at_least), "{at_least} of {} after {end}", bytes.len());
        }
        assert!(matches!(parse(bytes), Parsed::Hello(_)));
        let more = [bytes, b"\x14\x03\x03\0\x01\x01"].concat();
        assert_eq!(parse(&more), parse(bytes), "what comes behind it does not matter");
    }
}

#[test]
fn one_byte_at_a_time_costs_little() {
    let long = message(&[(0xfafa, vec![0; 50_000]), sni(b"a.example")]);
    for bytes in [records(&long, &[RECORD_MAX]), records(&long, &[256])] {
        let (parsed, asked) = bytewise(&bytes);
        assert!(matches!(parsed, Parsed::Hello(_)), "{parsed:?}");
        assert!(asked < 100, "asked {asked} times");
    }
    let (parsed, asked) = bytewise(&records(&long, &[1]));
    assert_eq!(parsed, Parsed::Invalid, "more headers than there is room for");
    assert!(asked < 100, "asked {asked} times");
}

#[test]
fn what_is_too_large_is_refused_by_its_header() {
    let largest = |length: usize| message(&[(0xfafa, vec![0; length])]);
    let room = MESSAGE_MAX - largest(0).len();
    // The list of extensions has a length of two bytes, so that the message does not reach its own bound that way.
    assert!(room > 60_000);
    assert!(matches!(parse(&records(&largest(60_000), &[RECORD_MAX])), Parsed::Hello(_)));
    assert_eq!(parse(b"\x16\x03\x01\x40\0\x01\0\xff\xfd"), Parsed::Invalid);
    assert!(matches!(parse(b"\x16\x03\x01\x40\0\x01\0\xff\xfc"), Parsed::More { .. }));
    assert_eq!(parse(b"\x16\x03\x01\x40\x01"), Parsed::Invalid, "a record larger than TLS has");
    assert_eq!(parse(b"\x16\x03\x01\0\0"), Parsed::Invalid, "an empty record");
    let mut garbage = b"\x16\x03\x01\x40\0\x01".to_vec();
    garbage.resize(1 << 20, b'x');
    assert_eq!(parse(&garbage), Parsed::Invalid);
}

#[test]
fn other_protocols_are_told_by_their_first_byte_that_differs() {
    for bytes in [&b"GET"[..], b"SSH", b"\x80", b"\x16\x02", b"\x16\x03\x05", b"\x15\x03\x01", b"\0"] {
        assert_eq!(parse(bytes), Parsed::NotTls, "{}", bytes.escape_ascii());
    }
    // A record of data after half a hello.
    let half = records(&payload(openssl())[..100], &[100]);
    assert_eq!(parse(&[&half, &b"\x17\x03\x03\0\x01"[..]].concat()), Parsed::Invalid);
    assert_eq!(parse(b"\x16\x03\x03\0\x04\x02"), Parsed::Invalid, "a ServerHello");
}

#[test]
fn names_are_names() {
    let name = |name: &[u8]| match parse(&records(&message(&[sni(name)]), &[])) {
        Parsed::Hello(hello) => Ok(hello.server_name.map(String::from)),
        other => Err(other),
    };
    assert_eq!(name(b"A.Example."), Ok(Some("a.example".to_owned())));
    assert_eq!(name(b"a_b-c.1"), Ok(Some("a_b-c.1".to_owned())));
    assert_eq!(name(&[b'a'; 253]), Ok(Some("a".repeat(253))));
    assert_eq!(name(b"10.0.0.1"), Ok(None), "an address is not a name");
    assert_eq!(name(b"2001:db8::1"), Ok(None));
    for bad in [&b""[..], b".", b"a b", b"a\0b", b"a/b", b"a:1", b"*.a", "ä".as_bytes(), b"\xff", &[b'a'; 254]] {
        assert_eq!(name(bad), Err(Parsed::Invalid), "{}", bad.escape_ascii());
    }
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    let twice = |data: &[u8]| vector(2, &[data, data].concat());
    let entry = [&[0][..], &vector(2, b"a")].concat();
    let bad: [(&str, Vec<Extension>); 9] = [
        ("two name extensions", vec![sni(b"a"), sni(b"b")]),
        ("two lists of protocols", vec![alpn(&[b"h2"]), alpn(&[b"h2"])]),
        ("two names", vec![(0, twice(&entry))]),
        ("a name of another kind", vec![(0, vector(2, &[&[1][..], &vector(2, b"a")].concat()))]),
        ("an empty list of names", vec![(0, vector(2, b""))]),
        ("bytes behind the names", vec![(0, [vector(2, &entry), vec![0]].concat())]),
        ("no protocols", vec![alpn(&[])]),
        ("a protocol without a name", vec![alpn(&[b"h2", b""])]),
        ("bytes behind the protocols", vec![(16, [alpn(&[b"h2"]).1, vec![0]].concat())]),
    ];
    for (what, extensions) in bad {
        assert_eq!(parse(&records(&message(&extensions), &[])), Parsed::Invalid, "{what}");
    }
    // Lengths that do not fit, at every place there is one.
    let sound = message(&[sni(b"a.example"), alpn(&[b"h2"])]);
    for cut in MESSAGE_HEADER..sound.len() {
        let cut = [&[1][..], &vector(3, &sound[MESSAGE_HEADER..cut])].concat();
        let parsed = parse(&records(&cut, &[]));
        // Without extensions at all it is a hello of TLS 1.0.
        let old = cut.len() == MESSAGE_HEADER + 2 + 32 + 1 + 4 + 2;
        assert_eq!(matches!(parsed, Parsed::Hello(_)), old, "{} bytes: {parsed:?}", cut.len());
    }
}

proptest! {
    #[test]
    fn no_fragmentation_changes_what_is_read(sizes in prop::collection::vec(1..400_usize, 1..8)) {
        let message = payload(openssl());
        let bytes = records(&message, &sizes);
        prop_assert_eq!(bytewise(&bytes).0, parse(openssl()));
    }

    #[test]
    fn a_verdict_is_final(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..340_usize, cut in 0..340_usize) {
        // Noise by itself, and in the place of a part of a real one.
        let mut real = openssl().to_vec();
        let end = real.len();
        real.splice(at.min(end)..(at + cut).min(end), bytes.iter().copied());
        for bytes in [bytes, real] {
            let mut decided = None;
            for end in 0..=bytes.len() {
                match (parse(&bytes[..end]), &decided) {
                    (Parsed::More { at_least }, None) => prop_assert!((end + 1..=BYTES_MAX).contains(&at_least)),
                    (parsed, None) => decided = Some(parsed),
                    (parsed, Some(before)) => prop_assert_eq!(&parsed, before),
                }
            }
        }
    }
}
