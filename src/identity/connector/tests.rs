use super::*;
use crate::config;
use crate::config::schema::Root;
use crate::identity::testing::{Ask, Ca, HOUR, ID, Scratch, now, self_signed};
use crate::identity::{Failure, Material, load, why};
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

type Sides =
    (io::Result<server::TlsStream<tokio::io::DuplexStream>>, io::Result<client::TlsStream<tokio::io::DuplexStream>>);

/// Both sides of a handshake in memory; a byte goes each way, so that tickets and late alerts arrive.
async fn shake(server: &Arc<ServerConfig>, client: Arc<rustls::ClientConfig>, name: ServerName<'static>) -> Sides {
    let (near, far) = duplex(1 << 20);
    let (server, client) =
        (TlsAcceptor::from(server.clone()).accept(near), TlsConnector::from(client).connect(name, far));
    let serve = async {
        let mut stream = server.await?;
        let _ = stream.read_u8().await;
        stream.write_u8(1).await?;
        stream.flush().await?;
        Ok(stream)
    };
    let connect = async {
        let mut stream = client.await?;
        stream.write_u8(1).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(serve, connect)
}

async fn meet(server: &Arc<ServerConfig>, connector: &Connector, alpn: Alpn) -> Sides {
    shake(server, connector.config(alpn), connector.server_name()).await
}

fn mesh(ca: &Ca, ask: &Ask) -> Arc<Mesh> {
    let scratch = Scratch::new(&format!("mesh-{}", rand::random::<u64>()));
    let issued = ca.issue(ask);
    let (certificate, key, bundle) =
        (scratch.write("a", issued.pem), scratch.write("b", issued.key), scratch.write("c", &ca.pem));
    let text = format!(
        "{LISTENER}identity: {{ trustDomain: mesh.local, certificate: {certificate}, privateKey: {key}, trustBundle: {bundle} }}\n"
    );
    let (material, troubles) = load(&root(&text), None, now());
    assert_eq!(troubles, []);
    material.mesh.unwrap()
}

const LISTENER: &str = "apiVersion: outrigger/v1\nlisteners: [{ name: in, mode: proxy, address: \"127.0.0.1:0\" }]\n";

fn root(text: &str) -> Root {
    config::parse("t.yaml", text, &|_| None).unwrap_or_else(|report| panic!("{report}")).root().clone()
}

fn expecting(pattern: &str) -> Arc<[IdPattern]> {
    Arc::from([IdPattern::parse(pattern).unwrap()])
}

/// The failures of both sides.
fn failures((server, client): &Sides) -> (Option<Failure>, Option<Failure>) {
    (server.as_ref().err().map(Failure::of), client.as_ref().err().map(Failure::of))
}

#[tokio::test]
async fn two_of_a_mesh_prove_themselves_to_each_other() {
    let ca = Ca::new("ca");
    let ours = mesh(&ca, &Ask { uris: vec!["spiffe://mesh.local/ns/shop/sa/web"], ..Ask::default() });
    let theirs = mesh(&ca, &Ask::default());
    let connector = Connector::mutual(&ours, expecting(ID), None);
    for (alpn, selected) in
        [(Alpn::Http1, "http/1.1"), (Alpn::Http2, "h2"), (Alpn::Either, "h2"), (Alpn::Tcp, "outrigger-tcp")]
    {
        let config = if alpn == Alpn::Tcp { &theirs.server_tcp } else { &theirs.server };
        let (server, client) = meet(config, &connector, alpn).await;
        let (server, client) = (server.unwrap(), client.unwrap());
        let (_, server) = server.get_ref();
        assert_eq!(server.alpn_protocol(), Some(selected.as_bytes()));
        assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(server.server_name(), None, "there is no name to tell");
        let chain = server.peer_certificates().unwrap();
        let peer = theirs.client_proven(chain, false, now()).unwrap();
        assert_eq!(peer.id.unwrap().as_str(), "spiffe://mesh.local/ns/shop/sa/web");
        let chain = client.get_ref().1.peer_certificates().unwrap();
        assert_eq!(connector.proven(chain, false, now()).unwrap().id.unwrap().as_str(), ID);
    }
    let named = Connector::mutual(&ours, expecting(ID), Some("reviews.shop"));
    let (server, _) = meet(&theirs.server, &named, Alpn::Http2).await;
    assert_eq!(server.unwrap().get_ref().1.server_name(), Some("reviews.shop"));
}

#[tokio::test]
async fn a_session_is_resumed_and_its_peer_verified_again() {
    let ca = Ca::new("ca");
    let (ours, theirs) = (mesh(&ca, &Ask::default()), mesh(&ca, &Ask::default()));
    let connector = Connector::mutual(&ours, expecting("*"), None);
    let kind = async |server: &Arc<ServerConfig>, connector: &Connector, alpn| {
        let (server, client) = meet(server, connector, alpn).await;
        let server = server.unwrap();
        let (_, server) = server.get_ref();
        let chain = server.peer_certificates().expect("the client's, of the session as well").to_vec();
        (server.handshake_kind().unwrap(), chain, client.unwrap().get_ref().1.peer_certificates().unwrap().to_vec())
    };
    assert_eq!(kind(&theirs.server, &connector, Alpn::Http2).await.0, HandshakeKind::Full);
    let (resumed, clients, servers) = kind(&theirs.server, &connector, Alpn::Http2).await;
    assert_eq!(resumed, HandshakeKind::Resumed);
    assert!(theirs.client_proven(&clients, true, now()).is_ok() && connector.proven(&servers, true, now()).is_ok());
    let later = now() + Duration::from_secs(7200);
    assert_eq!(theirs.client_proven(&clients, true, later), Err(Failure::Expired));
    assert_eq!(connector.proven(&servers, true, later), Err(Failure::Expired));
    // Neither for another protocol, nor by another connector, nor of another identity.
    assert_eq!(kind(&theirs.server, &connector, Alpn::Http1).await.0, HandshakeKind::Full);
    let another = Connector::mutual(&ours, expecting(ID), None);
    assert_eq!(kind(&theirs.server, &another, Alpn::Http2).await.0, HandshakeKind::Full);
    let rotated = mesh(&ca, &Ask { until: 2 * HOUR, ..Ask::default() });
    assert_eq!(kind(&rotated.server, &connector, Alpn::Http2).await.0, HandshakeKind::Full);
}

#[tokio::test]
async fn who_is_not_expected_is_refused_by_the_client() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let (ours, theirs) = (mesh(&ca, &Ask::default()), mesh(&ca, &Ask::default()));
    let sides =
        meet(&theirs.server, &Connector::mutual(&ours, expecting("spiffe://mesh.local/x"), None), Alpn::Http2).await;
    assert_eq!(failures(&sides), (Some(Failure::RefusedByPeer), Some(Failure::WrongIdentity)));
    let error = sides.1.unwrap_err();
    assert!(why(&error).contains("which is not expected here"), "{}", why(&error));
    let strangers = mesh(&other, &Ask::default());
    let sides = meet(&strangers.server, &Connector::mutual(&ours, expecting("*"), None), Alpn::Http2).await;
    assert_eq!(failures(&sides), (Some(Failure::RefusedByPeer), Some(Failure::UnknownAuthority)));
}

#[tokio::test]
async fn clients_without_a_fitting_certificate_are_refused_by_the_server() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let theirs = mesh(&ca, &Ask::default());
    // What the peer sees is an alert, after a handshake that seemed good to it: in TLS 1.3 the client is done first.
    let shown = async |certificate: Option<crate::identity::testing::Issued>| {
        let ours = mesh(&ca, &Ask::default());
        let base = Connector::mutual(&ours, expecting("*"), None).config(Alpn::Http2);
        let mut config = rustls::ClientConfig::clone(&base);
        let resolver: Arc<dyn rustls::client::ResolvesClientCert> = match certificate {
            Some(issued) => {
                let key = crate::identity::files::key(issued.key.as_bytes()).unwrap();
                let key = rustls::sign::CertifiedKey::from_der(vec![issued.der], key, crate::identity::tls::provider());
                Arc::new(rustls::sign::SingleCertAndKey::from(key.unwrap()))
            }
            None => Arc::new(Nothing),
        };
        config.client_auth_cert_resolver = resolver;
        failures(&shake(&theirs.server, Arc::new(config), nameless()).await)
    };
    let ask = Ask::default;
    for (certificate, failure) in [
        (None, Failure::NoCertificate),
        (Some(other.issue(&ask())), Failure::UnknownAuthority),
        (Some(self_signed(&ask())), Failure::UnknownAuthority),
        (Some(ca.issue(&Ask { until: -60, ..ask() })), Failure::Expired),
        (Some(ca.issue(&Ask { from: 600, ..ask() })), Failure::NotYetValid),
        (Some(ca.issue(&Ask { purposes: vec![], ..ask() })), Failure::BadPurpose),
        (Some(ca.issue(&Ask { uris: vec![], ..ask() })), Failure::WrongIdentity),
    ] {
        assert_eq!(shown(certificate).await, (Some(failure), Some(Failure::RefusedByPeer)), "{failure:?}");
    }
    assert_eq!(shown(Some(ca.issue(&Ask { from: 30, ..ask() }))).await, (None, None), "clocks may differ a little");
}

#[derive(Debug)]
struct Nothing;

impl rustls::client::ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A server with three certificates, and the roots that verify them.
fn edge(min: &str) -> (Arc<ServerConfig>, Arc<Roots>, Scratch) {
    let (scratch, ca) = (Scratch::new(&format!("edge-{}", rand::random::<u64>())), Ca::new("ca"));
    let pair = |name: &str, ask: Ask| {
        let issued = ca.issue(&ask);
        let (certificate, key) =
            (scratch.write(&format!("{name}.crt"), issued.pem), scratch.write(&format!("{name}.key"), issued.key));
        format!("certificate: {certificate}, privateKey: {key}")
    };
    let ask = |dns: &[&'static str]| Ask { uris: vec![], dns: dns.to_vec(), ..Ask::default() };
    let first = pair("first", Ask { ips: vec!["127.0.0.1", "::1"], ..ask(&["first.example"]) });
    let wild = pair("wild", ask(&["*.shop.example", "shop.example"]));
    let exact = pair("exact", Ask { algorithm: &rcgen::PKCS_ED25519, ..ask(&["API.shop.example"]) });
    let bundle = scratch.write("ca.crt", &ca.pem);
    let text = format!(
        "apiVersion: outrigger/v1\n\
         listeners: [{{ name: edge, mode: proxy, address: \"127.0.0.1:0\", tls: {{ mode: server, {first}, minVersion: \"{min}\", certificates: [{{ {wild} }}, {{ {exact} }}] }} }}]\n\
         services: {{ api: {{ endpoints: {{ static: [\"127.0.0.1:1\"] }}, tls: {{ mode: simple, trustBundle: {bundle} }} }} }}\n"
    );
    let (Material { servers, roots, .. }, troubles) = load(&root(&text), None, now());
    assert_eq!(troubles, []);
    (servers["edge"].clone(), roots["api"].clone(), scratch)
}

#[tokio::test]
async fn a_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let (server, roots, _scratch) = edge("1.2");
    for name in
        ["first.example", "127.0.0.1", "::1", "shop.example", "a.shop.example", "api.shop.example", "API.Shop.Example"]
    {
        let connector = Connector::simple(&roots, name);
        let (server, client) = meet(&server, &connector, Alpn::Either).await;
        assert_eq!(server.unwrap().get_ref().1.alpn_protocol(), Some(b"h2".as_slice()), "{name}");
        let client = client.unwrap();
        let peer = connector.proven(client.get_ref().1.peer_certificates().unwrap(), true, now()).unwrap();
        assert_eq!(peer.id, None);
        assert_eq!(
            peer.dns.len(),
            if name.contains("api") || name.contains("API") || !name.contains("shop") { 1 } else { 2 }
        );
    }
    for name in ["other.example", "a.b.shop.example", "10.0.0.1"] {
        let sides = meet(&server, &Connector::simple(&roots, name), Alpn::Either).await;
        assert_eq!(failures(&sides).1, Some(Failure::WrongName), "{name}");
    }
    let connector = Connector::simple(&roots, "first.example");
    let (_, client) = meet(&server, &connector, Alpn::Either).await;
    let chain = client.unwrap().get_ref().1.peer_certificates().unwrap().to_vec();
    assert_eq!(Connector::simple(&roots, "other.example").proven(&chain, true, now()), Err(Failure::WrongName));
}

#[tokio::test]
async fn versions_and_protocols_have_to_be_common() {
    let (old, roots, _scratch) = edge("1.2");
    let (new, new_roots, _another) = edge("1.3");
    let twelve = |roots: &Arc<Roots>| {
        let builder = rustls::ClientConfig::builder_with_provider(crate::identity::tls::provider().clone());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
        let verifier = Arc::new(NameVerifier { trust: roots.trust.clone() });
        Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    };
    let name = || name("first.example");
    let (server, client) = shake(&old, twelve(&roots), name()).await;
    assert_eq!(server.unwrap().get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert!(client.is_ok());
    let sides = shake(&new, twelve(&new_roots), name()).await;
    assert_eq!(failures(&sides), (Some(Failure::ProtocolVersion), Some(Failure::ProtocolVersion)));
    let mut config = rustls::ClientConfig::clone(&Connector::simple(&roots, "first.example").config(Alpn::Http2));
    config.alpn_protocols = vec![b"gopher".to_vec()];
    let sides = shake(&old, Arc::new(config), name()).await;
    assert_eq!(failures(&sides), (Some(Failure::NoCommonProtocol), Some(Failure::NoCommonProtocol)));
}

#[tokio::test]
async fn what_is_not_tls_is_told_apart() {
    let (server, ..) = edge("1.2");
    for (bytes, expected) in [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".as_slice(), Failure::Plaintext),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", Failure::Malformed),
        (b"\x16\x03", Failure::Closed),
    ] {
        let (near, mut far) = duplex(1 << 16);
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let error = TlsAcceptor::from(server.clone()).accept(near).await.unwrap_err();
        assert_eq!(Failure::of(&error), expected, "{error}");
    }
    let timeout = io::Error::from(io::ErrorKind::TimedOut);
    assert_eq!(Failure::of(&timeout), Failure::Timeout);
}

#[test]
fn each_endpoint_has_its_own_sessions() {
    let ca = Ca::new("ca");
    let ours = mesh(&ca, &Ask::default());
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    assert_eq!(Connector::mutual(&ours, expecting("*"), None).server_name_for(address), ServerName::from(address));
    let named = Connector::mutual(&ours, expecting("*"), Some("a.example"));
    assert_eq!(named.server_name_for(address), named.server_name());
}
