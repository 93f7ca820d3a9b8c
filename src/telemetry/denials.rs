//! What entries of `authorization` have denied, or would have in shadow mode, by listener and entry. A denial is seldom
//! enough for a counter that the workers share; a worker looks it up once.

use std::sync::Arc;

use super::counter::Shared;

#[derive(Debug, Default)]
pub struct Denials {
    pub enforced: Shared,
    pub shadow: Shared,
}

/// Names of a listener and an entry.
pub type Series = (Arc<str>, Arc<str>);
