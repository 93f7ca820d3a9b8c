#!/usr/bin/env python3
"""What resilience costs while nothing fails: CPU per request with every policy on the route, over that with none.

    policies.py PROXY [--rounds 9] [--requests 60000]

Both run side by side, one worker each, before the same nginx, and take turns under h2load (HTTP/1.1, 16 connections);
the median of the rounds counts. Prints microseconds of CPU a request (user and system) and their ratio.
"""
import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HEAD = """apiVersion: outrigger/v1
admin: {{ address: "127.0.0.1:{admin}" }}
health: {{ address: "127.0.0.1:{health}" }}
runtime: {{ workers: 1{memory} }}
telemetry: {{ accessLog: {{ format: "off" }} }}
listeners: [{{ name: edge, mode: proxy, address: "127.0.0.1:{listen}" }}]
"""
PLAIN = """services:
  app: { endpoints: { static: ["127.0.0.1:{up}", "127.0.0.2:{up}"] } }
routes: [{ name: all, to: app }]
"""
EVERYTHING = """services:
  app:
    endpoints: { static: ["127.0.0.1:{up}", "127.0.0.2:{up}"] }
    loadBalancer: { policy: peakEwma }
    outlierDetection: { consecutiveFailures: 5, interval: 10s, baseEjection: 30s }
    healthCheck: { http: { path: / }, interval: 5s }
    circuitBreaker: { window: 60s, minRequests: 20, failureThreshold: 0.6, openDuration: 30s }
    errorClasses:
      - name: degraded
        match: { responseHeader: { x-error-code: "2003" } }
        sli: optional
        circuitBreaker: { failureThreshold: 0.4 }
        fallback: { respond: { status: 200, body: "" } }
    limits: { maxRequests: 1000, maxConnections: 1000, maxPending: 100, maxRetries: 3, adaptive: true }
  shadow: { endpoints: { static: ["127.0.0.1:{up}"] } }
routes:
  - name: all
    to: app
    timeout: 5s
    retry: { attempts: 2, on: [5xx, connectFailure, reset], perTryTimeout: 2s }
    hedge: { after: 3s }
    circuitBreaker: { window: 60s, minRequests: 20, failureThreshold: 0.6, openDuration: 30s }
    rateLimit: { requestsPerSecond: 1000000, burst: 1000000 }
    fault: { delay: { percent: 0, duration: 1s } }
    mirror: [{ to: shadow, percent: 0 }]
"""


def free():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


class Proxy:
    def __init__(self, binary, folder, name, text, up):
        ports = {key: free() for key in ("admin", "health", "listen")}
        path = os.path.join(folder, name + ".yaml")
        with open(path, "w") as out:
            memory = ", memory: { limit: 1Gi, shedAt: 90 }" if name == "everything" else ", memory: { mode: \"off\" }"
            out.write(HEAD.format(memory=memory, **ports) + text.replace("{up}", str(up)))
        self.port = ports["listen"]
        self.child = subprocess.Popen([binary, "run", "--config", path], stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{ports['health']}/readyz", timeout=1)
                return
            except OSError:
                if self.child.poll() is not None:
                    sys.exit(f"{name}: the proxy has ended")
                time.sleep(0.05)
        sys.exit(f"{name}: not ready")

    def cpu(self):
        """Seconds, of all threads."""
        with open(f"/proc/{self.child.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def round(self, requests):
        before = self.cpu()
        said = subprocess.run(
            ["h2load", "--h1", "-n", str(requests), "-c", "16", f"http://127.0.0.1:{self.port}/"],
            capture_output=True, text=True, check=True).stdout
        if f"{requests} 2xx" not in said:
            sys.exit(said)
        return (self.cpu() - before) / requests * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proxy")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=60000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        up = free()
        conf = os.path.join(folder, "nginx.conf")
        with open(conf, "w") as out:
            out.write(f"daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;"
                      f"events {{ worker_connections 1024; }} http {{ access_log off; keepalive_requests 10000000;"
                      f"server {{ listen 127.0.0.1:{up}; listen 127.0.0.2:{up}; location / {{ return 200 ok; }} }} }}")
        nginx = subprocess.Popen(["nginx", "-c", conf, "-p", folder], stderr=subprocess.DEVNULL)
        proxies = []
        try:
            time.sleep(0.3)
            for name, text in (("plain", PLAIN), ("everything", EVERYTHING)):
                proxies.append(Proxy(args.proxy, folder, name, text, up))
            results = [[] for _ in proxies]
            for n in range(args.rounds + 1):
                for proxy, result in zip(proxies, results):
                    cost = proxy.round(args.requests)
                    if n > 0:  # The first warms up.
                        result.append(cost)
        finally:
            for proxy in proxies:
                proxy.child.kill()
            nginx.terminate()
    plain, everything = (statistics.median(result) for result in results)
    print(f"plain {plain:.2f} us, everything {everything:.2f} us, ratio {everything / plain:.3f}")


if __name__ == "__main__":
    main()
