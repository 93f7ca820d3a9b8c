//! Which listener a request comes to, and whether that one takes its head.

use std::net::SocketAddr;

use http::header::CONTENT_LENGTH;
use http::request;

use super::ask::{Ask, Whom};
use super::redirected;
use crate::config::schema::Mode;
use crate::decide::{self, Understood};
use crate::error::Reason;
use crate::snapshot::{Kind, Listener, Snapshot};

/// The listener that the request would come to, and why that one.
pub fn choose<'s>(
    snapshot: &'s Snapshot,
    ask: &Ask,
    parts: &request::Parts,
    from: &Whom,
    to: Option<SocketAddr>,
) -> Result<(&'s Listener, String), String> {
    let all = &snapshot.listeners;
    let names = || all.iter().map(|listener| format!("`{}`", listener.name)).collect::<Vec<_>>().join(", ");
    if let Some(name) = &ask.listener {
        let named = all.iter().find(|listener| *listener.name == **name);
        return named
            .map(|listener| (listener, "it was named".to_owned()))
            .ok_or_else(|| format!("there is no listener `{name}`: there is {}", names()));
    }
    let of = |mode: Mode| all.iter().find(|listener| listener.config.mode == mode);
    if let Some(listener) = to.and_then(|_| of(Mode::Outbound).or_else(|| of(Mode::Inbound))) {
        return Ok((listener, "what goes elsewhere is redirected to it".to_owned()));
    }
    let on = |port: u16| all.iter().find(|listener| listener.config.address.port() == port);
    if let Some(port) = ask.port {
        let found = on(port).map(|listener| (listener, format!("it listens on port {port}")));
        let redirected = || Some((of(Mode::Inbound)?, format!("what comes to port {port} is redirected to it")));
        return found.or_else(redirected).ok_or_else(|| format!("no listener is on port {port}: there is {}", names()));
    }
    if let Some((listener, port)) = ask.url_port().and_then(|port| Some((on(port)?, port))) {
        return Ok((listener, format!("it listens on port {port}")));
    }
    let http = |listener: &&Listener| matches!(listener.kind, Kind::Http { .. } | Kind::Outbound(_));
    let routed = |listener: &&Listener| {
        let Ok(understood) = understand(listener, parts) else { return false };
        let caller = from.at(redirected::port(listener, ask, None));
        let facts = understood.facts(snapshot, parts, caller);
        match &listener.kind {
            Kind::Outbound(outbound) => outbound.find(snapshot, &facts).is_some(),
            _ => decide::decide(snapshot, listener, &facts, || 0).is_ok(),
        }
    };
    let found = all.iter().filter(http).find(routed);
    let listener = found.or_else(|| all.iter().find(http)).or(all.first()).ok_or("there is no listener")?;
    let why = match found {
        _ if all.len() == 1 => "the only one",
        Some(_) => "the first that has a route for it",
        None if http(&listener) && understand(listener, parts).is_err() => {
            "it is refused before routing; this is the first"
        }
        None => "no listener has a route for it; this is the first",
    };
    Ok((listener, why.to_owned()))
}

/// As the data path, with what the codec of HTTP/1 refuses before it.
pub fn understand<'p>(listener: &Listener, parts: &'p request::Parts) -> Result<Understood<'p>, Reason> {
    if head_bytes(parts) as u64 > listener.config.max_header_bytes.0 {
        return Err(Reason::HeadTooLarge);
    }
    // A list is refused even if its members are equal.
    if parts.headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes().contains(&b',')) {
        return Err(Reason::BadRequest);
    }
    decide::understand(listener, parts)
}

/// Every byte up to the end of the empty line.
fn head_bytes(parts: &request::Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields: usize =
        parts.headers.iter().map(|(name, value)| name.as_str().len() + ": ".len() + value.len() + "\r\n".len()).sum();
    parts.method.as_str().len() + " ".len() + target + " HTTP/1.1\r\n".len() + fields + "\r\n".len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"apiVersion: outrigger/v1
listeners: [{ name: edge, mode: proxy, address: "127.0.0.1:8080" }]
services: { two: { protocol: http2, endpoints: { static: ["127.0.0.1:1"] } } }
routes: [{ name: all, to: two }]
"#;

    #[test]
    fn what_the_codec_and_the_service_refuse_is_refused() {
        let config = crate::config::parse("t.yaml", CONFIG, &|_| None).expect("a configuration");
        let snapshot = crate::snapshot::compile(std::sync::Arc::new(config), 1, None);
        let status = |headers: &[&str]| {
            let headers = headers.iter().map(|line| (*line).to_owned()).collect();
            let ask = Ask { url: "http://a/".to_owned(), headers, ..Ask::default() };
            crate::explain::explain(&snapshot, &ask).expect("an explanation").reason.map(|because| because.status)
        };
        assert_eq!(status(&["content-length: 11"]), None);
        assert_eq!(status(&["content-length: 11, 11"]), Some(400));
        assert_eq!(status(&["connection: upgrade", "upgrade: websocket"]), Some(501));
    }
}
