use super::*;
use crate::config;
use crate::identity::Failure;
use crate::identity::testing::{Ask, Ca, HOUR, ID, Issued, Scratch, now};
use std::process::Command;
use std::time::Duration;

/// The files of an identity, and a configuration that names them.
struct Files {
    scratch: Scratch,
}

impl Files {
    fn new(name: &str) -> Self {
        Self { scratch: Scratch::new(name) }
    }

    fn pair(&self, issued: &Issued) {
        self.scratch.write("tls.crt", &issued.pem);
        self.scratch.write("tls.key", &issued.key);
    }

    fn bundle(&self, cas: &[&Ca]) {
        self.scratch.write("ca.crt", cas.iter().map(|ca| ca.pem.as_str()).collect::<String>());
    }

    fn root(&self, more: &str) -> Root {
        let at = |name: &str| self.scratch.0.join(name).display().to_string();
        let (certificate, key, bundle) = (at("tls.crt"), at("tls.key"), at("ca.crt"));
        let text = format!(
            "apiVersion: outrigger/v1\n\
             identity: {{ trustDomain: mesh.local, certificate: {certificate}, privateKey: {key}, trustBundle: {bundle}{more} }}\n\
             listeners: [{{ name: in, mode: proxy, address: \"127.0.0.1:0\", tls: {{ mode: strict }} }}]\n"
        );
        config::parse("t.yaml", &text, &|_| None).unwrap().root().clone()
    }

    fn load(&self, previous: Option<&Material>) -> (Material, Vec<Trouble>) {
        load(&self.root(""), previous, now())
    }

    /// What the one trouble is about, and why.
    #[track_caller]
    fn refused(&self, previous: Option<&Material>) -> (Material, String, String) {
        let (material, troubles) = self.load(previous);
        let [trouble] = troubles.as_slice() else { panic!("{troubles:?}") };
        assert_eq!(trouble.serves_on, previous.is_some_and(|previous| previous.mesh.is_some()));
        assert_eq!(trouble.serves_on, material.mesh.is_some());
        assert!(trouble.file.starts_with(&*self.scratch.0.to_string_lossy()), "{trouble:?}");
        assert!(trouble.why.contains(": ") || trouble.why.contains("differ by"), "no remedy: {trouble:?}");
        (material, trouble.key.clone(), trouble.why.clone())
    }
}

fn openssl(arguments: &[&str], directory: &Path) {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_identity_is_loaded_and_rotated() {
    let (files, ca) = (Files::new("rotated"), Ca::new("ca"));
    files.bundle(&[&ca]);
    files.pair(&ca.issue(&Ask::default()));
    let (first, troubles) = files.load(None);
    assert_eq!(troubles, []);
    let mesh = first.mesh.clone().unwrap();
    assert_eq!((mesh.id.as_str(), first.generation), (ID, 1));
    assert_eq!(mesh.max_age, None);

    // The same once more is the same: nobody has to shake hands anew for it.
    let (again, troubles) = files.load(Some(&first));
    assert_eq!((again.generation, troubles), (1, vec![]));
    assert!(Arc::ptr_eq(again.mesh.as_ref().unwrap(), &mesh));

    files.pair(&ca.issue(&Ask { until: 2 * HOUR, algorithm: &rcgen::PKCS_ED25519, ..Ask::default() }));
    let (second, troubles) = files.load(Some(&first));
    assert_eq!((second.generation, troubles), (2, vec![]));
    assert!(second.mesh.as_ref().unwrap().not_after > mesh.not_after);

    // An authority joins, and another leaves.
    let other = Ca::new("other");
    files.bundle(&[&other, &ca]);
    let (third, troubles) = files.load(Some(&second));
    assert_eq!((third.generation, troubles), (3, vec![]));
    files.pair(&other.issue(&Ask { until: 3 * HOUR, ..Ask::default() }));
    let (fourth, troubles) = files.load(Some(&third));
    assert_eq!((fourth.generation, troubles), (4, vec![]));
    files.bundle(&[&other]);
    assert_eq!(files.load(Some(&fourth)).1, []);
}

#[test]
fn a_worse_successor_is_refused_and_the_old_one_serves_on() {
    let (files, ca, other) = (Files::new("worse"), Ca::new("ca"), Ca::new("other"));
    files.bundle(&[&ca]);
    files.pair(&ca.issue(&Ask::default()));
    let (good, troubles) = files.load(None);
    assert_eq!(troubles, []);
    let ask = Ask::default;
    let longer = || Ask { until: 2 * HOUR, ..Ask::default() };
    let stranger = ca.issue(&longer());
    for (issued, key, words) in [
        (ca.issue(&Ask { until: -HOUR, from: -2 * HOUR, ..ask() }), "certificate", "has expired at"),
        (ca.issue(&Ask { from: HOUR, until: 2 * HOUR, ..ask() }), "certificate", "our clock says"),
        (ca.issue(&Ask { until: HOUR - 60, ..ask() }), "certificate", "sooner than the one in use"),
        (ca.issue(&Ask { uris: vec!["spiffe://elsewhere/a"], ..longer() }), "certificate", "trust domain"),
        (ca.issue(&Ask { uris: vec![], ..longer() }), "certificate", "0 URI SANs"),
        (
            ca.issue(&Ask { purposes: vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth], ..longer() }),
            "certificate",
            "`clientAuth`",
        ),
        (ca.issue(&Ask { purposes: vec![], ..longer() }), "certificate", "`clientAuth`"),
        (Issued { key: stranger.key, ..ca.issue(&longer()) }, "privateKey", "not the key of the certificate"),
        (Issued { key: "garbage".to_owned(), ..ca.issue(&longer()) }, "privateKey", "no private key"),
        (Issued { pem: String::new(), ..ca.issue(&longer()) }, "certificate", "empty"),
        (other.issue(&longer()), "trustBundle", "does not lead to any anchor"),
    ] {
        files.pair(&issued);
        let (material, what, why) = files.refused(Some(&good));
        assert_eq!(what, format!("identity.{key}"), "{why}");
        assert!(why.contains(words), "{why}");
        assert_eq!(material.generation, good.generation);
        assert!(Arc::ptr_eq(material.mesh.as_ref().unwrap(), good.mesh.as_ref().unwrap()));
        // Of those that nobody knows yet, an earlier end is no fault.
        if words != "sooner than the one in use" {
            assert_eq!(files.refused(None).1, what);
        }
    }
    // Time goes by, and nothing else is new: nothing else is told.
    files.pair(&ca.issue(&Ask { from: HOUR, until: 2 * HOUR, ..ask() }));
    let (first, troubles) = files.load(Some(&good));
    let later = now() + Duration::from_secs(5);
    assert_eq!(load(&files.root(""), Some(&first), later).1, troubles);
    let past = good.mesh.as_ref().unwrap().not_after + Duration::from_secs(1);
    files.pair(&ca.issue(&Ask { from: -HOUR, until: HOUR - 60, ..ask() }));
    assert_eq!(load(&files.root(""), Some(&good), past).1.len(), 1, "expired as well");
    files.pair(&ca.issue(&longer()));
    assert_eq!(load(&files.root(""), Some(&good), past).1, []);
}

#[test]
fn a_bundle_has_to_verify_what_it_comes_with() {
    let (files, ca, other) = (Files::new("bundle"), Ca::new("ca"), Ca::new("other"));
    files.bundle(&[&ca]);
    files.pair(&ca.issue(&Ask::default()));
    let (good, _) = files.load(None);
    files.bundle(&[&other]);
    let (still, key, _) = files.refused(Some(&good));
    assert_eq!(key, "identity.trustBundle");
    files.scratch.write("ca.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let (still, _, why) = files.refused(Some(&still));
    assert!(why.contains("certificate 1 in it"), "{why}");
    files.scratch.write("ca.crt", &other.der);
    assert!(files.refused(Some(&still)).2.contains("-inform der"));
    std::fs::remove_file(files.scratch.0.join("ca.crt")).unwrap();
    assert!(files.refused(Some(&still)).2.contains("cannot be read"));
    files.bundle(&[&other, &ca]);
    assert_eq!(files.load(Some(&still)).1, []);
}

#[test]
fn files_that_are_none() {
    let (files, ca) = (Files::new("none"), Ca::new("ca"));
    files.bundle(&[&ca]);
    files.pair(&ca.issue(&Ask::default()));
    let path = files.scratch.0.join("tls.key");
    std::fs::write(&path, vec![b'a'; 2 << 20]).unwrap();
    assert!(files.refused(None).2.contains("more than 1Mi"));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(files.refused(None).2.contains("not a regular file"));
    std::fs::remove_dir(&path).unwrap();
    // Whoever opens it waits for who writes to it.
    openssl(&["version"], &files.scratch.0);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(files.refused(None).2.contains("not a regular file"));
}

#[test]
fn keys_and_chains_of_openssl() {
    let (files, ca) = (Files::new("openssl"), Ca::new("ca"));
    let at = &files.scratch.0;
    // Its own authority, so that everything here is of another's making.
    openssl(
        &[
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=rsa",
            "-days", "2",
        ],
        at,
    );
    let extensions =
        format!("subjectAltName=URI:{ID}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n");
    files.scratch.write("ext", extensions);
    for (kind, key) in [
        ("rsa", ["genrsa", "-traditional", "-out", "tls.key", "2048"].as_slice()),
        ("pkcs8", &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072", "-out", "tls.key"]),
        ("ec", &["ecparam", "-name", "prime256v1", "-genkey", "-out", "tls.key"]),
        ("p521", &["ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out", "tls.key"]),
        ("ed25519", &["genpkey", "-algorithm", "ed25519", "-out", "tls.key"]),
    ] {
        openssl(key, at);
        openssl(&["req", "-new", "-key", "tls.key", "-subj", "/O=Shop/CN=reviews", "-out", "tls.csr"], at);
        openssl(
            &[
                "x509",
                "-req",
                "-in",
                "tls.csr",
                "-CA",
                "ca.crt",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "1",
                "-extfile",
                "ext",
                "-out",
                "tls.crt",
            ],
            at,
        );
        let (material, troubles) = files.load(None);
        assert_eq!(troubles, [], "{kind}");
        assert_eq!(material.mesh.unwrap().id.as_str(), ID);
    }
    openssl(&["pkey", "-in", "tls.key", "-aes256", "-passout", "pass:secret", "-out", "locked.key"], at);
    std::fs::rename(at.join("locked.key"), at.join("tls.key")).unwrap();
    assert!(files.refused(None).2.contains("without a passphrase"));
    // Two keys would be a guess.
    let (one, other) = (ca.issue(&Ask::default()), ca.issue(&Ask::default()));
    files.bundle(&[&ca]);
    files.pair(&Issued { key: one.key.clone() + &other.key, ..one });
    assert!(files.refused(None).2.contains("more than one private key"));
}

#[test]
fn chains_end_with_their_first_end() {
    let (files, ca) = (Files::new("chain"), Ca::new("ca"));
    let below = ca.below("below", HOUR / 2);
    files.bundle(&[&ca]);
    let leaf = below.issue(&Ask::default());
    files.pair(&Issued { pem: leaf.pem.clone() + &below.pem, ..leaf });
    let (material, troubles) = files.load(None);
    assert_eq!(troubles, []);
    let ends: Vec<SystemTime> = material.parts[0].live.as_ref().unwrap().ends().collect();
    assert_eq!(ends, [material.mesh.as_ref().unwrap().not_after]);
    assert!(material.mesh.unwrap().not_after <= now() + Duration::from_secs(1800));
    // Without its intermediate it leads nowhere.
    files.scratch.write("tls.crt", leaf_alone(&files));
    assert!(files.refused(None).2.contains("intermediates"));
}

fn leaf_alone(files: &Files) -> String {
    let text = std::fs::read_to_string(files.scratch.0.join("tls.crt")).unwrap();
    let end = "-----END CERTIFICATE-----";
    text.split_inclusive(end).next().unwrap().to_owned()
}

#[test]
fn revocation_lists_are_checked_against_the_own_certificate_as_well() {
    let (files, ca) = (Files::new("crl"), Ca::new("ca"));
    files.bundle(&[&ca]);
    let pair = ca.issue(&Ask { serial: 5, ..Ask::default() });
    files.pair(&pair);
    let crl = files.scratch.write("crl.pem", ca.revoke(&[6], HOUR));
    let root = files.root(&format!(", crl: {crl}"));
    let (good, troubles) = load(&root, None, now());
    assert_eq!(troubles, []);
    for (list, words) in
        [(Ca::new("ca").revoke(&[6], HOUR), "not signed by the anchor"), ("nothing".to_owned(), "BEGIN X509 CRL")]
    {
        files.scratch.write("crl.pem", list);
        let (material, troubles) = load(&root, Some(&good), now());
        assert!(troubles[0].why.contains(words), "{troubles:?}");
        assert!(troubles[0].serves_on && material.mesh.is_some());
        // Whatever else is new is taken with the old list.
        files.pair(&ca.issue(&Ask { serial: 6, until: 2 * HOUR, ..Ask::default() }));
        let (same, troubles) = load(&root, Some(&good), now());
        let keys: Vec<&str> = troubles.iter().map(|trouble| trouble.key.as_str()).collect();
        assert_eq!(keys, ["identity.crl", "identity.certificate"]);
        assert_eq!(same.generation, good.generation);
        files.pair(&ca.issue(&Ask { serial: 4, until: 2 * HOUR, ..Ask::default() }));
        let (next, troubles) = load(&root, Some(&good), now());
        let [trouble] = troubles.as_slice() else { panic!("{troubles:?}") };
        assert_eq!((trouble.key.as_str(), next.generation), ("identity.crl", good.generation + 1));
        let verify = |ca: &Ca, serial| {
            let peer = ca.issue(&Ask { serial, ..Ask::default() });
            next.mesh.as_ref().unwrap().client_proven(&[peer.der], true, now())
        };
        assert_eq!(verify(&ca, 6).unwrap_err(), Failure::Revoked);
        assert!(verify(&ca, 5).is_ok());
        // And once more it is the same.
        assert_eq!(load(&root, Some(&next), now()).0.generation, next.generation);
        files.pair(&pair);
    }
}

#[test]
fn a_list_with_our_own_certificate_counts_all_the_same() {
    let (files, ca) = (Files::new("own"), Ca::new("ca"));
    files.bundle(&[&ca]);
    files.pair(&ca.issue(&Ask { serial: 5, ..Ask::default() }));
    let crl = files.scratch.write("crl.pem", ca.revoke(&[], HOUR));
    let root = files.root(&format!(", crl: {crl}"));
    let (good, _) = load(&root, None, now());
    files.scratch.write("crl.pem", ca.revoke(&[5, 6], HOUR));
    let proven = |material: &Material, serial| {
        let peer = ca.issue(&Ask { serial, ..Ask::default() });
        material.mesh.as_ref().unwrap().client_proven(&[peer.der], true, now()).map(drop)
    };
    assert_eq!(proven(&good, 6), Ok(()));
    for previous in [Some(&good), None] {
        let (material, troubles) = load(&root, previous, now());
        let [trouble] = troubles.as_slice() else { panic!("{troubles:?}") };
        assert!(trouble.in_use && trouble.serves_on && trouble.why.contains("is revoked"), "{trouble:?}");
        assert_eq!(trouble.key, "identity.certificate");
        assert_eq!((proven(&material, 6), proven(&material, 7)), (Err(Failure::Revoked), Ok(())));
        let report = crate::identity::report(&material, now()).to_string();
        assert!(report.contains("is revoked") && !report.contains("refused since"), "{report}");
    }
    // One that is not revoked takes its place, however long it lasts.
    let (revoked, _) = load(&root, Some(&good), now());
    files.pair(&ca.issue(&Ask { serial: 8, until: HOUR / 2, ..Ask::default() }));
    let (material, troubles) = load(&root, Some(&revoked), now());
    assert_eq!((troubles, material.generation), (vec![], revoked.generation + 1));
}

#[test]
fn a_refused_pair_keeps_nobody_from_a_new_bundle_and_list() {
    let (files, ca, other) = (Files::new("apart"), Ca::new("ca"), Ca::new("other"));
    files.bundle(&[&ca]);
    files.pair(&ca.issue(&Ask::default()));
    let crl = files.scratch.write("crl.pem", ca.revoke(&[], HOUR));
    let root = files.root(&format!(", crl: {crl}"));
    let (good, _) = load(&root, None, now());
    files.bundle(&[&ca, &other]);
    files.scratch.write("crl.pem", ca.revoke(&[6], HOUR));
    for (issued, key) in [
        (ca.issue(&Ask { until: HOUR - 60, ..Ask::default() }), "identity.certificate"),
        (Issued { key: "garbage".to_owned(), ..ca.issue(&Ask::default()) }, "identity.privateKey"),
        (Ca::new("stranger").issue(&Ask { until: 2 * HOUR, ..Ask::default() }), "identity.trustBundle"),
    ] {
        files.pair(&issued);
        let (material, troubles) = load(&root, Some(&good), now());
        let [trouble] = troubles.as_slice() else { panic!("{troubles:?}") };
        assert_eq!((trouble.key.as_str(), trouble.serves_on, trouble.in_use), (key, true, false));
        let (mesh, old) = (material.mesh.as_ref().unwrap(), good.mesh.as_ref().unwrap());
        assert_eq!((material.generation, mesh.not_after), (good.generation + 1, old.not_after));
        let verify = |ca: &Ca, serial| {
            let peer = ca.issue(&Ask { serial, ..Ask::default() });
            mesh.client_proven(&[peer.der], true, now()).map(drop)
        };
        assert_eq!((verify(&other, 7), verify(&ca, 6)), (Ok(()), Err(Failure::Revoked)));
        assert_eq!(load(&root, Some(&material), now()).0.generation, material.generation);
    }
    // A bundle that would leave the old pair without an anchor has to wait for one that fits.
    files.bundle(&[&other]);
    let (material, troubles) = load(&root, Some(&good), now());
    assert_eq!((troubles.len(), material.generation), (1, good.generation + 1));
    assert!(material.mesh.unwrap().client_proven(&[other.issue(&Ask::default()).der], true, now()).is_err());
}

#[test]
fn another_age_is_another_mesh_with_the_same_sessions() {
    let (files, ca) = (Files::new("age"), Ca::new("ca"));
    files.bundle(&[&ca]);
    files.pair(&ca.issue(&Ask::default()));
    let (first, _) = files.load(None);
    let (second, troubles) = load(&files.root(", maxAge: 1h"), Some(&first), now());
    assert_eq!((troubles, second.generation), (vec![], 2));
    let (first, second) = (first.mesh.unwrap(), second.mesh.unwrap());
    assert_eq!(second.max_age, Some(Duration::from_secs(3600)));
    assert!(Arc::ptr_eq(&first.server, &second.server));
}

#[test]
fn other_files_are_another_part() {
    let (files, ca) = (Files::new("other"), Ca::new("ca"));
    files.bundle(&[&ca]);
    files.pair(&ca.issue(&Ask { until: 2 * HOUR, ..Ask::default() }));
    let (first, _) = files.load(None);
    // An operator who names other files may have what he wants, a shorter life, too.
    let shorter = ca.issue(&Ask::default());
    let mut root = files.root("");
    let identity = root.identity.as_mut().unwrap();
    identity.certificate = files.scratch.write("b.crt", &shorter.pem);
    identity.private_key = files.scratch.write("b.key", &shorter.key);
    assert_eq!(load(&root, Some(&first), now()).1, []);
    // And what is not there is not replaced by what he no longer wants.
    root.identity.as_mut().unwrap().private_key = "/nowhere/b.key".to_owned();
    let (material, troubles) = load(&root, Some(&first), now());
    assert!(material.mesh.is_none() && !troubles[0].serves_on && !troubles[0].known);
    assert!(load(&root, Some(&material), now()).1[0].known);
}

#[test]
fn servers_and_roots_are_parts_of_their_own() {
    let (scratch, ca) = (Scratch::new("server"), Ca::new("ca"));
    let bundle = scratch.write("ca.crt", &ca.pem);
    let write = |name: &str, ask: &Ask| {
        let issued = ca.issue(ask);
        (scratch.write(&format!("{name}.crt"), issued.pem), scratch.write(&format!("{name}.key"), issued.key))
    };
    let dns = |dns: &[&'static str]| Ask { uris: vec![], purposes: vec![], dns: dns.to_vec(), ..Ask::default() };
    let (a, a_key) = write("a", &dns(&["a.example"]));
    let (b, b_key) = write("b", &dns(&["b.example", "*.b.example"]));
    let text = format!(
        "apiVersion: outrigger/v1\n\
         listeners: [{{ name: edge, mode: proxy, address: \"127.0.0.1:0\", tls: {{ mode: server, certificate: {a}, privateKey: {a_key}, certificates: [{{ certificate: {b}, privateKey: {b_key} }}] }} }}]\n\
         services:\n\
         \x20 api: {{ endpoints: {{ static: [\"127.0.0.1:1\"] }}, tls: {{ mode: simple, trustBundle: {bundle} }} }}\n\
         \x20 out: {{ endpoints: {{ static: [\"127.0.0.1:1\"] }}, tls: {{ mode: simple }} }}\n"
    );
    let root = config::parse("t.yaml", &text, &|_| None).unwrap().root().clone();
    let (good, troubles) = load(&root, None, now());
    // A machine may be without anchors of its own.
    let troubles: Vec<_> = troubles.iter().filter(|trouble| trouble.what != What::Service("out".to_owned())).collect();
    assert_eq!(troubles, [] as [&Trouble; 0]);
    assert!(good.servers.contains_key("edge") && good.roots.contains_key("api"));
    write("b", &dns(&[]));
    scratch.write("ca.crt", "");
    let (still, troubles) = load(&root, Some(&good), now());
    let keys: Vec<&str> = troubles.iter().map(|trouble| trouble.key.as_str()).take(2).collect();
    assert_eq!(keys, ["listeners[0].tls.certificates[0].certificate", "services.api.tls.trustBundle"]);
    assert!(troubles.iter().take(2).all(|trouble| trouble.serves_on));
    assert_eq!(still.generation, good.generation);
    // One part that rotates leaves the others alone.
    scratch.write("ca.crt", Ca::new("new").pem);
    let (next, _) = load(&root, Some(&still), now());
    assert_eq!(next.generation, good.generation + 1);
    assert!(Arc::ptr_eq(&next.servers["edge"], &good.servers["edge"]));
    assert!(!Arc::ptr_eq(&next.roots["api"], &good.roots["api"]));
}
