//! The time as of the last read on this thread: fresh wherever bytes have just come, and free. What must not be late
//! (timers, the end of an exchange) asks the system.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static NOW: Cell<Instant> = Cell::new(Instant::now());
}

/// Asks the system, and remembers.
pub fn tick() -> Instant {
    let now = Instant::now();
    NOW.set(now);
    now
}

/// As of the last `tick`.
pub fn recent() -> Instant {
    NOW.get()
}
