"""The page of one mail: everything is shown, nothing of the mail becomes part of the page."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import pytest

from airflow_smtp_interface.viewer.message import (
    MAX_BODY_OCTETS,
    Outcome,
    ShownAttachment,
    ShownMessage,
    ShownRecipient,
    kept_body,
)
from airflow_smtp_interface.viewer.page import mail_page, notice_page

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\" ' & {{ 31337 * 31337 }}"
MAIL = ShownMessage(
    subject="Report",
    sender="Ann <ann@x.org>",
    to=("a@x.org",),
    recipients=(
        ShownRecipient(address="a@x.org", outcome=Outcome.ACCEPTED, words="250 ok: queued as 4F1"),
        ShownRecipient(address="b@x.org", outcome=Outcome.REFUSED, words="550 no such user"),
    ),
    attachments=(ShownAttachment(name="r.csv", size=1500, content_type="text/csv"),),
    headers=(("Subject", "Report"),),
    html="<p>Hello</p>",
    text="Hello",
    queue_id="4F1",
)


def inner(page: str) -> str:
    """Return the document in the frame."""
    (document,) = re.findall(r'srcdoc="([^"]*)"', page)
    return html.unescape(document)


def test_a_record_is_json_and_reads_back_the_same() -> None:
    assert ShownMessage.from_dict(json.loads(json.dumps(MAIL.as_dict()))) == MAIL


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"subject": "s"},
        {"bodies_kept": True, "recipients": [{"address": "a"}]},
        {"bodies_kept": True, "recipients": [{"address": "a", "outcome": "lost"}]},
        {"bodies_kept": True, "recipients": 5},
        {"bodies_kept": True, "attachments": ["r.csv"]},
        {"bodies_kept": True, "headers": ["Subject"]},
        {"bodies_kept": True, "to": 5},
        {"bodies_kept": True, "subject": 5},
        {"bodies_kept": True, "html": 5},
        {"bodies_kept": True, "size": "big"},
        {"bodies_kept": True, "unlisted": {"accepted": float("inf")}},
        {"bodies_kept": True, "unlisted": {"accepted": -5}},
        {"bodies_kept": True, "unlisted": {"lost": 1}},
        {"bodies_kept": True, "unlisted": [5]},
        {"bodies_kept": True, "attachments": [{"name": "a", "size": None, "content_type": "b"}]},
    ],
)
def test_what_somebody_else_has_kept_under_the_same_name_is_no_mail(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"not the record of a mail|bodies_kept|lost|unpack"):
        ShownMessage.from_dict(record)


def test_everything_is_on_the_page() -> None:
    page = mail_page(MAIL).html
    for text in ("Report", "Ann &lt;ann@x.org&gt;", "1 accepted", "1 refused", "550 no such user", "1.5 kB", "4F1"):
        assert text in page


def test_whatever_the_fields_hold_is_text_on_the_page() -> None:
    mail = ShownMessage(
        subject=EVIL,
        problem=EVIL,
        sender=EVIL,
        to=(EVIL,),
        cc=(EVIL,),
        bcc=(EVIL,),
        reply_to=(EVIL,),
        date=EVIL,
        message_id=EVIL,
        queue_id=EVIL,
        reply=EVIL,
        server=EVIL,
        recipients=(ShownRecipient(address=EVIL, outcome=Outcome.UNKNOWN, words=EVIL),),
        attachments=(ShownAttachment(name=EVIL, size=1, content_type=EVIL),),
        headers=((EVIL, EVIL),),
        html=EVIL,
        text=EVIL,
    )
    page = mail_page(mail).html
    assert page.count("<script") == 1, "the page's own"
    assert "<img" not in page
    assert str(31337 * 31337) not in page
    assert inner(page).endswith(EVIL), "the mail's HTML is whole, but in its frame only"


def test_the_mails_html_is_in_a_frame_that_may_nothing() -> None:
    page, headers = mail_page(replace(MAIL, html='<img src="https://x.org/pixel.png">'), images_url="?images=remote")
    assert re.search(r"<iframe sandbox srcdoc=", page), "an empty sandbox: no scripts, no forms, no origin"
    policy = headers["Content-Security-Policy"]
    for rule in ("default-src 'none'", "img-src data:;", "frame-src 'none'", "form-action 'none'", "base-uri 'none'"):
        assert rule in policy
        assert rule in inner(page)
    assert "Load remote images" in page


@pytest.mark.parametrize(
    "tag", ["link", "META", "base", "iframe", "frame", "frameset", "object", "embed", "fencedframe", "portal"]
)
def test_what_would_tell_its_author_that_the_mail_is_read_is_no_such_tag_any_more(tag: str) -> None:
    document = inner(mail_page(replace(MAIL, html=f"<b>1</b><{tag}/href=//x.org>2</{tag}\n><{tag}s>")).html)
    assert document.endswith(f"<b>1</b><x-{tag}/href=//x.org>2</x-{tag}\n><{tag}s>")


@pytest.mark.parametrize(
    "html",
    [
        '<img src="https://x.org/a.png">',
        "<img srcset='a.png 1x, //x.org/b.png 2x'>",
        '<p style="background:url(&quot;https://x.org/a.png&quot;)">',
        "<img src='&#104;ttps://x.org/a.png'>",
        "<svg><image href='https://x.org/a.png'/></svg>",
        "<style>p { content: image-set('https://x.org/a.png' 1x) }</style>",
    ],
)
def test_the_button_is_there_wherever_an_image_may_be_remote(html: str) -> None:
    assert "Load remote images" in mail_page(replace(MAIL, html=html), images_url="?images=remote").html


def test_remote_images_are_loaded_when_asked_for() -> None:
    page, headers = mail_page(
        replace(MAIL, html="<img src='//x.org/a.png'>"), remote_images=True, images_url="?images=remote"
    )
    assert "img-src data: https: http:" in headers["Content-Security-Policy"]
    assert "Load remote images" not in page


def test_no_button_where_there_is_nothing_to_load() -> None:
    assert "Load remote images" not in mail_page(MAIL, images_url="?images=remote").html


def test_only_the_pages_own_script_may_run_and_its_nonce_is_new_each_time() -> None:
    nonces = set()
    for _ in range(2):
        page, headers = mail_page(MAIL)
        (nonce,) = re.findall(r'<script nonce="([^"]+)">', page)
        assert f"script-src 'nonce-{nonce}'" in headers["Content-Security-Policy"]
        nonces.add(nonce)
    assert len(nonces) == 2


def test_recipients_that_are_not_listed_are_counted() -> None:
    listed = ShownRecipient(address="a@x.org", outcome=Outcome.REFUSED)
    page = mail_page(replace(MAIL, recipients=(listed,), unlisted={Outcome.REFUSED: 3, Outcome.ACCEPTED: 1200})).html
    assert "4 refused" in page
    assert "1200 accepted" in page
    assert "And 1203 more recipients" in page


def test_a_link_with_a_target_of_its_own_opens_nowhere_either() -> None:
    html = "<a href=x TARGET = _self>target=x</a><svg><a title='target=1'target='_top' href='?target=home'>"
    shown = mail_page(replace(MAIL, html=html)).html
    assert "&lt;a href=x x-target = _self&gt;target=x&lt;/a&gt;" in shown
    assert "&lt;a title=&#39;target=1&#39;x-target=" in shown
    assert "href=&#39;?target=home&#39;" in shown


def test_bodies_that_are_not_kept_or_cut_are_said_to_be() -> None:
    assert "are not kept (keep_sent)" in mail_page(replace(MAIL, html=None, text=None, bodies_kept=False)).html
    assert "Only the first 64 KB" in mail_page(replace(MAIL, cut=("text",))).html


def test_a_body_is_cut_between_characters() -> None:
    assert kept_body("short") == ("short", False)
    text, was_cut = kept_body("é" * MAX_BODY_OCTETS)
    assert was_cut
    assert text == "é" * (MAX_BODY_OCTETS // 2)


def test_a_notice_says_why_there_is_no_mail() -> None:
    page, headers = notice_page("No mail here", "Task <x> sent none.", example="Operator(body='<b>')")
    assert "Task &lt;x&gt; sent none." in page
    assert "Operator(body=&#39;&lt;b&gt;&#39;)" in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("octets", "shown"),
    [(1, "1 octet<"), (2, "2 octets"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3_500_000_000, "3.5 GB")],
)
def test_sizes_are_shown_as_people_read_them(octets: int, shown: str) -> None:
    assert shown in mail_page(replace(MAIL, attachments=(), size=octets)).html
