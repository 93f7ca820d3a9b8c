//! Sidecars with identities, and what listens in between them.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::pki::{Pair, Pki};
use super::{Proxy, Setup, eventually};

pub const DOMAIN: &str = "mesh.test";

/// One trust domain with two workloads: `web` calls, `reviews` is called.
pub struct Mesh {
    pub pki: Pki,
    pub web: Pair,
    pub reviews: Pair,
}

pub const WEB: &str = "spiffe://mesh.test/ns/shop/sa/web";
pub const REVIEWS: &str = "spiffe://mesh.test/ns/shop/sa/reviews";

pub const STRICT: &str = ", tls: { mode: strict }";
pub const PERMISSIVE: &str = ", tls: { mode: permissive }";
/// Of a service whose endpoints are `reviews`.
pub const MUTUAL: &str = ", tls: { mode: mutual, identities: [\"spiffe://mesh.test/ns/shop/sa/reviews\"] }";

impl Mesh {
    pub fn new() -> Self {
        let pki = Pki::new(DOMAIN);
        let (web, reviews) = (pki.workload("shop", "web"), pki.workload("shop", "reviews"));
        Self { pki, web, reviews }
    }

    /// The `identity` of a configuration.
    pub fn identity(&self, pair: &Pair) -> String {
        self.identity_and(pair, "")
    }

    /// With more keys, as YAML flow text that begins with a comma.
    pub fn identity_and(&self, pair: &Pair, more: &str) -> String {
        format!(
            "identity: {{ trustDomain: {DOMAIN}, certificate: \"{}\", privateKey: \"{}\", trustBundle: \"{}\"{more} }}\n",
            pair.certificate.display(),
            pair.key.display(),
            self.pki.bundle().display()
        )
    }

    /// The sidecar of `reviews`, which takes in nothing but proven clients.
    pub fn strict(&self, up: SocketAddr) -> Proxy {
        self.inbound(up, Setup { listener: STRICT, ..Setup::default() })
    }

    /// The sidecar of `reviews` with a listener of these keys.
    pub fn inbound(&self, up: SocketAddr, setup: Setup<'_>) -> Proxy {
        let top = self.identity(&self.reviews) + setup.top;
        Setup { top: &top, workers: 1, ..setup }.start(up)
    }

    /// The sidecar of `web`, which calls `reviews` at this address.
    pub fn outbound(&self, up: SocketAddr) -> Proxy {
        self.outbound_as(up, Setup { service: MUTUAL, ..Setup::default() })
    }

    pub fn outbound_as(&self, up: SocketAddr, setup: Setup<'_>) -> Proxy {
        let top = self.identity(&self.web) + setup.top;
        Setup { top: &top, workers: 1, ..setup }.start(up)
    }
}

/// Passes bytes on both ways, and keeps them. Whole connections only: what one side ends, is ended for the other.
pub struct Tap {
    addr: SocketAddr,
    lines: Arc<Mutex<Vec<Line>>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

/// What one connection has carried so far.
#[derive(Clone, Default)]
pub struct Line {
    pub up: Vec<u8>,
    pub down: Vec<u8>,
}

impl Tap {
    pub fn before(target: SocketAddr) -> Self {
        Self::start(target, false)
    }

    /// The client's bytes go on one at a time.
    pub fn bytewise(target: SocketAddr) -> Self {
        Self::start(target, true)
    }

    fn start(target: SocketAddr, bytewise: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a tap");
        let addr = listener.local_addr().expect("address of the tap");
        let lines = Arc::new(Mutex::new(Vec::<Line>::new()));
        let open = Arc::new(Mutex::new(Vec::new()));
        let (kept, held) = (Arc::clone(&lines), Arc::clone(&open));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let number = {
                    let mut lines = kept.lock().expect("lines");
                    lines.push(Line::default());
                    lines.len() - 1
                };
                let twin = |stream: &TcpStream| stream.try_clone().expect("clone");
                let (client_too, server_too) = (twin(&client), twin(&server));
                held.lock().expect("streams").extend([twin(&client), twin(&server)]);
                let (up, down) = (Arc::clone(&kept), Arc::clone(&kept));
                let step = if bytewise { 1 } else { usize::MAX };
                std::thread::spawn(move || {
                    pass(client, server, step, |part| up.lock().expect("lines")[number].up.extend_from_slice(part));
                });
                std::thread::spawn(move || {
                    pass(server_too, client_too, usize::MAX, |part| {
                        down.lock().expect("lines")[number].down.extend_from_slice(part);
                    });
                });
            }
        });
        Self { addr, lines, open }
    }

    /// Ends all connections, as somebody on the way would.
    pub fn cut(&self) {
        for stream in self.open.lock().expect("streams").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn lines(&self) -> Vec<Line> {
        self.lines.lock().expect("lines").clone()
    }

    /// Waits for the `n`th connection (from 1) to have shown both hellos.
    pub fn hellos(&self, n: usize) -> (Hello, Hello) {
        eventually("a handshake on the tap", super::SOON, || {
            let line = self.lines().get(n - 1).cloned()?;
            Some((Hello::of(&line.up)?, Hello::of(&line.down)?))
        })
    }

    /// Whether these bytes went by on any connection, either way.
    pub fn carried(&self, needle: &[u8]) -> bool {
        let has = |hay: &[u8]| hay.windows(needle.len()).any(|w| w == needle);
        self.lines().iter().any(|line| has(&line.up) || has(&line.down))
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, step: usize, mut keep: impl FnMut(&[u8])) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        keep(&chunk[..n]);
        if chunk[..n].chunks(step.min(n)).any(|part| to.write_all(part).is_err()) {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A ClientHello or a ServerHello, as far as these tests read it. RFC 8446, section 4.1.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    pub extensions: Vec<(u16, Vec<u8>)>,
}

pub const SNI: u16 = 0;
pub const PRE_SHARED_KEY: u16 = 41;
pub const EARLY_DATA: u16 = 42;
pub const SUPPORTED_VERSIONS: u16 = 43;
pub const KEY_SHARE: u16 = 51;
/// X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem).
pub const HYBRID: u16 = 0x11ec;

impl Hello {
    /// None where it is not whole yet.
    pub fn of(stream: &[u8]) -> Option<Self> {
        let mut message = Vec::new();
        let mut rest = stream;
        while rest.first() == Some(&22) && rest.len() >= 5 {
            let end = 5 + usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            message.extend_from_slice(rest.get(5..end)?);
            rest = &rest[end..];
        }
        let length = u32::from_be_bytes([0, *message.get(1)?, *message.get(2)?, *message.get(3)?]) as usize;
        let kind = message[0];
        let mut body = Reader(message.get(4..4 + length)?);
        body.take(2 + 32);
        body.vector(1);
        if kind == 1 {
            body.vector(2);
            body.vector(1);
        } else {
            body.take(2 + 1);
        }
        let mut all = Reader(body.vector(2));
        let mut extensions = Vec::new();
        while !all.0.is_empty() {
            let kind = all.number();
            extensions.push((kind, all.vector(2).to_vec()));
        }
        Some(Self { extensions })
    }

    pub fn extension(&self, kind: u16) -> Option<&[u8]> {
        self.extensions.iter().find(|(k, _)| *k == kind).map(|(_, value)| value.as_slice())
    }

    /// The groups of a client's key shares, in its order.
    pub fn offered_groups(&self) -> Vec<u16> {
        let mut shares = Reader(Reader(self.extension(KEY_SHARE).unwrap_or_default()).vector(2));
        let mut groups = Vec::new();
        while !shares.0.is_empty() {
            groups.push(shares.number());
            shares.vector(2);
        }
        groups
    }

    /// The group that a server chose.
    pub fn chosen_group(&self) -> Option<u16> {
        self.extension(KEY_SHARE).map(|share| Reader(share).number())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (part, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        part
    }

    fn number(&mut self) -> u16 {
        self.take(2).iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte))
    }

    /// One that is preceded by its length, a number of `width` bytes.
    fn vector(&mut self, width: usize) -> &'a [u8] {
        let length = self.take(width).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        self.take(length)
    }
}
