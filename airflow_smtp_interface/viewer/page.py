"""One mail as a page. The mail's HTML is shown in a frame of its own in which nothing runs and nothing is loaded."""

from __future__ import annotations

import re
import secrets
from functools import lru_cache
from html import unescape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jinja2 import Environment

    from airflow_smtp_interface.viewer.message import ShownMessage

# What may show an image, and what may name another host; a button too many does no harm.
_IMAGES = re.compile(r"<i(?:mg|mage|nput)\b|background|poster|url\(|image-set", re.IGNORECASE)
# A policy and a sandbox keep these from loading, but not from connecting or asking a name server, which tells their
# author that the mail was read; meta and base change what the others mean. No such tag is left, however HTML is parsed.
_TELLTALES = re.compile(
    r"(</?)(?=(?:link|meta|base|i?frame|frameset|fencedframe|portal|object|embed|applet)\b)", re.IGNORECASE
)

# Links open in a new window, which the sandbox forbids; in this frame an error would take the place of the mail.
_TAG = re.compile(r"<[a-z][^>]*>?", re.IGNORECASE)
_TARGET = re.compile(r"""("[^"]*"|'[^']*')|(?<=[\s/"'])target(?=\s*=)""", re.IGNORECASE)


class Page(NamedTuple):
    """A finished page.

    :param html: the document.
    :param headers: HTTP header fields that have to go with it: they keep the mail's HTML from doing anything.
    """

    html: str
    headers: dict[str, str]


def mail_page(message: ShownMessage, *, remote_images: bool = False, images_url: str | None = None) -> Page:
    """Show a mail.

    :param remote_images: whether images may be loaded from elsewhere, which tells its sender that the mail was opened.
    :param images_url: where the same page is with ``remote_images``; behind the button that loads them.
    """
    html = unescape(message.html or "")
    has_remote = "//" in html and bool(_IMAGES.search(html))
    return _page(
        "mail.html.j2",
        remote_images=remote_images,
        message=message,
        inner=_inner_document(message.html, remote_images=remote_images) if message.html else None,
        images_url=images_url if has_remote and not remote_images else None,
    )


def notice_page(title: str, *paragraphs: str, example: str | None = None) -> Page:
    """Say in a few words why there is no mail.

    :param example: code that shows how to send one.
    """
    return _page("notice.html.j2", remote_images=False, title=title, paragraphs=paragraphs, example=example)


def _page(template: str, *, remote_images: bool, **values: object) -> Page:
    nonce = secrets.token_urlsafe(16)
    html = _environment().get_template(template).render(nonce=nonce, **values)
    headers = {
        # A srcdoc frame inherits this policy, so the mail's HTML is under it too.
        "Content-Security-Policy": f"{_policy(remote_images=remote_images)}; script-src 'nonce-{nonce}'; "
        "frame-ancestors 'self'",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-DNS-Prefetch-Control": "off",
    }
    return Page(html, headers)


def _inner_document(html: str, *, remote_images: bool) -> str:
    policy = _policy(remote_images=remote_images)
    return (
        '<!doctype html><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<base target="_blank"><style>body { background: #fff; color: #000; font-family: sans-serif }</style>'
        + _TAG.sub(lambda tag: _TARGET.sub(lambda match: match[1] or "x-target", tag[0]), _TELLTALES.sub(r"\1x-", html))
    )


def _policy(*, remote_images: bool) -> str:
    images = "data: https: http:" if remote_images else "data:"
    return (
        f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; frame-src 'none'; base-uri 'none'; "
        "form-action 'none'"
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("airflow_smtp_interface.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["octets"] = _octets
    return environment


def _octets(size: int) -> str:
    """Return a size as people read it."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} octet{'' if size == 1 else 's'}"
