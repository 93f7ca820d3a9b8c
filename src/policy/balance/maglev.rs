//! Consistent hashing by a table (Maglev, Eisenbud 2016): the members take turns in claiming places, each in an order of
//! its own, as often as they have weight. Shares are even, and a change moves little more than it must. The table is
//! made anew for every change of its members.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Member;
use crate::policy::hash::mix;

#[derive(Debug, Default)]
pub struct Table {
    /// Slots of endpoints.
    places: Vec<u32>,
}

/// A member while places are claimed.
struct Claim {
    slot: u32,
    /// Where it claims next, and how far that is from the one after.
    next: u64,
    step: u64,
    /// Between two of its turns.
    pause: u64,
}

const FREE: u32 = u32::MAX;
/// The pause of a member of weight 1: enough for all weights to differ.
const LONGEST: u64 = 1 << 40;

impl Table {
    /// `size` is a prime, so that every order goes through all places.
    pub fn new(members: &[Member], size: u32) -> Self {
        let size = u64::from(size.max(2));
        let claim = |member: &Member| Claim {
            slot: member.slot,
            next: mix(member.id ^ 0x5bd1_e995) % size,
            step: mix(member.id.wrapping_add(0x9e37_79b9_7f4a_7c15)) % (size - 1) + 1,
            pause: LONGEST / u64::from(member.weight.max(1)),
        };
        let mut claims: Vec<Claim> = members.iter().map(claim).collect();
        // Whose turn is when, by index.
        let turns = claims.iter().enumerate().map(|(index, claim)| Reverse((claim.pause, index)));
        let mut turns: BinaryHeap<_> = turns.collect();
        let mut places = vec![FREE; size as usize];
        for _ in 0..size {
            let Some(mut turn) = turns.peek_mut() else { return Self::default() };
            let Reverse((due, index)) = *turn;
            let Some(claim) = claims.get_mut(index) else { break };
            *turn = Reverse((due.saturating_add(claim.pause), index));
            while let Some(place) = places.get_mut(claim.next as usize) {
                claim.next = (claim.next + claim.step) % size;
                if *place == FREE {
                    *place = claim.slot;
                    break;
                }
            }
        }
        Self { places }
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Slots in the order in which a key would have them, with repetitions.
    pub fn from(&self, key: u64) -> impl Iterator<Item = u32> {
        let at = (key % self.places.len().max(1) as u64) as usize;
        let (before, behind) = self.places.split_at(at);
        behind.iter().chain(before).copied()
    }
}
