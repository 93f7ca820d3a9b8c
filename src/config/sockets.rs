//! What can be wrong with the PROXY protocol.

use super::schema::{Listener, Mode, Protocol, Service};
use super::validate::View;

pub fn service(view: &mut View<'_>, path: &str, service: &Service) {
    if service.proxy_protocol.is_some() && service.protocol != Protocol::Tcp {
        let message = "a connection of HTTP is for many clients, and the header speaks of one";
        let remedy = "remove it, for requests carry `x-forwarded-for`; or say `protocol: tcp`";
        view.push(&format!("{path}.proxyProtocol"), message, remedy);
    }
}

pub fn listener(view: &mut View<'_>, path: &str, listener: &Listener) {
    if listener.proxy_protocol.is_some() && listener.mode != Mode::Proxy {
        let message = "no load balancer stands in front of redirected connections";
        view.push(&format!("{path}.proxyProtocol"), message, "remove it, or say `mode: proxy`");
    }
}
