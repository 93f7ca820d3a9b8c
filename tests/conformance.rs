//! What scanners of TLS find: testssl.sh and sslyze. They take a while, so that they are run by `make conformance` alone.

mod common;

use std::collections::BTreeMap;

use common::mesh::{Mesh, STRICT};
use common::pki::{Leaf, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, Pki};
use common::{Origin, Proxy, Setup, TempDir, run};
use serde_json::{Value, json};

/// With a certificate for `localhost` of this kind of key; openssl waits for an answer that does not come when it has
/// asked for a renegotiation, so that idle connections are ended soon.
fn server(pki: &Pki, origin: &Origin, algorithm: &'static rcgen::SignatureAlgorithm) -> Proxy {
    let leaf = Leaf { uris: Vec::new(), dns: vec!["localhost".to_owned()], algorithm, ..pki.leaf("", "") };
    let pair = pki.issue("server", &leaf);
    let (crt, key) = (pair.certificate.display(), pair.key.display());
    let tls = format!(", idleTimeout: 2s, tls: {{ mode: server, certificate: \"{crt}\", privateKey: \"{key}\" }}");
    Setup { listener: &tls, ..Setup::default() }.start(origin.addr())
}

fn sslyze(proxy: &Proxy, more: &[&str]) -> Value {
    let dir = TempDir::new("sslyze");
    let file = dir.path().join("found.json").display().to_string();
    let target = format!("localhost:{}", proxy.addr().port());
    let out = format!("--json_out={file}");
    let checks = "--sslv2 --sslv3 --tlsv1 --tlsv1_1 --tlsv1_2 --tlsv1_3 --heartbleed --openssl_ccs --reneg --robot \
                  --compression --fallback --elliptic_curves --ems --early_data --mozilla_config=disable";
    let mut args: Vec<&str> = checks.split_whitespace().collect();
    args.extend([out.as_str()].iter().chain(more).chain([&target.as_str()]));
    let said = run("sslyze", &args);
    let found: Value = serde_json::from_slice(&std::fs::read(&file).unwrap_or_default()).expect("JSON of sslyze");
    let server = &found["server_scan_results"][0];
    assert_eq!(server["scan_status"], "COMPLETED", "{said}");
    server["scan_result"].clone()
}

/// Names of the cipher suites that are taken in this version, in order.
fn suites(found: &Value, version: &str) -> Vec<String> {
    let all = found[format!("{version}_cipher_suites")]["result"]["accepted_cipher_suites"].as_array();
    let names = all.expect("cipher suites").iter().map(|one| one["cipher_suite"]["name"].as_str().expect("a name"));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

const TLS13: [&str; 3] = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

fn is_sound(found: &Value) {
    for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"] {
        assert_eq!(suites(found, version), [""; 0], "{version}");
    }
    assert_eq!(suites(found, "tls_1_3"), TLS13);
    let verdicts = [
        ("heartbleed", "is_vulnerable_to_heartbleed", json!(false)),
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", json!(false)),
        ("tls_compression", "supports_compression", json!(false)),
        ("tls_1_3_early_data", "supports_early_data", json!(false)),
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", json!(false)),
        ("robot", "robot_result", json!("NOT_VULNERABLE_RSA_NOT_SUPPORTED")),
    ];
    for (check, key, wanted) in verdicts {
        assert_eq!(found[check]["result"][key], wanted, "{check}: {}", found[check]);
    }
}

#[test]
fn sslyze_finds_nothing() {
    let (pki, origin) = (Pki::new("edge.test"), Origin::ok());
    for (algorithm, kind) in [(&PKCS_ECDSA_P256_SHA256, "ECDSA"), (&PKCS_RSA_SHA256, "RSA")] {
        let found = sslyze(&server(&pki, &origin, algorithm), &[]);
        is_sound(&found);
        // Forward secrecy, and authenticated encryption.
        let wanted = ["AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256"];
        assert_eq!(suites(&found, "tls_1_2"), wanted.map(|suite| format!("TLS_ECDHE_{kind}_WITH_{suite}")));
        assert_eq!(found["session_renegotiation"]["result"]["supports_secure_renegotiation"], true);
        assert_eq!(found["tls_fallback_scsv"]["result"]["supports_fallback_scsv"], true);
        assert_eq!(found["tls_extended_master_secret"]["result"]["supports_ems_extension"], true);
        let curves = found["elliptic_curves"]["result"]["supported_curves"].as_array().expect("curves").iter();
        let mut curves: Vec<&str> = curves.filter_map(|curve| curve["name"].as_str()).collect();
        curves.sort_unstable();
        assert_eq!(curves, ["X25519", "secp256r1", "secp384r1"]);
    }
}

/// Between sidecars: TLS 1.3 and nothing else.
#[test]
fn sslyze_finds_nothing_in_a_sidecar() {
    let (mesh, origin) = (Mesh::new(), Origin::ok());
    let proxy = mesh.inbound(origin.addr(), Setup { listener: STRICT, ..Setup::default() });
    let (crt, key) = (mesh.web.certificate.display().to_string(), mesh.web.key.display().to_string());
    let found = sslyze(&proxy, &["--cert", &crt, "--key", &key]);
    is_sound(&found);
    assert_eq!(suites(&found, "tls_1_2"), [""; 0]);
}

#[test]
fn testssl_finds_nothing() {
    let (pki, origin) = (Pki::new("edge.test"), Origin::ok());
    let proxy = server(&pki, &origin, &PKCS_ECDSA_P256_SHA256);
    let dir = TempDir::new("testssl");
    let file = dir.path().join("found.json").display().to_string();
    let (target, ca) = (format!("localhost:{}", proxy.addr().port()), pki.bundle().display().to_string());
    let fixed = "--quiet --color 0 --warnings off --nodns none --ip 127.0.0.1 -p -f -s -S -U";
    let mut args: Vec<&str> = fixed.split_whitespace().collect();
    args.extend(["--add-ca", &ca, "--jsonfile", &file, &target]);
    let said = run("testssl", &args);
    let found: Vec<Value> =
        serde_json::from_slice(&std::fs::read(&file).unwrap_or_default()).expect("JSON of testssl.sh");
    let found: BTreeMap<&str, (&str, &str)> = found
        .iter()
        .filter_map(|one| Some((one["id"].as_str()?, (one["severity"].as_str()?, one["finding"].as_str()?))))
        .collect();
    let fine = "SSLv2 SSLv3 TLS1_2 TLS1_3 ALPN_HTTP2 cipherlist_NULL cipherlist_aNULL cipherlist_EXPORT cipherlist_LOW \
                cipherlist_STRONG PFS PFS_ECDHE_curves cert_signatureAlgorithm cert_keySize cert_chain_of_trust \
                heartbleed CCS ticketbleed ROBOT secure_renego secure_client_renego CRIME_TLS BREACH POODLE_SSL \
                fallback_SCSV SWEET32 FREAK DROWN LOGJAM BEAST LUCKY13 RC4";
    for id in fine.split_whitespace() {
        assert_eq!(found.get(id).map(|one| one.0), Some("OK"), "{id}: {:?}\n{said}", found.get(id));
    }
    for id in ["TLS1", "TLS1_1", "cipherlist_3DES_IDEA", "cipherlist_AVERAGE"] {
        assert_eq!(found.get(id).map(|one| one.1), Some("not offered"), "{id}");
    }
    // The certificate of a test lives for a day, and nobody can be asked whether it is revoked.
    let of_tests =
        ["cert_serialNumberLen", "cert_expirationStatus", "cert_notAfter", "cert_revocation", "engine_problem"];
    let bad: Vec<_> = found
        .iter()
        .filter(|(id, (severity, _))| !matches!(*severity, "OK" | "INFO") && !of_tests.contains(id))
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}
