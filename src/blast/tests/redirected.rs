use std::net::SocketAddr;

use super::*;

fn sidecar(listener: &str, rest: &str) -> Snapshot {
    compiled(&format!(
        "apiVersion: outrigger/v1\nlisteners: [{listener}]\n\
         services:\n  reviews: {{ addresses: [\"10.96.0.12:80\"], endpoints: {{ static: [\"10.1.0.1:80\"] }} }}\n  \
         spare: {{ endpoints: {{ static: [\"10.1.0.2:80\"] }} }}\n{rest}"
    ))
}

fn sent(snapshot: &Snapshot, to: &str) -> Sample {
    let to: SocketAddr = to.parse().expect("an address");
    let mut traffic = Traffic::new();
    for _ in 0..10 {
        let caller = Caller::new(caller(1), None, to.port()).on_its_way(Some(to));
        traffic.send_as(snapshot, "GET http://any.example/api", caller);
    }
    traffic.take()
}

#[test]
fn what_goes_out_is_judged_by_its_destination() {
    let listener = "{ name: out, mode: outbound, address: \"127.0.0.1:15001\" }";
    let old = sidecar(listener, "");
    let new = sidecar(listener, "routes: [{ name: moved, listeners: [out], to: spare }]\n");
    let named = sidecar(listener, "routes: [{ name: led, hosts: [reviews], to: reviews }]\n");
    let radius = compare(&old, &new, &[sent(&old, "192.0.2.1:80")]);
    assert_near(group(&radius, Kind::Side).share, 100.0);
    assert_eq!(group(&radius, Kind::Side).to, "spare");
    // The address leads to a service already, whatever is asked for.
    let radius = compare(&old, &named, &[sent(&old, "10.96.0.12:80")]);
    assert!(radius.groups.iter().all(|group| group.kind != Kind::Side), "{radius:#?}");
}

#[test]
fn what_comes_in_is_judged_by_its_port() {
    let listener = "{ name: in, mode: inbound, address: \"0.0.0.0:15006\" }";
    let old = sidecar(listener, "");
    let rule = "authorization: [{ name: none, ports: [9080], deny: [{ to: { methods: [GET] } }] }]\n";
    let new = sidecar(listener, rule);
    let radius = compare(&old, &new, &[sent(&old, "10.1.0.9:9080")]);
    assert_near(group(&radius, Kind::Refused).share, 100.0);
    assert!(compare(&old, &new, &[sent(&old, "10.1.0.9:9081")]).groups.is_empty());
    // Requests are looked at no more.
    let listener = "{ name: in, mode: inbound, address: \"0.0.0.0:15006\", ports: { 9080: { protocol: tcp } } }";
    let radius = compare(&old, &sidecar(listener, ""), &[sent(&old, "10.1.0.9:9080")]);
    assert_near(group(&radius, Kind::Unknown).share, 100.0);
    let denied = compare(&old, &sidecar(listener, rule), &[sent(&old, "10.1.0.9:9080")]);
    assert_near(group(&denied, Kind::Refused).share, 100.0);
}
