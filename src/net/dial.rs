//! One upstream connection, within a time.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::error::Reason;

pub async fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream, Reason> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Err(_) => Err(Reason::ConnectTimeout),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "connect failed");
            Err(Reason::ConnectFailed)
        }
        Ok(Ok(stream)) => {
            // Options are an improvement; a socket that refuses them will fail by itself if it is broken.
            if let Err(error) = super::socket::tune(&stream) {
                tracing::debug!(%address, %error, "socket options");
            }
            Ok(stream)
        }
    }
}
