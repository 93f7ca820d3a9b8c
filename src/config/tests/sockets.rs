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

const ROUTE: &str = "routes: [{ name: a, to: app }]\n";

fn listener(address: &str, keys: &str) -> String {
    format!("{HEAD}{ROUTE}").replace("mode: proxy, address: \"0.0.0.0:8080\"", &format!("{address}{keys}"))
}

fn endpoint(endpoint: &str) -> String {
    format!("{HEAD}{ROUTE}")
        .replace("{ address: \"127.0.0.1:3000\", labels: { v: \"1\" } }", endpoint)
        .replace(", subsets: { one: { labels: { v: \"1\" } } }", "")
}

#[test]
fn unix_sockets_of_listeners_and_endpoints() {
    for address in ["unix:/run/a.sock", "\"unix:@mesh/app\""] {
        for keys in ["", ", proxyProtocol: { from: [\"unix:\"] }"] {
            let text = listener(&format!("mode: proxy, address: {address}"), keys);
            assert_eq!(said(&problems(&text)), [""; 0], "{text}");
        }
        for one in [address, &format!("{{ address: {address}, weight: 2 }}")] {
            assert_eq!(said(&problems(&endpoint(one))), [""; 0], "{one}");
        }
    }
    for mode in ["0660", "660", "0777", "000"] {
        let text = listener("mode: proxy, address: unix:/run/a.sock", &format!(", socketMode: \"{mode}\""));
        assert_eq!(said(&problems(&text)), [""; 0], "{mode}");
    }
}

#[test]
fn what_unix_sockets_are_refused_for() {
    let written = "write it like `unix:/run/app.sock`, or `unix:@app` for a name in the abstract namespace";
    let long = format!("unix:/{}", "a".repeat(107));
    for (path, why) in [
        ("unix:run/a.sock", "it is not an absolute path, nor `@name`"),
        ("unix:", "it is not an absolute path, nor `@name`"),
        ("unix:/run/", "it is not an absolute path, nor `@name`"),
        ("unix:/run/a b", "it has spaces, quotes, or other than visible ASCII characters"),
        (&long, "it has more than 107 bytes"),
    ] {
        let why = format!("`{path}` is no Unix socket: {why} | {written}");
        only(&listener(&format!("mode: proxy, address: ▸\"{path}\""), ""), &format!("listeners[0].address: {why}"));
        let place = "services.app.endpoints.static[0]";
        only(&endpoint(&format!("▸\"{path}\"")), &format!("{place}: {why}"));
        only(&endpoint(&format!("{{ address: ▸\"{path}\" }}")), &format!("{place}.address: {why}"));
    }
    for (address, key, expected) in [
        (
            "mode: proxy, address: \"0.0.0.0:80\"",
            "socketMode: ▸\"0660\"",
            "socketMode: only a Unix socket has permissions | remove it",
        ),
        (
            "mode: proxy, address: \"unix:@a\"",
            "socketMode: ▸\"0660\"",
            "socketMode: a name in the abstract namespace has no permissions | remove it, or listen at a path",
        ),
        (
            "mode: proxy, address: unix:/a",
            "socketMode: ▸\"0668\"",
            "socketMode: `0668` is no permissions in octal | write it like `\"0660\"`",
        ),
        (
            "mode: proxy, address: unix:/a",
            "socketMode: ▸\"4755\"",
            "socketMode: `4755` is no permissions in octal | write it like `\"0660\"`",
        ),
        (
            "mode: proxy, address: unix:/a",
            "socketMode: ▸\"rw\"",
            "socketMode: `rw` is no permissions in octal | write it like `\"0660\"`",
        ),
        (
            "mode: proxy, address: \"0.0.0.0:80\"",
            "proxyProtocol: { from: [10.0.0.0/8, ▸\"unix:\"] }",
            "proxyProtocol.from[1]: nobody comes to this listener by a Unix socket | remove it",
        ),
        (
            "mode: proxy, address: unix:/a",
            "proxyProtocol: { from: [▸10.0.0.0/8, \"unix:\"] }",
            "proxyProtocol.from[0]: whoever comes by a Unix socket has no address | write `unix:`, which is all of them",
        ),
    ] {
        only(&listener(address, &format!(", {key}")), &format!("listeners[0].{expected}"));
    }
    for mode in ["inbound", "outbound"] {
        let text = listener(&format!("mode: {mode}, address: ▸unix:/a"), "")
            .replace("routes: [{ name: a, to: app }]", "routes: []");
        only(
            &text,
            "listeners[0].address: nothing is redirected to a Unix socket | write `ip:port`, or say `mode: proxy`",
        );
    }
}

#[test]
fn one_place_one_socket() {
    let two = |address: &str| {
        format!("{HEAD}{ROUTE}").replace(
            "listeners: [{ name: edge, mode: proxy, address: \"0.0.0.0:8080\" }]",
            &format!(
                "listeners: [{{ name: edge, mode: proxy, address: \"{address}\" }}, \
                 {{ name: two, mode: proxy, address: ▸\"{address}\" }}]"
            ),
        )
    };
    for address in ["unix:/run/a.sock", "unix:@a"] {
        only(
            &two(address),
            &format!(
                "listeners[1].address: {address} is taken by listener `edge` ({address}, t.yaml:2:49) \
                 | use another path or name"
            ),
        );
    }
    only(
        &endpoint("unix:/a, ▸unix:/a"),
        "services.app.endpoints.static[1]: endpoint unix:/a is there twice | give one of them more `weight` instead",
    );
    only(
        &endpoint("▸{ address: unix:/a, alternatives: [\"10.0.0.1:80\"] }"),
        "services.app.endpoints.static[0]: a Unix socket has no other addresses \
         | remove `alternatives`, or make them endpoints of their own",
    );
    only(
        &endpoint("{ address: \"10.0.0.1:80\", alternatives: [▸unix:/a] }"),
        "services.app.endpoints.static[0].alternatives[0]: `unix:/a` is a Unix socket | write an address, or make it an endpoint",
    );
    only(
        &endpoint("unix:/a").replace("app: { ", "app: { ▸tls: { mode: simple }, "),
        "services.app.tls: a Unix socket has no address to prove | write the name of its certificate as `serverName`",
    );
    let named = endpoint("unix:/a").replace("app: { ", "app: { tls: { mode: simple, serverName: a.test }, ");
    assert_eq!(said(&problems(&named)), [""; 0]);
}
