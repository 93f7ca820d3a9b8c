"""Outrigger, for the peer benchmark: OURS=path, or `outrigger` on PATH. `make bench-peers` runs it."""
import socket

from . import Launch, first_line, which

# `feat` has no retries yet, because routes have none: compare it with peers on that understanding until they do.
# Connections that a peer closes while idle are retried already, as everywhere.
ROLES = {"h1", "h2", "tcp", "mtls_in", "mtls_out", "mtls_in_h2", "mtls_out_h2", "feat", "featlog"}

# A full line for every request. Peers' plain roles log nothing, and so do ours.
LOGGED = '{ format: text, sample: { errors: 100, others: 100, maxPerSecond: 0 } }'
SILENT = '{ format: "off" }'


def find():
    return which("OURS", "outrigger")


def version(path):
    return first_line(path, "version")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(path, c):
    upstream = "tcp" if c.role == "tcp" else "http2" if c.role.endswith("h2") else "http1"
    who = {"in": "server", "out": "client"}.get(c.role[5:].split("_")[0]) if c.role.startswith("mtls") else None
    identity = who and (f"identity: {{ trustDomain: bench, certificate: {c.certs}/{who}.pem, privateKey: {c.certs}/{who}.key,"
                        f" trustBundle: {c.certs}/ca.pem }}")
    inbound = "tls: { mode: strict }" if who == "server" else ""
    outbound = 'tls: { mode: mutual, identities: ["spiffe://bench/server"] }' if who == "client" else ""
    if c.role.startswith("feat"):
        routes = "\n".join(f"  - {{ name: v{i}, match: [{{ headers: {{ x-route: v{i} }} }}], to: app }}" for i in range(10))
    else:
        routes = "  - { name: all, to: app }"
    config = c.write("outrigger.yaml", f"""apiVersion: outrigger/v1
workload: {{ name: bench, namespace: bench, version: v1 }}
admin: {{ address: "127.0.0.1:{free_port()}" }}
health: {{ address: "127.0.0.1:{c.admin}" }}
runtime: {{ workers: 1, drainTimeout: 1s }}
{identity or ""}
listeners:
  - name: bench
    mode: proxy
    address: "127.0.0.1:{c.listen}"
    protocol: {"tcp" if c.role == "tcp" else "http"}
    maxConnections: 10100
    {inbound}
services:
  app:
    protocol: {upstream}
    endpoints: {{ static: ["{c.upstream}"] }}
    connections: {{ max: 10100, idleTimeout: 600s }}
    {outbound}
routes:
{routes}
telemetry:
  accessLog: {LOGGED if c.role == "featlog" else SILENT}
  log: {{ level: warn, format: text }}
""")
    argv = [path, "run", "--config", config]
    if c.role == "featlog":
        # The shell is replaced by the proxy: its process id is the one that is measured.
        argv = ["sh", "-c", 'exec "$@" >"$0"', c.write("access.log", ""), *argv]
    return Launch(argv)
