//! The certificates of the demo: made where its configurations look for them, and made anew while it runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::client;
use crate::config::schema::Identity;
use crate::identity::dev::{Authority, Fault, KEY, Workload};

/// Of a certificate; long after that, nobody can do anything with what a demo has left behind.
const LIFE: Duration = Duration::from_secs(3600);

/// A certificate that is ours to renew.
pub struct Ours {
    authority: Authority,
    pub workload: Workload,
    directory: PathBuf,
}

impl Ours {
    /// What a configuration names as `DIR/NS/SA/tls.crt`, and is either not there or by an authority of ours in DIR.
    pub fn new(identity: &Identity) -> Result<Option<Self>, Fault> {
        let directory = Path::new(&identity.certificate).parent().unwrap_or(Path::new(""));
        let named = directory.ancestors().take(2).filter_map(|path| path.file_name()?.to_str()).collect::<Vec<_>>();
        let (Some(root), [account, namespace]) = (directory.ancestors().nth(2), &named[..]) else { return Ok(None) };
        let Ok(workload) = format!("{namespace}/{account}").parse() else { return Ok(None) };
        // Somebody's own.
        if directory.join(KEY).exists() && !Authority::is_at(root) {
            return Ok(None);
        }
        let (authority, _) = Authority::at(root, &identity.trust_domain)?;
        Ok(Some(Self { authority, workload, directory: directory.to_owned() }))
    }

    pub fn renew(&self) -> Result<(), Fault> {
        let pair = self.authority.issue(&self.workload, LIFE, &[])?;
        self.authority.write(&pair, &self.directory)
    }
}

/// How often a proxy has taken certificates, where it tells.
pub async fn generation(admin: SocketAddr) -> Option<u64> {
    let ask = move || client::get(admin, "/certs", "files").ok()?.1["generation"].as_u64();
    tokio::task::spawn_blocking(ask).await.ok()?
}
