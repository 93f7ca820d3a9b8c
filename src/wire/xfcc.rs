//! `x-forwarded-client-cert`, in the format of Envoy: what the application is told of the client's certificate. The
//! keys in Envoy's order: `By`, `Hash`, `Subject`, `URI`, then a `DNS` for each name. Only `Subject` is quoted; the
//! others have no character that would have to be.
//!
//! What came with the request always goes: nobody but the proxy that has seen the handshake is believed.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::peer::PeerCertificate;
use super::spiffe::SpiffeId;
use super::{hex, write_hex};

const NAME: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// A certificate may say more than the head of a request has room for: names beyond this are left out.
const VALUE_MAX: usize = 4096;
/// A longer subject is left out.
const SUBJECT_MAX: usize = 1024;

/// What of a certificate is forwarded; `by` is whom we have proven to be.
pub fn element(peer: &PeerCertificate, by: Option<&SpiffeId>) -> HeaderValue {
    let mut text = Vec::with_capacity(256);
    if let Some(by) = by {
        text.extend_from_slice(b"By=");
        text.extend_from_slice(by.as_str().as_bytes());
        text.push(b';');
    }
    let mut hash = [0; 64];
    write_hex(&mut hash, &peer.hash);
    text.extend_from_slice(b"Hash=");
    text.extend_from_slice(&hash);
    text.extend_from_slice(b";Subject=\"");
    text.extend_from_slice(&quotable(&peer.subject));
    text.push(b'"');
    if let Some(id) = &peer.id {
        text.extend_from_slice(b";URI=");
        text.extend_from_slice(id.as_str().as_bytes());
    }
    for name in peer.dns.iter().filter(|name| is_name(name)) {
        if text.len() + name.len() > VALUE_MAX {
            break;
        }
        text.extend_from_slice(b";DNS=");
        text.extend_from_slice(name.as_bytes());
    }
    // All of it is visible ASCII and spaces.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

/// Takes away what came, and puts ours in its place.
pub fn apply(headers: &mut HeaderMap, ours: Option<HeaderValue>) {
    while let Some(name) = headers.keys().find(|name| is_it(name.as_str())).cloned() {
        headers.remove(name);
    }
    if let Some(ours) = ours {
        headers.insert(NAME, ours);
    }
}

/// Whether an application may read a field of this name as the header: many cannot tell `_` from `-`.
pub fn is_it(name: &str) -> bool {
    let ours = NAME;
    let same = |(a, b): (u8, u8)| a == b || a == b'_' && b == b'-';
    name.len() == ours.as_str().len() && name.bytes().zip(ours.as_str().bytes()).all(same)
}

/// A subject as it can stand between quotes, still in the form of RFC 4514: what could end the quotes, or be read as
/// escaping their end, is written as hexadecimal digits. Readers that escape differently so find the same end.
fn quotable(subject: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(subject.len() + 8);
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    let mut bytes = subject.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = match byte {
            // What is escaped already; a backslash at the end escapes nothing.
            b'\\' if bytes.peek().is_some_and(|next| is_plain(*next)) => None,
            b'\\' => Some(bytes.next().unwrap_or(byte)),
            _ => Some(byte).filter(|byte| !is_plain(*byte)),
        };
        match escaped {
            Some(byte) => {
                text.push(b'\\');
                text.extend(hex(byte).map(|digit| digit.to_ascii_uppercase()));
            }
            None => text.push(byte),
        }
    }
    if text.len() > SUBJECT_MAX {
        text.clear();
    }
    text
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).expect("an id")
    }

    fn certificate(subject: &str, dns: &[&str]) -> PeerCertificate {
        PeerCertificate {
            id: Some(id("spiffe://cluster.local/ns/shop/sa/web")),
            hash: [0xab; 32],
            subject: subject.into(),
            dns: dns.iter().map(|name| (*name).into()).collect(),
            not_before: UNIX_EPOCH,
            not_after: UNIX_EPOCH,
        }
    }

    fn text(peer: &PeerCertificate, by: Option<&SpiffeId>) -> String {
        element(peer, by).to_str().expect("visible ASCII").to_owned()
    }

    #[test]
    fn is_what_envoy_writes() {
        let by = id("spiffe://cluster.local/ns/shop/sa/reviews");
        let peer = certificate("CN=web,O=Shop", &["web.shop", "*.web.shop"]);
        let hash = "ab".repeat(32);
        assert_eq!(
            text(&peer, Some(&by)),
            format!(
                "By=spiffe://cluster.local/ns/shop/sa/reviews;Hash={hash};Subject=\"CN=web,O=Shop\";\
                 URI=spiffe://cluster.local/ns/shop/sa/web;DNS=web.shop;DNS=*.web.shop"
            )
        );
        let nobody = PeerCertificate { id: None, ..certificate("", &[]) };
        assert_eq!(text(&nobody, None), format!("Hash={hash};Subject=\"\""));
    }

    #[test]
    fn no_subject_ends_its_quotes() {
        for (subject, written) in [
            (r#"CN=a";URI=spiffe://evil"#, r#"CN=a\22;URI=spiffe://evil"#),
            (r#"CN=a\";DNS=b"#, r#"CN=a\22;DNS=b"#),
            (r#"CN=a\\";DNS=b"#, r#"CN=a\5C\22;DNS=b"#),
            (r"CN=a\", r"CN=a\5C"),
            (r"CN=a\,b", r"CN=a\,b"),
            ("CN=a\\\u{1}b", r"CN=a\01b"),
            ("CN=ä\r\nx: y\0", r"CN=\C3\A4\0D\0Ax: y\00"),
        ] {
            let peer = certificate(subject, &[]);
            assert!(text(&peer, None).contains(&format!(";Subject=\"{written}\";URI=")), "{}", text(&peer, None));
        }
        assert!(text(&certificate(&"x".repeat(SUBJECT_MAX + 1), &[]), None).contains(";Subject=\"\";"));
    }

    #[test]
    fn names_are_names_and_not_too_many() {
        let odd = certificate("", &["a;URI=spiffe://evil", "", "b,c", "good.example", "d\"e"]);
        assert!(text(&odd, None).ends_with("/web;DNS=good.example"), "{}", text(&odd, None));
        let long = "n".repeat(200);
        let many = certificate("", &vec![&*long; 1000]);
        assert!((VALUE_MAX - 210..VALUE_MAX + 10).contains(&text(&many, None).len()));
    }

    #[test]
    fn what_came_goes_in_any_spelling() {
        let spoofed = ["x-forwarded-client-cert", "x_forwarded_client_cert", "x-forwarded_client-cert"];
        let kept = ["x-forwarded-for", "x-forwarded-client-certs", "xx-forwarded-client-cert"];
        let mut headers = HeaderMap::new();
        for name in spoofed.iter().chain(&kept).chain(&spoofed) {
            headers.append(*name, HeaderValue::from_static("URI=spiffe://evil"));
        }
        let mut with_ours = headers.clone();
        apply(&mut headers, None);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>().len(), kept.len());
        assert!(kept.iter().all(|name| headers.contains_key(*name)));
        apply(&mut with_ours, Some(HeaderValue::from_static("Hash=1")));
        assert_eq!(with_ours.get_all(NAME).iter().collect::<Vec<_>>(), ["Hash=1"]);
    }

    proptest! {
        /// However a reader understands backslashes.
        #[test]
        fn the_quotes_of_a_subject_end_where_they_should(subject in any::<String>()) {
            let value = text(&certificate(&subject, &[]), None);
            prop_assert_eq!(value.matches('"').count(), 2);
            prop_assert!(!value.contains("\\\"") && value.ends_with("\";URI=spiffe://cluster.local/ns/shop/sa/web"));
        }
    }
}
