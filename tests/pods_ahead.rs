//! The connection to a server that was begun while its client was silent: it is the one that the client gets.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::Duration;

use common::mesh::{Mesh, REVIEWS, WEB};
use common::pods::{APP, Keys, Net, Pod, Sidecar, services};
use common::{Conn, Origin, SOON, pattern, show, until};

const SIZE: usize = 100_000;

/// Takes one connection, and then listens no more, as for a file of FTP. Tells what came.
fn once(listener: TcpListener) -> Receiver<Vec<u8>> {
    let (sender, said) = channel();
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        drop(listener);
        let mut all = Vec::new();
        let _ = stream.set_read_timeout(Some(SOON));
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(b"taken");
        let _ = sender.send(all);
    });
    said
}

fn sidecars<'p>(net: &'p Net, mesh: &Mesh, ports: &[u16], inbound: &str, rules: &str) -> (Sidecar<'p>, Sidecar<'p>) {
    let web = mesh.identity(&mesh.web) + &services(ports, REVIEWS);
    let top = mesh.identity(&mesh.reviews) + rules;
    let inbound = if inbound.is_empty() { ", tls: { mode: permissive }" } else { inbound };
    let caller = net.a.sidecar(&Keys { top: &web, ..Keys::default() });
    (caller, net.b.sidecar(&Keys { inbound, top: &top, ..Keys::default() }))
}

#[test]
fn a_server_that_takes_one_connection_gets_the_one_that_matters() {
    let Some(net) = Net::new() else { return };
    let mesh = Mesh::new();
    let mesh_ports: Vec<u16> = (7100..7106).collect();
    let _sides = sidecars(&net, &mesh, &mesh_ports, "", "");
    let mut number = 0;
    // By way of both sidecars over mTLS, of both in plaintext, and of the inbound one.
    for (from, to, ports) in [(&net.a, "10.96.0.40", 7100), (&net.a, "10.9.0.3", 7200), (&net.node, "10.9.0.3", 7300)] {
        for (port, pause) in (ports..).zip([0, 3, 10, 50, 200, 1000]) {
            let said = once(net.b.listen(format!("0.0.0.0:{port}")));
            let mut conn = from.connect(format!("{to}:{port}"));
            assert!(pause == 0 || conn.is_quiet(Duration::from_millis(pause)), "{to}:{port}");
            number += 1;
            let sent = pattern(number, SIZE);
            conn.write([b"\x01".as_slice(), &sent].concat());
            conn.finish();
            assert_eq!(show(&conn.read_to_end()), "taken", "{to}:{port} after {pause} ms");
            let got = said.recv_timeout(SOON).expect("what came");
            assert!(got[1..] == sent, "{to}:{port} after {pause} ms: {} bytes", got.len());
        }
    }
}

#[test]
fn who_shows_an_identity_later_is_not_counted_as_denied() {
    let Some(net) = Net::new() else { return };
    let mesh = Mesh::new();
    let rules = format!("authorization:\n  - {{ name: web, allow: [{{ from: {{ identities: [\"{WEB}\"] }} }}] }}\n");
    let (_caller, called) = sidecars(&net, &mesh, &[2525], "", &rules);
    let mail = banner(&net.b, 2525);
    for _ in 0..3 {
        let mut conn = net.a.connect("10.96.0.40:2525");
        assert_eq!(conn.line().map(|line| show(&line)).as_deref(), Some("220 ready\\r\\n"));
    }
    // Somebody who begins TLS long after the connection is there.
    let file = |path: &std::path::Path| path.display().to_string();
    let (certificate, key) = (file(&mesh.web.certificate), file(&mesh.web.key));
    let late = format!(
        "import socket,ssl,time\ns=socket.create_connection((\"10.9.0.3\",2525)); time.sleep(0.1)\n\
         c=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname=False; c.verify_mode=ssl.CERT_NONE; c.set_alpn_protocols([\"outrigger-tcp\"])\n\
         c.load_cert_chain(\"{certificate}\",\"{key}\"); print(c.wrap_socket(s).recv(99))"
    );
    assert!(net.node.run("python3", &["-c", &late]).contains("220 ready"));
    called.await_page("/peers", WEB);
    assert_eq!(called.metric("outrigger_authorization_denied_total", &[("rule", "web")]), 0.0);
    drop(mail);
    // Who shows none at all is, once.
    let mut conn = net.node.connect(net.b.at(2525));
    conn.try_write("\x01\x02");
    assert_eq!(show(&conn.read_to_end()), "");
    called.await_counted("denied", 1.0);
    assert_eq!(called.metric("outrigger_authorization_denied_total", &[("rule", "web")]), 1.0);
    until("it is told, with the entry", SOON, || called.logged().iter().any(|line| line["authorization"] == "web"));
}

fn banner(pod: &Pod, port: u16) -> Origin {
    Origin::raw_on(pod.listen(format!("0.0.0.0:{port}")), |mut conn, _| {
        conn.try_write("220 ready\r\n");
        conn.read_to_end();
    })
}

#[test]
fn inside_of_tls_the_server_may_have_the_first_word() {
    let Some(net) = Net::new() else { return };
    let mesh = Mesh::new();
    // It says its word, and ends.
    let _mail = Origin::raw_on(net.b.listen("0.0.0.0:2525"), |mut conn, _| {
        assert!(conn.try_write("220 ready\r\n"), "a client")
    });
    let _sides = sidecars(&net, &mesh, &[], ", detectionTimeout: 60s, tls: { mode: strict }", "");
    let file = |path: &std::path::Path| path.display().to_string();
    let (certificate, key) = (file(&mesh.web.certificate), file(&mesh.web.key));
    let args =
        ["10", "openssl", "s_client", "-quiet", "-connect", "10.9.0.3:2525", "-cert", &certificate, "-key", &key];
    let said = net.node.command(APP, "timeout", &args).output().expect("start openssl");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.contains("220 ready"), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
}

/// For one connection: bytes take their time each way, since the kernel here cannot delay packets.
fn delayed(pod: &Pod, listener: &TcpListener, to: SocketAddr, by: Duration) {
    let (client, _) = listener.accept().expect("a client");
    let server = pod.try_connect(APP, to).expect("connect");
    let carry = |mut from: &TcpStream, mut into: &TcpStream| {
        let mut piece = [0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            sleep(by);
            if into.write_all(&piece[..count]).is_err() {
                return;
            }
        }
        sleep(by);
        let _ = into.shutdown(Shutdown::Write);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| carry(&client, &server));
        carry(&server, &client);
    });
}

#[test]
fn far_away() {
    const DELAY: Duration = Duration::from_millis(60);
    let Some(net) = Net::new() else { return };
    let mesh = Mesh::new();
    let _sides = sidecars(&net, &mesh, &[], "", "");
    let _mail = banner(&net.b, 2525);
    let _app = net.b.app("0.0.0.0:8080", "app");
    let far = |port: u16, ask: &dyn Fn(Conn)| {
        // The way leads through a third machine.
        let relay = net.node.listen(format!("0.0.0.0:{}", port + 1000));
        std::thread::scope(|scope| {
            scope.spawn(|| delayed(&net.node, &relay, net.b.at(port), DELAY));
            ask(net.a.connect(net.node.at(port + 1000)));
        });
    };
    far(2525, &|mut conn| assert_eq!(conn.line().map(|line| show(&line)).as_deref(), Some("220 ready\\r\\n")));
    far(8080, &|mut conn| {
        conn.write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert_eq!(conn.response("GET").text(), "app");
    });
    let said = once(net.b.listen("0.0.0.0:7400"));
    far(7400, &|mut conn| {
        let sent = pattern(1, SIZE);
        conn.write(&sent);
        conn.finish();
        assert_eq!(show(&conn.read_to_end()), "taken");
        assert!(said.recv_timeout(SOON).expect("what came") == sent);
    });
}
