//! A ring of bytes with records of varying length, the oldest first. Each has its length before it and behind it, so
//! that it can be walked from either end.

/// A record, in two pieces where it goes over the end of the memory.
pub type Pieces<'a> = [&'a [u8]; 2];

/// Bytes of one length, little-endian.
const LENGTH: usize = 2;

#[derive(Debug)]
pub struct Track {
    /// Zero pages until they are written to.
    bytes: Box<[u8]>,
    /// Where the oldest record begins.
    start: usize,
    used: usize,
    count: u64,
}

impl Track {
    pub fn new(size: usize) -> Self {
        Self { bytes: vec![0; size].into_boxed_slice(), start: 0, used: 0, count: 0 }
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Records.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn has_room(&self, length: usize) -> bool {
        self.used + length + 2 * LENGTH <= self.bytes.len()
    }

    /// Does nothing where there is no room.
    pub fn push(&mut self, [first, second]: Pieces<'_>) {
        let Ok(length) = u16::try_from(first.len() + second.len()) else { return };
        if !self.has_room(length.into()) {
            return;
        }
        self.write_length(length);
        self.write(first);
        self.write(second);
        self.write_length(length);
        self.count += 1;
    }

    pub fn oldest(&self) -> Option<Pieces<'_>> {
        let length = self.length(0)?;
        self.read(LENGTH, length)
    }

    /// Forgets the oldest record; false where there is none.
    pub fn pop(&mut self) -> bool {
        let Some(length) = self.length(0) else {
            // No record, and so nothing: also what would be left of one whose length makes no sense.
            (self.start, self.used, self.count) = (0, 0, 0);
            return false;
        };
        let whole = (length + 2 * LENGTH).min(self.used);
        self.start = self.place(whole);
        self.used -= whole;
        self.count = self.count.saturating_sub(1);
        true
    }

    pub fn newest_first(&self) -> impl Iterator<Item = Pieces<'_>> {
        let mut end = self.used;
        std::iter::from_fn(move || {
            let length = self.length(end.checked_sub(LENGTH)?)?;
            end = end.checked_sub(length + 2 * LENGTH)?;
            self.read(end + LENGTH, length)
        })
    }

    /// Where in memory lies what is so far behind the oldest byte.
    fn place(&self, distance: usize) -> usize {
        let place = self.start + distance;
        if place >= self.bytes.len() { place - self.bytes.len() } else { place }
    }

    fn write_length(&mut self, length: u16) {
        for byte in length.to_le_bytes() {
            let place = self.place(self.used);
            if let Some(place) = self.bytes.get_mut(place) {
                *place = byte;
            }
            self.used += 1;
        }
    }

    fn write(&mut self, part: &[u8]) {
        let Some((before, after)) = self.bytes.split_at_mut_checked(self.place(self.used)) else { return };
        let (first, second) = part.split_at(part.len().min(after.len()));
        for (to, from) in [(after, first), (before, second)] {
            if let Some(to) = to.get_mut(..from.len()) {
                to.copy_from_slice(from);
            }
        }
        self.used += part.len();
    }

    fn read(&self, distance: usize, length: usize) -> Option<Pieces<'_>> {
        if distance + length > self.used {
            return None;
        }
        let rest = self.bytes.get(self.place(distance)..)?;
        match rest.get(..length) {
            Some(whole) => Some([whole, &[]]),
            None => Some([rest, self.bytes.get(..length - rest.len())?]),
        }
    }

    fn length(&self, distance: usize) -> Option<usize> {
        let [first, second] = self.read(distance, LENGTH)?;
        let mut bytes = first.iter().chain(second).copied();
        Some(u16::from_le_bytes([bytes.next()?, bytes.next()?]).into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
            /// As a queue does, however the records lie over the end of the memory.
            #[test]
            fn it_is_a_queue_of_records(size in 40usize..200, records in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..30), 0usize..30), 0..200,
            )) {
                let (mut track, mut model) = (Track::new(size), VecDeque::new());
                for (record, cut) in records {
                    while !track.has_room(record.len()) {
                        prop_assert_eq!(track.oldest().map(|pieces| pieces.concat()), model.pop_front());
                        prop_assert!(track.pop());
                    }
                    let (first, second) = record.split_at(cut.min(record.len()));
                    track.push([first, second]);
                    model.push_back(record);
                    prop_assert_eq!(track.count(), model.len() as u64);
                }
                let newest: Vec<Vec<u8>> = track.newest_first().map(|pieces| pieces.concat()).collect();
                prop_assert_eq!(newest, model.into_iter().rev().collect::<Vec<_>>());
            }

            /// Memory that somebody else wrote to.
            #[test]
            fn nonsense_ends_the_walk(bytes in prop::collection::vec(any::<u8>(), 64), start in 0usize..64, used in 0usize..65) {
                let mut track = Track { bytes: bytes.into(), start, used, count: 3 };
                prop_assert!(track.newest_first().count() <= 16);
                let mut popped = 0;
                while track.pop() {
                    popped += 1;
                }
                prop_assert!(popped <= 33 && track.count() == 0);
                track.push([b"on", b"wards"]);
    prop_assert_eq!(track.oldest().map(|pieces| pieces.concat()), Some(b"onwards".to_vec()));
            }
        }

    #[test]
    fn what_has_no_room_is_not_written() {
        let mut track = Track::new(16);
        track.push([b"twelve bytes", b"!"]);
        assert_eq!((track.count(), track.oldest()), (0, None));
        track.push([b"twelve", b" bytes"]);
        assert_eq!((track.count(), track.has_room(0)), (1, false));
    }
}
