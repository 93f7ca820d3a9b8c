//! Who calls, and conditions on that: what a connection has shown of its other end.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::wire::cidr::Cidr;
use crate::wire::spiffe::{IdPattern, SpiffeId};

/// The facts of a connection that rules may look at.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Of the connection, in its canonical form: IPv4 is never written within IPv6. Whoever came by a Unix socket has none.
    ip: Option<IpAddr>,
    /// Proven by a client certificate.
    pub id: Option<&'a SpiffeId>,
    /// That was connected to.
    pub port: u16,
    /// Where a redirected connection was going, in its canonical form.
    pub to: Option<SocketAddr>,
}

/// Conditions on a caller: each that is there has to hold, by any of its values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Callers {
    identities: Box<[IdPattern]>,
    namespaces: Box<[Box<str>]>,
    /// The own trust domain, of which the namespaces are.
    trust_domain: Box<str>,
    cidrs: Box<[Cidr]>,
}

impl<'a> Caller<'a> {
    /// Of whom nothing is known.
    pub const NOBODY: Caller<'static> =
        Caller { ip: Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), id: None, port: 0, to: None };

    pub fn new(ip: impl Into<Option<IpAddr>>, id: Option<&'a SpiffeId>, port: u16) -> Self {
        Self { ip: ip.into().map(|ip| ip.to_canonical()), id, port, to: None }
    }

    /// The same, on its way to this address.
    pub fn on_its_way(self, to: Option<SocketAddr>) -> Self {
        Self { to, ..self }
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }
}

/// As a report names it.
impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.ip.map_or_else(|| "unix:".to_owned(), |ip| ip.to_string());
        match self.id {
            Some(id) => write!(f, "{id} ({ip})"),
            None => write!(f, "{ip} without an identity"),
        }
    }
}

impl Callers {
    pub fn new(identities: Vec<IdPattern>, namespaces: &[String], trust_domain: &str, cidrs: Vec<Cidr>) -> Self {
        Self {
            identities: identities.into(),
            namespaces: namespaces.iter().map(|name| name.as_str().into()).collect(),
            trust_domain: if namespaces.is_empty() { "" } else { trust_domain }.into(),
            cidrs: cidrs.into(),
        }
    }

    /// Fits everybody.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.namespaces.is_empty() && self.cidrs.is_empty()
    }

    pub fn fit(&self, caller: &Caller<'_>) -> bool {
        let identity = |id: &SpiffeId| self.identities.iter().any(|pattern| pattern.matches(id));
        let namespace = |id: &SpiffeId| {
            *id.trust_domain() == *self.trust_domain
                && id.namespace().is_some_and(|own| self.namespaces.iter().any(|known| **known == *own))
        };
        (self.cidrs.is_empty() || self.cidrs.iter().any(|block| caller.ip.is_some_and(|ip| block.contains(ip))))
            && (self.identities.is_empty() || caller.id.is_some_and(identity))
            && (self.namespaces.is_empty() || caller.id.is_some_and(namespace))
    }
}

/// As it is asked for: `identity a or b, namespace c, address d`.
impl fmt::Display for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part(f: &mut fmt::Formatter<'_>, first: &mut bool, name: &str, all: &[impl fmt::Display]) -> fmt::Result {
            for (index, one) in all.iter().enumerate() {
                match (index, *first) {
                    (0, true) => write!(f, "{name} `{one}`")?,
                    (0, false) => write!(f, ", {name} `{one}`")?,
                    _ => write!(f, " or `{one}`")?,
                }
                *first = false;
            }
            Ok(())
        }
        let mut first = true;
        part(f, &mut first, "identity", &self.identities)?;
        part(f, &mut first, "namespace", &self.namespaces)?;
        part(f, &mut first, "address", &self.cidrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(identities: &[&str], namespaces: &[&str], cidrs: &[&str]) -> Callers {
        let namespaces: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
        let identities = identities.iter().map(|text| IdPattern::parse(text).unwrap()).collect();
        let cidrs = cidrs.iter().map(|text| Cidr::parse(text).unwrap()).collect();
        Callers::new(identities, &namespaces, "cluster.local", cidrs)
    }

    #[test]
    fn each_condition_has_to_hold() {
        let web = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
        let other = SpiffeId::parse("spiffe://elsewhere/ns/shop/sa/web").unwrap();
        let plain = SpiffeId::parse("spiffe://cluster.local/shop").unwrap();
        let ask = |callers: &Callers, ip: &str| {
            let fits = |id| callers.fit(&Caller::new(ip.parse::<IpAddr>().ok(), id, 80));
            [fits(Some(&web)), fits(Some(&other)), fits(Some(&plain)), fits(None)]
        };
        let (all, none) = ([true; 4], [false; 4]);
        assert_eq!(ask(&callers(&[], &[], &[]), "10.0.0.1"), all);
        assert_eq!(ask(&callers(&["*"], &[], &[]), "10.0.0.1"), [true, true, true, false]);
        assert_eq!(ask(&callers(&["spiffe://x/y", web.as_str()], &[], &[]), "10.0.0.1"), [true, false, false, false]);
        // A namespace of another trust domain is another namespace.
        assert_eq!(ask(&callers(&[], &["shop"], &[]), "10.0.0.1"), [true, false, false, false]);
        assert_eq!(ask(&callers(&[], &["sho"], &[]), "10.0.0.1"), none);
        assert_eq!(ask(&callers(&[], &[], &["10.0.0.0/8"]), "10.0.0.1"), all);
        assert_eq!(ask(&callers(&[], &[], &["10.0.0.0/8"]), "::ffff:10.0.0.1"), all, "IPv4 within IPv6");
        assert_eq!(ask(&callers(&[], &[], &["0.0.0.0/0", "::/0"]), "unix:"), none, "no address at all");
        assert_eq!(ask(&callers(&["*"], &[], &[]), "unix:"), [true, true, true, false]);
        assert_eq!(ask(&callers(&[], &[], &["10.0.0.0/8"]), "11.0.0.1"), none);
        assert_eq!(ask(&callers(&["*"], &["shop"], &["10.0.0.0/8"]), "10.0.0.1"), [true, false, false, false]);
        assert_eq!(ask(&callers(&["*"], &["shop"], &["10.0.0.0/8"]), "fd00::1"), none);
    }

    #[test]
    fn conditions_are_told() {
        let asked = callers(&["spiffe://a/b", "*"], &["shop"], &["10.0.0.0/8"]);
        assert_eq!(asked.to_string(), "identity `spiffe://a/b` or `*`, namespace `shop`, address `10.0.0.0/8`");
    }
}
