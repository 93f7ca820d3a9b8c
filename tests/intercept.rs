//! `outrigger intercept` beside the kernel and its own tools: what is put in place, told and removed. What it does to
//! traffic is in `intercept_traffic.rs`.

mod common;

use std::io::Write;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::netns::Netns;
use common::{SOON, run, until};

const OUTRIGGER: &str = env!("CARGO_BIN_EXE_outrigger");

/// One of each flag.
const MANY: [&str; 19] = [
    "--proxy-gid=1337",
    "--own-ports=15020",
    "--exclude-inbound-ports=22,8000-8100",
    "--include-inbound-ports=80",
    "--exclude-outbound-ports=3306",
    "--include-outbound-ports=80,90-99",
    "--exclude-outbound-cidrs=10.0.0.0/8,10.1.2.0/23,fd00::/9,192.0.2.1,::2",
    "--include-outbound-cidrs=0.0.0.0/0,fd00::/8,::/0",
    "--exclude-inbound-cidrs=10.0.0.0/9,fd00::/9",
    "--include-inbound-cidrs=10.0.0.0/8,fd00::/8",
    "--include-uids=8,9",
    "--include-gids=10",
    "--include-interfaces=eth0,eth1",
    "--exclude-uids=5,6",
    "--exclude-gids=7",
    "--exclude-interfaces=docker0,a-name.of_15",
    "--dns-port=15053",
    "--inbound-port=1",
    "--outbound-port=65535",
];

trait Intercept {
    fn intercept(&self, args: &[&str]) -> Output;
}

impl Intercept for Netns {
    fn intercept(&self, args: &[&str]) -> Output {
        self.output(OUTRIGGER, &[&["intercept"], args].concat(), "")
    }
}

fn says(output: &Output) -> (Option<i32>, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn assert_ok(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", says(output).1);
}

/// All that the namespace has of rules and routes.
fn all(netns: &Netns) -> String {
    let rules = netns.run("nft", &["list", "ruleset"]);
    rules
        + &["-4", "-6"]
            .map(|family| {
                netns.run("ip", &[family, "rule"]) + &netns.run("ip", &[family, "route", "show", "table", "all"])
            })
            .concat()
}

/// Names of those that differ, as `verify` prints them.
fn differences(netns: &Netns, args: &[&str]) -> Vec<String> {
    let output = netns.intercept(&[&["verify"], args].concat());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let found: Vec<String> = text.lines().filter(|line| !line.starts_with("ok")).map(str::to_owned).collect();
    assert_eq!(output.status.code(), Some(i32::from(!found.is_empty())), "{text}");
    found
}

#[test]
fn applied_is_verified_and_removed_without_a_trace() {
    for mode in ["--mode=redirect", "--mode=tproxy"] {
        let Some(netns) = Netns::new() else { return };
        netns.run("nft", &["add table inet another; add chain inet another outrigger"]);
        let before = all(&netns);
        for flags in [&[mode][..], &[&[mode], &MANY[..]].concat(), &[mode, "--no-ipv6"]] {
            assert_ok(&netns.intercept(&["remove"]));
            assert_eq!(differences(&netns, flags)[0], "there is no table `inet outrigger`");
            let apply = [&["apply"], flags].concat();
            assert_ok(&netns.intercept(&apply));
            let once = all(&netns);
            assert_eq!(differences(&netns, flags), [""; 0], "{flags:?}");
            assert_ok(&netns.intercept(&apply));
            assert_eq!(all(&netns), once, "applied twice");
            // The text makes the same of it.
            let text = run(OUTRIGGER, &[&["intercept", "print"], flags].concat());
            netns.feed("nft", &["-f", "-"], &text);
            assert_eq!(all(&netns), once, "{text}");
            assert_eq!(differences(&netns, flags), [""; 0], "{text}");
            let text = run(OUTRIGGER, &[&["intercept", "print", "--format=iptables"], flags].concat());
            for program in
                ["iptables-restore", "ip6tables-restore", "iptables-legacy-restore", "ip6tables-legacy-restore"]
            {
                netns.feed(program, &["--test", "-n"], &text);
            }
        }
        for _ in 0..2 {
            assert_ok(&netns.intercept(&["remove"]));
            assert_eq!(all(&netns), before);
        }
    }
}

#[test]
fn one_mode_leaves_nothing_of_the_other() {
    let Some(netns) = Netns::new() else { return };
    assert_ok(&netns.intercept(&["apply"]));
    let redirect = all(&netns);
    assert_ok(&netns.intercept(&["apply", "--mode=tproxy"]));
    let found = differences(&netns, &[]);
    assert!(found.iter().any(|line| line == "there is a route in the routing table 133 (IPv6)"), "{found:?}");
    assert!(found.iter().any(|line| line.starts_with("chain prerouting: not of type nat")), "{found:?}");
    assert!(found.iter().any(|line| line == "chain answers: not ours"), "{found:?}");
    assert_ok(&netns.intercept(&["apply", "--mode=tproxy", "--no-ipv6"]));
    assert!(!all(&netns).contains("local default dev lo table 133 proto static metric"), "nothing of IPv6");
    assert_ok(&netns.intercept(&["apply"]));
    assert_eq!(all(&netns), redirect);
}

#[test]
fn what_others_did_to_the_rules_is_told() {
    let Some(netns) = Netns::new() else { return };
    let handle = |part: &str| {
        let text = netns.run("nft", &["-a", "list", "table", "inet", "outrigger"]);
        let line = text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part} in {text}"));
        line.rsplit(' ').next().expect("a handle").to_owned()
    };
    let delete = |chain: &str, part: &str| format!("delete rule inet outrigger {chain} handle {}", handle(part));
    type Case<'a> = (&'a dyn Fn() -> String, &'a [&'a str]);
    let cases: [Case<'_>; 10] = [
        (
            &|| delete("output", "skuid 1337"),
            &["chain output: there is no `meta skuid 1337 return` (the proxy itself)"],
        ),
        (
            &|| delete("prerouting", "15020") + "; " + &delete("output", "skuid 1337"),
            &[
                "chain output: there is no `meta skuid 1337 return`",
                "chain prerouting: there is no `tcp dport 15020 return`",
            ],
        ),
        (
            &|| "add rule inet outrigger output tcp dport 9 drop".to_owned(),
            &["is not ours (meta cmp payload cmp immediate)"],
        ),
        (&|| "insert rule inet outrigger output meta l4proto tcp redirect to :15001".to_owned(), &["is not ours"]),
        (
            &|| format!("{}; insert rule inet outrigger output oifname lo return", delete("output", "oifname")),
            &["chain output: the rules are there, but in another order"],
        ),
        (
            &|| format!("{}; add rule inet outrigger prerouting tcp dport 15021 return", delete("prerouting", "15020")),
            &["chain prerouting: there is no `tcp dport 15020 return`", "chain prerouting: the rule with handle"],
        ),
        (
            &|| "flush table inet outrigger".to_owned(),
            &["chain output: there is no `meta l4proto tcp redirect to :15001`"],
        ),
        (
            &|| "flush chain inet outrigger output; delete chain inet outrigger output".to_owned(),
            &["there is no chain output"],
        ),
        (&|| "add chain inet outrigger foreign".to_owned(), &["chain foreign: not ours"]),
        (
            &|| {
                "flush chain inet outrigger output; delete chain inet outrigger output; \
                 add chain inet outrigger output { type nat hook output priority 5; policy drop; }"
                    .to_owned()
            },
            &["chain output: not of type nat at output with priority -100", "chain output: its policy is drop"],
        ),
    ];
    for (change, expected) in cases {
        assert_ok(&netns.intercept(&["apply"]));
        let change = change();
        netns.run("nft", &[&change]);
        let found = differences(&netns, &[]);
        for part in expected {
            assert!(found.iter().any(|line| line.contains(part)), "`{change}`: `{part}` in {found:?}");
        }
        assert!(expected.len() > 1 || found.len() == 1 || change.starts_with("flush"), "`{change}`: {found:?}");
    }
    assert_ok(&netns.intercept(&["apply"]));
    netns.run("nft", &["add table inet outrigger { flags dormant; }"]);
    assert_eq!(differences(&netns, &[]), ["the table `inet outrigger` is dormant: none of its chains is in force"]);
    assert_ok(&netns.intercept(&["apply"]));
    assert_eq!(differences(&netns, &[]), [""; 0], "`apply` puts all of it right");
    assert_eq!(
        differences(&netns, &["--exclude-uids=7"]),
        ["chain output: there is no `meta skuid 7 return` (excluded user)"],
        "other flags"
    );
    assert_ok(&netns.intercept(&["apply", "--mode=tproxy"]));
    netns.run("ip", &["-6", "rule", "del", "pref", "133"]);
    netns.run("ip", &["route", "del", "local", "default", "dev", "lo", "table", "133"]);
    assert_eq!(
        differences(&netns, &["--mode=tproxy"]),
        [
            "there is no route in the routing table 133 (IPv4)",
            "there is no rule by mark that leads to the routing table 133 (IPv6)"
        ]
    );
}

#[test]
fn nobody_ever_sees_half_of_it() {
    let Some(netns) = Netns::new() else { return };
    assert_ok(&netns.intercept(&["apply"]));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..40).for_each(|_| assert_ok(&netns.intercept(&["apply"]))));
        let mut looks = 0;
        while !writer.is_finished() || looks == 0 {
            let text = netns.run("nft", &["list", "ruleset"]);
            assert_eq!(text.matches("redirect to").count(), 2, "{text}");
            assert_eq!(text.matches("return").count(), 12, "{text}");
            assert_eq!(differences(&netns, &[]), [""; 0]);
            looks += 1;
        }
    });
}

#[test]
fn redirects_of_others_that_come_first_are_hinted_at() {
    let Some(netns) = Netns::new() else { return };
    let foreign = "table ip meshy {
        chain kept { type nat hook output priority -110; ip daddr 10.9.9.9 return; }
    }
    table ip6 early { chain out { type nat hook output priority -110; meta l4proto tcp redirect to :15999; }; }
    table inet late { chain out { type nat hook output priority -90; meta l4proto tcp redirect to :15999; }; }
    ";
    netns.feed("nft", &["-f", "-"], foreign);
    netns.run("iptables", &["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15999"]);
    for what in ["apply", "verify"] {
        let output = netns.intercept(&[what]);
        assert_ok(&output);
        let (_, text) = says(&output);
        for table in ["ip nat", "ip6 early"] {
            assert!(text.contains(&format!("the table `{table}` redirects, too")), "{text}");
        }
        assert!(!text.contains("inet late") && !text.contains("ip meshy"), "{text}");
    }
    assert_ok(&netns.intercept(&["apply", "--mode=tproxy"]));
    netns.run("sysctl", &["-qw", "net.ipv4.conf.lo.src_valid_mark=1"]);
    assert!(says(&netns.intercept(&["verify", "--mode=tproxy"])).1.contains("src_valid_mark=0"));
}

#[test]
fn what_the_system_refuses_has_a_remedy() {
    let Some(netns) = Netns::new() else { return };
    let no_capability = ["--bounding-set=-net_admin", "--inh-caps=-net_admin", OUTRIGGER, "intercept"];
    for what in ["apply", "verify", "remove"] {
        let (code, text) = says(&netns.output("setpriv", &[&no_capability[..], &[what]].concat(), ""));
        assert_eq!(code, Some(3), "{text}");
        for part in ["Operation not permitted", "NET_ADMIN", "securityContext", "add: [NET_ADMIN]"] {
            assert!(text.contains(part), "{what}: {text}");
        }
    }
    let only_that = ["--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs", OUTRIGGER, "intercept"];
    for what in ["apply", "verify", "remove"] {
        assert_ok(&netns.output("setpriv", &[&only_that[..], &[what]].concat(), ""));
    }
    let passwd = says(&netns.intercept(&["apply", "--netns=/etc/passwd"]));
    assert!(passwd.0 == Some(3) && passwd.1.contains("it is no network namespace"), "{passwd:?}");
    let nowhere = says(&netns.intercept(&["apply", "--netns=/nowhere"]));
    assert!(nowhere.0 == Some(3) && nowhere.1.contains("No such file"), "{nowhere:?}");
    netns.run("ip", &["link", "set", "lo", "down"]);
    assert_ok(&netns.intercept(&["remove"]));
    let before = all(&netns);
    let down = says(&netns.intercept(&["apply", "--mode=tproxy"]));
    assert!(down.0 == Some(3) && down.1.contains("ip link set lo up"), "{down:?}");
    assert_eq!(all(&netns), before, "nothing is left behind");
    netns.run("ip", &["link", "set", "lo", "up"]);
    netns.run("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    let before = all(&netns);
    let disabled = says(&netns.intercept(&["apply", "--mode=tproxy"]));
    assert!(disabled.0 == Some(3) && disabled.1.contains("add --no-ipv6"), "{disabled:?}");
    assert_eq!(all(&netns), before, "nothing is left behind");
    assert_ok(&netns.intercept(&["apply", "--mode=tproxy", "--no-ipv6"]));
    assert_eq!(differences(&netns, &["--mode=tproxy", "--no-ipv6"]), [""; 0]);
    assert_ok(&netns.intercept(&["apply"]));
}

/// `nft` owns its table as long as it runs, and nobody else may touch it.
#[test]
fn what_failed_leaves_nothing_behind() {
    let Some(netns) = Netns::new() else { return };
    let before = all(&netns);
    let mut owner = std::process::Command::new(common::tool("ip"))
        .args(["netns", "exec", netns.name(), "nft", "-i"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("start nft");
    let mut input = owner.stdin.take().expect("stdin");
    input.write_all(b"add table inet outrigger { flags owner; }\n").expect("write to nft");
    until("the table", SOON, || netns.run("nft", &["list", "tables"]).contains("inet outrigger"));
    let owned = all(&netns);
    let (code, text) = says(&netns.intercept(&["apply", "--mode=tproxy"]));
    assert!(code == Some(3) && text.contains("another program owns the table"), "{text}");
    assert_eq!(all(&netns), owned, "{text}");
    // What was there before is not ours to remove.
    netns.run("ip", &["rule", "add", "pref", "133", "fwmark", "1337", "lookup", "133"]);
    let with_a_rule = all(&netns);
    assert_eq!(netns.intercept(&["apply", "--mode=tproxy"]).status.code(), Some(3));
    assert_eq!(all(&netns), with_a_rule);
    drop(input);
    owner.wait().expect("the end of nft");
    assert_ok(&netns.intercept(&["apply", "--mode=tproxy"]));
    assert_ok(&netns.intercept(&["remove"]));
    assert_eq!(all(&netns), before);
}

/// Somebody who changes their rules all the time, and has many, cannot be looked at in one piece.
#[test]
fn what_others_have_is_no_reason_to_fail() {
    let Some(netns) = Netns::new() else { return };
    let chains = |n| format!("\tchain c{n} {{ type filter hook output priority -200; }}\n");
    let many = format!("table ip busy {{\n{}}}\n", (0..500).map(chains).collect::<String>());
    netns.feed("nft", &["-f", "-"], &many);
    let over = AtomicBool::new(false);
    let flip = "add table ip x; delete table ip x\n".repeat(20);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                netns.feed("nft", &["-i"], &flip);
            }
        });
        let seen: Vec<Output> = (0..60).map(|_| netns.intercept(&["apply"])).collect();
        over.store(true, Ordering::Relaxed);
        others.join().expect("the others");
        seen.iter().for_each(assert_ok);
    });
    assert_eq!(differences(&netns, &[]), [""; 0]);
}

#[test]
fn another_namespace_is_entered() {
    let Some(netns) = Netns::new() else { return };
    run(OUTRIGGER, &["intercept", "apply", "--netns", &netns.path()]);
    assert_eq!(differences(&netns, &[]), [""; 0]);
    run(OUTRIGGER, &["intercept", "verify", "--netns", &netns.path()]);
    run(OUTRIGGER, &["intercept", "remove", "--netns", &netns.path()]);
    assert!(!all(&netns).contains("outrigger"));
}

#[test]
fn as_many_rules_as_may_be() {
    let Some(netns) = Netns::new() else { return };
    let ports = |last: usize| {
        format!("--exclude-outbound-ports={}", (1001..=last).map(|port| port.to_string()).collect::<Vec<_>>().join(","))
    };
    // Fourteen rules are there in any case.
    let most = ports(1000 + 498);
    assert_ok(&netns.intercept(&["apply", &most]));
    assert_eq!(differences(&netns, &[&most]), [""; 0]);
    let (code, text) = says(&netns.intercept(&["apply", &ports(1000 + 499)]));
    assert!(code == Some(2) && text.contains("513 rules, of 512"), "{text}");
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let refused = |args: &[&str]| {
        let output =
            std::process::Command::new(OUTRIGGER).args(["intercept", "print"]).args(args).output().expect("run");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(output.stdout, b"", "{args:?}");
        says(&output).1
    };
    for (args, part) in [
        (&["--inbound-port=15001"][..], "port 15001 is named twice"),
        (&["--dns-port=15006"], "port 15006 is named twice"),
        (&["--no-ipv6", "--exclude-outbound-cidrs=10.0.0.0/8,fd00::/8"], "fd00::/8 is of IPv6"),
        (&["--no-ipv6", "--include-inbound-cidrs=fd00::/8"], "fd00::/8 is of IPv6"),
        (&["--exclude-outbound-cidrs=10.0.0.1/8"], "write `10.0.0.0/8`"),
        (&["--exclude-inbound-ports=0"], "a port from 1 to 65535"),
        (&["--exclude-inbound-ports=90-80"], "write `80-90`"),
        (&["--exclude-interfaces=eth0;reboot"], "the name of an interface"),
        (&["--proxy-uid=root"], "invalid digit"),
    ] {
        let text = refused(args);
        assert!(text.contains(part), "{args:?}: {text}");
    }
}
