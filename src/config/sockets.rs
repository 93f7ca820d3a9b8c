//! What can be wrong with the PROXY protocol and with Unix sockets.

use super::schema::{Listener, Mode, Protocol, Service, UNIX};
use super::validate::View;

pub fn service(view: &mut View<'_>, path: &str, service: &Service) {
    if service.proxy_protocol.is_some() && service.protocol != Protocol::Tcp {
        let message = "a connection of HTTP is for many clients, and the header speaks of one";
        let remedy = "remove it, for requests carry `x-forwarded-for`; or say `protocol: tcp`";
        view.push(&format!("{path}.proxyProtocol"), message, remedy);
    }
}

pub fn listener(view: &mut View<'_>, path: &str, listener: &Listener) {
    let is_unix = listener.address.socket().is_none();
    if is_unix && listener.mode != Mode::Proxy {
        let message = "nothing is redirected to a Unix socket";
        view.push(&format!("{path}.address"), message, "write `ip:port`, or say `mode: proxy`");
    }
    if listener.socket_mode.is_some() && listener.address.file().is_none() {
        let (message, remedy) = match is_unix {
            true => ("a name in the abstract namespace has no permissions", "remove it, or listen at a path"),
            false => ("only a Unix socket has permissions", "remove it"),
        };
        view.push(&format!("{path}.socketMode"), message, remedy);
    }
    if listener.proxy_protocol.is_some() && listener.mode != Mode::Proxy {
        let message = "no load balancer stands in front of redirected connections";
        view.push(&format!("{path}.proxyProtocol"), message, "remove it, or say `mode: proxy`");
    }
    let from = listener.proxy_protocol.iter().flat_map(|config| &config.from);
    for (index, _) in from.enumerate().filter(|(_, from)| (*from == UNIX) != is_unix) {
        let (message, remedy) = match is_unix {
            true => ("whoever comes by a Unix socket has no address", "write `unix:`, which is all of them"),
            false => ("nobody comes to this listener by a Unix socket", "remove it"),
        };
        view.push(&format!("{path}.proxyProtocol.from[{index}]"), message, remedy);
    }
}
