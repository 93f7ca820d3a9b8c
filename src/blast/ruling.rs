//! What `authorization` says of remembered requests. A rule fits, does not fit, or it cannot be told; the verdict is
//! certain where the strictest reading and the most lenient one agree.

use super::callers::Who;
use super::judge::Judge;
use super::shape::Shape;
use super::told::Told;
use crate::policy::authz::List;
use crate::snapshot::Listener;
use crate::snapshot::authz::{self, Entry, Head, Rule, fits_host};
use crate::snapshot::route::PathRule;

/// Whether any rule asks who calls.
pub fn looks_at_callers(entries: &[Entry]) -> bool {
    entries.iter().flat_map(|entry| entry.allow.iter().chain(&entry.deny)).any(|rule| !rule.from.is_empty())
}

impl<'s> Judge<'s> {
    /// The entry that denies, if one does; or on what it hangs.
    pub(super) fn ruled(
        &self,
        told: &Told<'_>,
        listener: &Listener,
        caller: Option<&Who>,
    ) -> Result<Option<&'s str>, Vec<String>> {
        let (entries, numbers) = (&self.snapshot.authorization, &listener.authorization);
        let port = told.print.to.as_ref().map_or(listener.config.address.port(), |to| to.port());
        let read = |doubtful: List| {
            let fits = |list, rule: &Rule| self.rule_fits(told, rule, caller, port).unwrap_or(list == doubtful);
            authz::judge_by(entries, numbers, port, fits).denied
        };
        let name = |number: usize| entries.get(number).map_or("", |entry| &*entry.name);
        match (read(List::Deny), read(List::Allow)) {
            (None, _) => Ok(None),
            (Some(_), Some(number)) => Ok(Some(name(number))),
            (Some(number), None) => Err(vec![format!("authorization {}", name(number))]),
        }
    }

    fn rule_fits(&self, told: &Told<'_>, rule: &Rule, caller: Option<&Who>, port: u16) -> Option<bool> {
        let from = match caller {
            Some(caller) => Some(rule.from.fit(&caller.at(port))),
            None => rule.from.is_empty().then_some(true),
        };
        let ports = rule.ports.is_empty() || rule.ports.contains(&port);
        let head = rule.head.as_ref().map_or(Some(true), |head| self.head_fits(told, head));
        all([Some(ports), from, head])
    }

    fn head_fits(&self, told: &Told<'_>, head: &Head) -> Option<bool> {
        let print = told.print;
        let method = head.methods.is_empty() || head.methods.contains(&print.method);
        let host = head.hosts.is_empty() || head.hosts.iter().any(|pattern| fits_host(pattern, &print.host));
        let path = match &*head.paths {
            [] => Some(true),
            paths => any(paths.iter().map(|path| self.path_fits(told, path))),
        };
        let header =
            |one: &crate::snapshot::matcher::Condition| told.truth(&self.snapshot.attributes, &one.key, &one.text);
        all([Some(method), Some(host), path].into_iter().chain(head.headers.iter().map(header)))
    }

    fn path_fits(&self, told: &Told<'_>, path: &PathRule) -> Option<bool> {
        match path {
            PathRule::Any => Some(true),
            PathRule::Regex(regex) => {
                let known = self.looked.knows_pattern(regex) || *told.print.path == *told.path;
                known.then(|| regex.is_match(told.path))
            }
            PathRule::Exact(text) | PathRule::Prefix(text) | PathRule::Template(text) => {
                let shape = Shape::of(text, &self.looked.segments).counted;
                if shape == *text {
                    return Some(path.fits(told.path));
                }
                // As long as it is, and perhaps with the very segments that look the same.
                let wide = if matches!(path, PathRule::Prefix(_)) {
                    PathRule::Prefix(shape)
                } else {
                    PathRule::Template(shape)
                };
                if wide.fits(told.path) { self.is_below(told.print, text) } else { Some(false) }
            }
        }
    }
}

/// Whether all hold: one that does not is enough to know.
fn all(facts: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    any(facts.into_iter().map(|fact| fact.map(|holds| !holds))).map(|some| !some)
}

/// Whether one holds; where none is known to, all have to be known.
fn any(facts: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut told = true;
    for fact in facts {
        match fact {
            Some(true) => return Some(true),
            Some(false) => {}
            None => told = false,
        }
    }
    told.then_some(false)
}
