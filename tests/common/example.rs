//! The examples of the documentation, run: with free addresses in place of their own.

use std::net::SocketAddr;
use std::path::Path;

use super::Proxy;

/// The text of an example; its listener and these addresses are replaced.
pub fn text(name: &str, swaps: &[(&str, SocketAddr)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/examples/{name}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let text = swaps.iter().fold(text.replace("0.0.0.0:8080", "{listen}"), |text, (from, to)| {
        assert!(text.contains(from), "no `{from}` in {name}");
        text.replace(from, &to.to_string())
    });
    format!("{text}admin: {{ address: \"{{admin}}\" }}\nhealth: {{ address: \"{{health}}\" }}\n")
}

pub fn start(name: &str, swaps: &[(&str, SocketAddr)]) -> Proxy {
    Proxy::start(&text(name, swaps), &[])
}
