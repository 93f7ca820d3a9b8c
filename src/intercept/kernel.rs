//! nf_tables of the network namespace that we are in: one transaction to it, and dumps of what is there.

use rustix::net::netlink::NETFILTER;

use super::failure::{Failure, Step, netfilter};
use super::netlink::{ACK, APPEND, CREATE, DUMP, REQUEST, Socket, attribute, find, message, number};
use super::rules::Chain;
use super::{TABLE, encode};

/// Families of tables.
pub const ANY: u8 = 0;
pub const INET: u8 = 1;

/// Kinds of messages, within the subsystem.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const GET_GENERATION: u16 = 16;
const SUBSYSTEM: u16 = 10;
const BEGIN: u16 = 16;
const END: u16 = 17;

pub struct Kernel(Socket);

/// What a dump can be of.
#[derive(Debug, Clone, Copy)]
pub enum List {
    Tables = 1,
    Chains = 4,
    Rules = 7,
}

impl Kernel {
    pub fn open() -> Result<Self, Failure> {
        Socket::open(Some(NETFILTER)).map(Self).map_err(|errno| netfilter(Step::Netfilter, errno))
    }

    pub fn replace(&mut self, chains: &[Chain]) -> Result<(), Failure> {
        let mut batch = Batch::without_the_table();
        batch.add(Step::Table, NEW_TABLE, CREATE, &encode::table());
        for chain in chains {
            batch.add(Step::Chain(chain), NEW_CHAIN, CREATE, &encode::chain(chain));
            for rule in &chain.rules {
                batch.add(Step::Rule(chain, rule), NEW_RULE, CREATE | APPEND, &encode::rule(chain, rule));
            }
        }
        batch.commit(&mut self.0)
    }

    pub fn remove(&mut self) -> Result<(), Failure> {
        Batch::without_the_table().commit(&mut self.0)
    }

    /// Changes with whatever anybody changes. Within a dump the kernel may not notice that itself.
    pub fn generation(&mut self) -> Result<Option<u32>, Failure> {
        let mut bytes = Vec::new();
        message(&mut bytes, SUBSYSTEM << 8 | GET_GENERATION, REQUEST | ACK, 1, &header(ANY, 0));
        let mut generation = None;
        let each = |_, content: &[u8]| {
            let attributes = content.split_first_chunk::<4>().map(|(_, attributes)| attributes);
            generation = attributes.and_then(|attributes| number(find(attributes, 1)?));
        };
        self.0.ask(&bytes, 1, each).map_err(|refused| netfilter(Step::Netfilter, refused.errno))?;
        Ok(generation)
    }

    /// Family and attributes of each, of one table or of all.
    pub fn list(
        &mut self,
        list: List,
        family: u8,
        table: Option<&str>,
        mut each: impl FnMut(u8, &[u8]),
    ) -> Result<(), Failure> {
        let mut content = header(family, 0).to_vec();
        if let Some(table) = table {
            attribute(&mut content, 1, &[table.as_bytes(), &[0]].concat());
        }
        let mut bytes = Vec::new();
        message(&mut bytes, SUBSYSTEM << 8 | list as u16, REQUEST | DUMP, 1, &content);
        let each = |_, content: &[u8]| {
            if let Some(([family, ..], attributes)) = content.split_first_chunk::<4>() {
                each(*family, attributes);
            }
        };
        self.0.ask(&bytes, 1, each).map_err(|refused| netfilter(Step::Netfilter, refused.errno))
    }
}

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// All or nothing; the numbers of its messages are the places of its steps.
struct Batch<'a> {
    messages: Vec<(u16, u16, Vec<u8>)>,
    steps: Vec<Step<'a>>,
}

impl<'a> Batch<'a> {
    /// A table that is not there cannot be deleted; one that is there can be created again.
    fn without_the_table() -> Self {
        let mut batch = Self { messages: Vec::new(), steps: Vec::new() };
        batch.add(Step::Table, NEW_TABLE, CREATE, &encode::table());
        batch.add(Step::Table, DELETE_TABLE, 0, &encode::table());
        batch
    }

    fn add(&mut self, step: Step<'a>, kind: u16, flags: u16, attributes: &[u8]) {
        self.messages.push((SUBSYSTEM << 8 | kind, flags, [&header(INET, 0)[..], attributes].concat()));
        self.steps.push(step);
    }

    /// Errors come for every message. Of good news only that to the last one is asked for, so that they cannot be more
    /// than the buffer of the socket holds; it is said after the commit.
    fn commit(self, socket: &mut Socket) -> Result<(), Failure> {
        let (mut bytes, last) = (Vec::new(), self.messages.len());
        let edge = header(ANY, SUBSYSTEM);
        message(&mut bytes, BEGIN, REQUEST, 0, &edge);
        for (n, (kind, flags, content)) in (1..).zip(&self.messages) {
            let ack = if n as usize == last { ACK } else { 0 };
            message(&mut bytes, *kind, REQUEST | flags | ack, n, content);
        }
        let last = u32::try_from(last).unwrap_or(u32::MAX);
        message(&mut bytes, END, REQUEST, last.saturating_add(1), &edge);
        socket.ask(&bytes, last, |_, _| {}).map_err(|refused| {
            let step = (refused.message as usize).checked_sub(1).and_then(|n| self.steps.get(n));
            netfilter(step.copied().unwrap_or(Step::Netfilter), refused.errno)
        })
    }
}

/// Whether a table of a dump is ours.
pub fn is_ours(family: u8, table: &str) -> bool {
    family == INET && table == TABLE
}
