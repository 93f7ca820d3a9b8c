//! What is to be captured: the flags of `outrigger intercept`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum, value_parser};

use crate::net::held;
use crate::wire::cidr::Cidr;

/// Most rules; one transaction has to fit into the buffer of a socket.
pub const RULES_MAX: usize = 512;

/// What an exclusion names is left alone, whatever an inclusion says. Without inclusions by port or address of its direction
/// everything else is captured; with some, whatever any of them names. Inclusions by user and by interface narrow that.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// User of the proxy, whose connections are never captured
    #[arg(long, value_name = "UID", value_delimiter = ',', default_value = "1337")]
    pub proxy_uid: Vec<u32>,
    /// Group of the proxy, in addition
    #[arg(long, value_name = "GID", value_delimiter = ',')]
    pub proxy_gid: Vec<u32>,
    /// Where connections that arrive go
    #[arg(long, value_name = "PORT", default_value_t = held::INBOUND, value_parser = value_parser!(u16).range(1..))]
    pub inbound_port: u16,
    /// Where connections that the application makes go
    #[arg(long, value_name = "PORT", default_value_t = held::OUTBOUND, value_parser = value_parser!(u16).range(1..))]
    pub outbound_port: u16,
    /// How connections that arrive are captured; as `transparent` of the listener
    #[arg(long, value_enum, default_value_t = Mode::Redirect)]
    pub mode: Mode,
    /// Ports of the proxy itself that others reach: never captured inbound
    #[arg(long, value_name = "PORTS", value_delimiter = ',', default_value = "15000,15020")]
    pub own_ports: Vec<Ports>,
    /// Ports of the application that others reach without the proxy
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub exclude_inbound_ports: Vec<Ports>,
    /// Capture connections to these ports of the application, …
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub include_inbound_ports: Vec<Ports>,
    /// Addresses of clients that reach the application without the proxy
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = cidr)]
    pub exclude_inbound_cidrs: Vec<Cidr>,
    /// … and from these addresses, and no others
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = cidr)]
    pub include_inbound_cidrs: Vec<Cidr>,
    /// Ports that the application reaches without the proxy
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub exclude_outbound_ports: Vec<Ports>,
    /// Capture connections to these ports, …
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    pub include_outbound_ports: Vec<Ports>,
    /// Addresses that the application reaches without the proxy
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = cidr)]
    pub exclude_outbound_cidrs: Vec<Cidr>,
    /// … and to these addresses, and no others
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = cidr)]
    pub include_outbound_cidrs: Vec<Cidr>,
    /// Users whose connections are not captured
    #[arg(long, value_name = "UIDS", value_delimiter = ',')]
    pub exclude_uids: Vec<u32>,
    /// Groups whose connections are not captured
    #[arg(long, value_name = "GIDS", value_delimiter = ',')]
    pub exclude_gids: Vec<u32>,
    /// Users whose connections alone are captured, …
    #[arg(long, value_name = "UIDS", value_delimiter = ',')]
    pub include_uids: Vec<u32>,
    /// … and groups
    #[arg(long, value_name = "GIDS", value_delimiter = ',')]
    pub include_gids: Vec<u32>,
    /// Interfaces whose connections are not captured, in both directions
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub exclude_interfaces: Vec<Interface>,
    /// Interfaces whose connections alone are captured, in both directions
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub include_interfaces: Vec<Interface>,
    /// Bring DNS (UDP and TCP 53) of the application to this port of 127.0.0.1 and ::1; otherwise UDP is left alone
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    pub dns_port: Option<u16>,
    /// Leave IPv6 alone: what it carries passes the proxy by
    #[arg(long)]
    pub no_ipv6: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The destination is rewritten, and the listener asks for the original one
    Redirect,
    /// Nothing is rewritten; the application sees the client's address
    Tproxy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// One port, or all from `first` to `last`: `8080`, `8000-8100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

/// The name of an interface of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface(String);

impl Settings {
    pub fn tproxy(&self) -> bool {
        self.mode == Mode::Tproxy
    }

    pub fn families(&self) -> &'static [Family] {
        if self.no_ipv6 { &[Family::V4] } else { &[Family::V4, Family::V6] }
    }

    /// What no flag shows alone.
    pub fn check(&self) -> Result<(), String> {
        let ports = [Some(self.inbound_port), Some(self.outbound_port), self.dns_port];
        let twice = |(n, port): (usize, &Option<u16>)| port.filter(|_| ports[..n].contains(port));
        if let Some(port) = ports.iter().enumerate().find_map(twice) {
            return Err(format!("port {port} is named twice: inbound, outbound and DNS need ports of their own"));
        }
        let outbound = self.exclude_outbound_cidrs.iter().chain(&self.include_outbound_cidrs);
        let inbound = self.exclude_inbound_cidrs.iter().chain(&self.include_inbound_cidrs);
        if let Some(block) = outbound.chain(inbound).filter(|_| self.no_ipv6).find(|block| block.first().is_ipv6()) {
            return Err(format!("{block} is of IPv6, which --no-ipv6 leaves alone"));
        }
        let rules: usize = super::rules::chains(self).iter().map(|chain| chain.rules.len()).sum();
        if rules > RULES_MAX {
            return Err(format!("that makes {rules} rules, of {RULES_MAX} at most: name ranges and larger blocks"));
        }
        Ok(())
    }
}

fn cidr(text: &str) -> Result<Cidr, String> {
    Cidr::parse(text).map_err(|(message, remedy)| match remedy {
        Some(remedy) => format!("{message}: {remedy}"),
        None => message,
    })
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| match text.parse() {
            Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
            _ => Err("write a port from 1 to 65535, or a range like `8000-8100`".to_owned()),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last { Err(format!("write `{last}-{first}`")) } else { Ok(Self { first, last }) }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl Interface {
    /// Longest name that the kernel has (`IFNAMSIZ`, without the zero at the end).
    const LENGTH: usize = 15;

    pub fn loopback() -> Self {
        Self("lo".to_owned())
    }
}

impl FromStr for Interface {
    type Err = String;

    /// Stricter than the kernel, so that the name can stand in any text.
    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
        match !text.is_empty() && text.len() <= Self::LENGTH && text.bytes().all(plain) {
            true => Ok(Self(text.to_owned())),
            false => {
                Err("write the name of an interface, like `eth0`; letters, digits and `_.-@`, up to 15".to_owned())
            }
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
