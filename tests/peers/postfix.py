"""A real Postfix of the tests' own on loopback: its settings, queue, certificates and mail lie in one directory.

It needs root (Postfix changes to its own user) and Debian's packages postfix, libsasl2-modules and sasl2-bin. The
machine's own Postfix is not touched, and no mail leaves the machine.
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

from tests.peers.ports import free_port

MESSAGE_SIZE_LIMIT = 1024 * 1024
_QUEUES = ("maildrop", "incoming", "active", "deferred")  # in the order in which a mail goes through them

# master(5): service, type, private, unprivileged, chroot, wake-up, processes, program. postlog comes last: once its
# socket is there, the log would no longer tell that the master failed to bind a port.
_SERVICES = """\
pickup  unix       n - n - 1 pickup
cleanup unix       n - n - 0 cleanup
qmgr    unix       n - n - 1 qmgr
tlsmgr  unix       - - n - 1 tlsmgr
rewrite unix       - - n - - trivial-rewrite
bounce  unix       - - n - 0 bounce
defer   unix       - - n - 0 bounce
error   unix       - - n - - error
retry   unix       - - n - - error
discard unix       - - n - - discard
virtual unix       - n n - - virtual
anvil   unix       - - n - 1 anvil
{host}:{plain}    inet n - n - - smtpd -o smtpd_tls_security_level=none
{host}:{starttls} inet n - n - - smtpd -o smtpd_tls_security_level=encrypt -o {login}
{host}:{smtps}    inet n - n - - smtpd -o smtpd_tls_wrappermode=yes -o {login}
postlog unix-dgram n - n - 1 postlogd
"""
_LOGIN = "smtpd_client_restrictions=permit_sasl_authenticated,reject"
_SASL = "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: {}\n"


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
    user: str = "user@example.test"
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
            for name, owner in {"etc": 0, "spool": 0, "data": "postfix", "inbox": "nobody", "log": 0}.items():
                (self._root / name).mkdir(mode=0o755)
                shutil.chown(self._root / name, owner)
            policy_port = stack.enter_context(_greylist(self.host))
            self.plain, self.starttls, self.smtps = _free_ports(self.host, 3)
            self._write_settings(policy_port)
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
        """Return the mails as soon as nothing is queued and there are this many, or more.

        :raises TimeoutError: with the log, if that does not happen in time.
        """
        self._wait(lambda: not self._is_queued() and len(self.contents()) >= count, f"{count} mails", seconds)
        return self.mails()

    def wait_until_idle(self, seconds: float = 5.0, *, sessions: int = 0) -> None:
        """Wait until every client has gone and nothing is queued: no further mail can come then.

        :param sessions: how many clients there have to have been, at least.
        :raises TimeoutError: with the log, if that does not happen in time.
        """

        def is_idle() -> bool:
            connects, disconnects = (self.log.count(f"]: {event} from ") for event in ("connect", "disconnect"))
            return connects == disconnects >= sessions and not self._is_queued()

        self._wait(is_idle, "idleness", seconds)
        time.sleep(0.05)  # Postfix's log comes from a process of its own
        self._wait(is_idle, "idleness", seconds)

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
                raise TimeoutError(f"Postfix: no {what} within {seconds:g} s:\n{self.log}")
            time.sleep(0.01)

    def _write_settings(self, policy_port: int) -> None:
        etc = self._root / "etc"
        ports = {"host": self.host, "plain": self.plain, "starttls": self.starttls, "smtps": self.smtps}
        (etc / "master.cf").write_text(_SERVICES.format(**ports, login=_LOGIN))
        main = {**_main(self._root, self.host, policy_port), **self.settings}
        (etc / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
        authority = trustme.CA()
        self.ca_pem = authority.cert_pem.bytes().decode()
        authority.issue_cert("localhost", self.host).private_key_and_cert_chain_pem.write_to_path(etc / "chain.pem")
        # Debian's Postfix looks for it in sasl/ below its settings, whatever cyrus_sasl_config_path says.
        database = etc / "sasl" / "sasldb2"
        database.parent.mkdir(mode=0o755)
        database.with_name("smtpd.conf").write_text(_SASL.format(database))
        name, _, realm = self.user.partition("@")
        command = ["saslpasswd2", "-p", "-c", "-f", database, "-u", realm, name]
        subprocess.run(command, input=self.password.encode(), check=True)
        shutil.chown(database, "root", "postfix")

    @contextmanager
    def _running(self) -> Iterator[None]:
        # In the foreground, Postfix's end can be waited for; a daemon's is told to process 1 only.
        command = ["postfix", "-c", self._root / "etc", "start-fg"]
        with (self._root / "log" / "start.log").open("ab") as output:
            process = subprocess.Popen(command, cwd="/", stdout=output, stderr=output)

        def greets() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"Postfix does not start:\n{self.log}")
            with suppress(OSError), socket.create_connection((self.host, self.plain), 1) as client:
                return client.recv(4) == b"220 "
            return False

        try:
            self._wait(greets, "greeting", 20)  # on one port: the master listens on all before it starts anything
            yield
        finally:
            if process.poll() is None:
                pid_file = self._root / "spool" / "pid" / "master.pid"
                master = int((pid_file.exists() and pid_file.read_text()) or process.pid)
                os.kill(master, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                with suppress(ProcessLookupError):
                    os.killpg(master, signal.SIGKILL)  # the master leads a group of all that it has started
                process.wait(5)


def _main(root: Path, host: str, policy_port: int) -> dict[str, str]:
    nobody = pwd.getpwnam("nobody")
    refused = "{reject@example.test = 550 5.1.1 no such user}, {grey@example.test = 450 4.7.1 greylisted}"
    return {
        "compatibility_level": "3.6",
        "queue_directory": f"{root}/spool",
        "data_directory": f"{root}/data",
        "maillog_file": f"{root}/log/mail.log",
        "maillog_file_prefixes": str(root),
        "inet_interfaces": host,
        "myhostname": "mail.example.test",
        "mydestination": "",
        "local_recipient_maps": "",
        "alias_maps": "",
        "smtpd_peername_lookup": "no",
        "virtual_mailbox_domains": "example.test",
        "virtual_mailbox_base": str(root),
        "virtual_mailbox_maps": "static:inbox/",
        "virtual_uid_maps": f"static:{nobody.pw_uid}",
        "virtual_gid_maps": f"static:{nobody.pw_gid}",
        "default_transport": "discard:",
        "message_size_limit": str(MESSAGE_SIZE_LIMIT),
        "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
        "smtpd_recipient_restrictions": f"check_recipient_access inline:{{ {refused} }}, "
        f"check_policy_service inet:{host}:{policy_port}",
        "smtpd_tls_chain_files": f"{root}/etc/chain.pem",
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_local_domain": "example.test",
        # Tests make many mistakes in a short time.
        "smtpd_error_sleep_time": "0",
        "smtpd_hard_error_limit": "1000",
    }


@contextmanager
def _greylist(host: str) -> Iterator[int]:
    """Answer Postfix's questions (SMTPD_POLICY_README): lines ``name=value``, then an empty one, for each recipient."""
    seen: set[str] = set()

    class Questions(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            recipient = ""
            for line in self.rfile:
                if line.startswith(b"recipient="):
                    recipient = line.decode().strip().partition("=")[2]
                elif line == b"\n":
                    is_new = recipient.startswith("greyonce") and recipient not in seen
                    self.wfile.write(b"action=450 4.7.1 greylisted once\n\n" if is_new else b"action=DUNNO\n\n")
                    seen.add(recipient)

    with socketserver.ThreadingTCPServer((host, 0), Questions) as server, ExitStack() as stack:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        stack.callback(server.shutdown)
        yield server.server_address[1]


def _free_ports(host: str, count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port(host))
    return sorted(ports)
