//! Identity and TLS: what each mode needs, and what it has no use for.

use super::{only, problems, said};

const HEAD: &str = "\
apiVersion: outrigger/v1
identity: { trustDomain: mesh.local, certificate: c, privateKey: k, trustBundle: b }
routes: [{ name: all, to: app }]
";
const LISTENERS: &str = "listeners: [{ name: edge, mode: proxy, address: \"0.0.0.0:8080\" }]\n";
const SERVICES: &str = "services: { app: { endpoints: { static: [\"127.0.0.1:3000\"] } } }\n";

#[test]
fn modes_of_listeners() {
    for tls in [
        "tls: { mode: strict }",
        "tls: { mode: permissive, handshakeTimeout: 2s }",
        "tls: { mode: off }",
        "tls: { mode: server, certificate: c, privateKey: k }",
        "tls: { mode: server, certificate: c, privateKey: k, certificates: [{ certificate: d, privateKey: l }], minVersion: \"1.3\" }",
    ] {
        let text = format!("{HEAD}{SERVICES}{}", listener(tls));
        assert_eq!(said(&problems(&text)), Vec::<String>::new(), "{tls}");
    }
    for (tls, expected) in [
        (
            "▸tls: { mode: server, certificate: c }",
            "listeners[0].tls: a `server` has no `privateKey` | add `privateKey: …`, the path of a PEM file",
        ),
        (
            "tls: { mode: strict, certificate: ▸c }",
            "listeners[0].tls.certificate: `certificate` is for `mode: server`: its certificate is that of `identity` | \
             remove it, or change the mode",
        ),
        (
            "tls: { mode: off, ▸certificates: [{ certificate: c, privateKey: k }] }",
            "listeners[0].tls.certificates: `certificates` is for `mode: server`: nothing is encrypted here | remove it, or \
             change the mode",
        ),
        (
            "tls: { mode: strict, handshakeTimeout: ▸0s }",
            "listeners[0].tls.handshakeTimeout: must be longer than 0s | write a time, such as `1s`",
        ),
    ] {
        only(&format!("{HEAD}{SERVICES}{}", listener(tls)), expected);
    }
    let text = format!("{HEAD}{SERVICES}{}", listener("tls: { mode: ▸permissive }"));
    let nobody = text.replace("identity:", "workload: {} #");
    only(
        &nobody,
        "listeners[0].tls.mode: there is no `identity` with the certificate that clients ask for | add `identity` with \
         `trustDomain`, `certificate`, `privateKey` and `trustBundle`",
    );
}

#[test]
fn modes_of_services() {
    for service in [
        "tls: { mode: mutual, identities: [\"*\", \"spiffe://mesh.local/ns/a/*\", { prefix: \"spiffe://mesh.local/\" }] }, endpoints: { dns: { name: app, port: 1 } }",
        "tls: { mode: mutual }, endpoints: { static: [{ address: \"127.0.0.1:1\", identity: \"spiffe://mesh.local/a\" }] }",
        "tls: { mode: mutual, serverName: app }, endpoints: { file: list.yaml }",
        "tls: { mode: simple }, endpoints: { static: [\"127.0.0.1:1\"] }",
        "tls: { mode: simple, serverName: api.example.com, trustBundle: b }, endpoints: { static: [\"127.0.0.1:1\"] }",
        "tls: { mode: simple }, endpoints: { dns: { name: api.example.com, port: 443 } }",
        "tls: { mode: off }, endpoints: { dns: { name: app, port: 1 } }",
    ] {
        assert_eq!(said(&problems(&whole(service))), Vec::<String>::new(), "{service}");
    }
    for (service, expected) in [
        (
            "▸tls: { mode: mutual }, endpoints: { static: [{ address: \"127.0.0.1:1\", identity: \"spiffe://mesh.local/a\" }, \"127.0.0.1:2\"] }",
            "services.app.tls: nothing says whom the endpoints must prove to be, so that none could | add `identities: \
             [\"spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME\"]`, or an `identity` to each endpoint",
        ),
        (
            "tls: { mode: mutual, identities: [▸\"spiffe://elsewhere/a\"] }, endpoints: { static: [\"127.0.0.1:1\"] }",
            "services.app.tls.identities[0]: `spiffe://elsewhere/a` is of another trust domain than `mesh.local`, and could \
             never be proven | write `spiffe://mesh.local/…`",
        ),
        (
            "tls: { mode: mutual }, endpoints: { static: [{ address: \"127.0.0.1:1\", identity: ▸\"spiffe://elsewhere/a\" }] }",
            "services.app.endpoints.static[0].identity: `spiffe://elsewhere/a` is of another trust domain than \
             `mesh.local`, and could never be proven | write `spiffe://mesh.local/…`",
        ),
        (
            "tls: { mode: mutual, identities: [▸{ prefix: mesh.local }] }, endpoints: { static: [\"127.0.0.1:1\"] }",
            "services.app.tls.identities[0]: no SPIFFE id begins like that | begin it with `spiffe://`",
        ),
        (
            "tls: { mode: mutual, identities: [\"*\"], serverName: ▸127.0.0.1 }, endpoints: { static: [\"127.0.0.1:1\"] }",
            "services.app.tls.serverName: only a DNS name can be asked for | write a DNS name, or remove it",
        ),
        (
            "tls: { mode: mutual, identities: [\"*\"], trustBundle: ▸b }, endpoints: { static: [\"127.0.0.1:1\"] }",
            "services.app.tls.trustBundle: `trustBundle` is not for this `mode`: the mesh is verified by that of `identity` \
             | remove it, or change the mode",
        ),
        (
            "tls: { mode: simple, ▸identities: [\"*\"] }, endpoints: { static: [\"127.0.0.1:1\"] }",
            "services.app.tls.identities: `identities` is not for this `mode`: the server of a `simple` service proves its \
             DNS name | remove it, or change the mode",
        ),
        (
            "tls: { mode: off, serverName: ▸a }, endpoints: { static: [\"127.0.0.1:1\"] }",
            "services.app.tls.serverName: `serverName` is not for this `mode`: nothing is encrypted here | remove it, or \
             change the mode",
        ),
        (
            "endpoints: { static: [{ address: \"127.0.0.1:1\", identity: ▸\"spiffe://mesh.local/a\" }] }",
            "services.app.endpoints.static[0].identity: an identity is proven over mutual TLS only | remove it, or add \
             `tls: { mode: mutual }` to the service",
        ),
    ] {
        only(&whole(service), expected);
    }
    let nobody = whole("tls: { mode: ▸mutual, identities: [\"*\"] }, endpoints: { static: [\"127.0.0.1:1\"] }")
        .replace("identity: {", "workload: {} #");
    only(
        &nobody,
        "services.app.tls.mode: there is no `identity` with the certificate that the service asks for | add `identity` with \
         `trustDomain`, `certificate`, `privateKey` and `trustBundle`",
    );
}

/// What is wrong with the block itself is not said again by those who need it.
#[test]
fn one_mistake_in_the_identity_is_one_problem() {
    let text = format!("{HEAD}{SERVICES}{}", listener("tls: { mode: strict }"));
    only(
        &text.replace("mesh.local", "▸Mesh.Local"),
        "identity.trustDomain: `Mesh.Local` is not a trust domain such as `cluster.local` | ",
    );
}

fn listener(tls: &str) -> String {
    LISTENERS.replace("\" }]", &format!("\", {tls} }}]"))
}

fn whole(service: &str) -> String {
    format!("{HEAD}{LISTENERS}services: {{ app: {{ {service} }} }}\n")
}
