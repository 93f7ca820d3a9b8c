//! What operators and probes ask over HTTP: health, metrics, the active configuration, drain. Runs on the admin
//! thread, so that a scrape costs the traffic nothing. See `docs/admin.md`.

pub mod body;
pub mod health;
pub mod probe;
pub mod question;
pub mod routes;
pub mod server;
