//! A name server that answers what it is told, over UDP: all records live for a second.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

#[derive(Clone)]
pub enum Data {
    A(Ipv4Addr),
    /// Priority, weight, port, target.
    Srv(u16, u16, u16, &'static str),
}

#[derive(Clone)]
pub struct Dns {
    pub addr: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

#[derive(Default)]
struct Zone {
    /// By name in lower case, with a dot at the end; names that are not there have no records.
    records: HashMap<&'static str, Vec<Data>>,
    broken: bool,
    asked: usize,
}

impl Dns {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind a name server");
        let server = Self { addr: socket.local_addr().expect("address"), zone: Arc::default() };
        let zone = server.zone.clone();
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                let reply = zone.lock().expect("zone").reply(&query[..length]);
                let _ = socket.send_to(&reply, peer);
            }
        });
        server
    }

    pub fn set(&self, name: &'static str, records: &[Data]) {
        self.zone.lock().expect("zone").records.insert(name, records.to_vec());
    }

    /// Answers SERVFAIL to everything.
    pub fn broken(&self, broken: bool) {
        self.zone.lock().expect("zone").broken = broken;
    }

    pub fn asked(&self) -> usize {
        self.zone.lock().expect("zone").asked
    }
}

impl Zone {
    fn reply(&mut self, query: &[u8]) -> Vec<u8> {
        self.asked += 1;
        let (mut end, mut name) = (12, String::new());
        while query[end] != 0 {
            let label = usize::from(query[end]);
            name += &(String::from_utf8_lossy(&query[end + 1..=end + label]).to_lowercase() + ".");
            end += label + 1;
        }
        let kind = u16::from_be_bytes([query[end + 1], query[end + 2]]);
        let of_kind = |data: &&Data| matches!((data, kind), (Data::A(_), 1) | (Data::Srv(..), 33));
        let known = self.records.get(name.as_str()).filter(|_| !self.broken);
        let answers: Vec<&Data> = known.into_iter().flatten().filter(of_kind).collect();
        let code = if self.broken { 2 } else { 3 * u8::from(known.is_none()) };
        let mut reply = query[..2].to_vec();
        reply.extend([0x81, 0x80 | code, 0, 1, 0, answers.len() as u8, 0, 0, 0, 0]);
        reply.extend(&query[12..end + 5]);
        for data in answers {
            let data: Vec<u8> = match data {
                Data::A(address) => address.octets().to_vec(),
                Data::Srv(priority, weight, port, target) => {
                    let numbers = [priority, weight, port].into_iter().flat_map(|number| number.to_be_bytes());
                    let labels = target.split_terminator('.');
                    let labels = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
                    numbers.chain(labels).chain([0]).collect()
                }
            };
            reply.extend([0xc0, 12]);
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1, 0, 0, 0, 1]);
            reply.extend((data.len() as u16).to_be_bytes());
            reply.extend(data);
        }
        reply
    }
}
