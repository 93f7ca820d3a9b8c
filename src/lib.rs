//! Outrigger: a service-mesh data-plane proxy.
//!
//! The map, from the wire up; a module uses those above it only (`tests/tidy.rs` checks that):
//!
//! - [`error`], [`wire`], [`policy`]: facts and decisions, without sockets or clocks
//! - [`config`], [`identity`], [`telemetry`]: what we were told, who we are, and what we tell
//! - [`net`], [`discovery`], [`snapshot`], [`decide`], [`explain`], [`blast`], [`body`], [`upstream`],
//!   [`state`]: the machinery
//! - [`health`]: checks of endpoints, and what they have done
//! - [`intercept`]: rules in the kernel that bring a pod's traffic here
//! - [`http`], [`tcp`]: proxying; a request is read top to bottom in [`http::exchange`]
//! - [`inbound`], [`worker`], [`admin`]: connections, event loops, and the endpoints that watch over them
//! - [`app`], [`runtime`], [`drain`], [`demo`]: the process
//! - [`cli`]: the subcommands that are not the proxy

pub mod admin;
pub mod app;
pub mod blast;
pub mod body;
pub mod cli;
pub mod config;
pub mod decide;
pub mod demo;
pub mod discovery;
pub mod drain;
pub mod error;
pub mod explain;
pub mod health;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod intercept;
pub mod net;
pub mod policy;
pub mod runtime;
pub mod snapshot;
pub mod state;
pub mod tcp;
pub mod telemetry;
pub mod upstream;
pub mod wire;
pub mod worker;
