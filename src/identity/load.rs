//! From a configuration to its material, part by part. Whatever cannot be used leaves what is in use as it is.

use std::cell::OnceCell;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::build::{self, Flaw, Text};
use super::part::{Kind, Live, Named, Part, Product, Refusal, Spec, What};
use super::{Material, Mesh, files};
use crate::config::schema::Root;

/// Files that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub what: What,
    /// Key of the configuration that names the file, such as `identity.certificate`.
    pub key: String,
    pub file: String,
    /// With what would be right.
    pub why: String,
    /// What was there before goes on.
    pub serves_on: bool,
    /// It was not refused, but ought to be replaced.
    pub in_use: bool,
    /// The configuration has named the same files before: they have changed, not it.
    pub known: bool,
}

/// Reads everything that a configuration names. A part that is written as in `previous` goes on with what that has, where
/// the files have nothing better.
pub fn load(root: &Root, previous: Option<&Material>, now: SystemTime) -> (Material, Vec<Trouble>) {
    let (mut material, mut troubles) = (Material::default(), Vec::new());
    let system = OnceCell::new();
    for (spec, key) in Spec::all(root) {
        let before = previous.and_then(|previous| previous.parts.iter().find(|part| part.spec == spec));
        let part = part(spec, key, before, root, now, &system);
        let trouble = |named: &Named, why: &str, in_use| Trouble {
            what: part.spec.what.clone(),
            key: named.key.clone(),
            file: named.file.clone(),
            why: why.to_owned(),
            serves_on: part.live.is_some(),
            in_use,
            known: before.is_some(),
        };
        troubles.extend(part.refused.iter().map(|Refusal { named, why, .. }| trouble(named, why, false)));
        let revoked = part.live.as_ref().and_then(|live| live.revoked());
        troubles.extend(revoked.map(|named| trouble(named, build::REVOKED, true)));
        match (part.live.as_ref().map(|live| &live.product), &part.spec.what) {
            (Some(Product::Mesh(mesh)), _) => material.mesh = Some(mesh.clone()),
            (Some(Product::Server(server)), What::Listener(name)) => {
                material.servers.insert(name.clone(), server.clone());
            }
            (Some(Product::Roots(roots)), What::Service(name)) => {
                material.roots.insert(name.clone(), roots.clone());
            }
            _ => {}
        }
        material.parts.push(part);
    }
    let before = previous.map_or(0, |previous| previous.generation);
    let same = previous.is_some_and(|previous| material.is_like(previous));
    material.generation = if same { before } else { before + 1 };
    (material, troubles)
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file.as_str() {
            "" => write!(f, "{}: {}", self.key, self.why),
            file => write!(f, "{} `{file}`: {}", self.key, self.why),
        }
    }
}

impl Material {
    /// Whether whoever uses it would find no difference.
    fn is_like(&self, other: &Self) -> bool {
        let products = |material: &Self| {
            let live = |part: &Part| Some((part.spec.what.clone(), part.live.as_ref()?.product.clone()));
            material.parts.iter().filter_map(live).collect::<Vec<_>>()
        };
        let (ours, others) = (products(self), products(other));
        ours.len() == others.len()
            && ours.iter().all(|(what, product)| others.iter().any(|(other, one)| what == other && product.is(one)))
    }
}

fn part(
    spec: Spec,
    key: String,
    before: Option<&Part>,
    root: &Root,
    now: SystemTime,
    system: &OnceCell<Arc<Live>>,
) -> Part {
    let named = spec.files(&key);
    let old = before.and_then(|part| part.live.clone());
    let max_age = root.identity.as_ref().map(|identity| identity.max_age.get()).filter(|max_age| !max_age.is_zero());
    let mut flaws = Flaws::default();
    let live = candidate(&spec, &named, old.as_ref(), max_age, now, system, &mut flaws).or(old);
    let Flaws { all: flaws, digest } = flaws;
    let live = live.map(|live| aged(live, max_age));
    let refusal = |Flaw { index, why }: Flaw| {
        let nothing = || Named { key: key.clone(), file: String::new() };
        let named = named.get(index).cloned().unwrap_or_else(nothing);
        // The words may have the time in them: the same files are refused for the same reason.
        let same =
            |known: &&Refusal| known.named == named && known.digest == digest && (digest.is_some() || known.why == why);
        let known = before.iter().flat_map(|part| &part.refused).find(same).cloned();
        known.unwrap_or(Refusal { named, why, since: now, digest })
    };
    let refused = flaws.into_iter().map(refusal).collect();
    Part { spec, live, refused }
}

/// Why files are not taken, and what they are, where they could be read.
#[derive(Default)]
struct Flaws {
    all: Vec<Flaw>,
    digest: Option<[u8; 32]>,
}

/// What the files have now: what is in use, or something that may take its place. Of an identity, files that are flawed
/// leave in use what was there of them before; the others count: nobody may get in because a certificate is bad.
fn candidate(
    spec: &Spec,
    named: &[Named],
    old: Option<&Arc<Live>>,
    max_age: Option<Duration>,
    now: SystemTime,
    system: &OnceCell<Arc<Live>>,
    flaws: &mut Flaws,
) -> Option<Arc<Live>> {
    if let (Kind::Roots { bundle: None }, Some(known)) = (&spec.kind, old.or(system.get())) {
        return Some(known.clone());
    }
    let before: &[Text] = old.map_or(&[], |old| &old.texts);
    let mut texts = Vec::new();
    for (index, named) in named.iter().enumerate() {
        match files::read(Path::new(&named.file)) {
            Ok(bytes) => texts.push(Text { named: named.clone(), bytes }),
            Err(why) => {
                flaws.all.push(Flaw { index, why });
                texts.push(before.get(index)?.clone());
            }
        }
    }
    // A certificate and its key are good for nothing without each other.
    flaws.digest = flaws.all.is_empty().then(|| build::digest(&texts));
    if flaws.all.iter().any(|flaw| build::PAIR.contains(&flaw.index)) {
        build::step_back(&mut texts, before, build::PAIR.start);
    }
    loop {
        if let Some(old) = old.filter(|old| old.digest == build::digest(&texts)) {
            return Some(old.clone());
        }
        // Of those that are new, one that is not revoked is asked for. What is in use has no choice.
        let in_use = old.is_none() || build::same(&texts, before, &build::PAIR);
        let built = build::build(&spec.kind, max_age, &texts, in_use, now);
        let judged =
            built.and_then(|new| old.map_or(Ok(()), |old| build::judge(&new, old, now)).map(|()| Arc::new(new)));
        match judged {
            Ok(new) => {
                if matches!(spec.kind, Kind::Roots { bundle: None }) {
                    let _ = system.set(new.clone());
                }
                return Some(new);
            }
            Err(flaw) => {
                let back = build::step_back(&mut texts, before, flaw.index);
                if !flaws.all.iter().any(|known| known.index == flaw.index) {
                    flaws.all.push(flaw);
                }
                if !back {
                    return None;
                }
            }
        }
    }
}

/// The age of connections is no matter of the files.
fn aged(live: Arc<Live>, max_age: Option<Duration>) -> Arc<Live> {
    match &live.product {
        Product::Mesh(mesh) if mesh.max_age != max_age => {
            let product = Product::Mesh(Arc::new(Mesh { max_age, ..Mesh::clone(mesh) }));
            let (loaded, texts) = (live.loaded.clone(), live.texts.clone());
            Arc::new(Live { product, loaded, texts, digest: live.digest, since: live.since })
        }
        _ => live,
    }
}

#[cfg(test)]
mod tests;
