//! What the kernel would not do, in words, and what helps.

use std::fmt::{self, Display};
use std::io;

use rustix::io::Errno;

use super::rules::{Action, Chain, Kind, Match, Rule};
use super::{TABLE, text};

#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub errno: Option<Errno>,
    pub message: String,
    /// Lines of their own.
    pub remedy: String,
}

/// What was asked for when the kernel said no.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// The whole transaction, or to look at what is there.
    Netfilter,
    Table,
    Chain(&'a Chain),
    Rule(&'a Chain, &'a Rule),
}

const CAPABILITY: &str = "\
this needs the capability NET_ADMIN in the namespace of the network, and no other. In a pod, the container that runs it:
  securityContext:
    runAsUser: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    capabilities: { drop: [ALL], add: [NET_ADMIN] }
as any other user than 0 the capability is not effective. By hand: as root, or with `sudo`";

const OTHERWISE: &str = "where the kernel cannot be changed: `outrigger intercept print --format iptables` writes the same \
                         rules for iptables-restore, of which the legacy variant does without nf_tables";

impl Failure {
    fn new(what: impl Display, why: impl Display) -> Self {
        Self { errno: None, message: format!("{what}: {why}"), remedy: String::new() }
    }

    fn of(what: impl Display, errno: Errno) -> Self {
        Self { errno: Some(errno), ..Self::new(what, io::Error::from(errno)) }
    }

    fn with(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.remedy.lines().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

pub fn entering(what: String, error: io::Error) -> Failure {
    let failure = Failure::new(what, &error);
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.with(
            "another's namespace needs SYS_ADMIN in addition, and one that is named as a process's SYS_PTRACE: be root of the node",
        ),
        io::ErrorKind::InvalidInput => {
            failure.with("it is no network namespace: name a file like /run/netns/NAME or /proc/PID/ns/net")
        }
        _ => failure,
    }
}

pub fn netfilter(step: Step<'_>, errno: Errno) -> Failure {
    let failure = Failure::of(subject(step), errno);
    let missing = matches!(
        errno,
        Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::NOPROTOOPT
    );
    match (step, errno) {
        (Step::Netfilter, Errno::PERM | Errno::ACCESS) => failure.with(CAPABILITY),
        // The transaction was allowed, this part of it was not: nf_tables has owners of tables.
        (_, Errno::PERM) => failure.with(format!(
            "another program owns the table `inet {TABLE}`, and has to end or to remove it: `nft list tables` names it"
        )),
        (_, _) if missing => {
            failure.with(format!("this kernel has no {}: load the module, or build it in\n{OTHERWISE}", feature(step)))
        }
        (_, Errno::AGAIN) => {
            failure.with("the kernel did not answer in time; nothing is certain: `outrigger intercept verify`")
        }
        (_, Errno::INTR) => {
            failure.with("the rules kept changing while they were looked at: somebody else is at work on them")
        }
        (_, Errno::NOMEM | Errno::NOBUFS | Errno::MSGSIZE) => failure.with("name fewer and larger ranges and blocks"),
        _ => failure,
    }
}

pub fn routing(what: impl Display, errno: Errno) -> Failure {
    let failure = Failure::of(what, errno);
    match errno {
        Errno::PERM => failure.with(CAPABILITY),
        Errno::ACCESS | Errno::AFNOSUPPORT | Errno::NODEV => {
            failure.with("IPv6 is turned off here: add --no-ipv6, or use --mode redirect, which needs no routes")
        }
        Errno::OPNOTSUPP => failure.with(
            "this kernel has no CONFIG_IP_MULTIPLE_TABLES (or, of IPv6, CONFIG_IPV6_MULTIPLE_TABLES): use --mode redirect",
        ),
        Errno::NETDOWN => failure.with("the interface `lo` is down: `ip link set lo up`"),
        _ => failure,
    }
}

fn subject(step: Step<'_>) -> String {
    match step {
        Step::Netfilter => "the kernel's nf_tables refuse".to_owned(),
        Step::Table => format!("the kernel refuses the table `inet {TABLE}`"),
        Step::Chain(chain) => {
            format!("the kernel refuses a chain of type {} at {}", chain.kind.name(), chain.hook.name())
        }
        Step::Rule(chain, rule) => format!("the kernel refuses `{}` in the chain {}", text::nft_rule(rule), chain.name),
    }
}

/// As the configuration of the kernel names it, and the module.
fn feature(step: Step<'_>) -> &'static str {
    match step {
        Step::Netfilter => "CONFIG_NF_TABLES (nf_tables)",
        Step::Table => "CONFIG_NF_TABLES_INET",
        Step::Chain(chain) if chain.kind == Kind::Nat => "CONFIG_NFT_NAT (nft_chain_nat)",
        Step::Chain(_) => "CONFIG_NF_TABLES_INET",
        Step::Rule(_, rule) => match rule.action {
            Action::Redirect(_) => "CONFIG_NFT_REDIR (nft_redir)",
            Action::Tproxy(_) => "CONFIG_NFT_TPROXY (nft_tproxy)",
            Action::MarkConnection | Action::RestoreMark => "CONFIG_NFT_CT (nft_ct)",
            Action::Return if rule.matches.contains(&Match::Reply) => "CONFIG_NFT_CT (nft_ct)",
            Action::Return if rule.matches.contains(&Match::ToOthers) => {
                "CONFIG_NFT_FIB_INET (nft_fib_inet), which goes with CONFIG_NFT_FIB_IPV4 and CONFIG_NFT_FIB_IPV6"
            }
            Action::Return => "CONFIG_NF_TABLES (nf_tables) with all of its basic expressions",
        },
    }
}
