use super::*;
use crate::identity::testing::{Ask, BELOW, Ca, HOUR, ID, now, self_signed};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;

fn trust(cas: &[&Ca], crls: &[String]) -> Arc<Trust> {
    let anchors = cas.iter().map(|ca| webpki::anchor_from_trusted_cert(&ca.der).unwrap().to_owned()).collect();
    let crl = |pem: &String| {
        let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
        webpki::OwnedCertRevocationList::from_der(&der).unwrap().into()
    };
    Arc::new(Trust::new(anchors, crls.iter().map(crl).collect()))
}

fn of(trust: Arc<Trust>, purpose: Purpose) -> SpiffeVerifier {
    SpiffeVerifier { trust, domain: "mesh.local".into(), expected: None, purpose }
}

fn clients(cas: &[&Ca]) -> SpiffeVerifier {
    of(trust(cas, &[]), Purpose::Client)
}

/// The failure, and the words for it.
fn refused(verifier: &SpiffeVerifier, chain: &[CertificateDer<'_>]) -> (Failure, String) {
    let error = verifier.verify(chain, now()).unwrap_err();
    (Failure::of_certificate(&error), failure::certificate(&error))
}

#[test]
fn a_good_client_is_known_by_its_id() {
    let ca = Ca::new("ca");
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let cert = ca.issue(&Ask { algorithm, dns: vec!["reviews.shop"], ..Ask::default() });
        let verifier = clients(&[&ca]);
        let chain = [cert.der];
        verifier.verify(&chain, now()).unwrap();
        let peer = verifier.proven(&chain, true, now()).unwrap();
        assert_eq!(peer.id.unwrap().as_str(), ID);
        assert_eq!(peer.dns, [Box::from("reviews.shop")]);
        assert_eq!(&*peer.subject, "CN=work\\, load");
        assert_eq!(peer.hash, <[u8; 32]>::from(Sha256::digest(&chain[0])));
        assert_eq!(peer.not_after.duration_since(now()).unwrap().as_secs().div_ceil(60), 60);
    }
}

#[test]
fn who_is_refused_and_why() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let verifier = clients(&[&ca]);
    let ask = Ask::default;
    for (ask, expected, words) in [
        (Ask { until: -60, ..ask() }, Failure::Expired, "they differ by 1m"),
        (Ask { from: 120, ..ask() }, Failure::NotYetValid, "they differ by 2m"),
        (Ask { uris: vec![], ..ask() }, Failure::WrongIdentity, "has 0 URI SANs"),
        (Ask { uris: vec![ID, "spiffe://mesh.local/b"], ..ask() }, Failure::WrongIdentity, "has 2 URI SANs"),
        (Ask { uris: vec!["https://mesh.local/a"], ..ask() }, Failure::WrongIdentity, "is not a SPIFFE id"),
        (Ask { uris: vec!["spiffe://elsewhere/a"], ..ask() }, Failure::WrongIdentity, "trust domain `mesh.local`"),
        (Ask { purposes: vec![], ..ask() }, Failure::BadPurpose, "`clientAuth`"),
        (Ask { purposes: vec![ServerAuth], ..ask() }, Failure::BadPurpose, ""),
    ] {
        let (failure, why) = refused(&verifier, &[ca.issue(&ask).der]);
        assert_eq!(failure, expected, "{why}");
        assert!(why.contains(words), "{why}");
    }
    for other in [other, Ca::new("ca")] {
        assert_eq!(refused(&verifier, &[other.issue(&ask()).der]).0, Failure::UnknownAuthority);
    }
    assert_eq!(refused(&verifier, &[self_signed(&ask()).der]).0, Failure::UnknownAuthority);
    assert_eq!(refused(&verifier, &[]).0, Failure::NoCertificate);
    assert_eq!(refused(&verifier, &[CertificateDer::from(vec![0x30, 0])]).0, Failure::BadCertificate);
    // An authority of ours, and still nobody.
    assert_eq!(refused(&verifier, std::slice::from_ref(&ca.der)).0, Failure::BadCertificate);
    let server = of(trust(&[&ca], &[]), Purpose::Server);
    assert_eq!(refused(&server, &[ca.issue(&Ask { purposes: vec![ClientAuth], ..ask() }).der]).0, Failure::BadPurpose);
}

#[test]
fn a_clock_may_be_a_minute_behind() {
    let ca = Ca::new("ca");
    let verifier = clients(&[&ca]);
    verifier.verify(&[ca.issue(&Ask { from: 55, ..Ask::default() }).der], now()).unwrap();
    let late = ca.issue(&Ask { from: 65, ..Ask::default() });
    let (failure, why) = refused(&verifier, &[late.der]);
    assert_eq!(failure, Failure::NotYetValid);
    let parts = ["is valid from 20", "our clock says 20", "is one of the clocks wrong?"];
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
}

#[test]
fn chains_lead_to_any_anchor() {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let verifier = clients(&[&first, &second]);
    let below = second.below("below", HOUR / 2);
    let leaf = below.issue(&Ask::default());
    verifier.verify(&[first.issue(&Ask::default()).der], now()).unwrap();
    let chain = [leaf.der, below.der.clone()];
    verifier.verify(&chain, now()).unwrap();
    assert_eq!(refused(&verifier, &chain[..1]).0, Failure::UnknownAuthority);
    // The chain ends with its first end.
    let peer = verifier.proven(&chain, false, now()).unwrap();
    assert!(peer.not_after < now() + Duration::from_secs(1801), "{:?}", peer.not_after);
    let over = second.below("over", -60);
    assert_eq!(refused(&verifier, &[over.issue(&Ask::default()).der, over.der]).0, Failure::Expired);
    // What is sent besides, and is not needed, has no say.
    let spare = second.below("spare", -60);
    let leaf = first.issue(&Ask::default());
    let peer = verifier.proven(&[leaf.der, spare.der], true, now()).unwrap();
    assert!(peer.not_after > now() + Duration::from_secs(3000));
}

#[test]
fn lists_revoke_what_they_name() {
    let ca = Ca::new("ca");
    // The same name, another key: as after a renewal of the authority.
    let good = [ca.issue(&Ask { serial: 8, ..Ask::default() }).der];
    let bad = [ca.issue(&Ask { serial: 9, ..Ask::default() }).der];
    // Of the same type, and of another.
    for renewed in [Ca::new("ca"), Ca::keyed("ca", &rcgen::PKCS_ED25519)] {
        let others = [renewed.issue(&Ask { serial: 9, ..Ask::default() }).der];
        for lists in [vec![ca.revoke(&[9], HOUR)], vec![renewed.revoke(&[], HOUR), ca.revoke(&[9], HOUR)]] {
            let verifier = of(trust(&[&ca, &renewed], &lists), Purpose::Client);
            verifier.verify(&good, now()).unwrap();
            verifier.verify(&others, now()).unwrap();
            assert_eq!(refused(&verifier, &bad).0, Failure::Revoked);
        }
    }
    // One that should have been replaced still counts.
    let verifier = of(trust(&[&ca], &[ca.revoke(&[9], -HOUR)]), Purpose::Client);
    verifier.verify(&good, now()).unwrap();
    assert_eq!(refused(&verifier, &bad).0, Failure::Revoked);
    assert_eq!(verifier.proven(&bad, true, now()), Err(Failure::Revoked));
    // Lists of intermediates count as well, and revoke intermediates.
    let below = ca.below("below", HOUR);
    let chain = [below.issue(&Ask::default()).der, below.der.clone()];
    for list in [below.revoke(&[7], HOUR), ca.revoke(&[BELOW], HOUR)] {
        assert_eq!(refused(&of(trust(&[&ca], &[list]), Purpose::Client), &chain).0, Failure::Revoked);
    }
    of(trust(&[&ca], &[ca.revoke(&[9], HOUR)]), Purpose::Client).verify(&chain, now()).unwrap();
}

#[test]
fn a_resumed_peer_is_verified_again() {
    let ca = Ca::new("ca");
    let chain = [ca.issue(&Ask::default()).der];
    let verifier = clients(&[&ca]);
    let later = now() + Duration::from_secs(2 * 3600);
    assert_eq!(verifier.proven(&chain, true, later), Err(Failure::Expired));
    assert!(verifier.proven(&chain, true, now()).is_ok());
    let others = clients(&[&Ca::new("other")]);
    assert_eq!(others.proven(&chain, true, now()), Err(Failure::UnknownAuthority));
}

#[test]
fn servers_are_who_was_expected() {
    let ca = Ca::new("ca");
    let chain = [ca.issue(&Ask::default()).der];
    let expecting = |patterns: &[&str]| {
        let expected = patterns.iter().map(|pattern| IdPattern::parse(pattern).unwrap()).collect();
        SpiffeVerifier { expected: Some(expected), ..of(trust(&[&ca], &[]), Purpose::Server) }
    };
    expecting(&["spiffe://mesh.local/ns/x/*", ID]).verify(&chain, now()).unwrap();
    expecting(&["*"]).verify(&chain, now()).unwrap();
    let (failure, why) = refused(&expecting(&["spiffe://mesh.local/ns/shop/sa/ratings"]), &chain);
    assert_eq!(failure, Failure::WrongIdentity);
    assert!(why.contains(ID) && why.contains("ratings"), "{why}");
    assert_eq!(refused(&expecting(&[]), &chain).0, Failure::WrongIdentity);
}
