//! Whether what is there is what should be: the table, its chains, their rules in their order, and the routes of tproxy.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::encode::{self, Expression};
use super::failure::{Failure, Step, netfilter};
use super::kernel::{INET, Kernel, List, is_ours};
use super::netlink::{find, number, text};
use super::rules::{Chain, chains};
use super::settings::{Family, Settings};
use super::{ROUTE_TABLE, TABLE, hints, routing, text as words};

/// Most rules of ours that are looked at; a table with more is not ours.
const LOOKED_AT: usize = 4 * super::settings::RULES_MAX;

#[derive(Debug, Default)]
pub struct Findings {
    /// What is not as it should be, each in a line.
    pub differences: Vec<String>,
    /// What may get in the way, and is not ours.
    pub hints: Vec<String>,
}

/// A chain of our table as it is.
#[derive(Debug, Default)]
struct Found {
    /// Of a chain that hangs on a hook: its type, the hook, and the priority.
    base: Option<(String, u32, i32)>,
    drops: bool,
    rules: Vec<FoundRule>,
}

#[derive(Debug)]
struct FoundRule {
    handle: u64,
    expressions: Vec<Expression>,
}

/// Looks again if what it looks at has changed meanwhile.
pub fn verify(settings: &Settings) -> Result<Findings, Failure> {
    const TIMES: usize = 10;
    let mut seen = look(settings);
    for _ in 1..TIMES {
        match &seen {
            Err(failure) if failure.errno == Some(Errno::INTR) => seen = look(settings),
            _ => break,
        }
    }
    seen
}

fn look(settings: &Settings) -> Result<Findings, Failure> {
    let mut kernel = Kernel::open()?;
    let generation = kernel.generation()?;
    let mut differences = Vec::new();
    match table(&mut kernel)? {
        None => differences.push(format!("there is no table `inet {TABLE}`")),
        Some(dormant) => {
            if dormant {
                differences.push(format!("the table `inet {TABLE}` is dormant: none of its chains is in force"));
            }
            compare(&chains(settings), &mut found(&mut kernel)?, &mut differences);
        }
    }
    if kernel.generation()? != generation {
        return Err(netfilter(Step::Netfilter, Errno::INTR));
    }
    for family in [Family::V4, Family::V6] {
        let wanted = settings.tproxy() && settings.families().contains(&family);
        let (rule, route) = routing::found(family)?;
        let parts = [(rule, "rule by mark that leads to"), (route, "route in")];
        for (_, what) in parts.into_iter().filter(|(there, _)| *there != wanted) {
            let which = format!("{what} the routing table {ROUTE_TABLE} ({})", routing::name(family));
            differences.push(if wanted { format!("there is no {which}") } else { format!("there is a {which}") });
        }
    }
    Ok(Findings { differences, hints: hints::all(&mut kernel, settings) })
}

/// Whether the table is dormant, if it is there.
fn table(kernel: &mut Kernel) -> Result<Option<bool>, Failure> {
    const DORMANT: u32 = 1;
    let mut found = None;
    kernel.list(List::Tables, INET, None, |family, all| {
        if is_ours(family, &find(all, 1).map(text).unwrap_or_default()) {
            found = Some(find(all, 2).and_then(number).is_some_and(|flags| flags & DORMANT != 0));
        }
    })?;
    Ok(found)
}

fn found(kernel: &mut Kernel) -> Result<BTreeMap<String, Found>, Failure> {
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let named = |all: &[u8], kind| find(all, kind).map(text).unwrap_or_default();
    kernel.list(List::Chains, INET, None, |family, all| {
        if is_ours(family, &named(all, 1)) {
            let base = find(all, 4).map(|hook| {
                let at = |kind| find(hook, kind).and_then(number).unwrap_or_default();
                (named(all, 7), at(1), at(2).cast_signed())
            });
            let drops = find(all, 5).and_then(number) == Some(0);
            found.insert(named(all, 3), Found { base, drops, rules: Vec::new() });
        }
    })?;
    let mut seen = 0;
    kernel.list(List::Rules, INET, Some(TABLE), |family, all| {
        seen += 1;
        if seen <= LOOKED_AT && is_ours(family, &named(all, 1)) {
            let handle =
                find(all, 3).and_then(|value| value.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes));
            let expressions = find(all, 4).map(encode::read).unwrap_or_default();
            found.entry(named(all, 2)).or_default().rules.push(FoundRule { handle, expressions });
        }
    })?;
    Ok(found)
}

fn compare(wanted: &[Chain], found: &mut BTreeMap<String, Found>, differences: &mut Vec<String>) {
    for chain in wanted {
        let Some(there) = found.remove(chain.name) else {
            differences.push(format!("there is no chain {}", chain.name));
            continue;
        };
        let base = (chain.kind.name().to_owned(), encode::hook(chain.hook), chain.kind.priority());
        if there.base.as_ref() != Some(&base) {
            let (kind, hook, priority) = (chain.kind.name(), chain.hook.name(), chain.kind.priority());
            differences.push(format!("chain {}: not of type {kind} at {hook} with priority {priority}", chain.name));
        }
        if there.drops {
            differences.push(format!("chain {}: its policy is drop, not accept", chain.name));
        }
        rules(chain, there.rules, differences);
    }
    differences.extend(found.keys().map(|name| format!("chain {name}: not ours")));
}

/// Each rule that is wanted takes one that is the same out of those found, if possible behind the one before; what is
/// left over on either side is told.
fn rules(chain: &Chain, found: Vec<FoundRule>, differences: &mut Vec<String>) {
    let mut found: Vec<(usize, FoundRule)> = found.into_iter().enumerate().collect();
    let mut places: Vec<usize> = Vec::new();
    for rule in &chain.rules {
        let wanted = encode::read(&encode::expressions(rule));
        let behind = |place| places.last().is_none_or(|last| place > *last);
        let same = |there: &FoundRule| there.expressions == wanted;
        let next = found.iter().position(|(place, there)| behind(*place) && same(there));
        match next.or_else(|| found.iter().position(|(_, there)| same(there))) {
            Some(n) => places.push(found.remove(n).0),
            None => {
                let text = words::nft_rule(rule);
                differences.push(format!("chain {}: there is no `{text}` ({})", chain.name, rule.why));
            }
        }
    }
    for (_, FoundRule { handle, expressions }) in found {
        let names: Vec<&str> = expressions.iter().map(|expression| expression.name.as_str()).collect();
        let what = names.join(" ");
        differences.push(format!("chain {}: the rule with handle {handle} is not ours ({what})", chain.name));
    }
    if !places.is_sorted() {
        differences.push(format!("chain {}: the rules are there, but in another order", chain.name));
    }
}
