//! The request that is asked about: as on curl's command line, or as JSON in `POST /explain`.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, HeaderName, HeaderValue};
use http::{Method, Request, Uri, Version, request};
use serde::{Deserialize, Serialize};

use crate::policy::caller::Caller;
use crate::wire::spiffe::SpiffeId;

/// Header fields of one request that is asked about.
const FIELDS_MAX: usize = 1000;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ask {
    pub method: String,
    /// `http://host/path?query`; without a scheme, `host/path`; or a path alone.
    pub url: String,
    /// `name: value`, as curl's `-H` takes them.
    pub headers: Vec<String>,
    /// Name of the listener; otherwise the one that listens on `port`, or the first that has a route.
    pub listener: Option<String>,
    pub port: Option<u16>,
    /// Where it was going before the kernel redirected it, `ip:port`.
    pub to: Option<String>,
    /// The caller: a SPIFFE id, an address, or both with a comma between them.
    pub from: Option<String>,
}

/// Who asks.
#[derive(Debug, Default, PartialEq)]
pub struct Whom {
    ip: Option<IpAddr>,
    id: Option<SpiffeId>,
}

impl Whom {
    fn parse(text: &str) -> Result<Self, String> {
        let mut from = Self::default();
        for part in text.split(',').map(str::trim) {
            match (part.parse::<IpAddr>(), SpiffeId::parse(part)) {
                (Ok(ip), _) if from.ip.is_none() => from.ip = Some(ip),
                (_, Ok(id)) if from.id.is_none() => from.id = Some(id),
                (Err(_), Err(why)) => return Err(format!("`{part}` is no address, and no SPIFFE id: {why}")),
                _ => return Err(format!("`{text}` names two callers")),
            }
        }
        Ok(from)
    }

    /// Without an address it is none that anybody has.
    pub fn at(&self, port: u16) -> Caller<'_> {
        Caller::new(self.ip.or(Caller::NOBODY.ip()), self.id.as_ref(), port)
    }
}

impl Ask {
    /// The head of the request, as the proxy would read it.
    pub fn parts(&self) -> Result<request::Parts, String> {
        let method = if self.method.is_empty() { "GET" } else { &self.method };
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is not a method"))?;
        let (authority, target) = self.target()?;
        let uri: Uri =
            target.parse().map_err(|error| format!("`{target}` cannot be the target of a request: {error}"))?;
        let mut parts = Request::new(()).into_parts().0;
        (parts.method, parts.uri, parts.version) = (method, uri, Version::HTTP_11);
        for line in self.headers.iter().take(FIELDS_MAX) {
            let (name, value) = header(line)?;
            parts.headers.append(name, value);
        }
        if !parts.headers.contains_key(HOST) {
            let host = authority.unwrap_or("localhost");
            let host = HeaderValue::from_str(host).map_err(|_| format!("`{host}` is not a host"))?;
            parts.headers.insert(HOST, host);
        }
        Ok(parts)
    }

    /// Where it was going, in canonical form.
    pub fn destination(&self) -> Result<Option<SocketAddr>, String> {
        let Some(text) = &self.to else { return Ok(None) };
        let to: SocketAddr = text.parse().map_err(|_| format!("`{text}` is not an address `ip:port`"))?;
        Ok(Some(SocketAddr::new(to.ip().to_canonical(), to.port())))
    }

    pub fn caller(&self) -> Result<Whom, String> {
        self.from.as_deref().map_or(Ok(Whom::default()), Whom::parse)
    }

    /// The port that the URL names.
    pub fn url_port(&self) -> Option<u16> {
        let (_, port) = self.target().ok()?.0?.rsplit_once(':')?;
        port.parse().ok()
    }

    /// Authority, where one is named, and the target in origin form.
    fn target(&self) -> Result<(Option<&str>, String), String> {
        let rest = match self.url.split_once("://") {
            Some(("http" | "https", rest)) => rest,
            Some((scheme, _)) => return Err(format!("`{scheme}` is not http or https")),
            None if self.url.starts_with('/') || self.url == "*" => return Ok((None, self.url.clone())),
            None => &self.url,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // What follows `#` never leaves the client.
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        match authority {
            "" => Err(format!("`{}` names no host", self.url)),
            authority => Ok((Some(authority), format!("{slash}{path}"))),
        }
    }
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("`{line}` is not a header: write `name: value`");
    let (name, value) = line.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
    let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| wrong())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(url: &str) -> Result<(String, String), String> {
        let parts = Ask { url: url.to_owned(), ..Ask::default() }.parts()?;
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        Ok((host.to_owned(), parts.uri.to_string()))
    }

    #[test]
    fn urls_as_curl_takes_them() {
        for (url, host, target) in [
            ("http://reviews/api/x?preview=1", "reviews", "/api/x?preview=1"),
            ("https://a:8443", "a:8443", "/"),
            ("reviews/api#part", "reviews", "/api"),
            ("reviews?x=1", "reviews", "/?x=1"),
            ("http://[::1]:80/", "[::1]:80", "/"),
            ("/only/a/path", "localhost", "/only/a/path"),
        ] {
            assert_eq!(ask(url), Ok((host.to_owned(), target.to_owned())), "{url}");
        }
        for url in ["", "http://", "ftp://a/", "http:///x", "http://a/ b"] {
            assert!(ask(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_caller_is_an_identity_an_address_or_both() {
        let caller = |from: &str| Ask { from: Some(from.to_owned()), ..Ask::default() }.caller();
        let shown = |from: &str| caller(from).map(|from| from.at(1).to_string());
        for (from, expected) in [
            ("10.0.0.1", "10.0.0.1 without an identity"),
            ("::ffff:10.0.0.1", "10.0.0.1 without an identity"),
            ("spiffe://a/b", "spiffe://a/b (0.0.0.0)"),
            ("spiffe://a/b, fd00::1", "spiffe://a/b (fd00::1)"),
            ("fd00::1,spiffe://a/b", "spiffe://a/b (fd00::1)"),
        ] {
            assert_eq!(shown(from), Ok(expected.to_owned()), "{from}");
        }
        for from in ["", "web", "10.0.0.1,10.0.0.2", "spiffe://a/b,spiffe://a/c", "spiffe://a/b,", "10.0.0.0/8"] {
            assert!(caller(from).is_err(), "{from}");
        }
        assert_eq!(Ask::default().caller(), Ok(Whom::default()));
    }

    #[test]
    fn a_host_header_wins_over_the_url() {
        let headers = vec!["Host: other".to_owned(), "x-a:b: c".to_owned()];
        let parts = Ask { url: "http://a/".to_owned(), headers, ..Ask::default() }.parts().unwrap();
        assert_eq!(parts.headers.get(HOST).map(|host| host.as_bytes()), Some(&b"other"[..]));
        assert_eq!(parts.headers.get("x-a").map(|value| value.as_bytes()), Some(&b"b: c"[..]));
        for line in ["", "novalue", "bad name: x", ": x"] {
            assert!(Ask { url: "a".to_owned(), headers: vec![line.to_owned()], ..Ask::default() }.parts().is_err());
        }
    }
}
