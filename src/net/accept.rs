//! Accepting: every worker waits on the same listening socket, and whoever gets a connection hands it to the worker
//! that serves the fewest. (SO_REUSEPORT would bind each client to one worker by a hash, for ever.)

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::held::Held;
use super::socket::{self, SocketFile};
use crate::config::format;
use crate::config::schema::{Listener, Mode, Transparent};
use crate::wire::address::Address;
use crate::worker::{Accepting, Order, Shared, Worker};

/// Pause where descriptors or memory have run out: the closing of other connections is what helps.
const PAUSE_MS: std::ops::Range<u64> = 20..60;

/// A listening socket, shared by the workers.
#[derive(Debug)]
pub struct Socket {
    pub name: Arc<str>,
    /// As configured; the port may be 0.
    pub configured: Address,
    /// As bound.
    pub address: Address,
    max_connections: AtomicUsize,
    /// Permits in use beyond a limit that was lowered: forgotten as they come back.
    surplus: AtomicUsize,
    /// What the kernel redirects: the same address of the other family belongs to it.
    pub mode: Mode,
    bound: Mutex<Bound>,
    permits: Arc<Semaphore>,
    closed: AtomicBool,
    close: Notify,
}

/// Nothing once closed. A worker that accepts has duplicates of the listeners, of which some may be Unix sockets.
#[derive(Debug, Default)]
struct Bound {
    /// Removed by the last that has it, ahead of the listeners.
    file: Option<Arc<SocketFile>>,
    listeners: Vec<std::net::TcpListener>,
}

/// A connection on its way to the worker that will serve it.
pub struct Accepted {
    pub peer: Address,
    pub socket: Arc<Socket>,
    pub permit: OwnedSemaphorePermit,
    /// Counted with the worker that serves it, from the moment that it is chosen.
    pub load: Load,
    pub at: Instant,
}

/// One connection in the load of a worker.
pub struct Load {
    shared: Arc<Shared>,
    worker: usize,
}

impl Load {
    fn on(shared: &Arc<Shared>, worker: usize) -> Self {
        let load = Self { shared: shared.clone(), worker };
        load.change(|count| count.fetch_add(1, Ordering::Relaxed));
        load
    }

    fn change(&self, by: impl FnOnce(&AtomicUsize) -> usize) {
        if let Some(mailbox) = self.shared.workers.get(self.worker) {
            by(&mailbox.load);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.change(|count| count.fetch_sub(1, Ordering::Relaxed));
    }
}

impl Socket {
    pub fn bind(config: &Listener, held: &mut Held) -> io::Result<Arc<Self>> {
        let tproxy = config.mode.is_redirected() && config.transparent == Transparent::Tproxy;
        let address = match &config.address {
            Address::Unix(path) => {
                let (listener, file) = socket::listen_unix(path, permissions(config))?;
                let bound = Bound { file: file.map(Arc::new), listeners: vec![listener] };
                return Ok(Self::new(config, config.address.clone(), bound));
            }
            Address::Ip(address) => *address,
        };
        let first = held.listen(address, tproxy)?;
        let at = first.local_addr()?;
        let mut listeners = vec![first];
        if let Some(other) = config.mode.is_redirected().then(|| socket::other_family(at)).flatten() {
            match held.listen(other, tproxy) {
                Ok(listener) => listeners.push(listener),
                // A machine without IPv6 redirects none.
                Err(error) => tracing::info!(listener = config.name, address = %other, %error, "not heard"),
            }
        }
        Ok(Self::new(config, at.into(), Bound { file: None, listeners }))
    }

    /// The same socket under another name.
    pub fn renamed(&self, config: &Listener) -> io::Result<Arc<Self>> {
        let bound = Bound { listeners: self.duplicates()?, file: self.bound().file.clone() };
        Ok(Self::new(config, self.address.clone(), bound))
    }

    fn bound(&self) -> MutexGuard<'_, Bound> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn duplicates(&self) -> io::Result<Vec<std::net::TcpListener>> {
        self.bound().listeners.iter().map(|one| one.try_clone()).collect()
    }

    fn new(config: &Listener, address: Address, bound: Bound) -> Arc<Self> {
        let max_connections = config.max_connections as usize;
        Arc::new(Self {
            name: config.name.as_str().into(),
            configured: config.address.clone(),
            address,
            mode: config.mode,
            max_connections: AtomicUsize::new(max_connections),
            surplus: AtomicUsize::new(0),
            bound: Mutex::new(bound),
            permits: Arc::new(Semaphore::new(max_connections)),
            closed: AtomicBool::new(false),
            close: Notify::new(),
        })
    }

    /// What a configuration says anew of a socket that stays.
    pub fn configure(&self, config: &Listener) {
        self.set_max_connections(config.max_connections as usize);
        if let Some(file) = &self.bound().file
            && let Err(error) = file.permit(permissions(config))
        {
            tracing::error!(listener = &*self.name, %error, "permissions stay as they are");
        }
    }

    /// A lower limit closes nothing: connections that end are then not replaced.
    fn set_max_connections(&self, max: usize) {
        let old = self.max_connections.swap(max, Ordering::Relaxed);
        if max > old {
            let settled = self.surplus.load(Ordering::Relaxed).min(max - old);
            self.surplus.fetch_sub(settled, Ordering::Relaxed);
            self.permits.add_permits(max - old - settled);
        } else {
            let forgotten = self.permits.forget_permits(old - max);
            self.surplus.fetch_add(old - max - forgotten, Ordering::Relaxed);
        }
    }

    /// Whether a permit that has come back is one too many.
    fn settle(&self) -> bool {
        self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |surplus| surplus.checked_sub(1)).is_ok()
    }

    /// Stops accepting, once the connections that already wait in the kernel's queue have been taken. The port is
    /// free when the last worker has seen it.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        *self.bound() = Bound::default();
        self.close.notify_waiters();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

pub fn spawn(worker: &Rc<Worker>, socket: Arc<Socket>) {
    // None where it was closed before this worker came to it.
    let listeners = socket.duplicates().unwrap_or_else(|error| {
        tracing::error!(listener = &*socket.name, %error, "cannot listen");
        Vec::new()
    });
    for listener in listeners {
        let (worker, socket) = (worker.clone(), socket.clone());
        // The application's own traffic ends with the application.
        let accepting = (socket.mode != Mode::Outbound).then(|| Accepting::new(&worker));
        tokio::task::spawn_local(async move {
            let _accepting = accepting;
            match Listening::new(listener, &socket.address) {
                Ok(listener) => run(&worker, &socket, &listener).await,
                Err(error) => tracing::error!(listener = &*socket.name, %error, "cannot listen"),
            }
        });
    }
}

fn permissions(config: &Listener) -> Option<u32> {
    config.socket_mode.as_deref().and_then(|mode| format::permissions(mode).ok())
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn new(listener: std::net::TcpListener, address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Ip(_) => Self::Tcp(TcpListener::from_std(listener)?),
            Address::Unix(_) => Self::Unix(UnixListener::from_std(OwnedFd::from(listener).into())?),
        })
    }

    async fn accept(&self) -> io::Result<(TcpStream, Address)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| (stream, peer.into())),
            Self::Unix(listener) => {
                let stream = OwnedFd::from(listener.accept().await?.0.into_std()?);
                // To all that follows it is a stream like any other.
                Ok((TcpStream::from_std(stream.into())?, Address::unnamed()))
            }
        }
    }
}

async fn run(worker: &Rc<Worker>, socket: &Arc<Socket>, listener: &Listening) {
    loop {
        let closed = socket.close.notified();
        let permit = tokio::select! {
            biased;
            permit = socket.permits.clone().acquire_owned() => permit,
            () = closed, if !socket.is_closed() => continue,
            () = std::future::ready(()), if socket.is_closed() => return,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return };
        if socket.settle() {
            permit.forget();
            continue;
        }
        let closed = socket.close.notified();
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = closed, if !socket.is_closed() => continue,
            // Nobody waits in the queue any more.
            () = std::future::ready(()), if socket.is_closed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                worker.counters.connections_accepted.inc();
                hand_over(worker, stream, peer, socket, permit);
            }
            Err(error) => failed(worker, socket, &error).await,
        }
    }
}

/// To the worker that serves the fewest; to this one where that makes no difference or its mail is full.
fn hand_over(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: Address,
    socket: &Arc<Socket>,
    permit: OwnedSemaphorePermit,
) {
    let workers = &worker.shared.workers;
    let load = |index: usize| workers.get(index).map_or(usize::MAX, |mailbox| mailbox.load.load(Ordering::Relaxed));
    let least = (0..workers.len()).min_by_key(|index| load(*index)).filter(|least| load(*least) < load(worker.index));
    let at = Instant::now();
    let accepted = |index| Accepted { peer, socket: socket.clone(), permit, load: Load::on(&worker.shared, index), at };
    let place = least.and_then(|least| Some((least, workers.get(least)?.sender.try_reserve().ok()?)));
    let Some((least, place)) = place else {
        return crate::inbound::spawn(worker, stream, accepted(worker.index));
    };
    match stream.into_std() {
        Ok(stream) => place.send(Order::Serve(stream, accepted(least))),
        Err(error) => tracing::debug!(%error, "connection lost"),
    }
}

/// One connection's misfortune is passed over; where resources are short, accepting pauses and then goes on.
async fn failed(worker: &Rc<Worker>, socket: &Socket, error: &io::Error) {
    use io::ErrorKind as Kind;
    if matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::Interrupted) {
        worker.counters.accept_errors_other.inc();
        return;
    }
    worker.counters.accept_errors_exhausted.inc();
    tracing::warn!(listener = &*socket.name, %error, "cannot accept for now");
    let pause = worker.rng.borrow_mut().random_range(PAUSE_MS);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}
