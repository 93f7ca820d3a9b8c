//! The configuration: read, merged, filled from the environment, checked as a whole, and only then ours.
//!
//! text -> `tree` (every node has a place) -> `merge` -> `substitute` -> `check` (the JSON Schema of `schema`)
//! -> `validate` and `reach` (what takes more than one key) -> [`Config`]. Each step reports all that it finds.

mod authorization;
mod balancing;
mod check;
mod circuit;
pub mod diff;
pub mod digest;
mod excerpt;
pub mod format;
mod health;
mod interception;
mod limits;
pub mod lint;
mod merge;
mod policies;
mod problem;
mod reach;
mod retries;
pub mod schema;
mod secrets;
mod sockets;
pub mod source;
mod storable;
mod substitute;
mod tls;
mod traffic;
mod tree;
pub mod units;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

pub use problem::{Place, Problem, Report, RuleId, Severity};
pub use reach::{applies, is_tcp as is_tcp_listener};
pub use secrets::{REDACTED, is_secret, is_secret_attribute};
pub use storable::Storable;
pub use substitute::Env;
pub use traffic::warnings;
pub use tree::step;

use excerpt::Excerpts;
use problem::mark;
use schema::{Endpoint, Root};
use secrets::At;
use substitute::{Filling, References};
use tree::Node;

use crate::wire::address::Address;
use crate::wire::spiffe::SpiffeId;

/// A configuration in which nothing is wrong. Only [`load`], [`parse`] and [`parse_all`] make one.
#[derive(Debug, Clone)]
pub struct Config {
    root: Root,
    tree: Node,
    digest: String,
    references: References,
    sources: Arc<[Source]>,
    files: Vec<PathBuf>,
    tcp_listeners: Vec<String>,
}

/// An endpoint that can be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedEndpoint {
    pub address: Address,
    /// More addresses of it.
    pub alternatives: Vec<SocketAddr>,
    pub labels: BTreeMap<String, String>,
    pub zone: Option<String>,
    pub region: Option<String>,
    pub priority: u32,
    pub weight: u32,
    /// Whom it must prove to be.
    pub identity: Option<SpiffeId>,
}

/// A text to be read, and what to call it.
#[derive(Debug)]
struct Source {
    file: Arc<str>,
    text: String,
}

/// Reads a file, or all `*.yaml` and `*.yml` files of a directory.
pub fn load(path: &Path, env: Env<'_>) -> Result<Config, Report> {
    let files = source::files(path).map_err(|error| unreadable(path, &error))?;
    if files.is_empty() {
        let problem =
            Problem::new(format!("there is no `*.yaml` file in `{}`", path.display())).rule(RuleId::Unreadable);
        return Err(problem.remedy("name a file, or a directory with one").into());
    }
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    for file in &files {
        match read(file) {
            Ok(source) => sources.push(source),
            Err(problem) => problems.push(problem.rule(RuleId::Unreadable)),
        }
    }
    compile(sources, problems, files, (env, None))
}

/// The same for one text, called `name` in problems.
pub fn parse(name: &str, text: &str, env: Env<'_>) -> Result<Config, Report> {
    compile(vec![Source { file: name.into(), text: text.to_owned() }], Vec::new(), vec![name.into()], (env, None))
}

/// The same for several texts with their names, such as those of a configuration that was stored.
pub fn parse_all(texts: &[(String, String)], env: Env<'_>) -> Result<Config, Report> {
    parse_texts(texts, (env, None))
}

/// The same for the texts of somebody who may not see the environment: they may refer to the variables that `live`
/// refers to, and for anything but a secret only to those that are no secrets there.
pub fn parse_beside(live: &Config, texts: &[(String, String)], env: Env<'_>) -> Result<Config, Report> {
    parse_texts(texts, (env, Some(&live.references)))
}

fn parse_texts(texts: &[(String, String)], env: Variables<'_>) -> Result<Config, Report> {
    if texts.is_empty() {
        return Err(Problem::new("there is no text").remedy("name at least one").into());
    }
    let sources = texts.iter().map(|(name, text)| Source { file: name.as_str().into(), text: text.clone() }).collect();
    compile(sources, Vec::new(), texts.iter().map(|(name, _)| name.into()).collect(), env)
}

/// Reads the list in a service's `endpoints.file`; `port` is the service's.
pub fn endpoints(path: &Path, text: &str, port: Option<u16>) -> Result<Vec<ResolvedEndpoint>, Report> {
    let source = Source { file: path.display().to_string().into(), text: text.to_owned() };
    let tree = tree::parse(&source.file, text)
        .map_err(|problem| report(vec![problem.rule(RuleId::Syntax)], None, std::slice::from_ref(&source)))?;
    let (mut problems, mut endpoints) = (Vec::new(), Vec::new());
    if !matches!(tree.value, tree::Value::Seq(_)) {
        let message = format!("expected a list of endpoints, found {}", tree.kind());
        problems.push(Problem::at(&tree.place, "", message).remedy("write `- 10.0.0.1:80`, line by line"));
    }
    for (index, item) in tree.seq().iter().enumerate() {
        let json = check::definition(item, "Endpoint", &format!("[{index}]"), &mut problems);
        match json.map(serde_json::from_value::<Endpoint>) {
            Some(Ok(endpoint)) => endpoints.push(endpoint),
            Some(Err(error)) => problems.push(Problem::at(&item.place, format!("[{index}]"), error.to_string())),
            None => {}
        }
    }
    let mut resolved = Vec::new();
    if problems.is_empty() {
        let (sound, flawed) =
            validate::endpoint_problems(&endpoints, port, "write `ip:port`, or give the service a `port`");
        resolved = sound;
        for (index, message, remedy) in flawed {
            let place = tree.seq().get(index).map_or(&tree.place, |item| &item.place);
            problems.push(Problem::at(place, format!("[{index}]"), message).remedy(remedy));
        }
        if !resolved.is_empty() && resolved.iter().all(|endpoint| endpoint.weight == 0) {
            problems.push(Problem::at(&tree.place, "", validate::NO_WEIGHT).remedy(validate::SOME_WEIGHT));
        }
    }
    if problems.is_empty() { Ok(resolved) } else { Err(report(problems, None, &[source])) }
}

/// What to connect to; `None` where neither the endpoint nor its service has a port.
pub fn resolve(endpoint: &Endpoint, port: Option<u16>) -> Option<ResolvedEndpoint> {
    let full = match endpoint {
        Endpoint::Full(full) => full.clone(),
        Endpoint::Address(address) => schema::FullEndpoint {
            address: address.clone(),
            alternatives: Vec::new(),
            labels: BTreeMap::new(),
            zone: None,
            region: None,
            priority: 0,
            weight: 1,
            identity: None,
        },
    };
    let address = |text: &String| {
        let (ip, own) = format::endpoint_address(text).ok()?;
        Some(SocketAddr::new(ip, own.or(port)?))
    };
    let alternatives = full.alternatives.iter().map(address).collect::<Option<_>>()?;
    let address = match full.address.starts_with(schema::UNIX) {
        true => full.address.parse().ok()?,
        false => address(&full.address)?.into(),
    };
    // Its form was checked with all others.
    let identity = full.identity.as_deref().and_then(|id| SpiffeId::parse(id).ok());
    Some(ResolvedEndpoint {
        address,
        alternatives,
        labels: full.labels,
        zone: full.zone,
        region: full.region,
        priority: full.priority,
        weight: full.weight,
        identity,
    })
}

/// An address, and its port where it has one.
pub fn address(text: &str) -> Option<(std::net::IpAddr, Option<u16>)> {
    format::endpoint_address(text).ok()
}

/// The JSON Schema of a configuration, for editors.
pub fn json_schema() -> Json {
    check::json_schema().clone()
}

impl Config {
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// SHA-256, in 64 hex digits, of what the configuration means: comments, order of keys and spelling of defaults do
    /// not count; what the environment filled in does.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Name and text of each file, as it was read: references to the environment are still there.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sources.iter().map(|source| (&*source.file, source.text.as_str()))
    }

    /// The same, as it may be written to disk: without the secrets that [`Config::dump`] hides.
    pub fn storable(&self) -> Storable {
        storable::storable(&self.sources, &secrets::attributes(&self.root))
    }

    /// The variables of the environment that the sources refer to.
    pub fn references(&self) -> &BTreeSet<String> {
        &self.references.all
    }

    /// Where something stands, such as `routes[2]`, in the merged configuration.
    pub fn place(&self, path: &str) -> Option<Place> {
        self.tree.find(path).cloned()
    }

    /// Where a rule of this type stands in `policies`, which have become keys of their services.
    pub fn policy_place(&self, service: &str, kind: schema::PolicyKind) -> Option<Place> {
        policies::place(&self.tree, service, kind)
    }

    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether the listener carries connections as they are (L4).
    pub fn is_tcp_listener(&self, name: &str) -> bool {
        self.tcp_listeners.iter().any(|listener| listener == name)
    }

    /// With all defaults filled in, and without secrets: `explainToken`, and what header edits, conditions and
    /// attributes have under names of secrets.
    pub fn dump(&self) -> Json {
        let mut json = serde_json::to_value(&self.root).unwrap_or_default();
        secrets::redact(&mut json, At::root(&secrets::attributes(&self.root)));
        json
    }
}

/// The environment, and what of it may be referred to where not all may.
type Variables<'a> = (Env<'a>, Option<&'a References>);

impl Deref for Config {
    type Target = Root;

    fn deref(&self) -> &Root {
        &self.root
    }
}

fn compile(
    sources: Vec<Source>,
    mut problems: Vec<Problem>,
    files: Vec<PathBuf>,
    (env, live): Variables<'_>,
) -> Result<Config, Report> {
    let mut trees = Vec::new();
    for source in &sources {
        match tree::parse(&source.file, &source.text) {
            Ok(tree) => trees.push(tree),
            Err(problem) => problems.push(problem.rule(RuleId::Syntax)),
        }
    }
    let unread = !problems.is_empty();
    let Some(mut tree) = merge::merge(trees, &mut problems) else {
        return Err(report(problems, None, &sources));
    };
    secrets::mark(&mut tree);
    let mut filling = Filling::new(env, live);
    filling.fill(&mut tree);
    // Again: a name may have come out of the environment.
    secrets::mark(&mut tree);
    let Filling { used: references, values, problems: mut missing, .. } = filling;
    mark(&mut missing, 0, &RuleId::Environment);
    let merged = problems.len();
    let sound = check::root(&tree, &mut problems);
    mark(&mut problems, merged, &RuleId::Structure);
    // What could not be filled in has been said; that it is also not a number, say, is no news.
    problems.retain(|problem| !missing.iter().any(|missing| missing.place == problem.place));
    problems.append(&mut missing);
    let mut root = match serde_json::from_value::<Root>(Json::Object(sound.json.clone())) {
        Ok(root) => root,
        Err(error) => {
            problems.push(Problem::at(&tree.place, "", format!("cannot be understood: {error}")));
            hide_values(&mut problems, &values);
            return Err(report(problems, Some(&tree), &sources));
        }
    };
    // With a file missing, half of the names would seem to be, too.
    if !unread {
        let whole = problems.is_empty();
        validate::validate(validate::View { root: &root, tree: &tree, sound: &sound, problems: &mut problems }, whole);
    }
    if !problems.is_empty() {
        hide_values(&mut problems, &values);
        return Err(report(problems, Some(&tree), &sources));
    }
    policies::apply(&mut root);
    let digest = digest::sha256(&serde_json::to_vec(&root).unwrap_or_default());
    let tcp_listeners = root.listeners.iter().filter(|l| reach::is_tcp(&root, l)).map(|l| l.name.clone()).collect();
    Ok(Config { root, tree, digest, references, sources: sources.into(), files, tcp_listeners })
}

/// Takes values of the environment out of messages about other things than the values themselves.
fn hide_values(problems: &mut [Problem], values: &BTreeMap<String, String>) {
    // Shorter ones are a part of too much else.
    for (name, value) in values.iter().filter(|(_, value)| value.len() >= 4) {
        let hide = |text: &mut String| {
            if text.contains(value) {
                *text = text.replace(value, &format!("${{{name}}}"));
            }
        };
        for problem in &mut *problems {
            hide(&mut problem.message);
            problem.remedy.as_mut().map(hide);
        }
    }
}

/// Adds the source lines, without secrets, and gives list items the index that they have in their own file.
fn report(mut problems: Vec<Problem>, tree: Option<&Node>, sources: &[Source]) -> Report {
    let mut excerpts = Excerpts::new(sources, tree);
    for problem in &mut problems {
        excerpts.show(problem);
        if let Some(path) = tree.and_then(|tree| merge::local(tree, &problem.path)) {
            problem.path = path;
        }
    }
    Report::new(problems)
}

/// The same for a file in which nothing is secret.
fn plain_report(mut problems: Vec<Problem>, source: &Source) -> Report {
    problems.iter_mut().for_each(|problem| excerpt::show_plain(problem, source));
    Report::new(problems)
}

fn read(path: &Path) -> Result<Source, Box<Problem>> {
    let file: Arc<str> = path.display().to_string().into();
    let bytes = source::read(path).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > tree::FILE_BYTES_MAX {
        return Err(tree::too_large(&file).into());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { file, text }),
        Err(error) => {
            let (sound, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
            let sound = String::from_utf8_lossy(sound);
            let last = sound.rsplit('\n').next().unwrap_or_default();
            let line = u32::try_from(sound.matches('\n').count() + 1).unwrap_or(u32::MAX);
            let column = u32::try_from(last.chars().count() + 1).unwrap_or(u32::MAX);
            let place = Place { file, line, column, width: 1 };
            let problem = Problem::at(&place, "", "the file is not UTF-8 text").remedy("not text from here on");
            Err(Problem { source: Some(excerpt::last_line(&sound)), ..problem }.into())
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(format!("cannot read `{}`: {error}", path.display())).rule(RuleId::Unreadable)
}
