//! What is loaded, for `/certs`: every file with what it says, and what is wrong with it.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::Material;
use super::build::REVOKED;
use super::inspect::Certificate;
use super::part::{Content, CrlFacts, Loaded, Part};
use crate::telemetry::rfc3339::Rfc3339;

pub fn report(material: &Material, now: SystemTime) -> Value {
    let files: Vec<Value> = material.parts.iter().flat_map(|part| files(part, now)).collect();
    json!({ "generation": material.generation, "files": files })
}

/// Keys have nothing to show but what they are refused for.
fn files(part: &Part, now: SystemTime) -> Vec<Value> {
    let of = part.spec.what.to_string();
    let mut found: Vec<Value> = part
        .live
        .iter()
        .flat_map(|live| live.loaded.iter().map(|loaded| (live.since, loaded)))
        .map(|(since, Loaded { named, content })| {
            let (certificates, problems) = certificates(content, now);
            let mut file = json!({
                "of": of, "key": named.key, "file": named.file, "since": Rfc3339(since).to_string(),
                "certificates": certificates, "problems": problems,
            });
            if let Content::Crl(lists) = content {
                file["lists"] = lists.iter().map(list).collect();
            }
            file
        })
        .collect();
    let serves =
        if part.live.is_some() { "; what was there before serves on" } else { "; nothing serves in its place" };
    for refused in &part.refused {
        let problem = format!("refused since {}: {}{serves}", Rfc3339(refused.since), refused.why);
        let known = found.iter_mut().find(|file| file["key"] == refused.named.key.as_str());
        match known.and_then(|file| file["problems"].as_array_mut()) {
        Some(problems) => problems.push(problem.into()),
        None => found.push(json!({
            "of": of, "key": refused.named.key, "file": refused.named.file, "certificates": [], "problems": [problem],
        })),
    }
    }
    found
}

fn certificates(content: &Content, now: SystemTime) -> (Vec<Certificate>, Vec<String>) {
    let described = |all: &[super::facts::CertFacts]| -> Vec<Certificate> {
        all.iter().map(|facts| Certificate::new(facts.clone(), now)).collect()
    };
    match content {
        Content::Chain { chain, revoked, .. } => {
            let all = described(chain);
            let revoked = revoked.then(|| REVOKED.to_owned());
            let problems = all.iter().enumerate().filter_map(|(index, one)| one.problem(index, now));
            let problems = problems.chain(revoked).collect();
            (all, problems)
        }
        Content::Bundle(anchors) => {
            let over = anchors.iter().enumerate().filter(|(_, anchor)| anchor.not_after <= now);
            let problems = over
                .map(|(index, anchor)| format!("anchor {} ({}) has expired: remove it", index + 1, anchor.subject))
                .collect();
            (described(anchors), problems)
        }
        Content::Crl(lists) => {
            let over = lists.iter().filter_map(|list| Some((list, list.next_update.filter(|next| *next <= now)?)));
            let problems = over.map(|(list, next)| {
                format!(
                    "the list of {} should have been replaced by {}: write the next one",
                    list.issuer,
                    Rfc3339(next)
                )
            });
            (Vec::new(), problems.collect())
        }
    }
}

fn list(list: &CrlFacts) -> Value {
    let next = list.next_update.map(|next| Rfc3339(next).to_string());
    json!({ "issuer": list.issuer, "revoked": list.revoked, "nextUpdate": next })
}
