"""Ports for servers that start some time after their port was chosen."""

from __future__ import annotations

import random
import socket

# Below Linux's ephemeral ports, so that the kernel gives them to nobody else meanwhile.
_RANGE = range(20_000, 32_000)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on."""
    for port in random.sample(_RANGE, 100):
        try:
            with socket.create_server((host, port)):
                return port
        except OSError:
            continue
    raise RuntimeError(f"no port of {_RANGE} is free")
