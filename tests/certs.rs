//! `outrigger certs`, and the authority of the tests itself, held against openssl.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::pki::{Leaf, Pair, Pki};
use common::{Proxy, SOON, TempDir, free_addr, run, tool, until};

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `outrigger certs`.
fn certs(args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    let output = command.arg("certs").args(args).stdin(Stdio::null()).output().expect("run outrigger");
    let text = |bytes| String::from_utf8(bytes).expect("output in UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn dev(dir: &Path, trust_domain: &str, more: &[&str]) -> Said {
    let dir = dir.to_str().expect("a path in UTF-8");
    certs(&[&["dev", "--trust-domain", trust_domain, "--out", dir], more].concat())
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What openssl says of the pair as a client's, and whether it verifies.
fn verified(bundle: &Path, pair: &Pair, more: &[&str]) -> (bool, String) {
    let mut command = Command::new(tool("openssl"));
    command.args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"]).arg(bundle).args(more);
    let output = command.arg("-untrusted").arg(&pair.certificate).arg(&pair.certificate).output().expect("openssl");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn the_authority_of_the_tests_is_what_openssl_takes() {
    let pki = Pki::new("test.local");
    let bundle = pki.bundle();
    for good in [
        pki.workload("shop", "web"),
        pki.ed25519("shop", "web"),
        pki.rsa("shop", "web"),
        pki.by_intermediate("shop", "web"),
        pki.short(60, "shop", "web"),
        pki.wrong_trust_domain("shop", "web"),
        pki.two_uris("shop", "web"),
        pki.no_uri(),
        pki.foreign_uri(),
        pki.no_purpose("shop", "web"),
        pki.only_client("shop", "web"),
    ] {
        let (verifies, said) = verified(&bundle, &good, &[]);
        assert!(verifies, "{good:?}: {said}");
    }
    for (bad, why) in [
        (pki.expired("shop", "web"), "expired"),
        (pki.valid_in(3600, "shop", "web"), "not yet valid"),
        (pki.only_server("shop", "web"), "purpose"),
        (pki.server(&["localhost"]), "purpose"),
        (pki.self_signed("shop", "web"), "self"),
        (pki.unknown_authority("shop", "web"), "unable to get"),
        (pki.broken_chain("shop", "web"), "unable to get"),
    ] {
        let (verifies, said) = verified(&bundle, &bad, &[]);
        assert!(!verifies && said.contains(why), "{bad:?}: {said}");
    }
    let (revoked, kept) = (pki.workload("shop", "web"), pki.workload("shop", "web"));
    let crl = pki.crl(&[&revoked]);
    let with = ["-crl_check", "-CRLfile", crl.to_str().expect("a path")];
    assert!(verified(&bundle, &kept, &with).0, "{:?}", verified(&bundle, &kept, &with));
    assert!(verified(&bundle, &revoked, &with).1.contains("revoked"));
    assert!(
        verified(&bundle, &kept, &["-crl_check", "-CRLfile", pki.stale_crl(&[]).to_str().expect("a path")])
            .1
            .contains("CRL has expired")
    );

    let dir = TempDir::new("mount");
    for pair in [&revoked, &kept] {
        pair.mount(dir.path(), &bundle);
        let read = |path: &Path| std::fs::read(path).expect("a file");
        assert_eq!(read(&dir.path().join("tls.crt")), read(&pair.certificate));
        assert_eq!(read(&dir.path().join("tls.key")), read(&pair.key));
    }
}

#[test]
fn dev_makes_what_two_workloads_need() {
    let dir = TempDir::new("certs-dev");
    let out = dir.path().join("made/here");
    let said = dev(&out, "dev.local", &["--workload", "shop/web", "--workload", "shop/reviews.v2", "--days", "3"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("a new authority of dev.local"), "{}", said.out);
    assert!(said.out.contains(&format!("trustBundle: \"{}\"", out.join("shop/web/ca.crt").display())), "{}", said.out);

    let mode = |name: &str| out.join(name).metadata().expect(name).permissions().mode() & 0o777;
    for (name, wanted) in
        [("ca.key", 0o600), ("ca.crt", 0o644), ("shop/web/tls.key", 0o600), ("shop/web/tls.crt", 0o644)]
    {
        assert_eq!(mode(name), wanted, "{name}");
    }
    for account in ["web", "reviews.v2"] {
        let files = out.join("shop").join(account);
        let pair = Pair { certificate: files.join("tls.crt"), key: files.join("tls.key"), serial: 0 };
        let (verifies, said) = verified(&files.join("ca.crt"), &pair, &["-purpose", "sslserver"]);
        assert!(verifies, "{said}");
        let file = pair.certificate.to_str().expect("a path");
        let shown = run("openssl", &["x509", "-in", file, "-noout", "-text"]);
        for part in [
            &*format!("URI:spiffe://dev.local/ns/shop/sa/{account}\n"),
            "TLS Web Server Authentication, TLS Web Client Authentication",
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "CA:FALSE",
            "prime256v1",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        run("openssl", &["x509", "-in", file, "-noout", "-checkend", "259000"]);
        let key = run("openssl", &["pkey", "-in", pair.key.to_str().expect("a path"), "-pubout"]);
        assert_eq!(key, run("openssl", &["x509", "-in", file, "-noout", "-pubkey"]));
    }
    let authority = run("openssl", &["x509", "-in", out.join("ca.crt").to_str().expect("a path"), "-noout", "-text"]);
    assert!(
        authority.contains("CA:TRUE, pathlen:0") && authority.contains("Certificate Sign, CRL Sign"),
        "{authority}"
    );
    let files = walk(&out);
    assert_eq!(files.len(), 8, "nothing else is left: {files:?}");
}

#[test]
fn dev_again_renews_with_the_same_authority() {
    let dir = TempDir::new("certs-again");
    let first = dev(dir.path(), "dev.local", &["--workload", "shop/web"]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    let files = ["ca.crt", "ca.key", "shop/web/ca.crt", "shop/web/tls.crt", "shop/web/tls.key"];
    let read = || files.map(|file| text(&dir.path().join(file)));
    let before = read();
    let again =
        dev(dir.path(), "dev.local", &["--workload", "shop/web", "--workload", "shop/new", "--dns", "web.example"]);
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert!(again.out.contains("the authority that was there of dev.local"), "{}", again.out);
    assert!(again.out.contains("renewed: spiffe://dev.local/ns/shop/sa/web"), "{}", again.out);
    assert!(again.out.contains("new: spiffe://dev.local/ns/shop/sa/new"), "{}", again.out);
    let after = read();
    assert_eq!(before[..3], after[..3], "the authority stays");
    assert!(before[3] != after[3] && before[4] != after[4], "certificate and key are others");
    let new = dir.path().join("shop/new");
    let pair = Pair { certificate: new.join("tls.crt"), key: new.join("tls.key"), serial: 0 };
    let (verifies, said) = verified(&dir.path().join("ca.crt"), &pair, &["-verify_hostname", "web.example"]);
    assert!(verifies, "{said}");
}

#[test]
fn dev_refuses_what_is_not_its_own() {
    let dir = TempDir::new("certs-refused");
    assert_eq!(dev(dir.path(), "dev.local", &["--workload", "shop/web"]).code, Some(0));
    let before = walk(dir.path()).into_iter().map(|path| text(&path)).collect::<Vec<_>>();
    let refused = |dir: &Path, domain: &str, why: &str| {
        let said = dev(dir, domain, &["--workload", "shop/web"]);
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains(why) && said.err.lines().count() == 1, "{why}: {}", said.err);
    };
    refused(dir.path(), "other.local", "it is the authority of the trust domain dev.local, not of other.local");
    assert_eq!(before, walk(dir.path()).into_iter().map(|path| text(&path)).collect::<Vec<_>>());

    let foreign = TempDir::new("certs-foreign");
    let pki = Pki::new("dev.local");
    foreign.file("ca.crt", text(&pki.bundle()));
    refused(foreign.path(), "dev.local", "ca.key, its key, is not beside it");
    foreign.file("ca.key", text(&pki.workload("shop", "web").key));
    refused(foreign.path(), "dev.local", "its key is that of another certificate");
    std::fs::remove_file(foreign.path().join("ca.crt")).expect("remove a file");
    refused(foreign.path(), "dev.local", "it is gone, and ca.key is there");

    // Not a directory.
    let said = dev(&dir.path().join("ca.crt"), "dev.local", &["--workload", "shop/web"]);
    assert_eq!(said.code, Some(3), "{}", said.err);

    let none = dir.path().join("none");
    for (domain, more) in [
        ("dev.local", &["--workload", "../web"] as &[&str]),
        ("dev.local", &["--workload", "shop"]),
        ("dev.local", &[]),
        ("Dev", &["--workload", "shop/web"]),
        ("dev/x", &["--workload", "shop/web"]),
        ("dev.local", &["--workload", "shop/web", "--dns", "a b"]),
        ("dev.local", &["--workload", "shop/web", "--days", "0"]),
    ] {
        let said = dev(&none, domain, more);
        assert_eq!(said.code, Some(2), "{domain} {more:?}: {}", said.err);
    }
    assert!(!none.exists());
}

/// Runs `certs show` on one file; its exit code, and its problems as JSON has them.
fn shown(file: &Path, more: &[&str]) -> (Option<i32>, serde_json::Value) {
    let file = file.to_str().expect("a path in UTF-8");
    let said = certs(&[&["show", file, "--format", "json"], more].concat());
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}", said.err));
    (said.code, value["files"][0].clone())
}

#[test]
fn show_tells_what_a_good_certificate_says() {
    let pki = Pki::new("test.local");
    let bundle = pki.bundle();
    for (pair, algorithm, certificates) in [
        (pki.workload("shop", "web"), "ECDSA P-256", 1),
        (pki.ed25519("shop", "web"), "Ed25519", 1),
        (pki.rsa("shop", "web"), "RSA 2048", 1),
        (pki.by_intermediate("shop", "web"), "ECDSA P-256", 2),
    ] {
        let [key, bundle] = [&pair.key, &bundle].map(|path| path.to_str().expect("a path"));
        let (code, file) = shown(&pair.certificate, &["--key", key, "--bundle", bundle]);
        assert_eq!((code, &file["problems"]), (Some(0), &serde_json::json!([])), "{file:#}");
        let all = file["certificates"].as_array().expect("certificates");
        assert_eq!(all.len(), certificates);
        assert_eq!(all[0]["uris"], serde_json::json!(["spiffe://test.local/ns/shop/sa/web"]));
        assert_eq!(all[0]["keyAlgorithm"], algorithm);
        assert_eq!(all[0]["purposes"], serde_json::json!(["serverAuth", "clientAuth"]));
        assert!((95..100).contains(&all[0]["leftPercent"].as_u64().expect("a percentage")), "{file:#}");
    }
    let said = certs(&[
        "show",
        bundle.to_str().expect("a path"),
        pki.workload("shop", "web").certificate.to_str().expect("a path"),
    ]);
    assert_eq!(said.code, Some(0), "{}", said.out);
    assert!(said.out.contains("  subject   CN=test root of test.local\n"), "{}", said.out);
    assert!(said.out.contains("  identity  spiffe://test.local/ns/shop/sa/web\n"), "{}", said.out);
    assert!(said.out.contains("  left      23h5") && said.out.contains("(95 % of its life)\n"), "{}", said.out);
    let server = pki.server(&["shop.example", "*.shop.example"]);
    assert_eq!(shown(&server.certificate, &["--server"]).0, Some(0));
}

#[test]
fn show_tells_what_is_wrong() {
    let (pki, other) = (Pki::new("test.local"), Pki::new("test.local"));
    let bundle = pki.bundle();
    let against_bundle = ["--bundle", bundle.to_str().expect("a path")];
    let good = pki.workload("shop", "web");
    let wrong_key = other.workload("shop", "web").key;
    let joined = pki.dir().join("joined.pem");
    std::fs::write(&joined, text(&good.certificate) + &text(&wrong_key)).expect("write a file");
    let der = pki.dir().join("certificate.der");
    let (from, to) = (good.certificate.to_str().expect("a path"), der.to_str().expect("a path"));
    run("openssl", &["x509", "-in", from, "-outform", "der", "-out", to]);
    let used = |days: i64| pki.issue("used", &Leaf { life: -days * 86_400..86_400, ..pki.leaf("shop", "web") });
    let none: &[&str] = &[];
    for (file, more, wanted) in [
        (&pki.expired("shop", "web").certificate, none, "the certificate has expired at 2"),
        (&pki.valid_in(3600, "shop", "web").certificate, none, "our clock says 2"),
        (&used(4).certificate, none, "less than 25 % of its life is left"),
        (&used(30).certificate, none, "less than 10 % of its life is left"),
        (&pki.no_uri().certificate, none, "it has no SPIFFE id"),
        (&pki.foreign_uri().certificate, none, "is not a SPIFFE id: it does not begin with"),
        (&pki.two_uris("shop", "web").certificate, none, "it has 2 URI SANs"),
        (&pki.only_server("shop", "web").certificate, none, "it does not say that it is for `clientAuth`"),
        (&pki.only_client("shop", "web").certificate, none, "it does not say that it is for `serverAuth`"),
        (&good.certificate, &["--key", wrong_key.to_str().expect("a path")], "it is not the key of the certificate"),
        (&joined, none, "it is not the key of the certificate"),
        (&good.certificate, &["--key", from], "there is no private key in it"),
        (&pki.unknown_authority("shop", "web").certificate, &against_bundle, "has not signed it"),
        (&pki.self_signed("shop", "web").certificate, &against_bundle, "no trust anchor has issued"),
        (&pki.broken_chain("shop", "web").certificate, &against_bundle, "no trust anchor has issued"),
        (&good.certificate, &["--bundle", "/nowhere"], "bundle `/nowhere`: it cannot be read"),
        (&good.certificate, &["--server"], "it has no DNS name and no address"),
        (&good.key, none, "there is no `BEGIN CERTIFICATE` in it"),
        (&der, none, "it is DER, not PEM"),
        (&pki.dir().to_owned(), none, "it is not a regular file"),
    ] {
        let (code, report) = shown(file, more);
        let problems = report["problems"].as_array().expect("problems");
        assert_eq!((code, problems.len()), (Some(1), 1), "{}: {report:#}", file.display());
        assert!(problems[0].as_str().expect("text").contains(wanted), "{wanted}: {report:#}");
    }
    let (code, report) = shown(&pki.no_purpose("shop", "web").certificate, &[]);
    assert_eq!((code, report["problems"].as_array().map(Vec::len)), (Some(1), Some(2)), "{report:#}");

    let said = certs(&["show", from, good.key.to_str().expect("a path")]);
    assert_eq!(said.code, Some(1), "one of them is enough");
    assert!(said.out.contains("  problem   there is no `BEGIN"), "{}", said.out);
    assert_eq!(certs(&["show"]).code, Some(2));
    let nobody = free_addr().to_string();
    assert_eq!(certs(&["show", "--admin", &nobody]).code, Some(3));
    assert_eq!(certs(&["show", from, "--admin"]).code, Some(2));
}

#[test]
fn show_asks_a_proxy_for_what_it_has_loaded() {
    let pki = Pki::new("test.local");
    let lay = |dir: &TempDir, fill: &dyn Fn(&str) -> String| {
        pki.workload("shop", "web").install(&dir.path().join("tls.crt"), &dir.path().join("tls.key"));
        dir.file("ca.crt", text(&pki.bundle()));
        dir.file("outrigger.yaml", fill(WITH_IDENTITY))
    };
    let proxy = Proxy::start_laid(&lay, &[]);
    let said = proxy.cli(&["certs", "show"]);
    assert_eq!(said.code, 0, "{said:?}");
    for part in
        ["used as   identity.certificate\n", "identity  spiffe://test.local/ns/shop/sa/web\n", "identity.trustBundle\n"]
    {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    pki.expired("shop", "web").install(&proxy.dir().join("tls.crt"), &proxy.dir().join("tls.key"));
    until("the refusal is told", SOON, || proxy.cli(&["certs", "show"]).code == 1);
    let said = proxy.cli(&["certs", "show"]);
    assert!(said.out.contains("  problem   refused since 2") && said.out.contains("has expired at"), "{}", said.out);
    assert!(said.out.contains("(95 % of its life)"), "what serves on is shown: {}", said.out);
}

const WITH_IDENTITY: &str = r#"apiVersion: outrigger/v1
admin: { address: "{admin}" }
health: { address: "{health}" }
identity:
  trustDomain: test.local
  certificate: "{dir}/tls.crt"
  privateKey: "{dir}/tls.key"
  trustBundle: "{dir}/ca.crt"
listeners: [{ name: edge, mode: proxy, address: "{listen}", tls: { mode: strict } }]
services: { app: { endpoints: { static: ["{spare}"] } } }
routes: [{ name: all, to: app }]
"#;

/// All files below.
fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
