//! Faults, mirrors and canaries of routes.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::{Names, compile_edits, compile_rule};
use crate::config::schema;
use crate::policy::differ::{BodyRule, Pointer, Rule};
use crate::policy::fault::{Abort, Chance, Fault};
use crate::policy::outcome::grpc_code;
use crate::snapshot::{Action, Route, Target, traffic};
use crate::telemetry::rfc3339;

pub fn fault(fault: &schema::Fault, names: &Names<'_>) -> traffic::Fault {
    let abort = |abort: &schema::FaultAbort| {
        let status = || abort.status.and_then(|status| StatusCode::from_u16(status).ok()).map(Abort::Status);
        let code = || abort.grpc.as_deref().and_then(grpc_code).map(Abort::Grpc);
        Some((Chance(abort.percent), status().or_else(code).or(abort.reset.then_some(Abort::Reset))?))
    };
    traffic::Fault {
        rules: fault.matches.iter().enumerate().map(|(line, one)| compile_rule(one, 0, line, names)).collect(),
        fault: Fault {
            delay: fault.delay.as_ref().map(|delay| (Chance(delay.percent), *delay.duration)),
            abort: fault.abort.as_ref().and_then(abort),
            bandwidth: fault.bandwidth.as_ref().map(|bandwidth| (Chance(bandwidth.percent), bandwidth.limit.0)),
            expires: fault.expires.as_deref().and_then(rfc3339::read),
        },
    }
}

pub fn mirrors(mirrors: &[schema::Mirror], names: &Names<'_>) -> Vec<traffic::Mirror> {
    let one = |mirror: &schema::Mirror| {
        Some(traffic::Mirror {
            to: mirror.to.as_str().into(),
            target: names.target(&mirror.to)?,
            chance: Chance(mirror.percent),
            methods: mirror.methods.iter().filter_map(|method| Method::from_bytes(method.as_bytes()).ok()).collect(),
            timeout: *mirror.timeout,
            max_in_flight: mirror.max_in_flight,
            buffer_limit: usize::try_from(mirror.buffer_limit.0).unwrap_or(usize::MAX),
            headers: compile_edits(&mirror.headers),
            compare: mirror.compare.as_ref().map(comparison),
        })
    };
    mirrors.iter().filter_map(one).collect()
}

fn comparison(compare: &schema::Compare) -> traffic::Comparison {
    let body = |body: &schema::CompareBody| BodyRule {
        json: body.json,
        ignore: body.ignore.iter().map(|pointer| Pointer::new(pointer)).collect(),
    };
    let rule = Rule {
        status: compare.status,
        headers: compare.headers.iter().filter_map(|name| name.parse().ok()).collect(),
        body: compare.body.as_ref().map(body),
    };
    let max_body = usize::try_from(compare.max_body.0).unwrap_or(usize::MAX);
    traffic::Comparison { rule, noise: Chance(compare.noise), max_body }
}

/// `all` are the sides of the route, with their weights.
pub fn canary(
    route: &schema::Route,
    names: &Names<'_>,
    all: &[(Target, f64)],
    known: Option<&Route>,
) -> Option<Arc<traffic::Steered>> {
    let written = route.canary.as_ref()?;
    let target = names.target(&written.side)?;
    let side = all.iter().position(|(side, _)| *side == target)?;
    let before = known.and_then(|known| match &known.action {
        Action::Forward(forward) => forward.canary.as_deref(),
        Action::Redirect(_) | Action::Respond(..) => None,
    });
    let weights = all.iter().map(|(_, weight)| *weight).collect();
    Some(Arc::new(traffic::Steered::new(written, side, weights, before)))
}
