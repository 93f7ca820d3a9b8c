//! From a configuration to its material, part by part. Whatever cannot be used leaves what is in use as it is.

use std::cell::OnceCell;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

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
        if let Some(Refusal { named, why, .. }) = &part.refused {
            troubles.push(Trouble {
                what: part.spec.what.clone(),
                key: named.key.clone(),
                file: named.file.clone(),
                why: why.clone(),
                serves_on: part.live.is_some(),
                known: before.is_some(),
            });
        }
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
    let (live, flaw) = match candidate(&spec, &named, old.as_ref(), max_age, now, system) {
        Ok(live) => (Some(aged(live, max_age)), None),
        Err(flaw) => (old.map(|old| aged(old, max_age)), Some(flaw)),
    };
    let refused = flaw.map(|(Flaw { index, why }, digest)| {
        let nothing = || Named { key: key.clone(), file: String::new() };
        let named = named.get(index).cloned().unwrap_or_else(nothing);
        // The words may have the time in them: the same files are refused for the same reason.
        let same =
            |known: &&Refusal| known.named == named && known.digest == digest && (digest.is_some() || known.why == why);
        let known = before.and_then(|part| part.refused.as_ref()).filter(same).cloned();
        known.unwrap_or(Refusal { named, why, since: now, digest })
    });
    Part { spec, live, refused }
}

/// What the files have now: what is in use, or something that may take its place.
fn candidate(
    spec: &Spec,
    named: &[Named],
    old: Option<&Arc<Live>>,
    max_age: Option<std::time::Duration>,
    now: SystemTime,
    system: &OnceCell<Arc<Live>>,
) -> Result<Arc<Live>, (Flaw, Option<[u8; 32]>)> {
    if let (Kind::Roots { bundle: None }, Some(known)) = (&spec.kind, old.or(system.get())) {
        return Ok(known.clone());
    }
    let read = named.iter().enumerate().map(|(index, named)| {
        let bytes = files::read(Path::new(&named.file)).map_err(|why| Flaw { index, why })?;
        Ok(Text { named: named.clone(), bytes })
    });
    let texts = read.collect::<Result<Vec<_>, Flaw>>().map_err(|flaw| (flaw, None))?;
    let digest = build::digest(&texts);
    if let Some(old) = old.filter(|old| old.digest == digest) {
        return Ok(old.clone());
    }
    let new = build::build(&spec.kind, max_age, &texts, now).and_then(|new| match old {
        Some(old) => build::judge(&new, old, now).map(|()| new),
        None => Ok(new),
    });
    let new = Arc::new(new.map_err(|flaw| (flaw, Some(digest)))?);
    if matches!(spec.kind, Kind::Roots { bundle: None }) {
        let _ = system.set(new.clone());
    }
    Ok(new)
}

/// The age of connections is no matter of the files.
fn aged(live: Arc<Live>, max_age: Option<std::time::Duration>) -> Arc<Live> {
    match &live.product {
        Product::Mesh(mesh) if mesh.max_age != max_age => {
            let product = Product::Mesh(Arc::new(Mesh { max_age, ..Mesh::clone(mesh) }));
            Arc::new(Live { product, loaded: live.loaded.clone(), digest: live.digest, since: live.since })
        }
        _ => live,
    }
}

#[cfg(test)]
mod tests;
