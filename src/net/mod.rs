//! Sockets: accepting, dialling, the byte stream under every codec, and the relay of what needs no codec.

pub mod accept;
pub mod clock;
pub mod delivery;
pub mod dial;
pub mod first_request;
pub mod held;
pub mod io;
pub mod lifetime;
pub mod own;
pub mod ports;
pub mod relay;
pub mod socket;
pub mod splice;
pub mod stream;
pub mod tokio_io;
