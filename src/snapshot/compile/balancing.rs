//! How the endpoints of a service are chosen among.

use std::time::Duration;

use crate::config::schema;
use crate::policy::balance::{Settings, TABLE_SIZE};
use crate::snapshot::hash_key::HashKey;
use crate::snapshot::matcher::Key;

pub fn compile_settings(balancer: &schema::LoadBalancer, workload: &schema::Workload) -> Settings {
    let geographic = balancer.policy == schema::LbPolicy::GeoHashedRing;
    Settings {
        policy: balancer.policy,
        max_load: balancer.max_load,
        table_size: balancer.table_size.unwrap_or(TABLE_SIZE),
        zone: balancer.zone.map(|mode| (mode, workload.zone.as_str().into())),
        region: if geographic { workload.region.as_str().into() } else { "".into() },
        regions: balancer.regions.as_ref().map(|regions| regions.iter().map(|name| name.as_str().into()).collect()),
        slow_start: balancer.slow_start.map_or(Duration::ZERO, |time| *time),
        panic_threshold: balancer.panic_threshold,
    }
}

pub fn compile_hash_key(key: &schema::HashKey, root: &schema::Root) -> Option<HashKey> {
    Some(match key {
        schema::HashKey::Header(name) => HashKey::Part(Key::Header(name.parse().ok()?)),
        schema::HashKey::Cookie(name) => HashKey::Part(Key::Cookie(name.as_str().into())),
        schema::HashKey::Query(name) => HashKey::Part(Key::Query(name.as_str().into())),
        schema::HashKey::Attribute(name) => HashKey::Part(Key::Attribute(root.attributes.get_index_of(name)?)),
        schema::HashKey::Source(schema::HashSource::Address) => HashKey::Source,
    })
}
