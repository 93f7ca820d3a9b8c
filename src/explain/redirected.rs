//! What the kernel redirected: where it was going decides, ahead of what it asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::ask::Ask;
use crate::config::schema::PortProtocol;
use crate::decide;
use crate::policy::caller::Caller;
use crate::snapshot::redirected::Destination;
use crate::snapshot::{Kind, Listener, Snapshot};

/// The port that the caller connects to: on a redirected listener, that of where it was going.
pub fn port(listener: &Listener, ask: &Ask, to: Option<SocketAddr>) -> u16 {
    let own = listener.config.address.port();
    match listener.kind {
        Kind::Http { .. } | Kind::Tcp(_) => own,
        Kind::Inbound(_) | Kind::Outbound(_) => {
            let named = to.map(|to| to.port()).or_else(|| ask.port.filter(|port| *port != own));
            named.or_else(|| ask.url_port()).unwrap_or(if ask.url.starts_with("https:") { 443 } else { 80 })
        }
    }
}

/// Where it goes if it is not led elsewhere.
pub fn original(listener: &Listener, caller: &Caller<'_>) -> Option<SocketAddr> {
    match &listener.kind {
        Kind::Inbound(ports) if ports.of(caller.port).loopback => {
            let is_v6 = caller.to.is_some_and(|to| to.is_ipv6());
            let loopback: IpAddr = if is_v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
            Some(SocketAddr::new(loopback, caller.port))
        }
        _ => caller.to,
    }
}

/// What the destination says, and what becomes of bytes that are not HTTP.
pub fn notes(snapshot: &Snapshot, listener: &Listener, caller: &Caller<'_>) -> Vec<String> {
    let undetected = |allowed: bool| match allowed {
        true => "what is not HTTP is relayed there as it is",
        false => "what is not HTTP is denied there (`undetected`)",
    };
    match &listener.kind {
        Kind::Http { .. } | Kind::Tcp(_) => Vec::new(),
        Kind::Inbound(ports) => {
            let port = ports.of(caller.port);
            let mut notes = vec![format!("it was going to port {} of the application", caller.port)];
            if port.protocol == PortProtocol::Auto {
                notes.push(undetected(port.undetected).to_owned());
            }
            notes
        }
        Kind::Outbound(outbound) => {
            let name = |index: usize| snapshot.services.get(index).map_or("", |service| &*service.name).to_owned();
            match (outbound.destination(snapshot, caller.to), caller.to) {
                (Destination::Service(index, at), Some(to)) => {
                    let what = if at.is_some() { "the address of an endpoint" } else { "an address" };
                    let mut notes = vec![format!("{to} is {what} of service `{}`", name(index))];
                    let known = outbound.services.get(index);
                    if let Some(known) = known.filter(|_| !decide::is_relayed(snapshot, listener, caller)) {
                        notes.push(undetected(known.undetected).to_owned());
                    }
                    notes
                }
                (_, Some(to)) => vec![format!("{to} is the address of no service: a request goes by its host")],
                (_, None) => vec!["no destination is named (`--to`): the request goes by its host".to_owned()],
            }
        }
    }
}

/// The host by which a route is looked for: where none that is written has the one that was asked for, the service's own.
pub fn hosts<'a>(
    snapshot: &'a Snapshot,
    listener: &'a Listener,
    caller: &Caller<'_>,
    asked: &'a str,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let own = match &listener.kind {
        Kind::Outbound(outbound) => match outbound.destination(snapshot, caller.to) {
            Destination::Service(service, _) => outbound.services.get(service).map(|known| &*known.host),
            Destination::Unknown => None,
        },
        _ => None,
    };
    std::iter::once(asked).chain(own)
}
