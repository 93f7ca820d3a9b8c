use super::*;

#[test]
fn listeners_are_tcp_by_their_routes() {
    let text = |routes: &str, protocol: &str| {
        format!("{HEAD}routes: {routes}\n").replace("mode: proxy", &format!("mode: proxy, protocol: {protocol}"))
    };
    for (routes, protocol, expected) in [
        ("[{ name: a, to: raw }]", "auto", Some(true)),
        ("[{ name: a, to: raw }]", "tcp", Some(true)),
        ("[{ name: a, to: raw }]", "http", None),
        ("[{ name: a, to: app }]", "auto", Some(false)),
        ("[{ name: a, to: app }]", "tcp", None),
        ("[]", "auto", Some(false)),
        ("[]", "tcp", None),
        ("[{ name: a, to: app, listeners: [edge] }, { name: b, to: raw, listeners: [edge] }]", "auto", None),
    ] {
        let config = parse("t.yaml", &text(routes, protocol), &no_env);
        assert_eq!(config.ok().map(|config| config.is_tcp_listener("edge")), expected, "{routes} {protocol}");
    }
}

#[test]
fn a_connection_finds_one_route() {
    let two = format!("{HEAD}routes: [{{ name: a, to: raw }}, {{ name: b, to: raw }}]\n");
    only(
        &two.replace("{ name: edge", "▸{ name: edge"),
        "listeners[0]: tcp listener `edge` has 2 routes without `hosts`, and can have one | keep one of `a` or `b`, or give each its `listeners`",
    );
    for (hosts, expected) in [
        (
            "[\"*.X\", y]|[z, ▸\"*.x\"]",
            "routes[1].hosts[1]: host `*.x` on tcp listener `edge` is there twice | the first is at t.yaml:8:31",
        ),
        (
            "[x]|[▸10.0.0.1]",
            "routes[1].hosts[0]: `10.0.0.1` is an address, and clients of TLS ask by name only | remove it",
        ),
        (
            "[x]|[▸\"[::1]\"]",
            "routes[1].hosts[0]: `[::1]` is an address, and clients of TLS ask by name only | remove it",
        ),
    ] {
        let (one, other) = hosts.split_once('|').expect("two lists");
        let routes = format!("- {{ name: a, to: raw, hosts: {one} }}\n- {{ name: b, to: raw, hosts: {other} }}\n");
        only(&format!("{HEAD}routes:\n{routes}"), expected);
    }
    for sound in [
        "[{ name: a, to: raw, hosts: [x, \"*.x\"] }, { name: b, to: raw, hosts: [y] }, { name: c, to: raw }]",
        "[{ name: a, to: raw, hosts: [x] }]",
    ] {
        assert_eq!(said(&problems(&format!("{HEAD}routes: {sound}\n"))), [""; 0]);
    }
}

/// The same name on two listeners is no ambiguity.
#[test]
fn names_are_those_of_a_listener() {
    let more = "listeners: [{ name: two, mode: proxy, address: \"0.0.0.0:8081\" }, {";
    let routes = "routes: [{ name: a, listeners: [edge], to: raw, hosts: [x] }, { name: b, listeners: [two], to: raw, hosts: [x] }]";
    assert_eq!(said(&problems(&format!("{}{routes}\n", HEAD.replace("listeners: [{", more)))), [""; 0]);
}
