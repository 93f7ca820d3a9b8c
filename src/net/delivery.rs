//! What the kernel knows of the way of what was sent last: whether the peer has it, and how long that takes.

use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;
use tokio::net::TcpStream;

/// Of a connection at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The peer has not acknowledged all that was sent.
    pub outstanding: bool,
    pub round_trip: Duration,
}

/// Bytes of the kernel's `struct tcp_info` (linux/tcp.h) up to and with `tcpi_bytes_retrans`, and where in it is what.
const LENGTH: usize = 216;
const RTT: usize = 68;
const BYTES_ACKED: usize = 120;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;

/// `None` where the kernel does not tell: before Linux 4.19, in emulations of it, and for Unix sockets.
pub fn of(socket: &TcpStream) -> Option<Delivery> {
    let info = tcp_info(socket)?;
    let number = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let micros = u32::from_ne_bytes(info.get(RTT..RTT + 4)?.try_into().ok()?);
    // What was acknowledged has the SYN in it, what was sent has what was sent again.
    let (sent, again, acked) = (number(BYTES_SENT)?, number(BYTES_RETRANS)?, number(BYTES_ACKED)?);
    (sent > 0).then(|| Delivery {
        outstanding: sent.saturating_sub(again) > acked.saturating_sub(1),
        round_trip: Duration::from_micros(micros.into()),
    })
}

#[allow(unsafe_code, reason = "no library that we have reads TCP_INFO as far as this")]
fn tcp_info(socket: &TcpStream) -> Option<[u8; LENGTH]> {
    let mut info = [0; LENGTH];
    let mut length = LENGTH as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes at most `length` bytes.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (failed == 0 && length as usize == LENGTH).then_some(info)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends, after an exchange.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        ours.write_all(b"ask").await.unwrap();
        theirs.read_exact(&mut [0; 3]).await.unwrap();
        theirs.write_all(b"answer").await.unwrap();
        ours.read_exact(&mut [0; 6]).await.unwrap();
        assert!(!of(&ours).unwrap().outstanding);
        (ours, theirs)
    }

    #[tokio::test]
    async fn what_came_too_late_is_told_from_what_was_read() {
        let (mut ours, theirs) = pair().await;
        drop(theirs);
        ours.write_all(b"again").await.unwrap();
        assert_eq!(ours.read(&mut [0; 9]).await.unwrap(), 0);
        assert!(of(&ours).unwrap().outstanding, "it had closed before");
        let (mut ours, mut theirs) = pair().await;
        ours.write_all(b"again").await.unwrap();
        theirs.read_exact(&mut [0; 5]).await.unwrap();
        drop(theirs);
        assert_eq!(ours.read(&mut [0; 9]).await.unwrap(), 0);
        let told = of(&ours).unwrap();
        assert!(!told.outstanding && told.round_trip < Duration::from_secs(1), "{told:?}");
    }

    #[tokio::test]
    async fn nothing_is_known_of_other_sockets() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = std::net::TcpStream::from(std::os::fd::OwnedFd::from(ours));
        assert_eq!(of(&TcpStream::from_std(ours).unwrap()), None);
    }
}
