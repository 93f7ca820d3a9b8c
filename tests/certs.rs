//! The test authority itself, held against openssl.

mod common;

use std::path::Path;
use std::process::Command;

use common::pki::{Pair, Pki};
use common::{TempDir, tool};

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
