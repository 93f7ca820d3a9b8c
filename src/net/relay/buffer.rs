//! Buffers to copy through. They are large, few, and shared by all that a worker relays: whoever has nothing to keep in
//! one gives it back, and the next takes the one that is still in the processor's cache.

use std::cell::RefCell;

/// By the benchmark: larger ones are not faster, with 64 KiB it takes a sixth more.
pub const SIZE: usize = 256 * 1024;
/// Buffers that a worker keeps though nobody needs them.
const SPARE: usize = 2;

thread_local! {
    static SPARES: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Given back when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub fn take() -> Self {
        let spare = SPARES.with_borrow_mut(Vec::pop);
        Self { bytes: spare.unwrap_or_else(|| vec![0; SIZE].into()), start: 0, end: 0 }
    }

    /// All of it; what it held is forgotten with the next `fill`.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// So many bytes of the space have been read.
    pub fn fill(&mut self, count: usize) {
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
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE {
                spares.push(std::mem::take(&mut self.bytes));
            }
        });
    }
}
