"""Replies are read whole or not at all; dots are stuffed wherever the content is cut."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_smtp_interface.mail.errors import Cause
from airflow_smtp_interface.mail.tls import start_tls
from airflow_smtp_interface.mail.wire import Broken, ReplyReader, dot_stuffed
from tests.mail.conftest import Certificates


def test_no_socket_is_left_open_where_the_server_is_gone_before_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # by a reset
        select.select([client], [], [], 5)
        with pytest.raises(OSError, match="not connected"):
            start_tls(client, ssl.create_default_context(), host="localhost", seconds=5)
        assert client.fileno() == -1


def test_what_tls_says_for_itself_is_no_word_of_the_server(certificates: Certificates) -> None:
    near, far = socket.socketpair()
    context = ssl.create_default_context(cadata=certificates.pem)
    server = certificates.server()
    peers: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: peers.append(server.wrap_socket(far, server_side=True)))
    thread.start()
    with context.wrap_socket(near, server_hostname="localhost") as client:
        thread.join(5)
        assert select.select([client], [], [], 5)[0], "TLS 1.3 sends session tickets after the handshake"
        reader = ReplyReader(client)
        assert not reader.has_spoken()
        peers[0].sendall(b"421 bye\r\n")
        select.select([client], [], [], 5)
        assert reader.has_spoken()
        peers[0].close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, ReplyReader]]:
    """A server's socket and the reader at the client's."""
    server, client = socket.socketpair()
    with server, client:
        yield server, ReplyReader(client)


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250 ok\r\n", (250, b"ok")),
        (b"250\r\n", (250, b"")),
        (b"250 ok\n", (250, b"ok")),
        (b"250-one\r\n250-\r\n250 three\r\n", (250, b"one\n\nthree")),
        (b"250-one\r\n250\r\n", (250, b"one\n")),
        (b"550 5.1.1 gr\xc3\xbc\xff\r\n", (550, b"5.1.1 gr\xc3\xbc\xff")),
    ],
)
def test_a_reply_has_any_number_of_lines(
    pair: tuple[socket.socket, ReplyReader], octets: bytes, reply: tuple[int, bytes]
) -> None:
    server, reader = pair
    server.sendall(octets + b"221 next\r\n")
    assert reader.reply(1) == reply
    assert reader.has_spoken()
    assert reader.reply(1) == (221, b"next")
    assert not reader.has_spoken()


@pytest.mark.parametrize(
    ("octets", "cause"),
    [
        (b"hello\r\n", Cause.ODD_REPLY),
        (b"99 ok\r\n", Cause.ODD_REPLY),
        (b"150 ok\r\n", Cause.ODD_REPLY),
        (b"2500 ok\r\n", Cause.ODD_REPLY),
        (b"250-one\r\n550 two\r\n", Cause.ODD_REPLY),
        (b"x" * 10_000, Cause.ODD_REPLY),
        (b"250-more\r\n" * 1001, Cause.ODD_REPLY),
        (b"250-one\r\n", Cause.TIMED_OUT),
        (b"", Cause.TIMED_OUT),
    ],
)
def test_what_is_no_reply_breaks_the_connection(
    pair: tuple[socket.socket, ReplyReader], octets: bytes, cause: Cause
) -> None:
    server, reader = pair
    server.sendall(octets)
    with pytest.raises(Broken) as caught:
        reader.reply(0.2)
    assert caught.value.cause is cause


@pytest.mark.parametrize("said", [b"", b"250-one"])
def test_a_server_that_hangs_up_is_named(pair: tuple[socket.socket, ReplyReader], said: bytes) -> None:
    server, reader = pair
    server.sendall(said)
    server.close()
    with pytest.raises(Broken, match="closed the connection") as caught:
        reader.reply(1)
    assert caught.value.cause is Cause.LOST
    assert said.decode() in str(caught.value)
    assert reader.has_spoken()


def test_a_dripping_server_cannot_stretch_the_time(pair: tuple[socket.socket, ReplyReader]) -> None:
    server, reader = pair

    def drip() -> None:
        for _ in range(40):
            server.sendall(b"2")
            time.sleep(0.02)

    dripping = threading.Thread(target=drip)
    dripping.start()
    started = time.monotonic()
    with pytest.raises(Broken) as caught:
        reader.reply(0.3)
    assert caught.value.cause is Cause.TIMED_OUT
    assert time.monotonic() - started < 0.7
    dripping.join()


def test_without_any_time_left_nothing_is_read(pair: tuple[socket.socket, ReplyReader]) -> None:
    server, reader = pair
    server.sendall(b"250 ok\r\n")
    with pytest.raises(Broken) as caught:
        reader.reply(0)
    assert caught.value.cause is Cause.TIMED_OUT


def test_a_closed_socket_is_a_lost_connection(pair: tuple[socket.socket, ReplyReader]) -> None:
    _, reader = pair
    reader._sock.close()
    with pytest.raises(Broken) as caught:
        reader.reply(1)
    assert caught.value.cause is Cause.LOST


def unstuffed(octets: bytes) -> bytes:
    """Undo it as RFC 5321 section 4.5.2 says."""
    return b"\r\n".join(line.removeprefix(b".") for line in octets.split(b"\r\n"))


@given(st.lists(st.sampled_from([b".", b"a", b"\r\n", b"..", b"\r\n.", b"a.b"])), st.data())
@example([b"\r\n", b".", b"\r\n"], None)
@example([b"."], None)
@example([], None)
def test_dots_are_stuffed_wherever_the_content_is_cut(parts: list[bytes], data: st.DataObject | None) -> None:
    content = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content))))) if data else range(len(content))
    chunks = [content[start:end] for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    stuffed = b"".join(dot_stuffed(chunks))
    assert b"\r\n.\r\n" not in b"\r\n" + stuffed
    assert stuffed.endswith(b"\r\n")
    assert unstuffed(stuffed) == (content if content.endswith(b"\n") else content + b"\r\n")
