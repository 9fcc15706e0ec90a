"""A bad line between a site and the coordinator: every packet takes its time, and some never arrive.

    python -m tests.faults.tun SITE-NAMESPACE COORDINATOR-NAMESPACE COORDINATOR SITE DELAY-S LOSS

COORDINATOR and SITE are addresses.

Two TUN devices, one in each namespace; packets pass through this process. For kernels without netem. Runs
until it is killed; then the devices are gone and the old way is taken again.
"""

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
LARGEST = 1 << 16
NEAR, FAR = "fvxt0", "fvxt1"
NEAR_ADDRESS, FAR_ADDRESS = "10.78.0.2", "10.78.0.1"


def open_device(name: str, namespace: str) -> int:
    """Return the descriptor of a new TUN device, which lies in a namespace."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "netns", namespace], check=True)
    return descriptor


def inside(namespace: str, *words: str) -> None:
    """Run a command of ip in a namespace."""
    subprocess.run(["ip", "-n", namespace, *words], check=True)


def set_up(site: str, coordinator: str, address: str, site_address: str) -> tuple[int, int]:
    """Return both devices, routes set."""
    near, far = open_device(NEAR, site), open_device(FAR, coordinator)
    for namespace, name, own in ((site, NEAR, NEAR_ADDRESS), (coordinator, FAR, FAR_ADDRESS)):
        inside(namespace, "addr", "add", f"{own}/32", "dev", name)
        inside(namespace, "link", "set", name, "up")
    for known in (NEAR_ADDRESS, site_address):  # what is connected already keeps the address that it has
        inside(coordinator, "route", "add", f"{known}/32", "dev", FAR)
    inside(site, "route", "add", f"{address}/32", "dev", NEAR, "src", NEAR_ADDRESS)
    return near, far


def relay(near: int, far: int, delay_s: float, loss: float) -> None:
    """Pass packets on for ever."""
    rng, order = random.Random(0), itertools.count()
    waiting: list[tuple[float, int, int, bytes]] = []
    while True:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for ready in select.select([near, far], [], [], patience)[0]:
            packet = os.read(ready, LARGEST)
            if rng.random() >= loss:
                due = time.monotonic() + delay_s
                heapq.heappush(waiting, (due, next(order), far if ready == near else near, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, target, packet = heapq.heappop(waiting)
            os.write(target, packet)


def main() -> None:
    """Relay until killed."""
    site, coordinator, address, site_address, delay_s, loss = sys.argv[1:]
    devices = set_up(site, coordinator, address, site_address)
    print("relays", flush=True)
    relay(*devices, float(delay_s), float(loss))


if __name__ == "__main__":
    main()
