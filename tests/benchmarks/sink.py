"""A mail server that takes everything and keeps nothing, in a process of its own; it prints its port."""

from __future__ import annotations

import socket
import threading


def serve(sock: socket.socket) -> None:
    """Answer one client until it leaves."""
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"220 sink\r\n")
        buffer = memoryview(bytearray(1 << 20))
        pending = b""
        while octets := sock.recv(65536):
            *lines, pending = (pending + octets).split(b"\r\n")
            for line in lines:
                verb = line[:4].upper()
                if verb == b"EHLO":
                    sock.sendall(b"250-sink\r\n250-8BITMIME\r\n250 SIZE\r\n")
                elif verb == b"DATA":
                    sock.sendall(b"354 go on\r\n")
                    tail = b""
                    while not tail.endswith(b"\r\n.\r\n"):
                        size = sock.recv_into(buffer)
                        tail = (tail + bytes(buffer[max(0, size - 5) : size]))[-5:]
                    sock.sendall(b"250 taken\r\n")
                else:
                    sock.sendall(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")


def main() -> None:
    """Listen until the process is ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    main()
