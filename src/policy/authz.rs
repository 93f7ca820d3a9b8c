//! Who may do what: how the entries of `authorization` come to a verdict together. What a rule looks at is not known
//! here; see `snapshot::authz`.
//!
//! Deny wins. Where any entry has a list of what is allowed, what none of these lists has is denied. Entries in shadow
//! mode refuse nothing: each is asked what it would change if it were enforced beside those that are.

use std::sync::Arc;

/// One entry: two lists of rules under a name.
#[derive(Debug)]
pub struct Entry<R> {
    pub name: Arc<str>,
    pub shadow: bool,
    /// Ports that were connected to; any where empty.
    pub ports: Box<[u16]>,
    pub allow: Box<[R]>,
    pub deny: Box<[R]>,
}

/// Which list of an entry a rule is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Allow,
    Deny,
}

/// What the entries say. Entries are known by their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruling {
    /// By which entry it is denied: the first with a deny rule that fits, or else the first with a list of what is
    /// allowed.
    pub denied: Option<usize>,
    /// Entries in shadow mode that would deny it. None where it is denied anyway.
    pub would: Vec<usize>,
}

impl<R> Entry<R> {
    pub fn applies(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    fn denies(&self, fits: &impl Fn(List, &R) -> bool) -> bool {
        self.deny.iter().any(|rule| fits(List::Deny, rule))
    }

    fn allows(&self, fits: &impl Fn(List, &R) -> bool) -> bool {
        self.allow.iter().any(|rule| fits(List::Allow, rule))
    }
}

/// The verdict on what is asked for at a port, by entries with their numbers. `fits` says whether a rule of such a list
/// does. Allocates only where an entry in shadow mode would deny.
pub fn judge<'e, R: 'e>(
    entries: impl Iterator<Item = (usize, &'e Entry<R>)> + Clone,
    port: u16,
    fits: impl Fn(List, &R) -> bool,
) -> Ruling {
    let entries = entries.filter(|(_, entry)| entry.applies(port));
    let (mut allowed, mut lacking) = (false, None);
    for (number, entry) in entries.clone().filter(|(_, entry)| !entry.shadow) {
        if entry.denies(&fits) {
            return Ruling { denied: Some(number), would: Vec::new() };
        }
        if !allowed && !entry.allow.is_empty() {
            allowed = entry.allows(&fits);
            lacking = lacking.or(Some(number));
        }
    }
    if !allowed && lacking.is_some() {
        return Ruling { denied: lacking, would: Vec::new() };
    }
    let lacks = |entry: &Entry<R>| !allowed && !entry.allow.is_empty() && !entry.allows(&fits);
    let would = entries.filter(|(_, entry)| entry.shadow && (entry.denies(&fits) || lacks(entry)));
    Ruling { denied: None, would: would.map(|(number, _)| number).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A rule that fits what is in it.
    type Set = Vec<u8>;

    fn entry(shadow: bool, ports: &[u16], allow: &[&[u8]], deny: &[&[u8]]) -> Entry<Set> {
        let sets = |lists: &[&[u8]]| lists.iter().map(|set| set.to_vec()).collect();
        Entry { name: "e".into(), shadow, ports: ports.into(), allow: sets(allow), deny: sets(deny) }
    }

    fn ask(entries: &[Entry<Set>], port: u16, what: u8) -> Ruling {
        judge(entries.iter().enumerate(), port, |_, set| set.contains(&what))
    }

    #[test]
    fn deny_wins_and_a_list_of_what_is_allowed_excludes_the_rest() {
        let entries = [
            entry(false, &[], &[&[1], &[2, 3]], &[]),
            entry(false, &[], &[&[4]], &[&[3]]),
            entry(false, &[9], &[], &[&[1]]),
        ];
        let denied = |port, what| ask(&entries, port, what).denied;
        assert_eq!([1, 2, 3, 4, 5].map(|what| denied(80, what)), [None, None, Some(1), None, Some(0)]);
        assert_eq!([1, 2, 5].map(|what| denied(9, what)), [Some(2), None, Some(0)]);
        assert_eq!(ask(&[], 80, 1), Ruling::default(), "without entries all is allowed");
        assert_eq!(ask(&entries[2..], 80, 1), Ruling::default(), "and where none applies");
    }

    #[test]
    fn a_shadow_tells_what_it_would_change() {
        let shadow = entry(true, &[], &[&[1]], &[&[2]]);
        let would = |entries: &[Entry<Set>], what| ask(entries, 80, what);
        let alone = [shadow];
        assert_eq!([1, 2, 3].map(|what| would(&alone, what).would), [vec![], vec![0], vec![0]]);
        let [shadow] = alone;
        let both = [entry(false, &[], &[&[2, 3]], &[&[9]]), shadow];
        assert_eq!(would(&both, 3), Ruling::default(), "the other entry allows it");
        assert_eq!(would(&both, 2), Ruling { denied: None, would: vec![1] });
        assert_eq!(would(&both, 1), Ruling { denied: Some(0), would: vec![] }, "it refuses, and does not allow either");
        assert_eq!(would(&both, 9), Ruling { denied: Some(0), would: vec![] });
    }

    /// The words of the documentation, one by one.
    fn refused(entries: &[&Entry<Set>], what: u8) -> bool {
        let fits = |sets: &[Set]| sets.iter().any(|set| set.contains(&what));
        let denied = entries.iter().any(|entry| fits(&entry.deny));
        let lists = entries.iter().any(|entry| !entry.allow.is_empty());
        let allowed = entries.iter().any(|entry| fits(&entry.allow));
        denied || lists && !allowed
    }

    fn sets() -> impl Strategy<Value = Vec<Set>> {
        prop::collection::vec(prop::collection::vec(0u8..4, 0..3), 0..3)
    }

    proptest! {
        #[test]
        fn the_verdict_is_that_of_the_words(
            parts in prop::collection::vec((any::<bool>(), prop::collection::vec(1u16..3, 0..2), sets(), sets()), 0..5),
            port in 1u16..3,
            what in 0u8..4,
        ) {
            let entries: Vec<Entry<Set>> = parts
                .into_iter()
                .map(|(shadow, ports, allow, deny)| Entry {
                    name: "e".into(),
                    shadow,
                    ports: ports.into(),
                    allow: allow.into(),
                    deny: deny.into(),
                })
                .collect();
            let ruling = ask(&entries, port, what);
            let here: Vec<(usize, &Entry<Set>)> =
                entries.iter().enumerate().filter(|(_, entry)| entry.ports.is_empty() || entry.ports.contains(&port)).collect();
            let enforced: Vec<&Entry<Set>> = here.iter().filter(|(_, entry)| !entry.shadow).map(|(_, entry)| *entry).collect();
            prop_assert_eq!(ruling.denied.is_some(), refused(&enforced, what));
            if let Some(by) = ruling.denied {
                let by = &entries[by];
                prop_assert!(!by.shadow);
                prop_assert!(by.deny.iter().any(|set| set.contains(&what)) || !by.allow.is_empty());
                prop_assert_eq!(&ruling.would, &Vec::<usize>::new());
            } else {
                let would: Vec<usize> = here
                    .iter()
                    .filter(|(_, entry)| entry.shadow)
                    .filter(|(_, entry)| refused(&[&enforced[..], &[*entry]].concat(), what))
                    .map(|(number, _)| *number)
                    .collect();
                prop_assert_eq!(ruling.would, would);
            }
        }
    }
}
