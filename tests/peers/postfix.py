"""A real Postfix of the tests' own on loopback: its settings, queue, certificates and mail lie in one directory.

It needs root (Postfix changes to its own user) and Debian's packages postfix, libsasl2-modules and sasl2-bin. The
machine's own Postfix, its settings and its queue are not touched, and no mail leaves the machine.
"""

from __future__ import annotations

import email.policy
import os
import pwd
import shutil
import signal
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path

import trustme

DOMAIN = "example.test"
MESSAGE_SIZE_LIMIT = 1024 * 1024
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_QUEUES = ("maildrop", "incoming", "active", "deferred")  # in the order in which a mail goes through them

# master(5): service, type, private, unprivileged, chroot, wake-up, processes, program.
_SERVICES = """\
pickup  unix       n - n - 1 pickup
cleanup unix       n - n - 0 cleanup
qmgr    unix       n - n - 1 qmgr
tlsmgr  unix       - - n - 1 tlsmgr
rewrite unix       - - n - - trivial-rewrite
bounce  unix       - - n - 0 bounce
defer   unix       - - n - 0 bounce
trace   unix       - - n - 0 bounce
proxymap unix      - - n - - proxymap
error   unix       - - n - - error
retry   unix       - - n - - error
discard unix       - - n - - discard
virtual unix       - n n - - virtual
anvil   unix       - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
_ENCRYPTION = {
    "plain": "smtpd_tls_security_level=none",
    "starttls": "smtpd_tls_security_level=encrypt",
    "smtps": "smtpd_tls_wrappermode=yes",
}
_LOGGED_IN_ONLY = "smtpd_client_restrictions=permit_sasl_authenticated,reject"


@dataclass(kw_only=True)
class Postfix:
    """A context manager; mail for ``example.test`` lands in one Maildir, a file for each recipient.

    Mail for other domains is thrown away, and taken only from those who are logged in. ``reject@`` gets 550 and
    ``grey@`` 450 for ever, an address that begins with ``greyonce`` gets 450 once.

    :param settings: ``main.cf`` parameters that replace or add to the usual ones.
    :ivar plain: the port without TLS.
    :ivar starttls: the port that takes mail after STARTTLS and a login only.
    :ivar smtps: the port with TLS from the first byte that takes mail after a login only.
    :ivar ca_pem: the certificate authority to trust; the server's certificate names localhost and 127.0.0.1.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    user: str = f"user@{DOMAIN}"
    password: str = field(default="p@ss w0rd", repr=False)
    plain: int = 0
    starttls: int = 0
    smtps: int = 0
    ca_pem: str = field(default="", repr=False)

    def __enter__(self) -> Postfix:
        with ExitStack() as stack:
            # Not pytest's tmp_path nor TMPDIR, which may be private: Postfix's own user has to reach it.
            self._root = Path(tempfile.mkdtemp(prefix="postfix-", dir="/tmp"))
            stack.callback(shutil.rmtree, self._root)
            self._root.chmod(0o755)
            for name in ("etc", "spool", "data", "inbox", "log"):
                (self._root / name).mkdir(mode=0o755)
            shutil.chown(self._root / "data", "postfix")
            shutil.chown(self._root / "inbox", "nobody")
            self.plain, self.starttls, self.smtps = _free_ports(self.host, 3)
            self._make_certificate()
            self._make_login()
            policy = stack.enter_context(_recipient_policy(self.host))
            self._write_settings(policy)
            stack.enter_context(self._running())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def log(self) -> str:
        """What Postfix has logged since the start, or since :meth:`forget`."""
        return "".join(path.read_text("utf-8", "replace") for path in sorted((self._root / "log").iterdir()))

    def contents(self) -> list[bytes]:
        """Return the mails as they lie in the Maildir: LF at line ends, Postfix's own header fields on top."""
        return [path.read_bytes() for path in sorted((self._root / "inbox" / "new").glob("*"))]

    def mails(self) -> list[EmailMessage]:
        """Return the mails, parsed."""
        return [email.message_from_bytes(each, policy=email.policy.default) for each in self.contents()]

    def wait_for(self, count: int, seconds: float = 5.0) -> list[EmailMessage]:
        """Wait until nothing is queued any more and this many mails, or more, have arrived.

        :raises TimeoutError: with the log, if that does not happen in time.
        """
        self._wait(lambda: not self._is_queued() and len(self.contents()) >= count, f"{count} mails", seconds)
        return self.mails()

    def wait_until_idle(self, seconds: float = 5.0) -> None:
        """Wait until every client has gone and nothing is queued any more: then no further mail can come.

        :raises TimeoutError: with the log, if that does not happen in time.
        """

        def is_idle() -> bool:
            log = self.log
            return log.count("]: connect from ") == log.count("]: disconnect from ") and not self._is_queued()

        self._wait(is_idle, "nothing to do", seconds)

    def forget(self) -> None:
        """Remove the mails and empty the log."""
        for mail in (self._root / "inbox" / "new").glob("*"):
            mail.unlink()
        for log in (self._root / "log").iterdir():
            os.truncate(log, 0)

    def _is_queued(self) -> bool:
        return any(path.is_file() for name in _QUEUES for path in (self._root / "spool" / name).rglob("*"))

    def _wait(self, is_so: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Postfix: not {what} within {seconds:g} s; {len(self.contents())} mails; {self.log}"
                )
            time.sleep(0.01)

    def _make_certificate(self) -> None:
        authority = trustme.CA()
        self.ca_pem = authority.cert_pem.bytes().decode()
        chain = authority.issue_cert("localhost", self.host, f"mail.{DOMAIN}").private_key_and_cert_chain_pem
        chain.write_to_path(self._root / "etc" / "chain.pem")

    def _make_login(self) -> None:
        database = self._root / "etc" / "sasldb2"
        lines = ("pwcheck_method: auxprop", "auxprop_plugin: sasldb", "mech_list: PLAIN LOGIN")
        (self._root / "etc" / "smtpd.conf").write_text("\n".join([*lines, f"sasldb_path: {database}", ""]))
        name, _, realm = self.user.partition("@")
        command = ["saslpasswd2", "-p", "-c", "-f", database, "-u", realm, name]
        subprocess.run(command, input=self.password.encode(), check=True)
        shutil.chown(database, "root", "postfix")
        database.chmod(0o640)

    def _write_settings(self, policy: str) -> None:
        main = {**_main(self._root, self.host, policy), **self.settings}
        services = _SERVICES
        for name, encryption in _ENCRYPTION.items():
            login = "" if name == "plain" else f" -o {_LOGGED_IN_ONLY}"
            services += f"{self.host}:{getattr(self, name)} inet n - n - - smtpd -o {encryption}{login}\n"
        etc = self._root / "etc"
        (etc / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
        (etc / "master.cf").write_text(services)

    @contextmanager
    def _running(self) -> Iterator[None]:
        # In the foreground, Postfix's end can be waited for; a daemon's is told to process 1 only.
        command = ["postfix", "-c", self._root / "etc", "start-fg"]
        with (self._root / "log" / "start.log").open("ab") as output:
            process = subprocess.Popen(command, cwd="/", stdout=output, stderr=output)

        def is_up() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"Postfix does not start: {self.log}")
            # The master listens on all ports before it starts anything; a greeting shows that its settings work.
            return _greets(self.host, self.plain)

        try:
            self._wait(is_up, "greeting", _START_SECONDS)
            yield
        finally:
            self._stop(process)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        pid_file = self._root / "spool" / "pid" / "master.pid"
        if process.poll() is None:
            master = int((pid_file.exists() and pid_file.read_text()) or process.pid)
            os.kill(master, signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(master, signal.SIGKILL)


def _main(root: Path, host: str, policy: str) -> dict[str, str]:
    nobody = pwd.getpwnam("nobody")
    return {
        "compatibility_level": "3.6",
        "queue_directory": f"{root}/spool",
        "data_directory": f"{root}/data",
        "maillog_file": f"{root}/log/mail.log",
        "maillog_file_prefixes": str(root),
        "myhostname": f"mail.{DOMAIN}",
        "mydestination": "",
        "mynetworks": f"{host}/32",
        "inet_interfaces": host,
        "inet_protocols": "ipv4",
        "alias_maps": "",
        "alias_database": "",
        "smtpd_peername_lookup": "no",
        "virtual_mailbox_domains": DOMAIN,
        "virtual_mailbox_base": str(root),
        "virtual_mailbox_maps": "static:inbox/",
        "virtual_minimum_uid": "1",
        "virtual_uid_maps": f"static:{nobody.pw_uid}",
        "virtual_gid_maps": f"static:{nobody.pw_gid}",
        "virtual_mailbox_limit": "0",
        "default_transport": "discard:",
        "relay_transport": "discard:",
        "message_size_limit": str(MESSAGE_SIZE_LIMIT),
        "smtputf8_enable": "yes",
        "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
        "smtpd_recipient_restrictions": f"check_policy_service inet:{policy}",
        "smtpd_tls_chain_files": f"{root}/etc/chain.pem",
        "smtpd_sasl_auth_enable": "yes",
        "cyrus_sasl_config_path": f"{root}/etc",
        "smtpd_sasl_local_domain": DOMAIN,
        # A test is one client that makes many mistakes in a short time.
        "smtpd_error_sleep_time": "0",
        "smtpd_soft_error_limit": "1000",
        "smtpd_hard_error_limit": "1000",
        "smtpd_client_connection_count_limit": "0",
        "in_flow_delay": "0",
    }


class _RecipientPolicy(socketserver.StreamRequestHandler):
    """Answers Postfix's questions about recipients (SMTPD_POLICY_README): ``name=value`` lines, then an empty one."""

    def handle(self) -> None:
        asked: dict[str, str] = {}
        for line in self.rfile:
            name, _, value = line.decode().strip().partition("=")
            if name:
                asked[name] = value
            else:
                self.wfile.write(f"action={self.action(asked['recipient'])}\n\n".encode())

    def action(self, recipient: str) -> str:
        if recipient == f"reject@{DOMAIN}":
            return "550 5.1.1 no such user here"
        if recipient == f"grey@{DOMAIN}":
            return "450 4.7.1 greylisted, try again later"
        seen: set[str] = self.server.seen
        if recipient.startswith("greyonce") and recipient not in seen:
            seen.add(recipient)
            return "450 4.7.1 greylisted once"
        return "DUNNO"


@contextmanager
def _recipient_policy(host: str) -> Iterator[str]:
    """Run a policy server; its host and port are what Postfix has to know."""
    with socketserver.ThreadingTCPServer((host, 0), _RecipientPolicy) as server:
        server.seen = set()
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()


def _free_ports(host: str, count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server((host, 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in held]


def _greets(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 1) as client:
            return client.recv(4) == b"220 "
    except OSError:
        return False
