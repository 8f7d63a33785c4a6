"""Paths of a known round-trip time: loopback, or two network namespaces with a delay between them (root only).

The namespaces are joined by two TUN devices, and this process carries each IP packet across after half the round trip.
So hand-shakes, windows, Nagle's algorithm and delayed acknowledgements are the kernel's own, and no netem is needed.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SERVER, _CLIENT = "192.0.2.1", "192.0.2.2"  # RFC 5737; they exist inside the namespaces only


@dataclass(frozen=True, kw_only=True)
class Network:
    """Where senders and server run.

    :param host: the server's address.
    :param server: the words before a server's command line.
    :param client: the words before a sender's.
    """

    host: str = "127.0.0.1"
    server: tuple[str, ...] = ()
    client: tuple[str, ...] = ()


@contextmanager
def network(milliseconds: float) -> Iterator[Network]:
    """Make a path of this round-trip time; 0 is loopback.

    :raises OSError: where packets cannot be delayed: without root, ``/dev/net/tun`` or iproute2.
    """
    if not milliseconds:
        yield Network()
        return
    # The sink's end first. Devices vanish with their descriptors, whatever becomes of this process.
    ends = [_End(f"mb{os.getpid()}{side}", address) for side, address in (("s", _SERVER), ("c", _CLIENT))]
    carriers: list[_Carrier] = []
    try:
        for end, other in zip(ends, reversed(ends), strict=True):
            end.open(other.address)
        for source, target in zip(ends, reversed(ends), strict=True):
            carriers.append(_Carrier(source.descriptor, target.descriptor, milliseconds / 2000))
            carriers[-1].start()
        server, client = (("ip", "netns", "exec", end.name) for end in ends)
        yield Network(host=_SERVER, server=server, client=client)
    finally:
        for carrier in carriers:
            carrier.stop()  # before its descriptors are closed: their numbers may be another file's at once
        for end in ends:
            end.close()


class _End:
    """A namespace with one TUN device, both of the same name."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.descriptor = -1

    def open(self, peer: str) -> None:
        self.descriptor = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.descriptor, _TUNSETIFF, struct.pack("16sH", self.name.encode(), _IFF_TUN | _IFF_NO_PI))
        _ip("netns", "add", self.name)
        _ip("link", "set", self.name, "netns", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        _ip("-n", self.name, "address", "add", self.address, "peer", peer, "dev", self.name)
        _ip("-n", self.name, "link", "set", self.name, "up", "txqueuelen", "10000")

    def close(self) -> None:
        if self.descriptor >= 0:
            subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)
            os.close(self.descriptor)


class _Carrier:
    """Carries packets in one direction, in order, each after the same time."""

    def __init__(self, source: int, target: int, seconds: float) -> None:
        self._source, self._target, self._seconds = source, target, seconds
        self._packets: deque[tuple[float, bytes]] = deque()
        self._more = threading.Semaphore(0)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._take, self._give)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let go of the descriptors."""
        self._stopped.set()
        self._more.release()
        for thread in self._threads:
            thread.join()

    def _take(self) -> None:
        while not self._stopped.is_set():
            if select.select([self._source], [], [], 0.1)[0]:
                packet = os.read(self._source, 65536)
                self._packets.append((time.monotonic() + self._seconds, packet))
                self._more.release()

    def _give(self) -> None:
        while self._more.acquire() and not self._stopped.is_set():
            due, packet = self._packets.popleft()
            if not self._stopped.wait(max(0.0, due - time.monotonic())):
                os.write(self._target, packet)


def _ip(*words: str) -> None:
    run = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise OSError(f"ip {' '.join(words)}: {run.stderr.strip()}")
