//! Consistent hashing on a ring (Karger 1997, as in ketama): each endpoint stands at many points, and a key belongs to
//! the next point from its own. Whoever comes takes keys from all others, whoever goes leaves them to all others; where
//! all weigh the same, no other key moves.

use std::collections::BTreeSet;

use super::Member;
use crate::policy::hash::mix;

/// Points of an endpoint of mean weight: shares are even to a tenth or so.
const POINTS: f64 = 100.0;

#[derive(Debug, Default)]
pub struct Ring {
    /// Point and slot. A tree, so that a change costs by its own size.
    points: BTreeSet<(u64, u32)>,
    /// By slot: who stands on the ring, and with how many points.
    standing: Vec<Option<(u64, u32)>>,
}

impl Ring {
    /// Brings the ring to these members. It is the same for the same members, whatever was before.
    pub fn sync(&mut self, members: &[Member]) {
        let sum: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
        let mean = sum as f64 / members.len().max(1) as f64;
        let slots = members.iter().map(|member| member.slot as usize + 1).max().unwrap_or(0);
        let mut wanted = vec![None; slots.max(self.standing.len())];
        for member in members {
            // One point at least, or it would never be chosen.
            let points = (POINTS * f64::from(member.weight) / mean).round().max(1.0) as u32;
            if let Some(place) = wanted.get_mut(member.slot as usize) {
                *place = Some((member.id, points));
            }
        }
        if self.points.is_empty() {
            self.points = wanted.iter().zip(0..).flat_map(|(who, slot)| points(*who, 0, slot)).collect();
        } else {
            self.standing.resize(wanted.len(), None);
            for ((old, new), slot) in self.standing.iter().zip(&wanted).zip(0..) {
                // Of the same endpoint, the points that it has more or fewer.
                let both = match (old, new) {
                    (Some((id, before)), Some((other, after))) if id == other => (*before).min(*after),
                    _ => 0,
                };
                for point in points(*old, both, slot) {
                    self.points.remove(&point);
                }
                self.points.extend(points(*new, both, slot));
            }
        }
        self.standing = wanted;
    }

    /// Slots in the order in which a key would have them, with repetitions, once around.
    pub fn from(&self, key: u64) -> impl Iterator<Item = u32> {
        self.points.range((key, 0)..).chain(&self.points).take(self.points.len()).map(|(_, slot)| *slot)
    }
}

fn points(who: Option<(u64, u32)>, from: u32, slot: u32) -> impl Iterator<Item = (u64, u32)> {
    let (id, count) = who.unwrap_or((0, 0));
    (from..count).map(move |n| (mix(id.wrapping_add(u64::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))), slot))
}
