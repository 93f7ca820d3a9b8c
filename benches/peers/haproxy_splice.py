"""HAProxy as the benchmark has it, with `option splice-auto`: only TCP differs."""
import os

from . import haproxy

ROLES = {"tcp"}
find, version = haproxy.find, haproxy.version


def start(path, c):
    launch = haproxy.start(path, c)
    with open(os.path.join(c.dir, "haproxy.cfg"), "r+") as f:
        text = f.read().replace("defaults\n", "defaults\n  option splice-auto\n")
        f.seek(0)
        f.write(text)
    return launch
