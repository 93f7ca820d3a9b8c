//! Circuit breakers and classes of answers. What was learned under the same name is taken over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::compile_redirect;
use crate::config::schema;
use crate::policy::breaker::{Breaker, Terms};
use crate::policy::outcome;
use crate::policy::stale::Stale;
use crate::snapshot::circuit::{Circuit, Circuits, Class, Fallback};
use crate::snapshot::matcher::Text;
use crate::snapshot::{Route, Service, Snapshot, Target};

/// Of a service; none where there is nothing to learn.
pub fn compile_circuits(
    service: &schema::Service,
    root: &schema::Root,
    known: Option<&Service>,
) -> Option<Box<Circuits>> {
    let known = known.and_then(|known| known.circuits.as_deref());
    let fallbacks = service
        .error_classes
        .iter()
        .filter(|class| class.circuit_breaker.as_ref().is_some_and(|own| is_on(&own.whole())));
    let fallbacks = fallbacks.map(|class| class.fallback.as_ref());
    let own = service.circuit_breaker.iter().filter(|breaker| is_on(breaker)).map(|breaker| breaker.fallback.as_ref());
    let needed = own.chain(fallbacks).flatten().any(|fallback| matches!(fallback, schema::Fallback::Stale(_)));
    let stale = needed.then(|| known.and_then(|known| known.stale.clone()).unwrap_or_default());
    let compile = |written: &schema::CircuitBreaker, fallback: Option<&schema::Fallback>, before: Option<&Circuit>| {
        compile_circuit(written, fallback, before, stale.as_ref(), root)
    };
    let class = |class: &schema::ErrorClass| {
        let before = known.and_then(|known| known.classes.iter().find(|before| *before.name == *class.name));
        let circuit = class.circuit_breaker.as_ref().and_then(|written| {
            compile(&written.whole(), class.fallback.as_ref(), before.and_then(|before| before.circuit.as_ref()))
        });
        let header = |(name, text): (&String, &schema::Text)| Some((name.parse().ok()?, Text::compile(text)));
        Class {
            name: class.name.as_str().into(),
            status: class.matches.status,
            grpc: class.matches.grpc.as_deref().and_then(outcome::grpc_code),
            headers: class.matches.response_header.iter().filter_map(header).collect(),
            sli: class.sli,
            circuit,
            answers: before.map(|before| before.answers.clone()).unwrap_or_default(),
        }
    };
    let own = service
        .circuit_breaker
        .as_ref()
        .and_then(|written| compile(written, written.fallback.as_ref(), known.and_then(|known| known.own.as_ref())));
    let classes: Box<[Class]> = service.error_classes.iter().map(class).collect();
    (own.is_some() || !classes.is_empty()).then(|| Box::new(Circuits { own, classes, stale }))
}

/// Of the written routes.
pub fn compile_route_circuits(root: &schema::Root, previous: Option<&Snapshot>, routes: &mut [Route]) {
    if root.routes.iter().all(|route| route.circuit_breaker.is_none()) {
        return;
    }
    let known = previous.into_iter().flat_map(|previous| &previous.routes);
    let known: HashMap<&str, &Circuit> =
        known.filter_map(|route| Some((&*route.name, route.circuit.as_deref()?))).collect();
    for (route, written) in routes.iter_mut().zip(&root.routes) {
        let Some(written) = &written.circuit_breaker else { continue };
        let known = known.get(&*route.name).copied();
        let stale = known.and_then(Circuit::stale).cloned().unwrap_or_default();
        route.circuit = compile_circuit(written, written.fallback.as_ref(), known, Some(&stale), root).map(Box::new);
    }
}

fn is_on(written: &schema::CircuitBreaker) -> bool {
    written.mode != schema::RuleMode::Off
}

fn compile_circuit(
    written: &schema::CircuitBreaker,
    fallback: Option<&schema::Fallback>,
    known: Option<&Circuit>,
    stale: Option<&Arc<Stale>>,
    root: &schema::Root,
) -> Option<Circuit> {
    let terms = Terms {
        min_requests: written.min_requests,
        threshold: written.failure_threshold,
        consecutive: written.consecutive_failures,
        open: *written.open_duration,
        trials: written.half_open_requests,
    };
    let failures = |any: &Vec<schema::Condition>| any.iter().filter_map(schema::Condition::compile).collect();
    is_on(written).then(|| Circuit {
        terms,
        failures: written.failures.as_ref().map(failures),
        shadow: written.mode == schema::RuleMode::Shadow,
        fallback: fallback.and_then(|fallback| compile_fallback(fallback, stale, root)),
        breaker: Breaker::new(*written.window, known.map(|known| &known.breaker), Instant::now()),
    })
}

fn compile_fallback(fallback: &schema::Fallback, stale: Option<&Arc<Stale>>, root: &schema::Root) -> Option<Fallback> {
    Some(match fallback {
        schema::Fallback::Redirect(redirect) => Fallback::Redirect(compile_redirect(redirect)),
        schema::Fallback::Respond(respond) => {
            let pair = |(name, value): (&String, &String)| -> Option<(HeaderName, HeaderValue)> {
                Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?))
            };
            Fallback::Respond {
                status: StatusCode::from_u16(respond.status).unwrap_or(StatusCode::OK),
                headers: HeaderMap::from_iter(respond.headers.iter().filter_map(pair)),
                body: Bytes::from(respond.body.clone()),
            }
        }
        schema::Fallback::To(to) => Fallback::To(target(to, root)?),
        schema::Fallback::Stale(age) => Fallback::Stale(age.get(), stale?.clone()),
    })
}

/// `service` or `service/subset`. Services are numbered as they are written.
fn target(to: &str, root: &schema::Root) -> Option<Target> {
    let (name, subset) = to.split_once('/').map_or((to, None), |(name, subset)| (name, Some(subset)));
    let (service, _, known) = root.services.get_full(name)?;
    let subset = match subset {
        Some(subset) => Some(known.subsets.get_index_of(subset)?),
        None => None,
    };
    Some(Target { service, subset })
}
