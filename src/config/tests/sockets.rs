use super::*;

#[test]
fn what_the_proxy_protocol_is_refused_for() {
    for protocol in ["auto", "http1", "http2"] {
        only(
            &format!("{HEAD}  s: {{ protocol: {protocol}, port: 1, endpoints: {{ static: [10.0.0.1] }}, proxyProtocol: ▸v2 }}\n")
                .replace("attributes:", "#"),
            "services.s.proxyProtocol: a connection of HTTP is for many clients, and the header speaks of one | remove it, for requests carry `x-forwarded-for`; or say `protocol: tcp`",
        );
    }
    for (key, expected) in [
        (
            "proxyProtocol: { from: [▸10.0.0.1/8] }",
            "listeners[0].proxyProtocol.from[0]: `10.0.0.1/8` has bits of one address beyond its 8 | write `10.0.0.0/8`",
        ),
        (
            "proxyProtocol: { ▸from: [] }",
            "listeners[0].proxyProtocol.from: there is nothing in it | it needs one item at least",
        ),
    ] {
        only(&HEAD.replace("mode: proxy", &format!("mode: proxy, {key}")), expected);
    }
}
