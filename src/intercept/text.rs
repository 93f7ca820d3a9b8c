//! The rules as text: what `nft -f -` takes, and what `iptables-restore -n` and `ip6tables-restore -n` take.

use std::fmt::Write;

use super::rules::{Action, Chain, Kind, Match, Rule};
use super::settings::{Family, Settings};
use super::{MARK, ROUTE_TABLE, TABLE, rules};

/// Replaces the table, in one transaction, whether it is there or not.
pub fn nft(settings: &Settings) -> String {
    let mut out = routes(settings) + &format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    for (n, chain) in rules::chains(settings).iter().enumerate() {
        let (kind, hook, priority) = (chain.kind.name(), chain.hook.name(), chain.kind.priority());
        let gap = if n == 0 { "" } else { "\n" };
        let _ = writeln!(out, "{gap}\tchain {} {{", chain.name);
        let _ = writeln!(out, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;");
        for rule in &chain.rules {
            let _ = writeln!(out, "\t\t{} comment \"{}\"", nft_rule(rule), rule.why);
        }
        out += "\t}\n";
    }
    out + "}\n"
}

pub fn nft_rule(rule: &Rule) -> String {
    let matches = rule.matches.iter().map(nft_match);
    matches.chain([nft_action(rule)]).collect::<Vec<_>>().join(" ")
}

fn nft_match(wanted: &Match) -> String {
    match wanted {
        Match::Family(Family::V4) => "meta nfproto ipv4".to_owned(),
        Match::Family(Family::V6) => "meta nfproto ipv6".to_owned(),
        Match::User(uid) => format!("meta skuid {uid}"),
        Match::Group(gid) => format!("meta skgid {gid}"),
        Match::In(name) => format!("iifname \"{name}\""),
        Match::Out(name) => format!("oifname \"{name}\""),
        Match::From(block) => format!("{} saddr {block}", nft_header(Family::of(block.first()))),
        Match::To(block) => format!("{} daddr {block}", nft_header(Family::of(block.first()))),
        Match::ToOthers => "fib daddr type != local".to_owned(),
        Match::Tcp => "meta l4proto tcp".to_owned(),
        Match::MidStream => "tcp flags & (fin | syn | rst | ack) != syn".to_owned(),
        Match::TcpTo(ports) => format!("tcp dport {ports}"),
        Match::UdpTo(ports) => format!("udp dport {ports}"),
        Match::Mark(mark) => format!("meta mark {mark}"),
        Match::ConnectionMark(mark) => format!("ct mark {mark}"),
        Match::Reply => "ct direction reply".to_owned(),
    }
}

fn nft_header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn nft_action(rule: &Rule) -> String {
    match rule.action {
        Action::Return => "return".to_owned(),
        Action::Redirect(port) => format!("redirect to :{port}"),
        Action::Tproxy(port) => {
            let family = rule.family().map(|family| format!("{} ", nft_header(family))).unwrap_or_default();
            format!("tproxy {family}to :{port} meta mark set {MARK} accept")
        }
        Action::MarkConnection => format!("ct mark set {MARK}"),
        Action::RestoreMark => "meta mark set ct mark".to_owned(),
    }
}

/// One text for both families: each of the two commands passes over the lines of the other (`-4`, `-6`).
pub fn iptables(settings: &Settings) -> String {
    let chains = rules::chains(settings);
    let mut out = format!(
        "# Outrigger. Load it once into each: iptables-restore -n, ip6tables-restore -n. To remove it, in both:\n{}{}",
        chains.iter().map(unload).collect::<String>(),
        routes(settings)
    );
    for table in ["mangle", "nat"] {
        let chains: Vec<&Chain> = chains.iter().filter(|chain| table_of(chain) == table).collect();
        if chains.is_empty() {
            continue;
        }
        let _ = writeln!(out, "*{table}");
        for chain in &chains {
            let _ = writeln!(out, ":{} - [0:0]", iptables_chain(chain));
        }
        for chain in &chains {
            let _ = writeln!(out, "-A {} -j {}", chain.hook.name().to_uppercase(), iptables_chain(chain));
            for (n, rule) in chain.rules.iter().enumerate() {
                if let Action::Tproxy(_) = rule.action
                    && !chain.rules[..n].iter().any(|before| before.action == rule.action)
                {
                    out += &iptables_mid_stream(chain, rule.action);
                }
                let _ = writeln!(out, "# {}\n{}", rule.why, iptables_rule(chain, rule));
            }
        }
        out += "COMMIT\n";
    }
    out
}

fn table_of(chain: &Chain) -> &'static str {
    match chain.kind {
        Kind::Nat => "nat",
        Kind::Filter | Kind::Route => "mangle",
    }
}

fn iptables_chain(chain: &Chain) -> String {
    format!("OUTRIGGER_{}", chain.name.to_uppercase())
}

fn unload(chain: &Chain) -> String {
    let (table, hook, name) = (table_of(chain), chain.hook.name().to_uppercase(), iptables_chain(chain));
    format!(
        "#   iptables -t {table} -D {hook} -j {name}; iptables -t {table} -F {name}; iptables -t {table} -X {name}\n"
    )
}

fn iptables_rule(chain: &Chain, rule: &Rule) -> String {
    let only = match rule.family() {
        None => "",
        Some(Family::V4) => "-4 ",
        Some(Family::V6) => "-6 ",
    };
    // A target for TCP alone asks for `-p tcp` in its own rule; that is the model's `Tcp`.
    let matches: String = rule.matches.iter().map(iptables_match).collect();
    format!("{only}-A {} {matches}{}", iptables_chain(chain), iptables_action(rule.action))
}

/// Where nf_tables go on, iptables drop: a packet for a socket that is not the proxy's.
fn iptables_mid_stream(chain: &Chain, tproxy: Action) -> String {
    let (chain, tproxy) = (iptables_chain(chain), iptables_action(tproxy));
    format!(
        "# the proxy's connections\n-A {chain} -p tcp ! --syn -m socket --transparent {tproxy}\n\
         # a connection that was there before\n-A {chain} -p tcp ! --syn -m socket -j RETURN\n"
    )
}

fn iptables_match(wanted: &Match) -> String {
    let ports = |ports: &super::settings::Ports| ports.to_string().replace('-', ":");
    match wanted {
        Match::Family(_) => String::new(),
        Match::User(uid) => format!("-m owner --uid-owner {uid} "),
        Match::Group(gid) => format!("-m owner --gid-owner {gid} "),
        Match::In(name) => format!("-i {name} "),
        Match::Out(name) => format!("-o {name} "),
        Match::From(block) => format!("-s {block} "),
        Match::To(block) => format!("-d {block} "),
        Match::ToOthers => "-m addrtype ! --dst-type LOCAL ".to_owned(),
        Match::Tcp => "-p tcp ".to_owned(),
        Match::MidStream => "-p tcp ! --syn ".to_owned(),
        Match::TcpTo(wanted) => format!("-p tcp --dport {} ", ports(wanted)),
        Match::UdpTo(wanted) => format!("-p udp --dport {} ", ports(wanted)),
        Match::Mark(mark) => format!("-m mark --mark {mark} "),
        Match::ConnectionMark(mark) => format!("-m connmark --mark {mark} "),
        Match::Reply => "-m conntrack --ctdir REPLY ".to_owned(),
    }
}

fn iptables_action(action: Action) -> String {
    match action {
        Action::Return => "-j RETURN".to_owned(),
        Action::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Action::Tproxy(port) => format!("-j TPROXY --on-port {port} --tproxy-mark {MARK}"),
        Action::MarkConnection => format!("-j CONNMARK --set-mark {MARK}"),
        Action::RestoreMark => "-j CONNMARK --restore-mark".to_owned(),
    }
}

/// What neither text can say: the routes of tproxy, as comments.
fn routes(settings: &Settings) -> String {
    if !settings.tproxy() {
        return String::new();
    }
    let lines = settings.families().iter().map(|family| {
        let ip = if *family == Family::V4 { "ip -4" } else { "ip -6" };
        let rule = format!("{ip} rule add pref {ROUTE_TABLE} fwmark {MARK} lookup {ROUTE_TABLE}");
        format!("#   {rule}; {ip} route replace local {} dev lo table {ROUTE_TABLE}\n", everything(*family))
    });
    "# tproxy needs these routes beside the rules:\n".to_owned() + &lines.collect::<String>()
}

fn everything(family: Family) -> &'static str {
    match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    }
}
