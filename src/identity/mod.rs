//! Certificates, keys and trust anchors: read from files, judged, made into configurations of TLS, and replaced while
//! connections live on.

pub mod dev;
