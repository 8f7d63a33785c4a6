"""TLS: whom to trust, and the handshake."""

from __future__ import annotations

import select
import ssl
from contextlib import suppress
from functools import lru_cache, partial
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


@lru_cache(maxsize=8)  # by the arguments in their order
def tls_context(*, ca_certificate: str | None, verify: bool, check_name: bool) -> ssl.SSLContext:
    """Return the context for connections: TLS 1.2 or newer, host name and certificate checked.

    :param ca_certificate: PEM certificates trusted besides the system's.
    :param verify: off accepts any certificate of any host.
    :param check_name: off accepts a trusted certificate of any host.
    :raises ssl.SSLError: if there is no certificate in ``ca_certificate``.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_certificate:
        context.load_verify_locations(cadata=ca_certificate)
    context.check_hostname = verify and check_name
    if not verify:
        context.verify_mode = ssl.CERT_NONE
    return context


class Trust:
    """Makes a context while the network is waited for: reading hundreds of certificates takes 20 ms.

    The parameters are those of :func:`tls_context`.
    """

    def __init__(self, *, ca_certificate: str | None, verify: bool, check_name: bool = True) -> None:
        self._context = partial(tls_context, ca_certificate=ca_certificate, verify=verify, check_name=check_name)
        self._reading: Thread | None = None

    def begin(self) -> None:
        """Begin to read."""
        reading = Thread(target=self._read, daemon=True)
        with suppress(RuntimeError):  # the machine has no more threads: then it is read when it is needed
            reading.start()
            self._reading = reading

    def context(self) -> ssl.SSLContext:
        """Return the context.

        :raises ssl.SSLError: as :func:`tls_context` does.
        """
        if self._reading:
            self._reading.join()
        return self._context()

    def _read(self) -> None:
        with suppress(ssl.SSLError):  # raised again where it is needed
            self._context()


def start_tls(sock: socket.socket, context: ssl.SSLContext, *, host: str, seconds: float) -> ssl.SSLSocket:
    """Do the TLS handshake on a connected socket.

    :param seconds: until it must be finished; a dripping server cannot stretch it.
    :raises OSError: if it fails; the socket is closed then.
    """
    deadline = monotonic() + seconds
    try:
        sock.getpeername()  # CPython leaks the socket if wrap_socket() finds that the server is gone
        secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    secure.settimeout(0)
    try:
        while True:
            try:
                secure.do_handshake()
                return secure
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wants:
                _wait(secure, select.POLLIN if isinstance(wants, ssl.SSLWantReadError) else select.POLLOUT, deadline)
    except BaseException:
        secure.close()
        raise


def _wait(sock: socket.socket, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(sock, event)
    left = deadline - monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError("the TLS handshake was not finished in time")
