"""The files that go with a mail: where their bytes come from, under which name and type."""

from __future__ import annotations

import io
import mimetypes
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol, TypeGuard, runtime_checkable

from airflow_smtp_interface.mail.errors import Cause, InvalidEmail, MailError, Stage, TransientDeliveryError
from airflow_smtp_interface.mail.values import encodable, one_line, rendered_collection

_CONTENT_ID = re.compile(r"[!-;=?A-~]{1,200}")
_CONTENT_TYPE = re.compile(
    r"(?=.{1,200}$)[A-Za-z0-9!#$&^_.+\-]+/[A-Za-z0-9!#$&^_.+\-]+(?:; *[a-z0-9\-]+=[A-Za-z0-9_.\-]+)*"
)
_LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ImportError, ValueError)


@runtime_checkable
class StoredFile(Protocol):
    """What an attachment can be read from: ``pathlib.Path`` and Airflow's ``ObjectStoragePath`` are such."""

    @property
    def name(self) -> str:
        """The last part of the path."""

    def is_file(self) -> bool:
        """Whether it is a regular file."""

    def stat(self) -> os.stat_result:
        """Tell the size as ``st_size``."""

    def open(self, mode: str) -> BinaryIO:
        """Open it for reading bytes."""


AttachmentSource = str | bytes | StoredFile
"""A path (never content), content, or a stored file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """A file that goes with a mail. It is opened only while the mail is sent, and read in small pieces.

    :param name: the name that the reader sees.
    :param open: opens the content; called once for each sending.
    :param size: its length in octets; the mail is given up if the content turns out longer or shorter.
    :param content_type: such as ``text/csv``; guessed from the name by default.
    :param content_id: for an image shown inside an HTML body by ``<img src="cid:…">`` (RFC 2392), without brackets.
    :raises InvalidEmail: if a field cannot be sent.
    """

    name: str
    open: Callable[[], BinaryIO] = field(repr=False)
    size: int
    content_type: str = ""
    content_id: str | None = None

    def __post_init__(self) -> None:
        """Guess the content type and refuse what cannot stand in a header."""
        if not one_line(self.name, field="attachments: the name").strip():
            raise InvalidEmail("attachments: an attachment has an empty name; give it one such as report.csv")
        object.__setattr__(self, "content_type", self.content_type or _guess_type(self.name))
        # RFC 2046 5.2.1: base64 is not allowed for message/* and multipart/*.
        composite = self.content_type.lower().startswith(("multipart/", "message/"))
        if composite or not _CONTENT_TYPE.fullmatch(self.content_type):
            raise InvalidEmail(
                f"attachments: {self.name!r} has the content type {self.content_type!r}; write one such as text/csv"
            )
        if self.content_id is not None and not _CONTENT_ID.fullmatch(self.content_id):
            raise InvalidEmail(
                f"attachments: {self.name!r} has the content_id {self.content_id!r}; "
                "write the text behind cid: without spaces or angle brackets"
            )

    @classmethod
    def from_bytes(
        cls, content: bytes, *, name: str, content_type: str = "", content_id: str | None = None
    ) -> Attachment:
        """Attach content that is in memory already."""
        return cls(
            name=name,
            open=lambda: io.BytesIO(content),
            size=len(content),
            content_type=content_type,
            content_id=content_id,
        )

    @classmethod
    def from_text(cls, content: str, *, name: str) -> Attachment:
        """Attach text as UTF-8."""
        content_type = _guess_type(name)
        if content_type.startswith("text/"):
            content_type += "; charset=utf-8"
        return cls.from_bytes(
            encodable(content, field=f"attachment {name!r}").encode(), name=name, content_type=content_type
        )

    @classmethod
    def from_file(
        cls,
        file: str | StoredFile,
        *,
        name: str | None = None,
        content_type: str = "",
        content_id: str | None = None,
    ) -> Attachment:
        """Attach a regular file.

        :param file: a path, relative to the working directory, or a stored file.
        :param name: the name that the reader sees; the file's own by default.
        :raises InvalidEmail: if there is no such file, or it is a directory, FIFO or device.
        """
        source: StoredFile = Path(file) if isinstance(file, str) else file  # type: ignore[assignment]
        return cls(
            name=source.name if name is None else name,
            open=lambda: _open(source),
            size=_size(source),
            content_type=content_type,
            content_id=content_id,
        )


AttachmentsInput = (
    str
    | StoredFile
    | Attachment
    | Mapping[str, AttachmentSource | Attachment]
    | Iterable[str | StoredFile | Attachment]
    | None
)


def parse_attachments(
    attachments: AttachmentsInput, *, open_url: Callable[[str], StoredFile] | None = None
) -> tuple[Attachment, ...]:
    """Read the ``attachments`` that an author wrote or a template rendered; see ``Email.compose``.

    :param open_url: makes a stored file of a URL; without it URLs are refused.
    :raises InvalidEmail: if one of them cannot be attached.
    """
    if attachments is None or attachments == ():
        return ()
    if isinstance(attachments, str):
        with suppress(ValueError):  # "(draft)" is a path
            rendered = rendered_collection(attachments)
            attachments = attachments if rendered is None else rendered  # type: ignore[assignment]
    named: Iterable[tuple[str | None, object]]
    if isinstance(attachments, Mapping):
        named = attachments.items()
    elif isinstance(attachments, Iterable) and not isinstance(attachments, (str, bytes, StoredFile)):
        named = ((None, source) for source in attachments)
    else:
        named = [(None, attachments)]
    return tuple(_attachment(source, name, open_url) for name, source in named)


def _attachment(source: object, name: str | None, open_url: Callable[[str], StoredFile] | None) -> Attachment:
    if isinstance(source, Attachment):
        return source if name is None else replace(source, name=name)
    if isinstance(source, bytes):
        if name is None:
            raise InvalidEmail('attachments: content has no name; write {"report.csv": content}')
        return Attachment.from_bytes(source, name=name)
    if isinstance(source, str) and "://" in source:
        if open_url is None:
            raise InvalidEmail(f"attachments: {source!r} is a URL, which only the hook and the operators can open")
        source = _found(source, open_url)
    if isinstance(source, (str, StoredFile)):
        return Attachment.from_file(source, name=name)
    raise InvalidEmail(f"attachments: {source!r} is {type(source).__name__}; write a path, a URL or an Attachment")


def _is_local(source: StoredFile) -> TypeGuard[Path]:
    # Airflow 3.1's ObjectStoragePath is a pathlib.Path too, but one with a protocol.
    return isinstance(source, Path) and not hasattr(source, "protocol")


def _found(url: str, open_url: Callable[[str], StoredFile]) -> StoredFile:
    try:
        return open_url(url)
    except Exception as error:  # a store's library may raise anything
        raise _unreadable(url, error, lasting=isinstance(error, _LASTING)) from error


def _size(source: StoredFile) -> int:
    shown = str(source.absolute() if _is_local(source) else source)
    try:
        if source.is_file():
            return source.stat().st_size
        found = "is not a regular file" if source.stat() else ""
    except Exception as error:  # a store's library may raise anything
        out_of_reach = isinstance(error, (ConnectionError, TimeoutError))  # as on a network's file system
        raise _unreadable(
            shown, error, lasting=isinstance(error, _LASTING) or (_is_local(source) and not out_of_reach)
        ) from error
    raise InvalidEmail(f"attachments: {shown!r} {found}; give the path of an existing file")


def _unreadable(shown: str, error: Exception, *, lasting: bool) -> MailError:
    """Say what came of looking at a file: the author's mistake, or a store that may be reached later."""
    if lasting:
        remedy = "install it" if isinstance(error, ImportError) else "give the path of an existing file"
        return InvalidEmail(f"attachments: {shown!r} cannot be read: {error}; {remedy}")
    return TransientDeliveryError(
        f"attachments: {shown!r} cannot be read now, so nothing was sent: {type(error).__name__}: {error}. "
        "Trying again later can help.",
        stage=Stage.CONTENT,
        cause=Cause.CONTENT_UNREADABLE,
    )


def _open(source: StoredFile) -> BinaryIO:
    if not _is_local(source):
        return source.open("rb")
    # Should a FIFO have taken the file's place meanwhile, opening it must not hang.
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{source} is no longer a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _guess_type(name: str) -> str:
    guessed, encoding = mimetypes.guess_type(name, strict=False)
    if encoding:
        return f"application/{encoding}" if encoding == "gzip" else "application/octet-stream"
    # RFC 2046 5.2.1: base64 is not allowed for message/*, which .eml files would be.
    return guessed if guessed and not guessed.startswith("message/") else "application/octet-stream"
