//! What the proxy tells of itself: metrics, the access log, and its own log. Knows nothing of sockets or routes.

pub mod access;
pub mod block;
pub mod logs;
pub mod metrics;
pub mod recent;
pub mod rfc3339;

mod counter;
mod expose;
mod histogram;
mod line;
mod process;
