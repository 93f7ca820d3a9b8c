//! The rules by which a pod's traffic comes to its sidecar.

use super::pods::Pod;

pub fn apply(pod: &Pod, tproxy: bool, excluded: &[u16]) {
    let mut ports = vec![15000, 15001, 15006, 15020];
    ports.extend_from_slice(excluded);
    let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let out = format!(
        "table inet outrigger {{
  chain out {{
    type nat hook output priority -100; policy accept;
    meta skuid 1337 return
    ip daddr 127.0.0.0/8 return
    ip6 daddr ::1 return
    meta l4proto tcp tcp dport {{ {list} }} return
    meta l4proto tcp redirect to :15001
  }}\n"
    );
    let rules = if tproxy {
        pod.tproxy_routes();
        format!(
            "{out}  chain pre {{
    type filter hook prerouting priority mangle; policy accept;
    iifname lo meta mark 1337 ct mark set 1337 return
    iifname lo return
    meta l4proto tcp socket transparent 1 meta mark set 1337 accept
    ct direction reply return
    meta l4proto tcp tcp dport {{ {list} }} return
    ip protocol tcp tproxy ip to :15006 meta mark set 1337 accept
    meta nfproto ipv6 meta l4proto tcp tproxy ip6 to :15006 meta mark set 1337 accept
  }}
  chain save {{
    type route hook output priority mangle; policy accept;
    ct mark 1337 meta mark set ct mark
  }}
}}\n"
        )
    } else {
        format!(
            "{out}  chain in {{
    type nat hook prerouting priority -100; policy accept;
    meta l4proto tcp tcp dport {{ {list} }} return
    meta l4proto tcp redirect to :15006
  }}
}}\n"
        )
    };
    pod.nft(&rules);
}
