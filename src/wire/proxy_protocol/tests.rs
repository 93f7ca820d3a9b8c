use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> Client {
    Client::Ip(text.parse().unwrap())
}

/// A header of version 2: command, family, what follows.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = V2.to_vec();
    header.extend([command, family]);
    header.extend((rest.len() as u16).to_be_bytes());
    header.extend(rest);
    header
}

const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];

fn v6() -> Vec<u8> {
    let (source, target): (Ipv6Addr, Ipv6Addr) = ("2001:db8::7".parse().unwrap(), "::1".parse().unwrap());
    [&source.octets()[..], &target.octets(), &[0xdc, 0x04, 0x01, 0xbb]].concat()
}

fn with(addresses: &[u8], fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut rest = addresses.to_vec();
    for (kind, value) in fields {
        rest.push(*kind);
        rest.extend((value.len() as u16).to_be_bytes());
        rest.extend(*value);
    }
    rest
}

/// With its checksum as the last field.
fn summed(mut header: Vec<u8>) -> Vec<u8> {
    let at = header.len() - 4;
    let sum = crc32c(&header, at);
    header[at..].copy_from_slice(&sum.to_be_bytes());
    header
}

fn good() -> Vec<(Vec<u8>, Client)> {
    let line = |text: &str| text.as_bytes().to_vec();
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 16));
    let mut unix = vec![0; 216];
    unix[..9].copy_from_slice(b"/run/sock");
    vec![
        (line("PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n"), ip("192.0.2.7:56324")),
        (line("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"), ip("255.255.255.255:65535")),
        (line("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n"), ip("0.0.0.0:0")),
        (line("PROXY TCP6 2001:DB8::7 ::1 56324 443\r\n"), ip("[2001:db8::7]:56324")),
        (line("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"), ip("[::ffff:192.0.2.7]:1")),
        (
            line(
                "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            ),
            ip("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        (line("PROXY UNKNOWN\r\n"), Client::Peer),
        (line("PROXY UNKNOWN 1 \x02\r \n z\r\n"), Client::Peer),
        (longest.into_bytes(), Client::Peer),
        (binary(0x21, 0x11, &V4), ip("192.0.2.7:56324")),
        (binary(0x21, 0x21, &v6()), ip("[2001:db8::7]:56324")),
        (binary(0x21, 0x31, &unix), Client::Unix),
        // Datagrams, and what is not known.
        (binary(0x21, 0x12, &V4), Client::Peer),
        (binary(0x21, 0x22, &v6()), Client::Peer),
        (binary(0x21, 0x00, &[]), Client::Peer),
        (binary(0x21, 0x00, b"whatever"), Client::Peer),
        (binary(0x21, 0x10, &V4), Client::Peer),
        // A health check of the sender.
        (binary(0x20, 0x00, &[]), Client::Peer),
        (binary(0x20, 0x11, &V4), Client::Peer),
        (binary(0x20, 0x11, b"odd"), Client::Peer),
        // Fields behind the addresses.
        (binary(0x21, 0x11, &with(&V4, &[(4, b""), (2, b"shop.example"), (0xea, &[1; 300])])), ip("192.0.2.7:56324")),
        (summed(binary(0x21, 0x11, &with(&V4, &[(1, b"h2"), (3, &[0; 4])]))), ip("192.0.2.7:56324")),
        (binary(0x21, 0x11, &with(&V4, &[(4, &vec![0; BYTES_MAX - 16 - 12 - 3])])), ip("192.0.2.7:56324")),
    ]
}

#[test]
fn headers_and_all_their_prefixes() {
    for (header, client) in good() {
        let shown = String::from_utf8_lossy(&header).into_owned();
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Parsed::More, "{end} of {shown:?}");
        }
        let parsed = Parsed::Header { client, length: header.len() };
        assert_eq!(parse(&header), parsed, "{shown:?}");
        for more in [&b"\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 200]] {
            assert_eq!(parse(&[&header, more].concat()), parsed, "{shown:?} and what follows");
        }
    }
}

#[test]
fn what_is_no_header() {
    let mut wrong: Vec<Vec<u8>> = [
        "GET / HTTP/1.1\r\n\r\n",
        "proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY  TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7  10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2 \r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
        "PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2 10.0.0.1 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY TCP6 ::1 10.0.0.1 1 2\r\n",
        "PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 +2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\r\n",
        "PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
        "PROXY UNKNOWNER\r\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    wrong.push(format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 15)).into_bytes());
    wrong.push(vec![b' '; 3]);
    for (command, family, rest) in [
        (0x11, 0x11, V4.to_vec()),
        (0x22, 0x11, V4.to_vec()),
        (0x2f, 0x11, V4.to_vec()),
        (0x21, 0x41, V4.to_vec()),
        (0x21, 0x13, V4.to_vec()),
        (0x21, 0x11, V4[..11].to_vec()),
        (0x21, 0x21, V4.to_vec()),
        (0x21, 0x31, vec![0; 215]),
        // Fields that do not end where the header does, a checksum that is wrong, and one that is none.
        (0x21, 0x11, with(&V4, &[])[..].iter().copied().chain([4]).collect()),
        (0x21, 0x11, with(&V4, &[(4, b"")]).into_iter().chain([4, 0]).collect()),
        (0x21, 0x11, V4.into_iter().chain([4, 0, 1]).collect()),
        (0x21, 0x11, with(&V4, &[(3, &[0; 4])])),
        (0x21, 0x11, with(&V4, &[(3, &[0; 3])])),
        (0x21, 0x11, vec![0; BYTES_MAX - 16 + 1]),
    ] {
        wrong.push(binary(command, family, &rest));
    }
    for bytes in wrong {
        assert_eq!(parse(&bytes), Parsed::Invalid, "{:?}", String::from_utf8_lossy(&bytes));
    }
    // As soon as it shows.
    assert_eq!(parse(&binary(0x31, 0, &[])[..13]), Parsed::Invalid);
    assert_eq!(parse(b"P"), Parsed::More);
    assert_eq!(parse(b"PROXy"), Parsed::Invalid);
}

/// The check value of the algorithm, which every implementation is tested with.
#[test]
fn the_checksum_is_that_of_the_standard() {
    assert_eq!(crc32c(b"123456789", 100), 0xe306_9283);
}

#[test]
fn headers_are_written() {
    let at = |text: &str| Some(text.parse().unwrap());
    let line = |client, target| String::from_utf8(header(Version::V1, client, target)).unwrap();
    assert_eq!(line(at("192.0.2.7:1"), at("10.0.0.1:80")), "PROXY TCP4 192.0.2.7 10.0.0.1 1 80\r\n");
    assert_eq!(line(at("[::ffff:192.0.2.7]:1"), at("10.0.0.1:80")), "PROXY TCP4 192.0.2.7 10.0.0.1 1 80\r\n");
    assert_eq!(line(at("[fd00::7]:1"), at("[::1]:80")), "PROXY TCP6 fd00::7 ::1 1 80\r\n");
    assert_eq!(line(at("[fd00::7]:1"), at("10.0.0.1:80")), "PROXY TCP6 fd00::7 ::ffff:10.0.0.1 1 80\r\n");
    assert_eq!(line(None, at("10.0.0.1:80")), "PROXY UNKNOWN\r\n");
    assert_eq!(header(Version::V2, at("192.0.2.7:56324"), at("10.0.0.1:443")), binary(0x21, 0x11, &V4));
    assert_eq!(header(Version::V2, at("[2001:db8::7]:56324"), at("[::1]:443")), binary(0x21, 0x21, &v6()));
    assert_eq!(header(Version::V2, at("192.0.2.7:1"), None), binary(0x21, 0, &[]));
}

proptest! {
    #[test]
    fn what_is_written_is_read(version in prop_oneof![Just(Version::V1), Just(Version::V2)], client: SocketAddr, target: SocketAddr) {
        let header = header(version, Some(client), Some(target));
        prop_assert!(version == Version::V2 || header.len() <= V1_BYTES_MAX);
        let Parsed::Header { client: Client::Ip(read), length } = parse(&header) else {
            return Err(TestCaseError::fail(format!("{header:?}")));
        };
        prop_assert_eq!((read.ip().to_canonical(), read.port()), (client.ip().to_canonical(), client.port()));
        prop_assert_eq!(length, header.len());
    }

    /// Whatever comes: more bytes never take back what was said, and a header is no longer than it may be.
    #[test]
    fn an_answer_stays(which in 0..24usize, change in any::<(u16, u8)>(), more: Vec<u8>) {
        let (mut bytes, _) = good().into_iter().nth(which % good().len()).unwrap();
        let at = usize::from(change.0) % bytes.len();
        bytes[at] = change.1;
        bytes.extend(more);
        let whole = parse(&bytes);
        for end in 0..bytes.len() {
            match parse(&bytes[..end]) {
                Parsed::More => {}
                said => {
                    prop_assert_eq!(&said, &whole);
                    break;
                }
            }
        }
        if let Parsed::Header { length, .. } = whole {
            prop_assert!(length <= BYTES_MAX && length <= bytes.len());
            prop_assert_eq!(parse(&bytes[..length - 1]), Parsed::More);
        }
    }

    #[test]
    fn nothing_panics(bytes: Vec<u8>, version in 0..2) {
        parse(&bytes);
        parse(&[if version == 0 { &V1[..] } else { &V2[..] }, &bytes].concat());
    }
}
