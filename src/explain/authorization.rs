//! Who may do what: the entries of `authorization` that are for a listener, what each says, and which of them decides.

use serde::{Deserialize, Serialize};

use super::places::place;
use crate::policy::authz::{List, Ruling};
use crate::snapshot::authz::{Entry, Rule};
use crate::snapshot::{Listener, Snapshot};

/// One entry. One that is for other ports, or off, is not told of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    pub name: String,
    /// Of the rule that fits, or of the entry.
    pub place: Option<String>,
    pub shadow: bool,
    pub says: Says,
    /// `deny[0]`: the first rule that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The request is refused by this; in shadow mode, it would be.
    pub decides: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Says {
    /// One of its deny rules fits.
    Denies,
    /// One of its allow rules fits, and no deny rule.
    Allows,
    /// It has allow rules, and none fits.
    Lacks,
    /// It has deny rules only, and none fits.
    Nothing,
}

/// Whether any rule, or any route, asks who calls.
pub fn looks_at_callers(snapshot: &Snapshot) -> bool {
    let rules = snapshot.authorization.iter().flat_map(|entry| entry.allow.iter().chain(&entry.deny));
    let routes = snapshot.config.root().routes.iter().flat_map(|route| &route.matches);
    rules.map(|rule| &rule.from).any(|from| !from.is_empty()) || routes.into_iter().any(|one| one.from.is_some())
}

/// In the order of the file. `fits` is what the ruling went by.
pub fn of(
    snapshot: &Snapshot,
    listener: &Listener,
    port: u16,
    ruling: &Ruling,
    fits: impl Fn(List, &Rule) -> bool,
) -> Vec<Authorization> {
    let one = |(number, entry): (usize, &Entry)| {
        let first = |list, rules: &[Rule]| rules.iter().position(|rule| fits(list, rule));
        let (says, rule) = match (first(List::Deny, &entry.deny), first(List::Allow, &entry.allow)) {
            (Some(index), _) => (Says::Denies, Some(format!("deny[{index}]"))),
            (None, Some(index)) => (Says::Allows, Some(format!("allow[{index}]"))),
            (None, None) if entry.allow.is_empty() => (Says::Nothing, None),
            (None, None) => (Says::Lacks, None),
        };
        let path = format!("authorization[{number}]");
        let exact = rule.as_ref().and_then(|rule| place(snapshot, &format!("{path}.{rule}")));
        Authorization {
            name: entry.name.to_string(),
            place: exact.or_else(|| place(snapshot, &path)),
            shadow: entry.shadow,
            says,
            rule,
            decides: ruling.denied == Some(number) || ruling.would.contains(&number),
        }
    };
    let here = listener.authorization.iter().filter_map(|number| Some((*number, snapshot.authorization.get(*number)?)));
    here.filter(|(_, entry)| entry.applies(port)).map(one).collect()
}
