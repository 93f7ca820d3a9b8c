#!/usr/bin/env bash
# Two pods made of network namespaces: programs that know of no proxy, a sidecar beside each, and a kernel that brings
# their traffic to the sidecars. Shows who called whom, and how the calls were split. Needs root.
#   deploy/demo/pod.sh [--once] [BINARY]      --once: one round, then end; BINARY: target/release/outrigger
set -euo pipefail
once=
[ "${1-}" != --once ] || { once=1; shift; }
root=$(cd "$(dirname "$0")/../.." && pwd)
binary=$(realpath "${1:-$root/target/release/outrigger}")
PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH # those of the system first: other users may run them

if [ "$(id -u)" != 0 ]; then
  echo "make demo-pod: network namespaces need root; asking sudo for it"
  exec sudo "$0" ${once:+--once} "$binary"
fi
for tool in curl ip python3 setpriv; do
  command -v $tool >/dev/null || { echo "make demo-pod: $tool is missing; \`make setup\` installs it" >&2; exit 1; }
done

# --- Whatever happens, nothing stays behind.
dir=$(mktemp -d)
pods=(web-$$ reviews-$$)
finish() {
  trap - EXIT
  for pod in "${pods[@]}"; do ip netns pids "$pod" 2>/dev/null | xargs -r kill || true; done
  wait
  for pod in "${pods[@]}"; do ip netns del "$pod" 2>/dev/null || true; done
  rm -rf "$dir"
}
trap finish EXIT
trap 'echo; exit 0' INT TERM

# A command in the namespace of a pod: of its application, of its sidecar, or of somebody who looks into it.
user() { ip netns exec "$1-$$" setpriv --reuid="$2" --regid="$2" --clear-groups -- "${@:3}"; } # user POD UID COMMAND...
app() { user "$1" 1000 "${@:2}"; }
proxy() { user "$1" 1337 "${@:2}"; }
admin() { ip netns exec "$1-$$" curl -sS "http://127.0.0.1:15000$2"; } # admin POD PATH
until_ok() { # until_ok WHAT COMMAND...
  for _ in $(seq 200); do "${@:2}" >/dev/null 2>&1 && return; sleep 0.05; done
  echo "make demo-pod: $1 does not come up" >&2
  tail -n 20 "$dir"/*.log >&2
  exit 1
}

# --- Two pods with a wire between them. 10.96.0.0/16 are the virtual addresses of services; nobody has one of them.
ip netns add "${pods[0]}"
ip netns add "${pods[1]}"
ip link add eth0 netns "${pods[0]}" type veth peer name eth0 netns "${pods[1]}"
for end in "web 10.9.0.2 10.9.0.3" "reviews 10.9.0.3 10.9.0.2"; do
  read -r pod own other <<<"$end"
  ip -n "$pod-$$" link set lo up
  ip -n "$pod-$$" link set eth0 up
  ip -n "$pod-$$" addr add "$own/24" dev eth0
  ip -n "$pod-$$" route add default via "$other"
done

# --- The programs. None of them is told anything.
redis=
! command -v redis-server redis-cli >/dev/null || redis=1
chmod 755 "$dir"
for version in v1 v2; do
  mkdir "$dir/$version"
  echo "reviews $version" >"$dir/$version/index.html"
done
app reviews python3 -m http.server -d "$dir/v1" 9081 >"$dir/v1.log" 2>&1 &
app reviews python3 -m http.server -d "$dir/v2" 9082 >"$dir/v2.log" 2>&1 &
[ -z "$redis" ] || app reviews redis-server --port 6379 --protected-mode no --save "" --dir / >"$dir/redis.log" 2>&1 &

# --- The sidecars: an identity each, and a user that the kernel knows them by.
"$binary" certs dev --trust-domain demo.local --out "$dir/certs" --workload shop/web --workload shop/reviews >/dev/null
chmod 755 "$dir/certs"
chown -R 1337:1337 "$dir/certs/shop"
install -m 755 "$binary" "$dir/outrigger"
config() { # config POD: what both have
  cat <<YAML
apiVersion: outrigger/v1
workload: { name: $1, namespace: shop }
admin: { address: "127.0.0.1:15000" }
health: { address: "0.0.0.0:15020" }
runtime: { drainTimeout: 1s }
identity:
  trustDomain: demo.local
  certificate: $dir/certs/shop/$1/tls.crt
  privateKey: $dir/certs/shop/$1/tls.key
  trustBundle: $dir/certs/shop/$1/ca.crt
listeners:
  - { name: inbound, mode: inbound, address: "0.0.0.0:15006", tls: { mode: strict } }
  - { name: outbound, mode: outbound, address: "127.0.0.1:15001" }
telemetry: { accessLog: { format: "off" }, log: { level: warn, format: text } }
YAML
}
config reviews >"$dir/reviews.yaml"
{
  config web
  cat <<'YAML'
services:
  reviews:
    hosts: [reviews]
    addresses: [10.96.0.12]
    port: 80
    endpoints:
      static:
        - { address: "10.9.0.3:9081", labels: { version: v1 } }
        - { address: "10.9.0.3:9082", labels: { version: v2 } }
    subsets: { v1: { labels: { version: v1 } }, v2: { labels: { version: v2 } } }
    tls: { mode: mutual, identities: ["spiffe://demo.local/ns/shop/sa/reviews"] }
  redis:
    addresses: [10.96.0.63]
    port: 6379
    endpoints: { static: ["10.9.0.3:6379"] }
    tls: { mode: mutual, identities: ["spiffe://demo.local/ns/shop/sa/reviews"] }
routes:
  - { name: reviews, hosts: [reviews], split: [{ to: reviews/v1, weight: 80 }, { to: reviews/v2, weight: 20 }] }
YAML
} >"$dir/web.yaml"
for pod in web reviews; do
  "$binary" intercept apply --netns "/run/netns/$pod-$$" >"$dir/rules.log"
  proxy $pod "$dir/outrigger" run --config "$dir/$pod.yaml" >"$dir/$pod.log" 2>&1 &
  until_ok "the sidecar of $pod" app $pod curl -fsS http://127.0.0.1:15020/readyz
done
until_ok "reviews v1" app reviews curl -fsS http://127.0.0.1:9081/
until_ok "reviews v2" app reviews curl -fsS http://127.0.0.1:9082/
[ -z "$redis" ] || until_ok redis app reviews redis-cli ping

# --- What can be seen.
cat <<TEXT
Two pods, with programs that know of no proxy, and a sidecar each:
  web      10.9.0.2   curl and redis-cli, which call 10.96.0.12 (reviews) and 10.96.0.63 (redis)
  reviews  10.9.0.3   python3 -m http.server on 9081 (v1) and 9082 (v2), redis-server on 6379
Each has the rules of \`outrigger intercept apply\`, and they are there:
  $("$binary" intercept verify --netns "/run/netns/${pods[0]}")

TEXT
calls() { for _ in $(seq 100); do app web curl -sS --max-time 5 http://10.96.0.12/; done | sort | uniq -c; }
round() {
  echo "100 times \`curl http://10.96.0.12/\` in pod web; the split is 80 to 20:"
  calls
  if [ -n "$redis" ]; then
    echo "redis-cli -h 10.96.0.63, of which nobody has said what it speaks:"
    echo "  SET greeting hello: $(app web redis-cli -h 10.96.0.63 SET greeting hello)"
    echo "  GET greeting:       $(app web redis-cli -h 10.96.0.63 GET greeting)"
  else
    echo "(redis-server is not installed, so there is no connection to it)"
  fi
}
round
echo
echo "Who has called reviews, as its sidecar has seen it proven (/peers):"
admin reviews /peers | python3 -c '
import json, sys
for peer in json.load(sys.stdin)["peers"]:
    print("  {how}  {identity}  from {address}, connections: {connections}".format(**peer))'
echo "Somebody without a certificate, past the sidecar of web:"
echo "  curl: $(proxy web curl -sS --max-time 5 http://10.9.0.3:9081/ 2>&1 | sed 's/^curl: //' || true)"
echo "What the sidecars have learned of ports that nobody has described (/learned):"
for pod in web reviews; do admin $pod "/learned?format=yaml" | sed "s/^/  $pod: /"; done
[ -z "$once" ] || exit 0

echo
echo "It goes on until Ctrl-C. Have a look from another terminal:"
echo "  ip netns exec ${pods[0]} nft list ruleset; ip netns exec ${pods[1]} curl -s localhost:15000/peers"
while sleep 2; do
  echo "$(date +%T)  $(calls | tr -s ' \n' ' ')"
done
