//! What the proxy tells of itself: metrics, the access log, and its own log. Knows nothing of sockets or routes.

pub mod access;
pub mod baseline;
pub mod block;
pub mod histogram;
pub mod logs;
pub mod metrics;
pub mod rfc3339;

mod counter;
mod expose;
mod line;
mod observed;
mod process;
