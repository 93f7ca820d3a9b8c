//! TLS peers that are not the proxy's: rustls in this process, told what no proxy would be told, and bridges between
//! TLS and plaintext, by which every plaintext peer of these tests speaks TLS as well. And openssl, as a program.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, RootCertStore, ServerConfig, SignatureScheme,
    StreamOwned, version,
};
use tokio::net::{TcpListener as AsyncListener, TcpStream as AsyncStream};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::pki::Pair;
use super::{Conn, Message, SOON, TempDir, eventually, get, tool, until};

/// What one handshake came to.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub version: String,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
    /// What the client offered; known to a server.
    pub offered: Vec<String>,
    /// The name that the client asked for; known to a server.
    pub name: Option<String>,
    pub group: String,
    pub resumed: bool,
    /// What the other side has proven, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// A client as a test wants it. It takes whatever the server proves, and keeps it.
#[derive(Clone)]
pub struct Client {
    pair: Option<Pair>,
    alpn: Vec<String>,
    name: Option<String>,
    old: bool,
    classical: bool,
    resumption: Option<Resumption>,
}

/// A server as a test wants it, in front of a plaintext one.
#[derive(Clone)]
pub struct Server {
    pair: Pair,
    alpn: Vec<String>,
    clients: Option<PathBuf>,
    old: bool,
}

/// Takes connections on one side and makes one of the other kind for each.
pub struct Bridge {
    addr: SocketAddr,
    noted: Arc<Noted>,
    stop: Arc<tokio::sync::Notify>,
}

#[derive(Default)]
struct Noted {
    accepted: AtomicUsize,
    facts: Mutex<Vec<Facts>>,
    errors: Mutex<Vec<String>>,
}

/// The mark of ours in a ClientHello.
pub const MARK: &str = "outrigger";
pub const TCP: &str = "outrigger-tcp";

impl Client {
    /// Without a certificate.
    pub fn anonymous() -> Self {
        Self { pair: None, alpn: Vec::new(), name: None, old: false, classical: false, resumption: None }
    }

    pub fn of(pair: &Pair) -> Self {
        Self { pair: Some(pair.clone()), ..Self::anonymous() }
    }

    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|p| (*p).to_owned()).collect();
        self
    }

    /// The name that is asked for (SNI).
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// TLS 1.2 alone.
    pub fn old(mut self) -> Self {
        self.old = true;
        self
    }

    /// Without post-quantum key agreement.
    pub fn classical(mut self) -> Self {
        self.classical = true;
        self
    }

    /// What it has kept of earlier sessions is shared by its clones from here on.
    pub fn resuming(mut self) -> Self {
        self.resumption = Some(Resumption::in_memory_sessions(64));
        self
    }

    fn config(&self) -> ClientConfig {
        let mut provider = aws_lc_rs::default_provider();
        if self.classical {
            provider.kx_groups.retain(|group| !format!("{:?}", group.name()).contains("MLKEM"));
        }
        let provider = Arc::new(provider);
        let versions: &[_] = if self.old { &[&version::TLS12] } else { &[&version::TLS13] };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
        let mut config = match &self.pair {
            Some(pair) => {
                let (chain, key) = read(pair);
                builder.with_client_auth_cert(chain, key).expect("a certificate with its key")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|p| p.clone().into_bytes()).collect();
        config.resumption = self.resumption.clone().unwrap_or_else(Resumption::disabled);
        config
    }

    /// An address where this name stands for no name at all: an IP address is not sent.
    fn server_name(&self, addr: SocketAddr) -> ServerName<'static> {
        match &self.name {
            Some(name) => ServerName::try_from(name.clone()).expect("a name"),
            None => ServerName::IpAddress(addr.ip().into()),
        }
    }

    /// Plaintext in, TLS to `target` out.
    pub fn bridge(&self, target: SocketAddr) -> Bridge {
        let (connector, name) = (TlsConnector::from(Arc::new(self.config())), self.server_name(target));
        Bridge::start(move |plain, noted| {
            let (connector, name) = (connector.clone(), name.clone());
            async move {
                let stream = AsyncStream::connect(target).await.map_err(|e| format!("connect: {e}"))?;
                let _ = stream.set_nodelay(true);
                let mut tls = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
                let session = tls.get_ref().1;
                noted.facts.lock().expect("facts").push(facts(session));
                copy(plain, &mut tls).await
            }
        })
    }

    /// A bridge to one that has to be taken in; a GET has gone through it.
    pub fn served(&self, target: SocketAddr) -> Bridge {
        let bridge = self.bridge(target);
        let mut conn = bridge.connect();
        conn.write("GET /innocent HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
        let status = conn.try_head().map(|head| head.status());
        assert_eq!(status, Some(200), "{:?}", bridge.errors());
        bridge
    }

    /// The first bytes that it sends.
    pub fn hello(&self) -> Vec<u8> {
        let name = self.server_name(([127, 0, 0, 1], 443).into());
        let mut session = ClientConnection::new(Arc::new(self.config()), name).expect("a client");
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).expect("write to memory");
        bytes
    }

    /// A connection, whose handshake begins with the first byte that is written.
    pub fn session(&self, target: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
        let stream = TcpStream::connect(target).expect("connect");
        let _ = stream.set_read_timeout(Some(SOON));
        let session = ClientConnection::new(Arc::new(self.config()), self.server_name(target)).expect("a client");
        StreamOwned::new(session, stream)
    }

    /// Expects that nothing but an alert or an end comes back; its words, for whoever wants to read them.
    pub fn refused(&self, target: SocketAddr) -> String {
        let mut tls = self.session(target);
        // A server of TLS 1.3 judges the client after the client has finished: the verdict comes with the first read.
        let _ = tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
        let mut all = Vec::new();
        match tls.read_to_end(&mut all) {
            _ if !all.is_empty() => panic!("served: {}", super::show(&all)),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("neither served nor refused in time")
            }
            Ok(_) => "closed".to_owned(),
            Err(e) => e.to_string(),
        }
    }
}

impl Server {
    pub fn of(pair: &Pair) -> Self {
        Self { pair: pair.clone(), alpn: Vec::new(), clients: None, old: false }
    }

    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|p| (*p).to_owned()).collect();
        self
    }

    /// Demands a client certificate of these anchors.
    pub fn demanding(mut self, anchors: impl AsRef<Path>) -> Self {
        self.clients = Some(anchors.as_ref().to_owned());
        self
    }

    /// TLS 1.2 alone.
    pub fn old(mut self) -> Self {
        self.old = true;
        self
    }

    fn config(&self) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions: &[_] = if self.old { &[&version::TLS12] } else { &[&version::TLS12, &version::TLS13] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("versions");
        let builder = match &self.clients {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(path));
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
            None => builder.with_no_client_auth(),
        };
        let (chain, key) = read(&self.pair);
        let mut config = builder.with_single_cert(chain, key).expect("a certificate with its key");
        config.alpn_protocols = self.alpn.iter().map(|p| p.clone().into_bytes()).collect();
        config
    }

    /// TLS in, plaintext to `target` out.
    pub fn front(&self, target: SocketAddr) -> Bridge {
        let config = Arc::new(self.config());
        Bridge::start(move |stream, noted| {
            let config = Arc::clone(&config);
            async move {
                let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await;
                let start = start.map_err(|e| e.to_string())?;
                let hello = start.client_hello();
                let name = hello.server_name().map(str::to_owned);
                let offered = hello.alpn().into_iter().flatten().map(text).collect();
                let mut tls = start.into_stream(config).await.map_err(|e| e.to_string())?;
                let seen = Facts { name, offered, ..facts(tls.get_ref().1) };
                noted.facts.lock().expect("facts").push(seen);
                let plain = AsyncStream::connect(target).await.map_err(|e| format!("connect: {e}"))?;
                let _ = plain.set_nodelay(true);
                copy(plain, &mut tls).await
            }
        })
    }
}

async fn copy<S>(mut plain: AsyncStream, tls: &mut S) -> Result<(), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional(&mut plain, tls).await.map(drop).map_err(|e| e.to_string())
}

fn facts<Data>(session: &rustls::ConnectionCommon<Data>) -> Facts {
    Facts {
        version: session.protocol_version().map(|v| format!("{v:?}")).unwrap_or_default(),
        alpn: session.alpn_protocol().map(text),
        group: session.negotiated_key_exchange_group().map(|g| format!("{:?}", g.name())).unwrap_or_default(),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        chain: session.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect(),
        ..Facts::default()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Bridge {
    fn start<F, W>(serve: F) -> Self
    where
        F: Fn(AsyncStream, Arc<Noted>) -> W + Send + 'static,
        W: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (noted, stop) = (Arc::new(Noted::default()), Arc::new(tokio::sync::Notify::new()));
        let (tell, told) = std::sync::mpsc::channel();
        let (inner, ended) = (Arc::clone(&noted), Arc::clone(&stop));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = AsyncListener::bind("127.0.0.1:0").await.expect("bind a bridge");
                tell.send(listener.local_addr().expect("address")).expect("tell the address");
                let mut tasks = tokio::task::JoinSet::new();
                loop {
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        () = ended.notified() => break,
                    };
                    let Ok((stream, _)) = accepted else { continue };
                    inner.accepted.fetch_add(1, Ordering::SeqCst);
                    let _ = stream.set_nodelay(true);
                    let (work, noted) = (serve(stream, Arc::clone(&inner)), Arc::clone(&inner));
                    tasks.spawn(async move {
                        if let Err(error) = work.await {
                            noted.errors.lock().expect("errors").push(error);
                        }
                    });
                }
                // Connections outlive the bridge, as they would a listener.
                drop(listener);
                while tasks.join_next().await.is_some() {}
            });
        });
        Self { addr: told.recv().expect("address of the bridge"), noted, stop }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The handshakes so far.
    pub fn facts(&self) -> Vec<Facts> {
        self.noted.facts.lock().expect("facts").clone()
    }

    pub fn last(&self) -> Facts {
        eventually("a handshake", SOON, || self.facts().pop())
    }

    /// What went wrong so far: in handshakes, and after them. An end without a `close_notify` is among it.
    pub fn errors(&self) -> Vec<String> {
        self.noted.errors.lock().expect("errors").clone()
    }

    pub fn get(&self, path: &str) -> Message {
        get(self.addr, path)
    }

    /// A connection that outlives the bridge.
    pub fn connect(&self) -> Conn {
        let accepted = || self.noted.accepted.load(Ordering::SeqCst);
        let before = accepted();
        let conn = Conn::connect(self.addr);
        until("the bridge accepts", SOON, || accepted() > before);
        conn
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

/// Whoever it is; but it has to have the key of what it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificates of a file, in their order.
pub fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_file_iter(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    all.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = PrivateKeyDer::from_pem_file(&pair.key);
    (certificates(&pair.certificate), key.unwrap_or_else(|e| panic!("{}: {e}", pair.key.display())))
}

/// Runs `openssl s_client` with this input until the server ends it; what it printed, both streams.
pub fn s_client(addr: SocketAddr, args: &[&str], input: &str) -> String {
    let mut child = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-connect", &addr.to_string()])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start openssl");
    let mut stdin = child.stdin.take().expect("stdin");
    // It may have ended by now.
    let _ = stdin.write_all(input.as_bytes());
    let mut said = String::new();
    // The end of the input would end it.
    child.stdout.take().expect("stdout").read_to_string(&mut said).expect("text");
    drop(stdin);
    child.stderr.take().expect("stderr").read_to_string(&mut said).expect("text");
    assert_ne!(child.wait().expect("wait for openssl").code(), Some(124), "nobody ended it: {said}");
    said
}

/// `openssl s_server`, until it is dropped.
pub struct OpenSsl {
    child: std::process::Child,
    addr: SocketAddr,
    _dir: TempDir,
}

impl OpenSsl {
    /// `-www` answers each GET with a page on the session.
    pub fn serve(pair: &Pair, args: &[&str]) -> Self {
        for _ in 0..3 {
            let (own, addr) = (TempDir::new("s_server"), super::free_addr());
            let file = |name: &str| std::fs::File::create(own.path().join(name)).expect("a file for its output");
            let mut child = Command::new(tool("openssl"))
                .args(["s_server", "-accept", &addr.to_string()])
                .arg("-cert_chain")
                .arg(&pair.certificate)
                .arg("-cert")
                .arg(&pair.certificate)
                .arg("-key")
                .arg(&pair.key)
                .args(args)
                .stdin(Stdio::null())
                .stdout(file("stdout"))
                .stderr(file("stderr"))
                .spawn()
                .expect("start openssl");
            let up = eventually("openssl listens", SOON, || match child.try_wait() {
                Ok(Some(_)) => Some(false),
                _ => TcpStream::connect(addr).is_ok().then_some(true),
            });
            if up {
                return Self { child, addr, _dir: own };
            }
        }
        panic!("openssl s_server does not start; its errors are in the test's directory");
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
