//! What the proxy tells of itself: metrics, the access log, the audit, and its own log. Knows nothing of sockets or routes.

pub mod access;
pub mod audit;
pub mod baseline;
pub mod block;
pub mod canaries;
pub mod circuits;
pub mod denials;
pub mod detection;
pub mod endpoints;
pub mod faults;
pub mod histogram;
pub mod learned;
pub mod logs;
pub mod metrics;
pub mod mirrored;
pub mod peers;
pub mod recent;
pub mod registry;
pub mod rfc3339;
pub mod shadow;
pub mod unknown;

mod counter;
mod expose;
pub mod limits;
mod line;
mod observed;
mod process;
