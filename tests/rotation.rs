//! Certificates, keys, trust anchors and revocation lists that are replaced while connections live.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::load::Load;
use common::mesh::{DOMAIN, MUTUAL, STRICT};
use common::pki::{Leaf, Pair, Pki};
use common::tls::{Client, certificates};
use common::{Origin, Proxy, SOON, Setup, TempDir, eventually, get, tool, until};

/// What the issue promises of a rotation.
const LIVE: Duration = Duration::from_secs(1);
const DAY: i64 = 86_400;

/// The files of one workload, as they are mounted into its pod.
struct Files(TempDir);

impl Files {
    fn new(pair: &Pair, bundle: &Path) -> Self {
        let files = Self(TempDir::new("mount"));
        files.mount(pair, bundle);
        files
    }

    /// As Kubernetes replaces a Secret.
    fn mount(&self, pair: &Pair, bundle: &Path) {
        pair.mount(self.0.path(), bundle);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// With more keys, as YAML flow text that begins with a comma.
    fn identity(&self, more: &str) -> String {
        let dir = self.0.path().display();
        format!(
            "identity: {{ trustDomain: {DOMAIN}, certificate: \"{dir}/tls.crt\", privateKey: \"{dir}/tls.key\", \
             trustBundle: \"{dir}/ca.crt\"{more} }}\n"
        )
    }

    fn strict(&self, up: SocketAddr, more: &str) -> Proxy {
        Setup { listener: STRICT, top: &self.identity(more), workers: 1, ..Setup::default() }.start(up)
    }
}

fn leaf(pki: &Pki, account: &str, life: std::ops::Range<i64>) -> Pair {
    pki.issue(account, &Leaf { life, ..pki.leaf("shop", account) })
}

/// Ends `n` minutes after those that the authority issues.
fn later(pki: &Pki, account: &str, n: i64) -> Pair {
    leaf(pki, account, -60..DAY + n * 60)
}

fn shows(client: &Client, addr: SocketAddr, pair: &Pair) -> bool {
    client.served(addr).last().chain == certificates(&pair.certificate)
}

/// The component of `/healthz`.
fn health(proxy: &Proxy) -> (String, String) {
    let all = proxy.healthz();
    let text = |key: &str| all["components"]["identity"][key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("detail"))
}

#[test]
fn live_within_a_second() {
    let (pki, origin) = (Pki::new(DOMAIN), Origin::ok());
    let client = Client::of(&pki.workload("shop", "web")).alpn(&["http/1.1"]);
    let files = Files::new(&pki.workload("shop", "reviews"), &pki.bundle());
    let proxy = files.strict(origin.addr(), "");
    let held = client.served(proxy.addr());
    let mut conn = held.connect();
    let mut check = |pair: &Pair, what: &str| {
        until(&format!("{what}\n{}", proxy.stderr_text()), LIVE, || shows(&client, proxy.addr(), pair));
        // One from before goes on.
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(conn.response("GET").status(), 200);
    };
    for n in 1..4 {
        let pair = later(&pki, "reviews", n);
        files.mount(&pair, &pki.bundle());
        check(&pair, "a swapped mount is live");
    }
    assert_eq!(held.errors(), [""; 0]);

    // Plain files, each renamed over the one before.
    let dir = TempDir::new("files");
    let (crt, key) = (dir.path().join("a.crt"), dir.path().join("a.key"));
    pki.workload("shop", "reviews").install(&crt, &key);
    let top = format!(
        "identity: {{ trustDomain: {DOMAIN}, certificate: \"{}\", privateKey: \"{}\", trustBundle: \"{}\" }}\n",
        crt.display(),
        key.display(),
        pki.bundle().display()
    );
    let proxy = Setup { listener: STRICT, top: &top, ..Setup::default() }.start(origin.addr());
    // Another kind of key, and a chain, too.
    for pair in [later(&pki, "reviews", 1), later(&pki, "reviews", 2)] {
        pair.install(&crt, &key);
        until("renamed files are live", LIVE, || shows(&client, proxy.addr(), &pair));
    }
    // Written in place, the key first.
    let pair = later(&pki, "reviews", 3);
    fs::copy(&pair.key, &key).expect("write in place");
    fs::copy(&pair.certificate, &crt).expect("write in place");
    until("rewritten files are live", LIVE, || shows(&client, proxy.addr(), &pair));
    until("and well", SOON, || health(&proxy).0 == "ok");
}

/// Both sidecars change many times under load, from two sides; nobody repeats a request.
#[test]
fn nothing_is_lost_while_rotating() {
    let (pki, origin) = (Pki::new(DOMAIN), Origin::ok());
    let near_files = Files::new(&pki.workload("shop", "web"), &pki.bundle());
    let far_files = Files::new(&pki.workload("shop", "reviews"), &pki.bundle());
    let far = far_files.strict(origin.addr(), "");
    // New connections between them all the time.
    let service = format!("{MUTUAL}, connections: {{ maxRequests: 40 }}");
    let near = Setup { service: &service, top: &near_files.identity(""), workers: 1, ..Setup::default() };
    let near = near.start(far.addr());
    // And from a client that does not change.
    let direct = Client::of(&pki.workload("shop", "web")).bridge(far.addr());
    let load = [Load::to(near.addr(), 2, 1), Load::to(direct.addr(), 1, 0)];
    let flood = Command::new(tool("h2load"))
        .args(["-c", "8", "-m", "4", "-D", "3", "-t", "1", &format!("http://{}/", near.addr())])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start h2load");
    let client = Client::of(&pki.workload("shop", "web"));
    for n in 1..=12 {
        let pair = later(&pki, "reviews", n);
        near_files.mount(&later(&pki, "web", n), &pki.bundle());
        far_files.mount(&pair, &pki.bundle());
        until("it is live", SOON, || shows(&client, far.addr(), &pair));
    }
    let said = String::from_utf8(flood.wait_with_output().expect("h2load").stdout).expect("text");
    for part in [" 0 failed, 0 errored, 0 timeout", " 0 4xx, 0 5xx"] {
        assert!(said.contains(part), "{said}");
    }
    let done: u64 = load.iter().map(Load::done).sum();
    let lost: Vec<String> = load.into_iter().flat_map(Load::stop).collect();
    assert!(lost.is_empty() && done > 100, "{done} done: {lost:?}");
    assert_eq!(far.metric("http_requests_total", &[("status_code", "503")]), 0.0);
}

/// What is worse than what is there does not take its place.
#[test]
fn a_worse_one_is_refused() {
    let (pki, origin) = (Pki::new(DOMAIN), Origin::ok());
    let good = pki.workload("shop", "reviews");
    let mixed = Pair { key: pki.workload("shop", "reviews").key, ..good.clone() };
    let text = |text: &str| {
        let path = pki.dir().join(format!("text-{}", text.len()));
        fs::write(&path, text).expect("write");
        path
    };
    let no_pem = Pair { certificate: text("no PEM at all"), ..good.clone() };
    let empty = Pair { key: text(""), ..good.clone() };
    let table = [
        (pki.expired("shop", "reviews"), "expired"),
        (mixed, "key"),
        (pki.wrong_trust_domain("shop", "reviews"), "trust domain"),
        (pki.no_uri(), "SPIFFE"),
        (pki.foreign_uri(), "spiffe"),
        (pki.two_uris("shop", "reviews"), "URI"),
        (pki.ten_minutes("shop", "reviews"), "sooner"),
        (pki.valid_in(3600, "shop", "reviews"), "not yet valid"),
        (pki.no_purpose("shop", "reviews"), "serverAuth"),
        (pki.only_client("shop", "reviews"), "serverAuth"),
        (pki.unknown_authority("shop", "reviews"), "trust"),
        (pki.broken_chain("shop", "reviews"), "trust"),
        (no_pem, "certificate"),
        (empty, "key"),
    ];
    let client = Client::of(&pki.workload("shop", "web"));
    // Side by side, for each waits until it is sure that no other file follows.
    let is_refused = |pair: &Pair, why: &str| {
        let files = Files::new(&good, &pki.bundle());
        let proxy = files.strict(origin.addr(), "");
        files.mount(pair, &pki.bundle());
        let told = || {
            let (status, detail) = health(&proxy);
            (status == "degraded" && detail.contains(why)).then_some(detail)
        };
        let detail = eventually(&format!("{why}\n{}", proxy.stderr_text()), SOON, told);
        assert!(detail.contains("identity.") && detail.contains("tls."), "{detail} names no place");
        assert!(shows(&client, proxy.addr(), &good), "{why}: the one before serves on");
        assert_eq!(proxy.probe("/readyz"), Some(200));
        until("it is logged", SOON, || proxy.stderr_text().contains(why));
        files.mount(&good, &pki.bundle());
        until("it is well again", SOON, || health(&proxy).0 == "ok");
    };
    std::thread::scope(|scope| {
        for (pair, why) in &table {
            scope.spawn(|| is_refused(pair, why));
        }
    });
    let files = Files::new(&good, &pki.bundle());
    let proxy = files.strict(origin.addr(), "");
    // The anchors: one that our own certificate is not of, and none.
    let none = text("nothing to trust");
    for bundle in [&Pki::new(DOMAIN).bundle(), &none] {
        files.mount(&good, bundle);
        until("refused", SOON, || health(&proxy).0 == "degraded");
        assert!(shows(&client, proxy.addr(), &good));
    }
    // Files that go away are no reason to end.
    fs::remove_file(files.path("..data")).expect("remove");
    until("told", SOON, || health(&proxy).0 == "degraded");
    assert!(shows(&client, proxy.addr(), &good));
    let better = later(&pki, "reviews", 5);
    better.install(&files.path("tls.crt.new"), &files.path("tls.key.new"));
    for name in ["tls.crt", "tls.key"] {
        fs::rename(files.path(&format!("{name}.new")), files.path(name)).expect("rename");
    }
    let _ = fs::remove_file(files.path("ca.crt"));
    fs::copy(pki.bundle(), files.path("ca.crt")).expect("copy");
    until("a better one", SOON, || shows(&client, proxy.addr(), &better));
}

/// From one authority to the next, with nobody left behind: first it is trusted, then it issues, then the old one goes.
#[test]
fn anchors_are_rotated() {
    let (old, new, origin) = (Pki::new(DOMAIN), Pki::new(DOMAIN), Origin::ok());
    let both = old.bundle_with(&new);
    let near_files = Files::new(&old.workload("shop", "web"), &old.bundle());
    let far_files = Files::new(&old.workload("shop", "reviews"), &old.bundle());
    let far = far_files.strict(origin.addr(), "");
    let service = format!("{MUTUAL}, connections: {{ maxRequests: 1 }}");
    let near = Setup { service: &service, top: &near_files.identity(""), workers: 1, ..Setup::default() };
    let near = near.start(far.addr());
    let (of_old, of_new) =
        (Client::of(&old.workload("shop", "web")).resuming(), Client::of(&new.workload("shop", "web")));
    of_old.served(far.addr());
    of_new.refused(far.addr());
    let load = Load::to(near.addr(), 2, 0);
    let taken = |client: &Client| client.bridge(far.addr()).connect();
    let serves = |client: &Client| {
        let mut conn = taken(client);
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        conn.try_head().is_some_and(|head| head.status() == 200)
    };
    let web = old.workload("shop", "web");
    let reviews = old.workload("shop", "reviews");
    near_files.mount(&web, &both);
    far_files.mount(&reviews, &both);
    until("both are trusted", SOON, || serves(&of_new) && serves(&of_old));
    near_files.mount(&later(&new, "web", 1), &both);
    let reviews = later(&new, "reviews", 1);
    far_files.mount(&reviews, &both);
    until("the new one issues", SOON, || shows(&of_old, far.addr(), &reviews));
    near_files.mount(&later(&new, "web", 2), &new.bundle());
    let reviews = later(&new, "reviews", 2);
    far_files.mount(&reviews, &new.bundle());
    until("the old one has gone", SOON, || shows(&of_new, far.addr(), &reviews) && !serves(&of_old));
    // Nor does a session of before help.
    of_old.refused(far.addr());
    let (done, lost) = (load.done(), load.stop());
    assert!(lost.is_empty() && done > 3, "{done} done: {lost:?}");
}

#[test]
fn not_ready_without_an_identity() {
    let (pki, origin) = (Pki::new(DOMAIN), Origin::ok());
    let files = Files(TempDir::new("mount"));
    let config = format!(
        r#"apiVersion: outrigger/v1
admin: {{ address: "{{admin}}" }}
health: {{ address: "{{health}}" }}
listeners: [{{ name: edge, mode: proxy, address: "{{listen}}"{STRICT} }}]
services: {{ app: {{ endpoints: {{ static: ["{{up}}"] }} }} }}
routes: [{{ name: all, to: app }}]
{}"#,
        files.identity("")
    );
    let proxy = Proxy::start_unready(&config, &[("up", origin.addr())]);
    let client = Client::of(&pki.workload("shop", "web"));
    assert_eq!(proxy.probe("/readyz"), Some(503));
    assert!(proxy.health("/readyz").contains("identity"), "{}", proxy.health("/readyz"));
    assert_ne!(health(&proxy).0, "ok");
    client.refused(proxy.addr());
    // First none, then a bad one, then a good one.
    files.mount(&pki.expired("shop", "reviews"), &pki.bundle());
    until("the reason is told", SOON, || health(&proxy).1.contains("expired"));
    assert_eq!(proxy.probe("/readyz"), Some(503));
    let good = pki.workload("shop", "reviews");
    files.mount(&good, &pki.bundle());
    until("ready", SOON, || proxy.probe("/readyz") == Some(200));
    assert!(shows(&client, proxy.addr(), &good));
    assert_eq!(health(&proxy).0, "ok");
    // The clock of who has issued it may be a little ahead of ours.
    let early = Files::new(&pki.valid_in(30, "shop", "reviews"), &pki.bundle());
    client.served(early.strict(origin.addr(), "").addr());
}

#[test]
fn the_end_is_told_beforehand() {
    let (pki, origin) = (Pki::new(DOMAIN), Origin::ok());
    let end = || time::OffsetDateTime::now_utc().unix_timestamp() as f64;
    let pair = leaf(&pki, "reviews", -100..DAY);
    let files = Files::new(&pair, &pki.bundle());
    let proxy = files.strict(origin.addr(), "");
    let metric = "outrigger_certificate_expiry_timestamp_seconds";
    let told = |proxy: &Proxy| proxy.metric(metric, &[]);
    assert!((told(&proxy) - end() - DAY as f64).abs() < 30.0, "{}", told(&proxy));
    files.mount(&later(&pki, "reviews", 60), &pki.bundle());
    until("the new end", SOON, || (told(&proxy) - end() - (DAY + 3600) as f64).abs() < 30.0);
    assert!(!proxy.stderr_text().contains("WARN"), "{}", proxy.stderr_text());
    // Warned at the start, by what is left of the whole life; and when the time comes.
    for (life, share) in [(-6000..4000, "50"), (-8000..2000, "25"), (-9500..500, "10"), (-99..101, "50")] {
        let files = Files::new(&leaf(&pki, "reviews", life.clone()), &pki.bundle());
        let proxy = files.strict(origin.addr(), "");
        until(&format!("{life:?}: a warning of {share} %\n{}", proxy.stderr_text()), SOON, || {
            proxy.stderr_text().lines().any(|line| {
                let line = line.to_ascii_lowercase();
                line.contains("warn") && line.contains("tls.crt") && line.contains(share)
            })
        });
    }
}

/// Connections are ended when their time has come, and with them no request.
#[test]
fn the_age_of_a_connection_is_bounded() {
    let (pki, origin) = (Pki::new(DOMAIN), Origin::ok());
    let near_files = Files::new(&pki.workload("shop", "web"), &pki.bundle());
    let far_files = Files::new(&pki.workload("shop", "reviews"), &pki.bundle());
    let far = far_files.strict(origin.addr(), ", maxAge: 2s");
    let near = Setup { service: MUTUAL, top: &near_files.identity(", maxAge: 2s"), workers: 1, ..Setup::default() };
    let near = near.start(far.addr());
    let web = Client::of(&pki.workload("shop", "web"));
    let (one, two) = (web.clone().bridge(far.addr()), web.alpn(&["h2"]).bridge(far.addr()));
    let load = [Load::to(near.addr(), 1, 1), Load::to(one.addr(), 1, 0), Load::to(two.addr(), 0, 1)];
    let idle = one.connect();
    until("connections come and go", SOON, || one.facts().len() >= 4 && two.facts().len() >= 3);
    until("between the two as well", SOON, || {
        far.metric("outrigger_worker_connections_accepted_total", &[])
            >= (one.facts().len() + two.facts().len() + 3) as f64
    });
    let lost: Vec<String> = load.into_iter().flat_map(Load::stop).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let mut idle = idle;
    assert_eq!(idle.read_to_end(), b"", "one that is idle ends as well");
}

/// Nobody stays on a proof that is over, whatever `maxAge` says.
#[test]
fn connections_end_with_their_certificate() {
    let (pki, origin) = (Pki::new(DOMAIN), Origin::raw(|mut conn, _| drop(conn.read_to_end())));
    let files = Files::new(&pki.workload("shop", "reviews"), &pki.bundle());
    let listener = ", protocol: tcp, tls: { mode: strict }";
    let top = files.identity("");
    let far = Setup { listener, service: ", protocol: tcp", top: &top, ..Setup::default() }.start(origin.addr());
    let begin = Instant::now();
    let short = Client::of(&pki.short(3, "shop", "web"));
    let mut conn = short.bridge(far.addr()).connect();
    conn.write("x");
    until("it is served", SOON, || origin.open() == 1);
    let mut long = Client::of(&pki.workload("shop", "web")).bridge(far.addr()).connect();
    long.write("x");
    until("it is served", SOON, || origin.open() == 2);
    assert_eq!(conn.read_to_end(), b"");
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(6), "{took:?}");
    until("the application is let go", SOON, || origin.open() == 1);
    assert!(long.is_quiet(Duration::from_millis(1)), "others stay");
    // The last second of its life is still one of it.
    until("it is over", SOON, || {
        short.refused(far.addr());
        far.failed("expired") >= 1.0
    });
}

#[test]
fn the_revoked_are_refused() {
    let (pki, origin) = (Pki::new(DOMAIN), Origin::ok());
    let (web, good) = (pki.workload("shop", "web"), pki.workload("shop", "good"));
    let reviews = pki.workload("shop", "reviews");
    let dir = TempDir::new("crl");
    let list = dir.path().join("revoked.crl");
    let publish = |revoked: &[&Pair]| {
        let next = dir.path().join("next");
        fs::copy(pki.crl(revoked), &next).expect("copy");
        fs::rename(next, &list).expect("rename");
    };
    publish(&[]);
    let crl = format!(", crl: \"{}\"", list.display());
    let files = Files::new(&reviews, &pki.bundle());
    let far = files.strict(origin.addr(), &crl);
    let near_files = Files::new(&good, &pki.bundle());
    let service = format!("{MUTUAL}, connections: {{ maxRequests: 1 }}");
    let near = Setup { service: &service, top: &near_files.identity(&crl), workers: 1, ..Setup::default() };
    let near = near.start(far.addr());
    let client = Client::of(&web).resuming();
    let bridge = client.served(far.addr());
    assert_eq!(bridge.get("/").status(), 200);
    assert!(bridge.last().resumed);
    near.assert_serves();

    publish(&[&web]);
    let serves = |client: &Client| {
        let mut conn = client.bridge(far.addr()).connect();
        conn.write("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        conn.try_head().is_some_and(|head| head.status() == 200)
    };
    // With what is left of its sessions, and without.
    until("it is revoked", LIVE, || !serves(&client));
    client.refused(far.addr());
    Client::of(&web).refused(far.addr());
    far.await_failed("revoked", 2.0);
    Client::of(&good).served(far.addr());
    near.assert_serves();

    // And the other way round: a server that is revoked is not spoken to.
    publish(&[&web, &reviews]);
    until("it is revoked", SOON, || (502..=503).contains(&get(near.addr(), "/").status()));
    near.await_failed("revoked", 1.0);
    // A list that cannot be read leaves the one before in force.
    fs::write(dir.path().join("next"), "no list").expect("write");
    fs::rename(dir.path().join("next"), &list).expect("rename");
    until("told", SOON, || health(&far).0 == "degraded");
    Client::of(&web).refused(far.addr());
    Client::of(&good).served(far.addr());
}
