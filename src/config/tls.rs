//! What identity and TLS need of each other: files of a mode, names to verify, identities of the own trust domain.

use rustls::pki_types::ServerName;

use super::schema::{
    Endpoint, Endpoints, FullEndpoint, IdentityMatch, IdentityMatcher, Listener, ListenerTls, ListenerTlsMode, Service,
    ServiceTls, ServiceTlsMode, UNIX,
};
use super::validate::View;
use crate::wire::spiffe::SpiffeId;

pub fn listener(view: &mut View<'_>, path: &str, listener: &Listener) {
    let Some(tls) = &listener.tls else { return };
    let path = format!("{path}.tls");
    view.positive(&format!("{path}.handshakeTimeout"), tls.handshake_timeout);
    match tls.mode {
        ListenerTlsMode::Server => {
            let pair = [("certificate", &tls.certificate), ("privateKey", &tls.private_key)];
            for (key, _) in pair.into_iter().filter(|(_, value)| value.is_none()) {
                view.push(
                    &path,
                    format!("a `server` has no `{key}`"),
                    format!("add `{key}: …`, the path of a PEM file"),
                );
            }
        }
        ListenerTlsMode::Strict | ListenerTlsMode::Permissive => {
            not_of_a_server(view, &path, tls, "its certificate is that of `identity`");
            needs_identity(view, &format!("{path}.mode"), "clients ask for");
        }
        ListenerTlsMode::Off => not_of_a_server(view, &path, tls, "nothing is encrypted here"),
    }
}

fn not_of_a_server(view: &mut View<'_>, path: &str, tls: &ListenerTls, why: &str) {
    let keys = [
        ("certificate", tls.certificate.is_some()),
        ("privateKey", tls.private_key.is_some()),
        ("certificates", !tls.certificates.is_empty()),
    ];
    for (key, _) in keys.into_iter().filter(|(_, there)| *there) {
        let message = format!("`{key}` is for `mode: server`: {why}");
        view.push(&format!("{path}.{key}"), message, "remove it, or change the mode");
    }
}

pub fn needs_identity(view: &mut View<'_>, path: &str, whom: &str) {
    // One that is not sound has been told.
    if view.tree.get("identity").is_none_or(|identity| identity.is_null()) {
        let remedy = "add `identity` with `trustDomain`, `certificate`, `privateKey` and `trustBundle`";
        view.push(path, format!("there is no `identity` with the certificate that {whom}"), remedy);
    }
}

pub fn service(view: &mut View<'_>, path: &str, service: &Service) {
    if service.tls.as_ref().is_none_or(|tls| tls.mode != ServiceTlsMode::Mutual) {
        for (key, _) in identities_of_endpoints(path, service) {
            let remedy = "remove it, or add `tls: { mode: mutual }` to the service";
            view.push(&key, "an identity is proven over mutual TLS only", remedy);
        }
    }
    let Some(tls) = &service.tls else { return };
    let path = &format!("{path}.tls");
    match tls.mode {
        ServiceTlsMode::Mutual => mutual(view, path, service, tls),
        ServiceTlsMode::Simple => simple(view, path, service, tls),
        ServiceTlsMode::Off => {
            not_of(view, path, tls, &["identities", "serverName", "trustBundle"], "nothing is encrypted here");
        }
    }
}

fn mutual(view: &mut View<'_>, path: &str, service: &Service, tls: &ServiceTls) {
    needs_identity(view, &format!("{path}.mode"), "the service asks for");
    not_of(view, path, tls, &["trustBundle"], "the mesh is verified by that of `identity`");
    if tls.server_name.as_ref().is_some_and(|name| !matches!(server_name(name), Some(ServerName::DnsName(_)))) {
        let remedy = "write a DNS name, or remove it";
        view.push(&format!("{path}.serverName"), "only a DNS name can be asked for", remedy);
    }
    let all_say = match &service.endpoints {
        Endpoints::Static(list) => {
            list.iter().all(|one| matches!(one, Endpoint::Full(full) if full.identity.is_some()))
        }
        // What is in it is not known here; an endpoint without an identity is then one that nobody can prove to be.
        Endpoints::File(_) => true,
        Endpoints::Dns(_) => false,
    };
    if tls.identities.is_empty() && !all_say {
        let remedy =
            "add `identities: [\"spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME\"]`, or an `identity` to each endpoint";
        view.push(path, "nothing says whom the endpoints must prove to be, so that none could", remedy);
    }
    for (index, one) in tls.identities.iter().enumerate() {
        let key = format!("{path}.identities[{index}]");
        match one {
            IdentityMatch::Pattern(text) | IdentityMatch::Matcher(IdentityMatcher::Exact(text)) => {
                of_the_domain(view, &key, text);
            }
            IdentityMatch::Matcher(IdentityMatcher::Prefix(prefix)) if !prefix.starts_with("spiffe://") => {
                view.push(&key, "no SPIFFE id begins like that", "begin it with `spiffe://`");
            }
            IdentityMatch::Matcher(IdentityMatcher::Prefix(_)) => {}
        }
    }
    for (key, id) in identities_of_endpoints(path.trim_end_matches(".tls"), service) {
        of_the_domain(view, &key, id);
    }
}

/// Only those can be proven: the bundle is believed for the own trust domain alone.
fn of_the_domain(view: &mut View<'_>, key: &str, id: &str) {
    let (Ok(id), Some(identity)) = (SpiffeId::parse(id), &view.root.identity) else { return };
    if id.trust_domain() != identity.trust_domain {
        let domain = &identity.trust_domain;
        let message = format!("`{id}` is of another trust domain than `{domain}`, and could never be proven");
        view.push(key, message, format!("write `spiffe://{domain}/…`"));
    }
}

fn simple(view: &mut View<'_>, path: &str, service: &Service, tls: &ServiceTls) {
    not_of(view, path, tls, &["identities"], "the server of a `simple` service proves its DNS name");
    let (key, name) = match (&tls.server_name, &service.endpoints) {
        (Some(name), _) => (format!("{path}.serverName"), name),
        (None, Endpoints::Dns(dns)) => (path.to_owned(), &dns.name),
        (None, Endpoints::Static(list)) if list.iter().any(is_unix) => {
            let remedy = "write the name of its certificate as `serverName`";
            return view.push(path, "a Unix socket has no address to prove", remedy);
        }
        // Each endpoint proves its address.
        (None, Endpoints::Static(_) | Endpoints::File(_)) => return,
    };
    if server_name(name).is_none() {
        let remedy = "write the name of the certificate as `serverName`";
        view.push(&key, format!("`{name}` is no name that a certificate can have"), remedy);
    }
}

fn not_of(view: &mut View<'_>, path: &str, tls: &ServiceTls, keys: &[&str], why: &str) {
    let there = [
        ("identities", !tls.identities.is_empty()),
        ("serverName", tls.server_name.is_some()),
        ("trustBundle", tls.trust_bundle.is_some()),
    ];
    for (key, _) in there.into_iter().filter(|(key, there)| *there && keys.contains(key)) {
        let message = format!("`{key}` is not for this `mode`: {why}");
        view.push(&format!("{path}.{key}"), message, "remove it, or change the mode");
    }
}

/// With the keys under which they stand.
fn identities_of_endpoints<'a>(path: &str, service: &'a Service) -> Vec<(String, &'a str)> {
    let Endpoints::Static(list) = &service.endpoints else { return Vec::new() };
    let identity = |(index, endpoint): (usize, &'a Endpoint)| match endpoint {
        Endpoint::Full(full) => Some((format!("{path}.endpoints.static[{index}].identity"), full.identity.as_deref()?)),
        Endpoint::Address(_) => None,
    };
    list.iter().enumerate().filter_map(identity).collect()
}

fn is_unix(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Address(address) | Endpoint::Full(FullEndpoint { address, .. }) => address.starts_with(UNIX),
    }
}

fn server_name(text: &str) -> Option<ServerName<'_>> {
    ServerName::try_from(text).ok()
}
