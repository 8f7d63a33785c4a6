"""Text written by a human -> addresses (RFC 5321 section 4.1.2, internationalised by RFC 5890 and RFC 6531)."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from email.headerregistry import Address

from airflow_smtp_interface.mail.errors import InvalidAddress
from airflow_smtp_interface.mail.values import rendered_collection

AddressInput = str | Iterable[str] | None
"""Text with ``,``, ``;`` or newlines between addresses, a rendered list, or any iterable with one address an item."""

# One step through address text: a quoted string, an angle-addr, a separator, a run of anything else, or a stray.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|<(?:"(?:[^"\\]|\\.)*"|[^"<>])*>|[,;\r\n]|[^",;<>\r\n]+|.', re.DOTALL)
_SEPARATORS = frozenset(",;\r\n")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+"
_DOT_ATOM = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_QUOTED_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?")
_NOT_IN_DOMAIN = re.compile(r"[()<>,;\s]")
_NAME_SPECIALS = re.compile(r'[()<>\[\]:;@\\,"]')
# Characters that can hide or forge text: controls, line and paragraph separators, lone surrogates, bidi overrides.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_ONE_EACH = "write one address an item, such as alice@example.org or Alice <alice@example.org>"
_EXAMPLE = "write alice@example.org or Alice <alice@example.org>"


def parse_addresses(text: AddressInput, *, field: str) -> tuple[Address, ...]:
    """Read the addresses that a human wrote or a template rendered.

    :param text: the addresses; None gives an empty tuple.
    :param field: the name of the field, for the error.
    :return: the addresses as ``email.headerregistry.Address``, in their order; IDN domains as A-labels (RFC 5890).
    :raises InvalidAddress: naming the field, the text and the remedy, if one of them is not an address that mail can
        be sent to, or if there is none at all.
    """
    if text is None:
        return ()
    addresses = tuple(parse_address(each, field=field) for each in _split(text, field=field))
    if not addresses:
        raise InvalidAddress(f"{field}: is empty; {_EXAMPLE}, or leave {field} out")
    return addresses


def parse_address(text: str, *, field: str) -> Address:
    """Read exactly one address, with or without a display name.

    :param text: ``alice@example.org``, ``Alice <alice@example.org>`` or ``"Doe, Jane" <jane@example.org>``.
    :param field: the name of the field, for the error.
    :raises InvalidAddress: if it is anything else.
    """

    if not isinstance(text, str):
        raise InvalidAddress(f"{field}: {text!r} is {type(text).__name__}, not text; {_ONE_EACH}")
    try:
        return _address(text)
    except ValueError as error:
        raise InvalidAddress(f"{field}: {text!r} {error}") from None


def addr_spec(address: Address) -> str:
    """Return ``local-part@domain`` as SMTP carries it, the local part quoted where RFC 5321 wants it."""
    local = address.username
    if not _DOT_ATOM.fullmatch(local):
        local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
    return f"{local}@{address.domain}"


def without_case(address: str) -> str:
    """Return an address by which mailboxes are compared: domains have no case, local parts may (RFC 5321 2.4)."""
    local, _, domain = address.rpartition("@")
    return f"{local}@{domain.lower()}"


def ascii_domain(domain: str) -> str:
    """Return a domain with its IDN labels as A-labels (RFC 5891); ASCII labels and literals stay as they are.

    :raises ValueError: if it is not a domain, or if normalising it would change more than the case of letters.
    """
    if domain.startswith("["):
        return _literal(domain)
    ascii_labels = ".".join(_label(label) for label in domain.split("."))
    if len(ascii_labels) > 255:
        raise ValueError("has a domain of more than 255 octets")
    return ascii_labels


def _split(text: str | Iterable[object], *, field: str) -> Iterator[str]:
    if isinstance(text, str):
        try:
            collection = rendered_collection(text)
        except ValueError as error:
            raise InvalidAddress(f"{field}: {text!r} {error}; {_EXAMPLE}") from None
        if collection is None:
            yield from _split_text(text)
            return
        text = collection  # type: ignore[assignment]
    if isinstance(text, (bytes, Mapping)) or not isinstance(text, Iterable):
        raise InvalidAddress(f"{field}: {text!r} is {type(text).__name__}; write text or a list of texts")
    # A set has no order of its own; a retry must see the same order again.
    yield from sorted(text, key=str) if isinstance(text, (set, frozenset)) else text  # type: ignore[misc]


def _split_text(text: str) -> Iterator[str]:
    parts: list[str] = []
    for token in [*_TOKEN.findall(text), ","]:
        if token in _SEPARATORS:
            if part := "".join(parts).strip(" \t"):
                yield part
            parts.clear()
        else:
            parts.append(token)


def _address(text: str) -> Address:
    if hidden := _FORBIDDEN.search(text):
        raise ValueError(f"holds the control character U+{ord(hidden[0]):04X}; remove it")
    text = text.strip(" ")
    tokens = _TOKEN.findall(text)
    if tokens and len(tokens[-1]) > 1 and tokens[-1].startswith("<"):
        name, spec = _display_name("".join(tokens[:-1]).strip(" ")), tokens[-1][1:-1]
    else:
        name, spec = "", text
    local, domain = _mailbox(spec)
    return Address(display_name=name, username=local, domain=domain)


def _display_name(words: str) -> str:
    if quoted := _QUOTED_STRING.fullmatch(words):
        return _QUOTED_PAIR.sub(r"\1", quoted[1])
    if ":" in words:
        raise ValueError("is a group, or a name with a colon; list the addresses themselves, or quote the name")
    if "(" in words or ")" in words:
        raise ValueError('holds a comment; remove it, or quote the name: "Jane (Sales)" <jane@example.org>')
    if special := _NAME_SPECIALS.search(words):
        raise ValueError(f'has {special[0]!r} in the name; quote the name: "Doe, Jane" <jane@example.org>')
    return words


def _mailbox(spec: str) -> tuple[str, str]:
    """Split an addr-spec into its unquoted local part and its domain."""
    if quoted := _QUOTED_STRING.match(spec):
        local, rest = _QUOTED_PAIR.sub(r"\1", quoted[1]), spec[quoted.end() :]
        at, domain = rest[:1], rest[1:]
    else:
        local, at, domain = spec.partition("@")
        if not _DOT_ATOM.fullmatch(local):
            raise ValueError(_why_no_mailbox(spec))
    if at != "@" or not local or _NOT_IN_DOMAIN.search(domain):
        raise ValueError(_why_no_mailbox(spec))
    if len(local.encode()) > 64:
        raise ValueError("has more than 64 octets before the @ (RFC 5321 section 4.5.3.1.1)")
    if unicodedata.normalize("NFKC", local) != local:
        raise ValueError("has compatibility characters, such as full-width ones, before the @; retype it")
    return local, ascii_domain(domain)


def _why_no_mailbox(spec: str) -> str:
    signs = {
        "(": "holds a comment; remove it",
        ">": f"has text around or within its angle brackets that does not belong there; {_EXAMPLE}",
        "<": f"has an angle bracket without its counterpart; {_EXAMPLE}",
        "\uff20": "holds a full-width @ (U+FF20); type an ASCII @",
    }
    if spec in ("", "None"):
        return f"is no address: a template may have rendered to nothing; {_EXAMPLE}"
    if spec.startswith("@"):
        return "is a source route (RFC 5321 appendix C); write the address alone"
    for sign, why in signs.items():
        if sign in spec:
            return why
    if ":" in spec:
        return "is a group, or holds a colon; list the addresses themselves"
    if "," in spec or ";" in spec:
        return f"holds more than one address; {_ONE_EACH}"
    return f"is not an address; {_EXAMPLE}"


def _label(label: str) -> str:
    if label.isascii():
        if not _LABEL.fullmatch(label):
            raise ValueError(f"has no valid domain: {label!r} is not a label of one")
        return label
    import idna  # Tables of 100 kB, needed by IDN domains only.

    lowered = label.lower()
    if unicodedata.normalize("NFC", label) != label or lowered.isascii():
        raise ValueError(f"has the label {label!r}, which another spelling would replace; retype it")
    try:
        return idna.alabel(lowered).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"has no valid international domain ({error}); check its spelling") from None


def _literal(domain: str) -> str:
    text = domain[1:-1] if domain.endswith("]") else ""
    try:
        if text.lower().startswith("ipv6:"):
            ipaddress.IPv6Address(text[5:].replace("%", "no scope"))
        else:
            ipaddress.IPv4Address(text)
    except ValueError:
        raise ValueError("has no valid address literal; write [192.0.2.1] or [IPv6:2001:db8::1]") from None
    return domain
