//! Transparent interception: the rules of the kernel that bring the traffic of a pod to the proxy. Pure here: what is
//! wanted (`settings`), the rules for it (`rules`), and these as text (`text`) and as messages of nf_tables (`encode`).
//! `kernel` sends them and asks what is there, `routing` does the same for the routes that tproxy needs, `verify` compares,
//! and `hints` tells what others have in the way. Nothing is executed: the image has nothing to execute.

mod encode;
mod failure;
mod hints;
mod kernel;
mod netlink;
mod routing;
pub mod rules;
pub mod settings;
pub mod text;
mod verify;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub use failure::Failure;
use settings::Family;
pub use settings::Settings;
pub use verify::{Findings, verify};

/// Our table of nf_tables, in the family `inet`.
pub const TABLE: &str = "outrigger";
/// The mark of packets that tproxy hands to a socket of this machine; also what the proxy marks its sockets with that
/// connect from a client's address.
pub const MARK: u32 = 1337;
/// The routing table in which every address is a local one, and the preference of the rule that leads marked packets
/// there.
pub const ROUTE_TABLE: u32 = 133;

/// From now on, this thread and what it starts see the network of `path`, like `/run/netns/NAME` or `/proc/PID/ns/net`.
pub fn enter(path: &Path) -> Result<(), Failure> {
    let what = || format!("the network namespace `{}` cannot be entered", path.display());
    let file = File::open(path).map_err(|error| failure::entering(what(), error))?;
    let moved = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
    moved.map_err(|errno| failure::entering(what(), errno.into()))
}

/// Puts the rules in place, in one transaction that replaces what was there; answers what to know about it.
pub fn apply(settings: &Settings) -> Result<Vec<String>, Failure> {
    let chains = rules::chains(settings);
    let mut kernel = kernel::Kernel::open()?;
    let wanted = |family: &Family| settings.tproxy() && settings.families().contains(family);
    let (routed, others): (Vec<Family>, Vec<Family>) = [Family::V4, Family::V6].into_iter().partition(wanted);
    // The routes come first and go last: a packet must not be marked while there is no way for it.
    let added = routing::add(&routed)?;
    if let Err(failure) = kernel.replace(&chains) {
        added.undo();
        return Err(failure);
    }
    routing::remove(&others)?;
    Ok(hints::all(&mut kernel, settings))
}

/// Removes the rules and the routes, whether they are there or not.
pub fn remove() -> Result<(), Failure> {
    kernel::Kernel::open()?.remove()?;
    routing::remove(&[Family::V4, Family::V6])
}

#[cfg(test)]
mod tests;
