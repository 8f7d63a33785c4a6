"""A mail server that misbehaves as planned: at a stage of the conversation it takes an action, once or always.

By hand, ``python tests/peers/fault_server.py "rcpt:b@x.org=450 4.7.1 later" connect=drop*1 body=drop!`` prints its port
(``!`` commits the mail first, ``*1`` is once), and what it recorded when it is interrupted; ``--help`` shows the rest.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hmac
import re
import socket
import ssl
import struct
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, cycle

import trustme

STAGES = (
    *("connect", "ehlo", "helo", "starttls", "handshake", "prompt", "auth"),
    *("mail", "rcpt", "data", "content", "midway", "body", "rset", "noop", "quit"),
)
"""Where a fault may strike. ``content`` is before the first octet of the mail is read, ``midway`` within it, ``body``
after its final dot."""

DRIP_SECONDS = 0.1
SLOW_SECONDS = 0.1
LATE_SECONDS = 1.0
READ_SECONDS = 0.3
MIDWAY_OCTETS = 100_000

_HANG, _DROP, _RESET = 600.0, "drop", "reset"

# What is done instead of saying the good reply, octets with CRLF: octets to send, seconds to wait, how to hang up.
ACTIONS: dict[str, Callable[[bytes], Iterable[bytes | float | str]]] = {
    "drop": lambda good: [_DROP],
    "reset": lambda good: [_RESET],
    "hang": lambda good: [_HANG],
    "drip": lambda good: chain([good[:4].replace(b" ", b"-")], cycle([DRIP_SECONDS, b"x"])),
    "half": lambda good: [good[: len(good) // 2], _DROP],
    "garbage": lambda good: [b"\x00\xff\xfe garbage \x1b[31m\r\n"],
    "no-code": lambda good: [b"OK, go on\r\n"],
    "mixed-codes": lambda good: [good[:3] + b"-one\r\n599 two\r\n"],
    "long-line": lambda good: [good[:3] + b" " + b"x" * 200_000 + b"\r\n"],
    "endless-lines": lambda good: [(good[:3] + b"-more\r\n") * 2000],
    "inject": lambda good: [good + b"250 injected\r\n"],
    "then-drop": lambda good: [good, _DROP],
    "then-reset": lambda good: [good, READ_SECONDS, _RESET],  # so that the client reads before it is told of the reset
    "40-lines": lambda good: [b"".join(good[:3] + b"-line %d\r\n" % number for number in range(39)), good],
    "slow": lambda good: [SLOW_SECONDS / 2, good[:6], SLOW_SECONDS / 2, good[6:]],
    "late": lambda good: [LATE_SECONDS, good],
    "pieces": lambda good: chain.from_iterable((good[at : at + 7], 0.01) for at in range(0, len(good), 7)),
    "bare-lf": lambda good: [good.replace(b"\r\n", b"\n")],
}
BENIGN = frozenset({"40-lines", "slow", "late", "pieces", "bare-lf", "inject", "then-drop", "then-reset"})
"""The actions whose good reply is complete, so that the command has succeeded."""


@dataclass(kw_only=True)
class Fault:
    """What happens instead of the good reply.

    :param stage: one of ``STAGES``.
    :param action: one of ``ACTIONS`` or a whole reply such as ``450 4.7.1 later``.
    :param times: how often, None for always.
    :param address: only for this recipient.
    :param commit: keep the mail first (stage ``body``).
    :param skip: how many good replies of that stage come first.
    """

    stage: str
    action: str
    times: int | None = None
    address: str | None = None
    commit: bool = False
    skip: int = 0

    def __post_init__(self) -> None:
        if self.stage not in STAGES or not (self.action in ACTIONS or self.action[:3].isdigit()):
            raise ValueError(f"no such fault: {self.stage}={self.action}")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``stage[:address][+skip]=action[!][*times]``; ``!`` commits the mail first."""
        match = re.fullmatch(r"(\w+)(?::([^=+]+))?(?:\+(\d+))?=(.+?)(!)?(?:\*(\d+))?", text)
        if not match:
            raise ValueError(f"no fault: {text}")
        stage, address, skip, action, commit, times = match.groups()
        return cls(
            stage=stage,
            action=action,
            times=int(times) if times else None,
            address=address,
            commit=bool(commit),
            skip=int(skip or 0),
        )


class Authority:
    """A certificate authority of the tests' own, whose certificates may have a flaw."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    @property
    def pem(self) -> str:
        """What a client has to trust."""
        return self._authority.cert_pem.bytes().decode()

    def context(self, flaw: str = "") -> ssl.SSLContext:
        """Return a server's context.

        :param flaw: wrong-host, expired, self-signed, unknown-authority, old-tls or nothing.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority = trustme.CA() if flaw in ("self-signed", "unknown-authority") else self._authority
        if flaw == "self-signed":
            with authority.cert_pem.tempfile() as certificate, authority.private_key_pem.tempfile() as key:
                context.load_cert_chain(certificate, key)
            return context
        if flaw == "old-tls":
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore"):
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        names = ["other.example"] if flaw == "wrong-host" else ["localhost", "127.0.0.1"]
        ends = datetime(2001, 1, 1, tzinfo=UTC) if flaw == "expired" else None
        authority.issue_cert(*names, not_after=ends).configure_cert(context)
        return context


@dataclass(kw_only=True)
class Committed:
    """One mail that the server has answered for, or would have."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    tls: bool


@dataclass(kw_only=True)
class Auth:
    """One attempt to log in."""

    mechanism: str
    user: str
    password: str
    tls: bool


class _HangUp(Exception):
    """Ends a conversation."""


@dataclass(kw_only=True)
class FaultServer:
    """A context manager; ``host`` and ``port`` say where it listens.

    :param plan: the faults; without any it is a good server.
    :param tls: a server-side context; with it STARTTLS is offered.
    :param implicit_tls: TLS from the first byte.
    :param extensions: EHLO keywords; the limit of SIZE is enforced.
    :param stripped: EHLO keywords left out, as by somebody on the way.
    :param auth: mechanisms offered; empty for none.
    :param auth_before_tls: offered in clear too.
    :param auth_under_tls: offered over TLS.
    :param users: logins that are accepted.
    :param max_recipients: further ones get 452.
    :param listens: False keeps the port and refuses connections to it.
    """

    plan: list[Fault] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    extensions: tuple[str, ...] = ("PIPELINING", "SIZE 10485760", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
    stripped: tuple[str, ...] = ()
    auth: tuple[str, ...] = ()
    auth_before_tls: bool = False
    auth_under_tls: bool = True
    users: dict[str, str] = field(default_factory=lambda: {"user": "secret"})
    max_recipients: int = 1000
    listens: bool = True

    host: str = "127.0.0.1"
    port: int = 0
    committed: list[Committed] = field(default_factory=list)
    auths: list[Auth] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    clear: bytearray = field(default_factory=bytearray)
    connections: int = 0
    turns: int = 0

    def __enter__(self) -> FaultServer:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        # Without it a port that is bound only is not given to anybody else.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, self.listens)
        self._listener.bind((self.host, self.port))
        self.port = self._listener.getsockname()[1]
        self._ended = threading.Event()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        if self.listens:
            self._listener.listen(100)
            threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone does not wake a waiting accept()
        self._listener.close()
        self.close_connections()  # each thread closes its own socket: an fd closed elsewhere is soon another cell's
        self._join(1)

    @property
    def copies(self) -> Counter[str]:
        """How many mails were committed for each recipient."""
        return Counter(recipient for mail in self.committed for recipient in mail.recipients)

    def settle(self) -> None:
        """Wait until everything that the clients sent before they hung up has been read; end whatever hangs."""
        self._ended.set()
        self._join(5)

    def close_connections(self) -> None:
        """Hang up on every client, as a server does with idle ones."""
        for sock in self._open:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TCP's, not TLS's

    def _join(self, seconds: float) -> None:
        with self._lock:
            threads = [*self._threads]
        for thread in threads:
            thread.join(seconds)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            with self._lock:
                self._threads.append(threading.Thread(target=_Conversation(self, sock).run, daemon=True))
                self._threads[-1].start()

    def take(self, stage: str, address: str | None = None) -> Fault | None:
        """Return the fault that is due, and count it."""
        for fault in self.plan:
            if fault.stage != stage or fault.address not in (None, address) or fault.times == 0:
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than the server lives."""
        if self._ended.wait(seconds):
            raise _HangUp

    def takes(self, octets: int) -> bool:
        """Whether SIZE (RFC 1870) allows as much."""
        limit = next((words.partition(" ")[2] for words in self.extensions if words.startswith("SIZE ")), "")
        return not limit.isdigit() or int(limit) == 0 or octets <= int(limit)


class _Conversation:
    def __init__(self, server: FaultServer, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.secure = False
        self.said = False  # something since the client was last heard
        self.buffer = bytearray()
        self.sender: str | None = None
        self.recipients: list[str] = []

    def run(self) -> None:
        with contextlib.suppress(_HangUp, OSError, ValueError):  # ValueError: what no client should say
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.server.implicit_tls:
                self.start_tls()
            self.reply("connect", "220 fault.test ESMTP")
            for line in self.lines():
                self.command(line)
        with contextlib.suppress(OSError):
            self.sock.close()

    def command(self, line: str) -> None:
        self.server.commands.append(line)
        verb, _, argument = line.partition(" ")
        handler = getattr(self, f"do_{verb.lower()}", None)
        if handler:
            handler(argument)
        else:
            self.say(f"502 5.5.1 {verb} not implemented")

    @property
    def offers_auth(self) -> bool:
        server = self.server
        return bool(server.auth) and (server.auth_under_tls if self.secure else server.auth_before_tls)

    def do_ehlo(self, argument: str) -> None:
        words = [*self.server.extensions]
        if self.server.tls and not self.secure:
            words.append("STARTTLS")
        if self.offers_auth:
            words.append(f"AUTH {' '.join(self.server.auth)}")
        lines = ["fault.test", *(each for each in words if each.split()[0] not in self.server.stripped)]
        marks = ["-"] * (len(lines) - 1) + [" "]
        self.reply("ehlo", "\r\n".join(f"250{mark}{text}" for mark, text in zip(marks, lines, strict=True)))

    def do_helo(self, argument: str) -> None:
        self.reply("helo", "250 fault.test")

    def do_starttls(self, argument: str) -> None:
        if self.server.tls is None:
            self.say("502 5.5.1 no TLS here")
        elif self.reply("starttls", "220 2.0.0 go ahead").startswith("220"):
            self.start_tls()

    def do_auth(self, argument: str) -> None:
        mechanism, _, initial = argument.partition(" ")
        user = password = ""
        if mechanism == "PLAIN":
            _, user, password = (_decoded(initial) if initial else self.ask("")).split("\0")
        elif mechanism == "LOGIN":
            user, password = _decoded(initial) if initial else self.ask("Username:"), self.ask("Password:")
        elif mechanism == "CRAM-MD5":
            user, _, digest = self.ask("<1@fault.test>").partition(" ")
            expected = self.server.users.get(user, "")
            if hmac.new(expected.encode(), b"<1@fault.test>", "md5").hexdigest() == digest:
                password = expected
        self.server.auths.append(Auth(mechanism=mechanism, user=user, password=password, tls=self.secure))
        good = self.offers_auth and password and self.server.users.get(user) == password
        self.reply("auth", "235 2.7.0 welcome" if good else f"535 5.7.8 no such login {password}")

    def ask(self, prompt: str) -> str:
        self.reply("prompt", f"334 {base64.b64encode(prompt.encode()).decode()}")
        return _decoded(next(self.lines()))

    def do_mail(self, argument: str) -> None:
        if self.sender is not None:
            self.say("503 5.5.1 nested MAIL")
            return
        size = re.search(r" SIZE=(\d+)", argument)
        good = size is None or self.server.takes(int(size[1]))
        if self.reply("mail", "250 2.1.0 sender ok" if good else "552 5.3.4 too large").startswith("25"):
            self.sender, self.recipients = _path(argument), []

    def do_rcpt(self, argument: str) -> None:
        recipient, good = _path(argument), "250 2.1.5 ok"
        if self.sender is None:
            good = "503 5.5.1 MAIL first"
        elif len(self.recipients) >= self.server.max_recipients:
            good = "452 4.5.3 too many recipients"
        if self.reply("rcpt", good, address=recipient).startswith("25"):
            self.recipients.append(recipient)

    def do_data(self, argument: str) -> None:
        if not self.reply("data", "354 go on" if self.recipients else "554 5.5.1 no recipients").startswith("354"):
            return
        content, broken_off = self.read_content()
        if broken_off:
            return
        good = "250 2.0.0 queued as 42" if self.recipients else "554 5.5.1 no valid recipients"
        if not self.server.takes(len(content)):
            good = "552 5.3.4 too large"
        fault = self.server.take("body")
        if self.recipients and good.startswith("250") and (fault is None or fault.commit or fault.action in BENIGN):
            self.server.committed.append(
                Committed(sender=self.sender or "", recipients=tuple(self.recipients), content=content, tls=self.secure)
            )
        self.sender, self.recipients = None, []
        self.act(fault.action, good) if fault else self.say(good)

    def read_content(self) -> tuple[bytes, bool]:
        """Read to the final dot; a fault before it is the last word on the mail, which is not kept then."""
        fault = self.server.take("content")
        if fault:
            self.act(fault.action)
        content = bytearray(b"\n" + self.buffer)  # a line end before the first line, too
        searched = 0
        while (end := content.find(b"\n.\r\n", searched)) < 0:
            searched = max(0, len(content) - 3)
            content += self.receive()
            if len(content) > MIDWAY_OCTETS and (midway := self.server.take("midway")):
                fault = midway
                self.act(fault.action)
        self.buffer = content[end + 4 :]
        return bytes(content[: end + 1]).replace(b"\n.", b"\n")[1:], fault is not None

    def do_noop(self, argument: str) -> None:
        self.reply("noop", "250 2.0.0 ok")

    def do_rset(self, argument: str) -> None:
        self.sender, self.recipients = None, []
        self.reply("rset", "250 2.0.0 ok")

    def do_quit(self, argument: str) -> None:
        self.reply("quit", "221 2.0.0 bye")
        raise _HangUp

    def reply(self, stage: str, good: str, *, address: str | None = None) -> str:
        """Say the good reply or what the plan has instead; return the reply that was meant."""
        fault = self.server.take(stage, address)
        if fault is None:
            self.say(good)
            return good
        return self.act(fault.action, good)

    def act(self, action: str, good: str = "250 ok") -> str:
        if action[:3].isdigit():
            self.say(action)
            if action.startswith("421"):
                raise _HangUp
            return action
        self.perform(ACTIONS[action](f"{good}\r\n".encode()))
        return good

    def perform(self, steps: Iterable[bytes | float | str]) -> None:
        for step in steps:
            if isinstance(step, bytes):
                self.sock.sendall(step)
            elif isinstance(step, float):
                self.server.pause(step)
            else:
                if step == _RESET:  # SO_LINGER with 0 s makes close() send RST instead of FIN
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise _HangUp

    def say(self, text: str) -> None:
        self.said = True
        self.sock.sendall(f"{text}\r\n".encode())

    def start_tls(self) -> None:
        fault = self.server.take("handshake")
        if fault and fault.action in BENIGN:
            self.server.pause(SLOW_SECONDS)
        elif fault:
            self.sock.recv(65536)  # the ClientHello
            if fault.action in ACTIONS:
                self.perform(ACTIONS[fault.action](_SERVER_HELLO))
            else:
                self.say(fault.action)
            self.sock.recv(65536)
            raise _HangUp
        assert self.server.tls is not None
        self.sock.getpeername()  # CPython leaks the socket if wrap_socket() finds that the client is gone
        self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
        self.server._open.append(self.sock)
        self.secure = True
        self.buffer.clear()

    def lines(self) -> Iterator[str]:
        while True:
            yield self.read_line().decode("utf-8", "replace").rstrip("\r\n")

    def read_line(self) -> bytes:
        while (end := self.buffer.find(b"\n")) < 0:
            self.buffer += self.receive()
        line = bytes(self.buffer[: end + 1])
        del self.buffer[: end + 1]
        return line

    def receive(self) -> bytes:
        octets = self.sock.recv(65536)
        if not octets:
            raise _HangUp
        self.server.turns += self.said
        self.said = False
        if not self.secure:
            self.server.clear += octets
        return octets


_SERVER_HELLO = b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb"  # the head of a long one


def _path(argument: str) -> str:
    return argument[argument.index("<") + 1 : argument.rindex(">")]


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


def main() -> None:
    """Run a server with the faults of the command line until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", nargs="*", type=Fault.parse, help="stage[:address][+skip]=action[!][*times]")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tls", metavar="FLAW", nargs="?", const="", help="offer STARTTLS; the certificate's flaw")
    parser.add_argument("--implicit-tls", action="store_true", help="TLS from the first byte")
    parser.add_argument("--strip", metavar="KEYWORD", nargs="*", default=[], help="leave out of EHLO")
    parser.add_argument("--auth", metavar="MECHANISM", nargs="*", default=[], help="user:secret can log in")
    parser.add_argument("--max-recipients", type=int, default=1000)
    options = parser.parse_args()
    authority = Authority()
    server = FaultServer(
        plan=options.fault,
        port=options.port,
        tls=authority.context(options.tls or "") if options.tls is not None or options.implicit_tls else None,
        implicit_tls=options.implicit_tls,
        stripped=tuple(options.strip),
        auth=tuple(options.auth),
        auth_before_tls=options.tls is None,
        max_recipients=options.max_recipients,
    )
    with server, contextlib.suppress(KeyboardInterrupt):
        print(server.port, authority.pem if server.tls else "", sep="\n", flush=True)
        while True:
            time.sleep(1)
    print(*server.auths, *server.committed, sep="\n")


if __name__ == "__main__":
    main()
