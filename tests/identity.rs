//! Files of certificates, and what is told of them: `/certs`, metrics, audit, health; and reloads that name others.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::mesh::{DOMAIN, Mesh, STRICT, WEB};
use common::pki::{Leaf, Pair, Pki};
use common::tls::{Client, Server, certificates};
use common::{Origin, Proxy, SOON, Setup, TempDir, eventually, get, until};
use serde_json::Value;

const ROTATIONS: &str = "outrigger_certificate_rotations_total";
const LIVE: Duration = Duration::from_secs(1);

fn identity(dir: &Path, bundle: &Path) -> String {
    format!(
        "identity: {{ trustDomain: {DOMAIN}, certificate: \"{0}/tls.crt\", privateKey: \"{0}/tls.key\", trustBundle: \"{1}\" }}\n",
        dir.display(),
        bundle.display()
    )
}

/// Ends `hours` later than others.
fn longer(pki: &Pki, account: &str, hours: i64) -> Pair {
    pki.issue(account, &Leaf { life: -3600..86_400 + hours * 3600, ..pki.leaf("shop", account) })
}

fn install(pair: &Pair, dir: &Path) {
    pair.install(&dir.join("tls.crt"), &dir.join("tls.key"));
}

fn file<'a>(certs: &'a Value, key: &str) -> &'a Value {
    let files = certs["files"].as_array().expect("files");
    files.iter().find(|file| file["key"] == key).unwrap_or_else(|| panic!("no {key}: {certs:#}"))
}

fn events(audit: &Path) -> Vec<Value> {
    let text = fs::read_to_string(audit).unwrap_or_default();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    all.filter(|event| event["action"] == "certificates").collect()
}

fn rotations(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(ROTATIONS, &[("result", result)])
}

#[test]
fn everything_that_is_loaded_is_told() {
    let (pki, origin, dir) = (Pki::new(DOMAIN), Origin::ok(), TempDir::new("told"));
    install(&pki.workload("shop", "web"), dir.path());
    let (audit, crl) = (dir.path().join("audit"), pki.crl(&[]));
    let top = identity(dir.path(), &pki.bundle()).replace(" }\n", &format!(", crl: \"{}\" }}\n", crl.display()));
    let proxy = Setup { listener: STRICT, top: &top, workers: 1, ..Setup::default() }.start(origin.addr());
    proxy.reload("telemetry: { ", &format!("telemetry: {{ audit: \"{}\", ", audit.display()));

    let certs = proxy.admin_json("/certs");
    let own = file(&certs, "identity.certificate");
    assert_eq!((&own["of"], &own["problems"]), (&"identity".into(), &Value::Array(Vec::new())));
    let certificate = &own["certificates"][0];
    assert_eq!(certificate["uris"][0], WEB);
    assert!(certificate["leftPercent"].as_u64().is_some_and(|left| left > 90), "{certificate}");
    for key in ["serial", "issuer", "subject", "keyAlgorithm", "notBefore", "notAfter", "hash"] {
        assert!(certificate[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {certificate}");
    }
    assert_eq!(file(&certs, "identity.trustBundle")["certificates"][0]["isCa"], true);
    assert_eq!(file(&certs, "identity.crl")["lists"][0]["revoked"], 0);
    assert!(!certs.to_string().contains("PRIVATE"), "{certs}");
    let said = proxy.cli(&["certs", "show"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains(WEB) && said.out.contains("identity.trustBundle"), "{said:?}");

    // A better one, and then a worse one.
    let better = longer(&pki, "web", 2);
    install(&better, dir.path());
    proxy.await_metric(ROTATIONS, &[("result", "live")], 1.0);
    install(&longer(&pki, "web", 1), dir.path());
    proxy.await_metric(ROTATIONS, &[("result", "refused")], 1.0);
    let said = proxy.cli(&["certs", "show"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("refused since") && said.out.contains("sooner than the one in use"), "{said:?}");
    let events = eventually("the audit", SOON, || Some(events(&audit)).filter(|events| events.len() >= 2));
    let told: Vec<_> = events.iter().map(|event| event["result"].as_str().unwrap_or_default()).collect();
    assert_eq!(told, ["live", "refused"]);
    assert!(events[1]["summary"].as_str().is_some_and(|why| why.starts_with("identity.certificate `")), "{events:?}");
    assert_eq!(rotations(&proxy, "live"), 1.0);
}

/// A certificate and its key are two files, and need two moments.
#[test]
fn a_key_before_its_certificate_is_no_trouble() {
    let (mesh, origin, dir) = (Mesh::new(), Origin::ok(), TempDir::new("moment"));
    install(&mesh.reviews, dir.path());
    let top = identity(dir.path(), &mesh.pki.bundle());
    let proxy = Setup { listener: STRICT, top: &top, ..Setup::default() }.start(origin.addr());
    let client = Client::of(&mesh.web);
    let shows = |pair: &Pair| client.served(proxy.addr()).last().chain == certificates(&pair.certificate);
    let next = longer(&mesh.pki, "reviews", 1);
    let place = |from: &PathBuf, name: &str| {
        let new = dir.path().join("new");
        fs::copy(from, &new).expect("copy");
        fs::rename(new, dir.path().join(name)).expect("rename");
    };
    place(&next.key, "tls.key");
    let refused = |proxy: &Proxy| {
        let certs = proxy.admin_json("/certs");
        certs["files"].as_array().is_some_and(|files| files.iter().any(|file| file["key"] == "identity.privateKey"))
    };
    until("it is seen", LIVE, || refused(&proxy));
    place(&next.certificate, "tls.crt");
    until("it is live", LIVE, || shows(&next));
    assert_eq!((rotations(&proxy, "live"), rotations(&proxy, "refused")), (1.0, 0.0));
    assert!(!proxy.stderr_text().contains("WARN"), "{}", proxy.stderr_text());
    // The other half never comes.
    place(&mesh.web.key, "tls.key");
    proxy.await_metric(ROTATIONS, &[("result", "refused")], 1.0);
    assert!(proxy.stderr_text().contains("is not the key of the certificate"), "{}", proxy.stderr_text());
    assert!(shows(&next));
}

#[test]
fn a_reload_that_names_bad_files_is_refused() {
    let (mesh, origin, dir) = (Mesh::new(), Origin::ok(), TempDir::new("named"));
    install(&mesh.reviews, dir.path());
    let top = identity(dir.path(), &mesh.pki.bundle());
    let proxy = Setup { listener: STRICT, top: &top, ..Setup::default() }.start(origin.addr());
    let client = Client::of(&mesh.web);
    let refused = |from: &str, to: &str, why: &str| {
        let before = proxy.metric("outrigger_config_reloads_total", &[("result", "failure")]);
        proxy.edit_config(from, to);
        proxy.await_metric("outrigger_config_reloads_total", &[("result", "failure")], before + 1.0);
        let status = proxy.admin_json("/config/status");
        assert!(status["lastAttempt"]["problems"].to_string().contains(why), "{status:#}");
        client.served(proxy.addr());
        // The same files are bad for everybody else.
        assert_eq!(proxy.healthz()["components"]["identity"]["status"], "ok");
        proxy.reload(to, from);
    };
    refused("/tls.crt", "/nowhere.crt", "identity.certificate `");
    refused("trustDomain: mesh.test", "trustDomain: elsewhere.test", "trust domain");
    refused(
        STRICT,
        ", tls: { mode: server, certificate: /nowhere/a.crt, privateKey: b.key }",
        "listeners[0].tls.certificate",
    );
    let service = "\"] }, tls: { mode: simple, trustBundle: /nowhere/ca.crt } }\nroutes";
    refused("\"] } }\nroutes", service, "services.app.tls.trustBundle");
    // Good ones go live, and may end sooner: whoever names them knows.
    let sooner = mesh.pki.ten_minutes("shop", "reviews");
    sooner.install(&dir.path().join("b.crt"), &dir.path().join("b.key"));
    proxy.edit_config("/tls.key", "/b.key");
    proxy.reload("/tls.crt", "/b.crt");
    until("they are live", SOON, || client.served(proxy.addr()).last().chain == certificates(&sooner.certificate));
}

/// The anchors of a service outside of the mesh are a part of their own.
#[test]
fn the_bundle_of_a_service_is_replaced() {
    let (pki, other, origin, dir) = (Pki::new("a.test"), Pki::new("a.test"), Origin::ok(), TempDir::new("roots"));
    let server = Server::of(&pki.server(&["app.test"])).front(origin.addr());
    let bundle = dir.path().join("ca.crt");
    let place = |from: PathBuf| {
        let new = dir.path().join("new");
        fs::copy(from, &new).expect("copy");
        fs::rename(new, &bundle).expect("rename");
    };
    place(other.bundle());
    let service = format!(", tls: {{ mode: simple, serverName: app.test, trustBundle: \"{}\" }}", bundle.display());
    let proxy = Setup { service: &service, workers: 1, ..Setup::default() }.start(server.addr());
    assert!(get(proxy.addr(), "/").status() >= 500);
    place(pki.bundle());
    until("it is believed", LIVE, || get(proxy.addr(), "/").status() == 200);
    fs::write(&bundle, "").expect("write");
    until("it is told", SOON, || proxy.healthz()["components"]["identity"]["status"] == "degraded");
    proxy.assert_serves();
    assert_eq!(file(&proxy.admin_json("/certs"), "services.app.tls.trustBundle")["of"], "service app");
}
