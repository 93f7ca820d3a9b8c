//! What redirected listeners need, and which keys are for them only.

use std::collections::HashMap;

use super::format;
use super::schema::{
    Listener, ListenerProtocol, ListenerTlsMode, Mode, PortTls, Root, Service, Transparent, UnknownDestinations,
};
use super::tree::step;
use super::validate::View;

pub fn listener(view: &mut View<'_>, path: &str, listener: &Listener) {
    let (mode, is) = match listener.mode {
        Mode::Proxy => ("proxy", [false, false]),
        Mode::Inbound => ("inbound", [true, false]),
        Mode::Outbound => ("outbound", [false, true]),
    };
    let [inbound, outbound] = is;
    let misplaced = [
        ("ports", "inbound", !listener.ports.is_empty() && !inbound),
        ("transparent", "inbound", listener.transparent == Transparent::Tproxy && !inbound),
        (
            "unknownDestinations",
            "outbound",
            listener.unknown_destinations != UnknownDestinations::default() && !outbound,
        ),
    ];
    for (key, of, _) in misplaced.into_iter().filter(|(.., misplaced)| *misplaced) {
        let message = format!("`{key}` is for `mode: {of}`, and this listener is {mode}");
        view.push(&format!("{path}.{key}"), message, "remove it, or change the mode");
    }
    view.positive(&format!("{path}.detectionTimeout"), listener.detection_timeout);
    if !listener.mode.is_redirected() {
        return;
    }
    if listener.protocol != ListenerProtocol::Auto {
        let remedy = match inbound {
            true => "remove it; `ports` say what each port of the application speaks",
            false => "remove it; `protocol` of a service says what it speaks",
        };
        view.push(&format!("{path}.protocol"), format!("an {mode} listener carries every protocol"), remedy);
    }
    let tls = listener.tls.as_ref().map_or(ListenerTlsMode::Off, |tls| tls.mode);
    if tls == ListenerTlsMode::Server || outbound && tls != ListenerTlsMode::Off {
        let (message, remedy) = match inbound {
            true => ("an inbound listener is part of the mesh", "use `strict`, `permissive` or `off`"),
            false => ("the application speaks to an outbound listener as if it were not there", "remove `tls`"),
        };
        view.push(&format!("{path}.tls.mode"), message, remedy);
    }
    let mesh = |mode: &PortTls| matches!(mode, PortTls::Strict | PortTls::Permissive);
    for (port, _) in listener.ports.iter().filter(|(_, port)| port.tls.as_ref().is_some_and(mesh)) {
        let path = format!("{path}.ports{}.tls", step(port));
        super::tls::needs_identity(view, &path, "clients ask for");
    }
}

pub fn service(view: &mut View<'_>, path: &str, service: &Service) {
    if !service.addresses.is_empty() && !view.root.listeners.iter().any(|listener| listener.mode == Mode::Outbound) {
        // Harmless: a file of services may be shared by proxies that redirect and others that do not.
        return;
    }
    let port = service.port;
    for (index, text) in service.addresses.iter().enumerate() {
        let Ok((_, own)) = format::endpoint_address(text) else { continue };
        if own == Some(0) || own.is_none() && port == Some(0) {
            view.push(&format!("{path}.addresses[{index}]"), "port 0 is none", "write `ip:port`");
        }
    }
}

/// A virtual address leads to one service.
pub fn addresses(view: &mut View<'_>) {
    let root: &Root = view.root;
    let mut seen: HashMap<_, String> = HashMap::new();
    for (name, service) in &root.services {
        for (index, text) in service.addresses.iter().enumerate() {
            let Ok((ip, own)) = format::endpoint_address(text) else { continue };
            let path = format!("services{}.addresses[{index}]", step(name));
            match seen.get(&(ip, own.or(service.port))) {
                Some(first) => view.twice(&path, &format!("address `{text}`"), &first.clone()),
                None => drop(seen.insert((ip, own.or(service.port)), path)),
            }
        }
    }
}
