//! What others have in the way of our rules. None of it is certain to matter, so these are hints.

use std::collections::BTreeSet;
use std::fs;

use super::failure::Failure;
use super::kernel::{ANY, Kernel, List, is_ours};
use super::netlink::{find, number, text};
use super::rules::chains;
use super::settings::Settings;
use super::{encode, netlink};

/// Family and name of a table.
type Table = (u8, String);

pub fn all(kernel: &mut Kernel, settings: &Settings) -> Vec<String> {
    let mut hints = Vec::new();
    match before(kernel, settings).and_then(|before| redirects(kernel, &before)) {
        Ok(tables) => hints.extend(tables.into_iter().map(|(family, table)| {
            let family = family_name(family);
            format!(
                "the table `{family} {table}` redirects, too, and may come first: `nft list table {family} {table}`"
            )
        })),
        // Our own rules are as they are all the same.
        Err(failure) => hints.push(format!("whether others redirect, too, is not known: {}", failure.message)),
    }
    // Tables of iptables-legacy are not part of nf_tables; their names are all that can be read without it.
    let legacy =
        ["ip_tables_names", "ip6_tables_names"].map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")));
    if legacy.iter().flatten().any(|names| names.lines().any(|name| name == "nat")) {
        hints.push(
            "iptables-legacy has a table nat here, which may come first: `iptables-legacy-save -t nat`".to_owned(),
        );
    }
    if settings.tproxy() && looks_for_a_way_back() {
        hints.push(
            "the kernel looks for the way back of marked packets, and drops what tproxy marks (IPv4): \
             `sysctl -w net.ipv4.conf.all.src_valid_mark=0`, and of each interface"
                .to_owned(),
        );
    }
    hints
}

/// Whether an interface has `src_valid_mark`. For what our routes lead here by its mark, even its source is then an
/// address of this machine, and nobody else may have that.
fn looks_for_a_way_back() -> bool {
    let interfaces = fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let mut values = interfaces.map(|interface| fs::read_to_string(interface.path().join("src_valid_mark")));
    values.any(|value| value.is_ok_and(|value| value.trim() == "1"))
}

/// Tables of others with a chain at one of our hooks that is asked before ours, or perhaps.
fn before(kernel: &mut Kernel, settings: &Settings) -> Result<BTreeSet<Table>, Failure> {
    /// Families that see what we see: inet, ip, ip6.
    const OURS: [u8; 3] = [1, 2, 10];
    let hooks: Vec<(u32, i32)> =
        chains(settings).iter().map(|chain| (encode::hook(chain.hook), chain.kind.priority())).collect();
    let mut found = BTreeSet::new();
    kernel.list(List::Chains, ANY, None, |family, all| {
        let table = find(all, 1).map(text).unwrap_or_default();
        let at = |kind| find(find(all, 4)?, kind).and_then(number);
        let (Some(hook), Some(priority)) = (at(1), at(2).map(u32::cast_signed)) else { return };
        let first = hooks.iter().any(|ours| ours.0 == hook && priority <= ours.1);
        if first && OURS.contains(&family) && !is_ours(family, &table) {
            found.insert((family, table));
        }
    })?;
    Ok(found)
}

/// Those of them that have a rule which sends packets elsewhere.
fn redirects(kernel: &mut Kernel, tables: &BTreeSet<Table>) -> Result<BTreeSet<Table>, Failure> {
    let mut found = BTreeSet::new();
    for (family, table) in tables {
        kernel.list(List::Rules, *family, Some(table), |_, all| {
            let list = find(all, 4).unwrap_or_default();
            if netlink::attributes(list).any(|(_, expression)| sends_elsewhere(expression)) {
                found.insert((*family, table.clone()));
            }
        })?;
    }
    Ok(found)
}

fn sends_elsewhere(expression: &[u8]) -> bool {
    const TARGETS: [&str; 4] = ["REDIRECT", "DNAT", "TPROXY", "NETMAP"];
    const DESTINATION: u32 = 1;
    let name = find(expression, 1).map(text).unwrap_or_default();
    let data = |kind| find(find(expression, 2)?, kind);
    match name.as_str() {
        "redir" | "tproxy" => true,
        "nat" => data(1).and_then(number) == Some(DESTINATION),
        // An extension of iptables.
        "target" => data(1).map(text).is_some_and(|name| TARGETS.contains(&name.as_str())),
        _ => false,
    }
}

fn family_name(family: u8) -> &'static str {
    match family {
        2 => "ip",
        10 => "ip6",
        _ => "inet",
    }
}
