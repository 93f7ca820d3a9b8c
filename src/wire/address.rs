//! Where something listens or comes from: `ip:port`, or a Unix socket, `unix:/path` or `unix:@name` (abstract).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Whoever connects to a Unix socket has none: an empty path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    Ip(SocketAddr),
    Unix(Arc<str>),
}

const UNIX: &str = "unix:";
/// `sun_path` without a NUL at its end.
pub const PATH_BYTES_MAX: usize = 107;

impl Address {
    pub fn unnamed() -> Self {
        Self::Unix("".into())
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.socket().map(|address| address.ip())
    }

    /// 0 where there is no such thing.
    pub fn port(&self) -> u16 {
        self.socket().map_or(0, |address| address.port())
    }

    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path of a socket that is a file.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Unix(path) => Some(&**path).filter(|path| path.starts_with('/')),
            Self::Ip(_) => None,
        }
    }

    /// What follows `unix:`. The error is what is wrong with it.
    pub fn unix(path: &str) -> Result<Self, &'static str> {
        // Plain in logs, in headers and on command lines.
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        let named = path.len() > 1 && path.starts_with(['/', '@']) && !path.ends_with('/');
        match (named, path.len() <= PATH_BYTES_MAX, path.bytes().all(plain)) {
            (false, ..) => Err("it is not an absolute path, nor `@name`"),
            (_, false, _) => Err("it has more than 107 bytes"),
            (.., false) => Err("it has spaces, quotes, or other than visible ASCII characters"),
            _ => Ok(Self::Unix(path.into())),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix(UNIX) {
            Some(path) => Self::unix(path).map_err(|why| format!("`{text}` is no Unix socket: {why}")),
            None => {
                text.parse().map(Self::Ip).map_err(|_| format!("`{text}` is not an address `ip:port` or `unix:/path`"))
            }
        }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["1.2.3.4:5", "[::1]:80", "0.0.0.0:0", "unix:/run/app.sock", "unix:/a", "unix:@mesh/app"] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
            assert_eq!(serde_json::to_string(&address).ok(), Some(format!("\"{text}\"")));
        }
        let long = format!("unix:/{}", "a".repeat(107));
        assert!(long[..long.len() - 1].parse::<Address>().is_ok());
        for text in ["", "1.2.3.4", "unix:", "unix:/", "unix:@", "unix:a", "unix:/a/", "unix:/a b", "unix:/a\"", &long]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert_eq!(Address::unnamed().to_string(), "unix:");
    }
}
