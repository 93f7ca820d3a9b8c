//! `make demo-pod`: what it shows is so, and nothing stays behind.

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{SOON, eventually, pods};

fn script(args: &[&str]) -> Command {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo/pod.sh");
    let mut command = Command::new(path);
    command.args(args).arg(env!("CARGO_BIN_EXE_outrigger")).stdin(Stdio::null());
    command
}

fn left_behind(pid: u32) -> Vec<String> {
    let names = common::run("ip", &["netns", "list"]);
    let ours = format!("-{pid}");
    let names = names.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.ends_with(&ours));
    names.map(str::to_owned).collect()
}

#[test]
fn once() {
    if !pods::are_allowed() {
        return;
    }
    let child = script(&["--once"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run the demo");
    let pid = child.id();
    let output = child.wait_with_output().expect("wait for the demo");
    let text = String::from_utf8_lossy(&output.stdout);
    let all = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && output.stderr.is_empty(), "{}: {all}", output.status);
    let share = |version: &str| {
        let line = text.lines().find(|line| line.ends_with(&format!(" reviews {version}")));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u32>().ok()).unwrap_or_default()
    };
    assert_eq!(share("v1") + share("v2"), 100, "{all}");
    assert!((3..=45).contains(&share("v2")), "of 80 to 20: {all}");
    for part in [
        "ok: the rules are as they should be",
        "SET greeting hello: OK",
        "GET greeting:       hello",
        "mtls  spiffe://demo.local/ns/shop/sa/web  from 10.9.0.2",
        "curl: (",
        "10.9.0.3:6379",
    ] {
        assert!(text.contains(part), "`{part}` is missing in {all}");
    }
    assert_eq!(left_behind(pid), [""; 0]);
}

#[test]
fn until_it_is_interrupted() {
    if !pods::are_allowed() {
        return;
    }
    let mut child = script(&[]).stdout(Stdio::piped()).spawn().expect("run the demo");
    let pid = child.id();
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("until Ctrl-C")), "it goes on");
    assert_eq!(left_behind(pid).len(), 2);
    common::run("kill", &["-s", "INT", &pid.to_string()]);
    let status = eventually("the demo ends", SOON, || child.try_wait().expect("wait for the demo"));
    assert!(status.success(), "{status}");
    assert_eq!(left_behind(pid), [""; 0]);
}
