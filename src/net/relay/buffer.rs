//! Buffers to copy through. They are large, few, and shared by all that a worker relays: whoever has nothing to keep in
//! one gives it back, and the next takes the one that is still in the processor's cache.

use std::cell::{Cell, RefCell};

/// By the benchmark, for a long stream: with 256 KiB a third more of the processor, with 64 KiB half as much again.
pub const SIZE: usize = 1024 * 1024;
/// The first read is small, for most of what is said is; and after much of it more has come meanwhile. The next are
/// each four times as large.
const FIRST: usize = 16 * 1024;
/// Large buffers of a worker at a time, and those that it keeps though nobody needs them. Who comes too late has a
/// small one.
const MOST: usize = 32;
const SPARE: usize = 2;

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// Given back when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    /// What the next read may fill.
    limit: usize,
    start: usize,
    end: usize,
}

impl Buffer {
    pub fn take() -> Self {
        TAKEN.set(TAKEN.get() + 1);
        let size = if TAKEN.get() <= MOST { SIZE } else { FIRST };
        let spare = (size == SIZE).then(|| SPARES.with_borrow_mut(Vec::pop)).flatten();
        Self { bytes: spare.unwrap_or_else(|| vec![0; size].into()), limit: FIRST, start: 0, end: 0 }
    }

    /// For the next read, after which comes `fill`. What was there is lost.
    pub fn space(&mut self) -> &mut [u8] {
        let limit = self.limit.min(self.bytes.len());
        self.bytes.get_mut(..limit).unwrap_or_default()
    }

    /// So many bytes of the space have been read.
    pub fn fill(&mut self, count: usize) {
        if count == self.limit {
            self.limit = (self.limit * 4).min(self.bytes.len());
        }
        (self.start, self.end) = (0, count);
    }

    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub fn advance(&mut self, count: usize) {
        self.start += count;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        TAKEN.set(TAKEN.get().saturating_sub(1));
        SPARES.with_borrow_mut(|spares| {
            if self.bytes.len() == SIZE && spares.len() < SPARE {
                spares.push(std::mem::take(&mut self.bytes));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_grow_and_are_few() {
        let mut buffer = Buffer::take();
        let mut sizes = Vec::new();
        for _ in 0..5 {
            let size = buffer.space().len();
            sizes.push(size);
            buffer.fill(size);
        }
        assert_eq!(sizes, [FIRST, 4 * FIRST, 16 * FIRST, SIZE, SIZE]);
        buffer.advance(SIZE - 3);
        assert_eq!(buffer.rest(), [0; 3]);
        let mut many: Vec<Buffer> = (0..2 * MOST).map(|_| Buffer::take()).collect();
        assert_eq!(many.iter().filter(|buffer| buffer.bytes.len() == SIZE).count(), MOST - 1);
        if let Some(late) = many.last_mut() {
            late.fill(FIRST);
            assert_eq!(late.space().len(), FIRST);
        }
        drop((many, buffer));
        assert_eq!((TAKEN.get(), SPARES.with_borrow(Vec::len)), (0, SPARE));
    }
}
