//! The texts that have a form: one parser for each `format` that the schema names.

use std::net::{IpAddr, SocketAddr};

use http::uri::PathAndQuery;
use http::{HeaderName, Method};

use super::schema::{HedgeAfter, UNIX};
use super::units::{Duration, Pattern, Size};
use crate::policy::outcome::{Condition, grpc_code};
use crate::telemetry::rfc3339;
use crate::wire::address::Address;
use crate::wire::cidr::Cidr;
use crate::wire::spiffe::{self, IdPattern, SpiffeId};

/// What is wrong with a text, and what would be right.
pub type Flaw = (String, Option<String>);

/// Longest name of ours, and of a host.
const NAME_MAX: usize = 253;

/// Judges `text` by the schema's `format`; a format without a parser has nothing to say.
pub fn judge(format: &str, text: &str) -> Result<(), Flaw> {
    let plain = |ok: bool, what: &str| if ok { Ok(()) } else { Err((format!("`{text}` is not {what}"), None)) };
    match format {
        "socketAddress" => socket_address(text),
        "listenerAddress" if text.starts_with(UNIX) => text.parse::<Address>().map(drop).map_err(not_unix),
        "listenerAddress" => socket_address(text),
        "permissions" => permissions(text).map(drop),
        "port" => plain(text.parse::<u16>().is_ok_and(|port| port > 0), "a port, from 1 to 65535"),
        "headerName" => plain(HeaderName::from_bytes(text.as_bytes()).is_ok(), "a header name"),
        "host" => plain(is_host(text), "a host name"),
        "hostPattern" => plain(is_host(text.strip_prefix("*.").unwrap_or(text)), "a host name or `*.` and a host name")
            .map_err(|(message, _)| (message, host_remedy(text))),
        "authority" => plain(is_authority(text), "a host name, with or without a port"),
        "name" => plain(is_name(text), &format!("a name (letters, digits, `.`, `_`, `-`; at most {NAME_MAX})")),
        "path" => path(text, false),
        "pathAndQuery" => path(text, true).and_then(|()| plain(text.parse::<PathAndQuery>().is_ok(), "a path")),
        "pathTemplate" => path(text, false).and_then(|()| template(text)),
        "method" => method(text),
        "httpUrl" => plain(is_http_url(text), "a URL such as `http://127.0.0.1:8080/health`"),
        "trustDomain" => plain(spiffe::is_trust_domain(text), "a trust domain such as `cluster.local`"),
        "spiffeId" => SpiffeId::parse(text).map(drop).map_err(|why| not_spiffe(text, why)),
        "identityPattern" => IdPattern::parse(text).map(drop).map_err(|why| not_spiffe(text, why)),
        "cidr" => Cidr::parse(text).map(drop),
        "peers" if text == UNIX => Ok(()),
        "peers" => Cidr::parse(text).map(drop),
        "endpoint" if text.starts_with(UNIX) => text.parse::<Address>().map(drop).map_err(not_unix),
        "endpointAddress" if text.starts_with(UNIX) => {
            Err((format!("`{text}` is a Unix socket"), Some("write an address, or make it an endpoint".to_owned())))
        }
        "endpoint" | "endpointAddress" => endpoint_address(text).map(|_| ()),
        "grpcCode" => match grpc_code(text) {
            Some(_) => Ok(()),
            None => Err((format!("`{text}` is not a gRPC status"), Some("a name such as `unavailable`".to_owned()))),
        },
        "hedgeAfter" => text.parse::<HedgeAfter>().map(drop).map_err(|message| (message, None)),
        "condition" => text.parse::<Condition>().map(drop).map_err(|message| (message, None)),
        "timestamp" => plain(rfc3339::read(text).is_some(), "a moment such as `2027-01-01T00:00:00Z`"),
        "jsonPointer" => plain(text.starts_with('/'), "a JSON pointer such as `/items/0/id`"),
        "gatewayDuration" => text.parse::<Duration>().map(|_| ()).map_err(|message| (message, None)),
        "quantity" => text.parse::<Size>().map(|_| ()).map_err(|message| (message, None)),
        "rustRegex" => text.parse::<Pattern>().map(|_| ()).map_err(|message| (message, None)),
        _ => Ok(()),
    }
}

fn socket_address(text: &str) -> Result<(), Flaw> {
    if text.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    let port = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    let example = if port { format!("0.0.0.0:{text}") } else { "0.0.0.0:8080".to_owned() };
    let remedy = format!("write it like `{example}` or `[::]:8080`");
    Err((format!("`{text}` is not an address `ip:port`"), Some(remedy)))
}

fn not_unix(why: String) -> Flaw {
    (why, Some("write it like `unix:/run/app.sock`, or `unix:@app` for a name in the abstract namespace".to_owned()))
}

/// The permissions of a file, in octal.
pub fn permissions(text: &str) -> Result<u32, Flaw> {
    let plain = (3..=4).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| plain && *mode <= 0o777);
    mode.ok_or_else(|| (format!("`{text}` is no permissions in octal"), Some("write it like `\"0660\"`".to_owned())))
}

fn not_spiffe(text: &str, why: &str) -> Flaw {
    let remedy = "write `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`".to_owned();
    (format!("`{text}` is not a SPIFFE id: {why}"), Some(remedy))
}

/// The address of an endpoint: with a port, or an IP address alone.
pub fn endpoint_address(text: &str) -> Result<(IpAddr, Option<u16>), Flaw> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err((format!("`{text}` has port 0"), Some("ports are 1 to 65535".to_owned()))),
            port => Ok((address.ip(), Some(port))),
        };
    }
    let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok((ip, None));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let named = is_host(host) && host.bytes().any(|b| b.is_ascii_alphabetic());
    let remedy = named.then(|| {
        let port = if port.parse::<u16>().is_ok() { format!(", port: {port}") } else { String::new() };
        format!("names are looked up with `endpoints: {{ dns: {{ name: {host}{port} }} }}`")
    });
    Err((format!("`{text}` is not `ip:port`, `[ip]:port` or an IP address"), remedy))
}

/// The names in braces of a path template, in order.
pub fn template_names(template: &str) -> impl Iterator<Item = &str> {
    template.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(plain)
}

fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        !label.is_empty() && label.len() <= 63 && label.bytes().all(plain)
    };
    text.len() <= NAME_MAX && text.split('.').all(label)
}

fn host_remedy(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    (is_host(host) && port.bytes().all(|b| b.is_ascii_digit())).then(|| format!("without a port: `{host}`"))
}

fn is_authority(text: &str) -> bool {
    is_host(text)
        || text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn is_http_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://");
    rest.is_some_and(|rest| {
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        is_authority(authority) && format!("http://h{path}").parse::<http::Uri>().is_ok() && !path.contains('#')
    })
}

fn path(text: &str, query: bool) -> Result<(), Flaw> {
    if !text.starts_with('/') {
        return Err((format!("`{text}` does not start with `/`"), Some(format!("write `/{text}`"))));
    }
    match text.chars().find(|c| c.is_control() || matches!(c, '#' | ' ') || (*c == '?' && !query)) {
        Some('?') => Err((
            format!("`{text}` has a query, and a path has none"),
            Some("parameters are matched by `query: { name: value }`".to_owned()),
        )),
        Some(c) => Err((format!("`{}` has a {c:?} in it, which no path has", text.escape_debug()), None)),
        None => Ok(()),
    }
}

fn template(text: &str) -> Result<(), Flaw> {
    let remedy = || Some("a segment is plain, or a name in braces such as `{id}`".to_owned());
    for segment in text.split('/') {
        let name = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}'));
        let well = match name {
            Some(name) => is_name(name),
            None => !segment.contains(['{', '}', '*']),
        };
        if !well {
            return Err((format!("`{segment}` is not a segment of a template"), remedy()));
        }
    }
    let names: Vec<&str> = template_names(text).collect();
    match names.iter().enumerate().find(|(index, name)| names.iter().take(*index).any(|earlier| earlier == *name)) {
        Some((_, name)) => Err((format!("`{{{name}}}` is there twice"), Some("give each its own name".to_owned()))),
        None => Ok(()),
    }
}

/// Methods are case-sensitive, so a lower-case one would match nothing that anybody sends.
fn method(text: &str) -> Result<(), Flaw> {
    let upper = text.to_ascii_uppercase();
    match Method::from_bytes(text.as_bytes()) {
        Err(_) => Err((format!("`{text}` is not a method"), None)),
        Ok(_) if upper != text => Err((format!("`{text}` is not in upper case"), Some(format!("write `{upper}`")))),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (format, good, bad) in [
            ("socketAddress", &["0.0.0.0:80", "[::1]:1"][..], &["", "80", "localhost:80", "1.2.3.4", "::1:x"][..]),
            ("headerName", &["x-a", "X-A_1"], &["", "a b", ":path", "é"]),
            ("host", &["a", "a-b.c", "10.0.0.1", "[::1]"], &["", "a:1", "a..b", "*.a", ".a", "a/b", "[x]"]),
            ("hostPattern", &["a", "*.a.b"], &["*", "*a", "a.*", "*.*.a", "*.", "a:80"]),
            ("authority", &["a", "a:80", "[::1]:80", "1.2.3.4:5"], &["", "a:", "a:0", "a:70000", "a/b", "u@h"]),
            ("name", &["a", "A.b_c-1"], &["", "a/b", "a b", "é"]),
            ("path", &["/", "/a//b", "/é"], &["", "a", "/a?b", "/a#b", "/a\n", "/a b"]),
            ("pathAndQuery", &["/", "/a?b", "/a?b=c&d=/e?f"], &["", "a", "?a", "/a?b#c", "/a?b c", "/a?<"]),
            ("pathTemplate", &["/", "/a/{b}/{c}"], &["/{}", "/{a", "/a{b}", "/{a}/{a}", "/*", "x"]),
            ("method", &["GET", "M-SEARCH"], &["", "get", "G ET"]),
            (
                "httpUrl",
                &["http://a", "http://a:1/b?c"],
                &["", "a", "https://a", "http://", "http://a b", "http://a/ b"],
            ),
            ("cidr", &["10.0.0.0/8", "10.1.2.3", "fd00::/8", "::1"], &["", "10.0.0.1/8", "10.0.0.0/33", "a", "::/129"]),
            ("endpointAddress", &["1.2.3.4", "1.2.3.4:5", "[::1]:5", "::1"], &["", "a:1", "1.2.3.4:0", "1.2.3.4:x"]),
        ] {
            for text in good {
                assert_eq!(judge(format, text), Ok(()), "{format} {text}");
            }
            for text in bad {
                assert!(judge(format, text).is_err(), "{format} {text}");
            }
        }
    }

    #[test]
    fn a_host_name_as_endpoint_is_pointed_to_dns() {
        let remedy = endpoint_address("app.local:80").err().and_then(|(_, remedy)| remedy).unwrap_or_default();
        assert!(remedy.contains("dns: { name: app.local, port: 80 }"), "{remedy}");
    }
}
