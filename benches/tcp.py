#!/usr/bin/env python3
"""TCP beside other proxies, one worker on one core: CPU for a gigabyte each way, the first byte, and idle connections.

    tcp.py BENCH [--peers envoy,haproxy,haproxy_splice,ours] [--rounds 5] [--secs 1] [--only down,long,up,first,idle]

BENCH is a copy of the peer benchmark (`make bench-tcp` makes it); its peers and its load tool are used, and benches/peers.

down   the server sends 1 MiB each time it is asked; 4 connections (the row `tcp` of the peer benchmark)
long   the same with 1 GB each time: streams
up     4 clients send as fast as they can
first  from before `connect` to the first byte of an echo, over what it takes without a proxy
idle   memory for each of 9,900 connections, after one byte both ways (10,000 is what 20,000 descriptors do not allow)
"""
import argparse
import json
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
IDLE = 9900
PORTS = {"sink": 9104, "echo": 9105}


def serve(kind):
    """A sink, or an echo that stays open."""
    server = socket.create_server(("127.0.0.1", PORTS[kind]), backlog=4096)
    server.setblocking(False)
    poll, sockets, space = select.epoll(), {}, bytearray(1 << 20)
    poll.register(server, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd == server.fileno():
                peer, _ = server.accept()
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets[peer.fileno()] = peer
                poll.register(peer, select.EPOLLIN)
                continue
            peer = sockets[fd]
            try:
                count = peer.recv_into(space)
            except OSError:
                count = 0
            if count == 0:
                poll.unregister(fd)
                sockets.pop(fd).close()
            elif kind == "echo":
                peer.send(space[:count])


def send(address, secs):
    """Four connections that are written to whenever they take something; prints the bytes that they took."""
    cpu, start, piece = time.process_time(), time.monotonic(), memoryview(bytes(256 << 10))
    poll, sockets, total = select.epoll(), {}, 0
    for _ in range(4):
        peer = socket.create_connection(address)
        peer.setblocking(False)
        sockets[peer.fileno()] = peer
        poll.register(peer, select.EPOLLOUT)
    while time.monotonic() < start + secs:
        for fd, _ in poll.poll(0.1):
            try:
                total += sockets[fd].send(piece)
            except BlockingIOError:
                pass
    took = time.monotonic() - start
    print(json.dumps({"bytes": total, "secs": took, "mb_s": total / took / 1e6,
                      "load_cpu_us": (time.process_time() - cpu) * 1e6}))


def first(address, count):
    times = []
    for _ in range(count):
        start = time.perf_counter()
        with socket.create_connection(address) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.send(b"x")
            peer.recv(1)
            times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"ms": statistics.median(times), "p99_ms": sorted(times)[len(times) * 99 // 100]}))


def hold(address):
    peers = []
    for _ in range(IDLE):
        peers.append(socket.create_connection(address))
        peers[-1].send(b"x")
        peers[-1].recv(1)
    print(json.dumps({"held": len(peers)}), flush=True)
    sys.stdin.read()


def itself(core, *args, **options):
    return subprocess.Popen(["taskset", "-c", str(core), sys.executable, os.path.abspath(__file__), *map(str, args)],
                            stdout=subprocess.PIPE, text=True, **options)


def measure(bench, a):
    b = bench.Bench(a)
    results = {}

    def run(*args):
        return json.loads(itself(a.load_core, *args).communicate(timeout=60)[0])

    def bulk(name, load):
        up = b.started(["tcp"], True)
        for rnd in range(-1, a.rounds):
            for peer, (procs, address, _) in up.items():
                cpu = sum(bench.cpu_us(p.pid) for p in procs)
                r = load(address, 0.4 if rnd < 0 else a.secs)
                cpu = sum(bench.cpu_us(p.pid) for p in procs) - cpu
                if rnd >= 0:
                    rows = results.setdefault(name, {}).setdefault(peer, {"MB/s": [], "CPU ms/GB": []})
                    rows["MB/s"].append(r["mb_s"])
                    rows["CPU ms/GB"].append(cpu / 1e3 / (r["bytes"] / 1e9))
        b.stop_all(up)

    def download(chunk):
        return lambda address, secs: b.run("tcp", "--addr", address, "--conns", 4, "--secs", secs, "--chunk", chunk)

    servers = [itself(a.load_core, "serve", kind) for kind in PORTS]
    try:
        for server in servers:
            server.stdout.readline()
        if "down" in a.only:
            bulk("down", download(1 << 20))
        if "long" in a.only:
            bulk("long", download(10**9))
        if "up" in a.only:
            bench.UP["tcp"] = PORTS["sink"]
            bulk("up", lambda address, secs: run("send", address, secs))
        bench.UP["tcp"] = PORTS["echo"]
        if "first" in a.only:
            up = b.started(["tcp"], True)
            for rnd in range(-1, a.rounds):
                direct = None
                for peer, (_, address, _) in up.items():
                    r = run("first", address, 500)
                    direct = direct or r
                    if rnd >= 0 and peer != "direct":
                        rows = results.setdefault("first", {}).setdefault(peer, {"added ms": [], "added p99 ms": []})
                        rows["added ms"].append(r["ms"] - direct["ms"])
                        rows["added p99 ms"].append(r["p99_ms"] - direct["p99_ms"])
            b.stop_all(up)
        if "idle" in a.only:
            for peer in b.peers:
                procs, address, _ = b.start(peer, ["tcp"])
                time.sleep(0.5)
                before = bench.rss_kib(procs[0].pid)
                client = itself(a.load_core, "hold", address, stdin=subprocess.PIPE)
                held = json.loads(client.stdout.readline() or '{"held": 0}')["held"]
                time.sleep(1)
                after = bench.rss_kib(procs[0].pid)
                client.communicate("")
                if held:
                    results.setdefault("idle", {})[peer] = {"MiB before": [before / 1024], "KiB each": [(after - before) / held]}
                b.stop_all({peer: (procs, address, None)})
    finally:
        for server in servers:
            server.kill()
        b.close()
    for name, peers in results.items():
        columns = list(next(iter(peers.values())))
        print(f"\n{name}\n\n| peer | " + " | ".join(columns) + " | least to most |\n| --- |" + " ---: |" * (len(columns) + 1))
        for peer, rows in peers.items():
            cells = [f"{statistics.median(rows[column]):.{0 if max(rows[column]) > 50 else 2}f}" for column in columns]
            last = rows[columns[-1]]
            print(f"| {peer} | " + " | ".join(cells) + f" | {min(last):.2f} to {max(last):.2f} |")


def main():
    kind, *rest = sys.argv[1:] or ["-h"]
    split = lambda address: (address.rsplit(":", 1)[0], int(address.rsplit(":", 1)[1]))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    inner = {"serve": serve, "send": lambda to, secs: send(split(to), float(secs)),
             "first": lambda to, count: first(split(to), int(count)), "hold": lambda to: hold(split(to))}.get(kind)
    if inner:
        return inner(*rest)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bench")
    p.add_argument("--peers", default="envoy,haproxy,haproxy_splice,ours")
    p.add_argument("--only", default="down,long,up,first,idle")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--secs", type=float, default=1.0)
    p.add_argument("--load-core", type=int, default=0)
    p.add_argument("--proxy-core", type=int, default=1)
    a = p.parse_args()
    a.meshload = os.path.join(a.bench, "meshload/target/release/meshload")
    # A network of its own, so that nothing else is connected to, and before other work where BENCH_NICE says so.
    if os.geteuid() == 0 and not os.environ.get("BENCH_INSIDE"):
        os.environ["BENCH_INSIDE"] = "1"
        inside = ('ip link set lo up; sysctl -qw net.ipv4.ip_local_port_range="20000 65000" || true\n'
                  'echo "$0" 2>/dev/null >/proc/self/autogroup || true\nexec nice -n "$0" "$@"')
        python = os.path.join(a.bench, "venv/bin/python3")
        os.execvp("setsid", ["setsid", "-w", "unshare", "-n", "bash", "-c", inside, os.environ.get("BENCH_NICE", "0"),
                             python if os.path.exists(python) else sys.executable, *sys.argv])
    sys.path.insert(0, a.bench)
    os.environ["BENCH_PEERS"] = os.path.join(HERE, "peers")
    sys.dont_write_bytecode = True
    import bench
    measure(bench, a)


main()
