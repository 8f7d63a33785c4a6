"""A mail server that misbehaves as planned: at a stage of the conversation it takes an action, once or always.

By hand: ``python tests/peers/fault_server.py rcpt=450 body=drop!`` prints its port (``!`` commits the mail first).
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

STAGES = (
    *("connect", "ehlo", "starttls", "handshake", "prompt", "auth"),
    *("mail", "rcpt", "data", "content", "midway", "body", "rset", "noop", "quit"),
)
"""Where a fault may strike. ``content`` is before the first octet of the mail is read, ``midway`` within it, ``body``
after its final dot."""

DRIP_SECONDS = 0.1
MIDWAY_OCTETS = 100_000


@dataclass(kw_only=True)
class Fault:
    """What happens instead of the good reply.

    :param stage: one of ``STAGES``.
    :param action: a whole reply such as ``450 4.7.1 later``, or drop, reset, hang, drip, garbage, no-code, long-line,
        40-lines, endless-lines, slow, pieces, bare-lf, silent-garbage.
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
    :param extensions: EHLO keywords.
    :param auth: mechanisms offered; empty for none.
    :param auth_before_tls: offered in clear too.
    :param users: logins that are accepted.
    :param max_recipients: further ones get 452.
    """

    plan: list[Fault] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    extensions: tuple[str, ...] = ("PIPELINING", "SIZE 10485760", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
    auth: tuple[str, ...] = ()
    auth_before_tls: bool = False
    users: dict[str, str] = field(default_factory=lambda: {"user": "secret"})
    max_recipients: int = 1000

    host: str = "127.0.0.1"
    port: int = 0
    committed: list[Committed] = field(default_factory=list)
    auths: list[Auth] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    clear: bytearray = field(default_factory=bytearray)
    connections: int = 0

    def __enter__(self) -> FaultServer:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.create_server((self.host, self.port), family=family)
        self.port = self._listener.getsockname()[1]
        self._ended = threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.close()

    def close_connections(self) -> None:
        """Hang up on every client, as a server does with idle ones."""
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            threading.Thread(target=_Conversation(self, sock).run, daemon=True).start()

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


class _Conversation:
    def __init__(self, server: FaultServer, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.secure = False
        self.buffer = bytearray()
        self.sender = ""
        self.recipients: list[str] = []

    def run(self) -> None:
        with contextlib.suppress(_HangUp, OSError):
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

    def do_ehlo(self, argument: str) -> None:
        lines = ["fault.test", *self.server.extensions]
        if self.server.tls and not self.secure:
            lines.append("STARTTLS")
        if self.server.auth and (self.secure or self.server.auth_before_tls):
            lines.append(f"AUTH {' '.join(self.server.auth)}")
        marks = ["-"] * (len(lines) - 1) + [" "]
        self.reply("ehlo", "\r\n".join(f"250{mark}{text}" for mark, text in zip(marks, lines, strict=True)))

    def do_helo(self, argument: str) -> None:
        self.say("250 fault.test")

    def do_starttls(self, argument: str) -> None:
        self.reply("starttls", "220 2.0.0 go ahead")
        self.start_tls()

    def do_auth(self, argument: str) -> None:
        mechanism, _, initial = argument.partition(" ")
        user = password = ""
        if mechanism == "PLAIN":
            _, user, password = base64.b64decode(initial or self.ask("")).decode().split("\0")
        elif mechanism == "LOGIN":
            user, password = self.ask("Username:"), self.ask("Password:")
        elif mechanism == "CRAM-MD5":
            user, _, digest = self.ask("<1@fault.test>").partition(" ")
            expected = self.server.users.get(user, "")
            if hmac.new(expected.encode(), b"<1@fault.test>", "md5").hexdigest() == digest:
                password = expected
        self.server.auths.append(Auth(mechanism=mechanism, user=user, password=password, tls=self.secure))
        good = password and self.server.users.get(user) == password
        self.reply("auth", "235 2.7.0 welcome" if good else f"535 5.7.8 no such login {password}")

    def ask(self, prompt: str) -> str:
        self.reply("prompt", f"334 {base64.b64encode(prompt.encode()).decode()}")
        return base64.b64decode(next(self.lines())).decode()

    def do_mail(self, argument: str) -> None:
        self.sender, self.recipients = _path(argument), []
        self.reply("mail", "250 2.1.0 sender ok")

    def do_rcpt(self, argument: str) -> None:
        recipient = _path(argument)
        good = len(self.recipients) < self.server.max_recipients
        said = self.reply("rcpt", "250 2.1.5 ok" if good else "452 4.5.3 too many recipients", address=recipient)
        if said.startswith("25"):
            self.recipients.append(recipient)

    def do_data(self, argument: str) -> None:
        if not self.reply("data", "354 go on" if self.recipients else "554 5.5.1 no recipients").startswith("354"):
            return
        fault = self.server.take("content")
        if fault:
            self.act(fault.action)
        content = bytearray()
        while (line := self.read_line()) != b".\r\n":
            content += line[1:] if line.startswith(b".") else line
            if len(content) > MIDWAY_OCTETS and (fault := self.server.take("midway")):
                self.act(fault.action)
        mail = Committed(sender=self.sender, recipients=tuple(self.recipients), content=bytes(content), tls=self.secure)
        fault = self.server.take("body")
        if self.recipients and (fault is None or fault.commit or fault.action in _BENIGN):
            self.server.committed.append(mail)
        good = "250 2.0.0 queued as 42" if self.recipients else "554 5.5.1 no valid recipients"
        self.act(fault.action, good) if fault else self.say(good)

    def do_noop(self, argument: str) -> None:
        self.reply("noop", "250 2.0.0 ok")

    def do_rset(self, argument: str) -> None:
        self.reply("rset", "250 2.0.0 ok")

    def do_quit(self, argument: str) -> None:
        self.reply("quit", "221 2.0.0 bye")
        raise _HangUp

    def reply(self, stage: str, good: str, *, address: str | None = None) -> str:
        """Say the good reply or what the plan has instead; return what was said."""
        fault = self.server.take(stage, address)
        if fault is None:
            self.say(good)
            return good
        return self.act(fault.action, good)

    def act(self, action: str, good: str = "250 ok") -> str:
        name = action.replace("-", "_")
        if action[:3].isdigit():
            self.say(action)
            if action.startswith("421"):
                raise _HangUp
            return action
        getattr(self, f"act_{name}")(good)
        return good

    def act_drop(self, good: str) -> None:
        raise _HangUp

    def act_reset(self, good: str) -> None:
        # SO_LINGER with 0 s makes close() send RST instead of FIN.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _HangUp

    def act_hang(self, good: str) -> None:
        self.server.pause(600)

    def act_drip(self, good: str) -> None:
        self.send(_TLS_RECORD if good == _TLS else good[:4].replace(" ", "-").encode())
        while True:
            self.server.pause(DRIP_SECONDS)
            self.send(b"x")

    def act_garbage(self, good: str) -> None:
        self.send(b"\x00\xff\xfe garbage \x1b[31m\r\n")

    def act_no_code(self, good: str) -> None:
        self.say("OK, go on")

    def act_long_line(self, good: str) -> None:
        self.say(f"{good[:3]} {'x' * 200_000}")

    def act_40_lines(self, good: str) -> None:
        code = good[:3]
        extra = "\r\n".join(f"{code}-line {number}" for number in range(39))
        self.say(f"{extra}\r\n{good}")

    def act_endless_lines(self, good: str) -> None:
        self.send(f"{good[:3]}-more\r\n".encode() * 2000)

    def act_slow(self, good: str) -> None:
        self.server.pause(0.5)
        self.say(good)

    def act_pieces(self, good: str) -> None:
        octets = f"{good}\r\n".encode()
        for start in range(0, len(octets), 7):
            self.send(octets[start : start + 7])
            self.server.pause(0.01)

    def act_bare_lf(self, good: str) -> None:
        self.send(good.replace("\r\n", "\n").encode() + b"\n")

    def act_inject(self, good: str) -> None:
        self.send(f"{good}\r\n250 injected\r\n".encode())

    def say(self, text: str) -> None:
        self.send(f"{text}\r\n".encode())

    def send(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def start_tls(self) -> None:
        fault = self.server.take("handshake")
        if fault:
            self.sock.recv(65536)  # the ClientHello
            self.act(fault.action, _TLS)
        assert self.server.tls is not None
        self.sock = self.server.tls.wrap_socket(self.sock, server_side=True)
        self.server._open.append(self.sock)
        self.secure = True

    def lines(self) -> Iterator[str]:
        while True:
            yield self.read_line().decode("utf-8", "replace").rstrip("\r\n")

    def read_line(self) -> bytes:
        while (end := self.buffer.find(b"\n")) < 0:
            octets = self.sock.recv(65536)
            if not octets:
                raise _HangUp
            if not self.secure:
                self.server.clear += octets
            self.buffer += octets
        line = bytes(self.buffer[: end + 1])
        del self.buffer[: end + 1]
        return line


_TLS = "not TLS at all"
_TLS_RECORD = b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb"  # the head of a long ServerHello
_BENIGN = frozenset({"40-lines", "slow", "pieces", "bare-lf"})


def _path(argument: str) -> str:
    return argument[argument.index("<") + 1 : argument.rindex(">")]


def main(arguments: list[str]) -> None:
    """Run a server with the faults of the command line until it is interrupted."""
    plan = []
    for argument in arguments:
        stage, _, action = argument.partition("=")
        plan.append(Fault(stage=stage, action=action.removesuffix("!"), commit=action.endswith("!")))
    with FaultServer(plan=plan) as server:
        print(server.port, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1:])
