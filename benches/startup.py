#!/usr/bin/env python3
"""Time from exec to the first 200 of /readyz, and memory of the idle process: startup.py [BINARY] [RUNS]"""
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/outrigger"
runs = int(sys.argv[2]) if len(sys.argv) > 2 else 21


def free():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ready(url):
    try:
        return urllib.request.urlopen(url).status == 200
    except OSError:
        return False


times, memory = [], []
with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
    health = free()
    f.write(f"""apiVersion: outrigger/v1
admin: {{ address: "127.0.0.1:{free()}" }}
health: {{ address: "127.0.0.1:{health}" }}
runtime: {{ workers: 1 }}
listeners: [{{ name: edge, mode: proxy, address: "127.0.0.1:{free()}" }}]
services: {{ app: {{ endpoints: {{ static: ["127.0.0.1:9"] }} }} }}
routes: [{{ name: all, to: app }}]
""")
    f.flush()
    for _ in range(runs):
        start = time.perf_counter()
        p = subprocess.Popen([binary, "run", "--config", f.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not ready(f"http://127.0.0.1:{health}/readyz"):
            if p.poll() is not None or time.perf_counter() - start > 5:
                sys.exit("it does not become ready")
        times.append((time.perf_counter() - start) * 1e3)
        status = open(f"/proc/{p.pid}/status").read().split()
        memory.append(int(status[status.index("VmRSS:") + 1]) / 1024)
        p.kill()
        p.wait()
print(f"ready after {statistics.median(times):.1f} ms ({min(times):.1f} to {max(times):.1f})")
print(f"memory {statistics.median(memory):.1f} MiB, cores {os.cpu_count()}")
