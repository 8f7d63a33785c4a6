"""A mail server that takes everything, keeps nothing and counts mails, recipients, connections and turn-arounds.

A turn-around is input that comes after the server has spoken: somebody waited for a reply. It prints its port; for each
line on its standard input it prints the counts as JSON and starts anew. Arguments: address, certificate and key (PEM).
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from collections import Counter

END = b"\r\n.\r\n"
FEATURES = (b"PIPELINING", b"8BITMIME", b"SIZE")

_counts: Counter[str] = Counter()
_lock = threading.Lock()


def count(kind: str, number: int = 1) -> None:
    """Count something that happened."""
    with _lock:
        _counts[kind] += number


def report() -> str:
    """Return what was counted since the last report."""
    with _lock:
        counts = json.dumps(_counts)
        _counts.clear()
    return counts


class Wire:
    """The octets of one client, counted below TLS."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._spoken = False
        self._tls: tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO] | None = None

    def receive(self) -> bytes:
        """Return some octets, none at the end."""
        if not self._tls:
            return self._raw()
        tls, incoming, _ = self._tls
        while True:
            try:
                return tls.read(65536)
            except ssl.SSLWantReadError:
                octets = self._raw()
                if not octets:
                    return b""
                incoming.write(octets)

    def send(self, octets: bytes) -> None:
        """Send replies in one write."""
        if self._tls:
            tls, _, outgoing = self._tls
            tls.write(octets)
            octets = outgoing.read()
        self._sock.sendall(octets)
        self._spoken = True

    def secure(self, context: ssl.SSLContext) -> None:
        """Do the TLS handshake."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        done = False
        while not done:
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            if outgoing.pending:
                self._sock.sendall(outgoing.read())
                self._spoken = True
            if not done:
                incoming.write(self._raw())
        self._tls = tls, incoming, outgoing

    def _raw(self) -> bytes:
        octets = self._sock.recv(1 << 18)
        if octets and self._spoken:
            count("turns")
            self._spoken = False
        return octets


class Client:
    """One conversation."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        self._wire = Wire(sock)
        self._context = context
        self._secure = False
        self._in_content = False

    def serve(self) -> None:
        """Answer until the client leaves; commands that came together are answered together."""
        count("connections")
        self._wire.send(b"220 sink\r\n")
        pending = b""
        while octets := self._wire.receive():
            pending, replies = self._take(pending + octets)
            if replies:
                self._wire.send(replies)
                if replies.endswith(b"221 bye\r\n"):
                    return
                if replies.endswith(b"220 go ahead\r\n") and self._context:
                    self._wire.secure(self._context)
                    self._secure, pending = True, b""

    def _take(self, octets: bytes) -> tuple[bytes, bytes]:
        """Take in what is complete; return the rest and the replies."""
        replies = []
        while octets:
            if self._in_content:
                end = octets.find(END)
                if end < 0:
                    return octets[-(len(END) - 1) :], b"".join(replies)  # the content itself is not kept
                octets, self._in_content = octets[end + len(END) :], False
                count("mails")
                replies.append(b"250 taken\r\n")
                continue
            line, newline, rest = octets.partition(b"\r\n")
            if not newline:
                break
            octets = rest
            replies.append(self._answer(line[:8].upper()))
        return octets, b"".join(replies)

    def _answer(self, command: bytes) -> bytes:
        match command[:4]:
            case b"RCPT":
                count("recipients")
            case b"EHLO":
                offers = [] if not self._context else [b"AUTH PLAIN LOGIN"] if self._secure else [b"STARTTLS"]
                lines = [b"sink", *FEATURES, *offers]
                return b"".join(b"250-%s\r\n" % line for line in lines[:-1]) + b"250 %s\r\n" % lines[-1]
            case b"DATA":
                self._in_content = True
                return b"354 go on\r\n"
            case b"STAR":
                return b"220 go ahead\r\n"
            case b"AUTH":
                return b"235 welcome\r\n"
            case b"QUIT":
                return b"221 bye\r\n"
        return b"250 ok\r\n"


def serve(sock: socket.socket, context: ssl.SSLContext | None) -> None:
    """Serve one client; one that hangs up is no error."""
    with sock:
        try:
            Client(sock, context).serve()
        except OSError:
            count("broken")


def listen(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    """Give each client a thread."""
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0], context), daemon=True).start()


def main() -> None:
    """Serve until the standard input ends."""
    address, *files = sys.argv[1:]
    context = None
    if files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # they would look like replies that somebody waits for
        context.load_cert_chain(*files)
    with socket.create_server((address, 0), backlog=100) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=listen, args=(listener, context), daemon=True).start()
        for _ in sys.stdin:
            print(report(), flush=True)


if __name__ == "__main__":
    main()
