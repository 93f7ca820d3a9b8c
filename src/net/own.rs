//! Our own addresses.

use std::collections::HashSet;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

/// Those that others can reach. None where the kernel does not say.
pub fn addresses() -> HashSet<IpAddr> {
    let all = getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        let v4 = || address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()));
        v4().or_else(v6)
    });
    all.filter(|ip| !ip.is_loopback()).collect()
}
