"""A real Postfix takes our mails: logins, limits, refusals, and content that arrives octet for octet."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from email.message import EmailMessage

import pytest

from airflow_smtp_interface.mail.delivery import Cause, Delivery, Stage
from airflow_smtp_interface.mail.errors import (
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
    incomplete_error,
)
from airflow_smtp_interface.mail.message import Email
from airflow_smtp_interface.mail.mime import Content
from airflow_smtp_interface.mail.session import SmtpSession, connect
from airflow_smtp_interface.mail.settings import Security, SmtpSettings
from airflow_smtp_interface.mail.transaction import deliver
from tests.peers.postfix import MESSAGE_SIZE_LIMIT, Postfix

pytestmark = pytest.mark.postfix

IDN = "xn--bcher-kva.test"


@pytest.fixture(scope="module")
def server() -> Iterator[Postfix]:
    """One Postfix for all tests."""
    if os.geteuid() != 0 or not shutil.which("postfix") or not shutil.which("saslpasswd2"):
        pytest.fail("needs root and Debian's packages postfix, libsasl2-modules and sasl2-bin")
    settings = {
        "virtual_mailbox_domains": f"example.test, {IDN}",
        "message_drop_headers": "",  # else Postfix itself would hide a Bcc that we let through
    }
    with Postfix(settings=settings) as postfix:
        yield postfix


@pytest.fixture
def postfix(server: Postfix) -> Postfix:
    """The server, without what earlier tests left."""
    server.wait_until_idle()
    server.forget()
    return server


def settings_for(postfix: Postfix, **fields: object) -> SmtpSettings:
    given: dict[str, object] = {
        "host": postfix.host,
        "port": postfix.starttls,
        "security": Security.STARTTLS,
        "user": postfix.user,
        "password": postfix.password,
        "ca_certificate": postfix.ca_pem,
        "timeout": 5.0,
        "data_timeout": 5.0,
        "connect_attempts": 1,
        "name": "test",
    }
    return SmtpSettings(**{**given, **fields})  # type: ignore[arg-type]


def without_login(postfix: Postfix, **fields: object) -> SmtpSettings:
    return settings_for(postfix, user=None, password=None, **fields)


def compose(**fields: object) -> Email:
    given = {"subject": "s", "body": "b\n", "sender": "me@example.test", "recipients": "you@example.test"}
    return Email.compose(**{**given, **fields}).with_defaults(sender=None, to=())  # type: ignore[arg-type]


def deliver_over(session: SmtpSession, email: Email) -> Delivery:
    content = Content(email)
    return deliver(session, email.envelope, content, size=content.size, message_id=email.message_id or "")


def send(settings: SmtpSettings, email: Email) -> Delivery:
    with connect(settings) as session:
        return deliver_over(session, email)


def error_of(delivery: Delivery) -> DeliveryError:
    error = incomplete_error(delivery, where="test")
    assert error is not None
    return error


def sessions(postfix: Postfix) -> list[str]:
    """What Postfix counted in each session, such as ``ehlo=2 starttls=1 quit=1 commands=4``."""
    postfix.wait_until_idle(sessions=1)
    return re.findall(r"disconnect from \S+ (.*)", postfix.log)


def delivered_to(mails: list[EmailMessage]) -> list[str]:
    return sorted(mail["Delivered-To"] for mail in mails)


@pytest.mark.parametrize(("security", "port"), [(Security.STARTTLS, "starttls"), (Security.TLS, "smtps")])
def test_a_mail_goes_over_tls_with_a_login(postfix: Postfix, security: Security, port: str) -> None:
    with connect(settings_for(postfix, security=security, port=getattr(postfix, port))) as session:
        assert (session.is_encrypted, session.mechanism) == (True, "PLAIN")
        assert deliver_over(session, compose()).complete
    (mail,) = postfix.wait_for(1)
    assert "with ESMTPSA" in mail["Received"], "Postfix saw TLS and a login (RFC 3848)"
    assert "sasl_method=PLAIN, sasl_username=user@example.test" in postfix.log


def test_login_is_the_mechanism_in_clear_on_loopback(postfix: Postfix) -> None:
    with connect(settings_for(postfix, security=Security.NONE, port=postfix.plain)) as session:
        assert (session.is_encrypted, session.mechanism) == (False, "LOGIN")
        assert deliver_over(session, compose()).complete
    postfix.wait_for(1)
    assert "sasl_method=LOGIN, sasl_username=user@example.test" in postfix.log


@pytest.mark.parametrize(("security", "port"), [(Security.NONE, "plain"), (Security.STARTTLS, "starttls")])
def test_a_wrong_password_is_refused_for_good(postfix: Postfix, security: Security, port: str) -> None:
    settings = settings_for(postfix, security=security, port=getattr(postfix, port), password="wrong")
    with pytest.raises(PermanentDeliveryError, match=r"the login was refused .*535 5\.7\.8") as caught:
        connect(settings)
    assert caught.value.reply
    assert (caught.value.stage, caught.value.reply.code) == (Stage.AUTH, 535)
    assert "wrong" not in str(caught.value)


def test_without_a_login_the_submission_port_refuses_every_recipient(postfix: Postfix) -> None:
    error = error_of(send(without_login(postfix), compose()))
    assert isinstance(error, PermanentDeliveryError)
    assert error.reply
    assert (error.stage, error.reply.code) == (Stage.RECIPIENT, 554)
    postfix.wait_until_idle()
    assert postfix.mails() == []


def test_without_a_login_mail_for_elsewhere_is_not_relayed(postfix: Postfix) -> None:
    settings = without_login(postfix, security=Security.NONE, port=postfix.plain)
    delivery = send(settings, compose(recipients="you@example.test, you@elsewhere.test"))
    assert delivery.accepted == ("you@example.test",)
    assert "Relay access denied" in str(delivery.refused["you@elsewhere.test"])
    assert delivered_to(postfix.wait_for(1)) == ["you@example.test"]


def test_a_certificate_of_an_unknown_authority_is_refused_before_the_login(postfix: Postfix) -> None:
    with pytest.raises(PermanentDeliveryError, match="certificate is not trusted") as caught:
        connect(settings_for(postfix, ca_certificate=None))
    assert caught.value.stage is Stage.TLS
    assert "auth=" not in sessions(postfix)[0]


def test_a_server_without_starttls_gets_neither_password_nor_mail(postfix: Postfix) -> None:
    with pytest.raises(PermanentDeliveryError, match="does not offer STARTTLS"):
        connect(settings_for(postfix, port=postfix.plain))
    assert sessions(postfix) == ["ehlo=1 commands=1"]


def test_a_mail_over_the_size_limit_is_refused_before_a_byte_is_sent(postfix: Postfix) -> None:
    email = compose(attachments={"big.bin": b"x" * MESSAGE_SIZE_LIMIT})
    delivery = send(settings_for(postfix), email)
    error = error_of(delivery)
    assert isinstance(error, PermanentDeliveryError)
    assert f"the mail has {Content(email).size} octets, the server takes {MESSAGE_SIZE_LIMIT}" in str(error)
    assert delivery.refused["you@example.test"].cause is Cause.TOO_LARGE
    assert sessions(postfix) == ["ehlo=2 starttls=1 auth=1 quit=1 commands=5"]


def test_a_mail_near_the_size_limit_arrives_whole(postfix: Postfix) -> None:
    big = os.urandom(750_000)
    assert send(settings_for(postfix), compose(attachments={"big.bin": big})).complete
    (mail,) = postfix.wait_for(1)
    (attachment,) = mail.iter_attachments()
    assert attachment.get_content() == big


def test_a_450_defers_the_recipient(postfix: Postfix) -> None:
    delivery = send(settings_for(postfix), compose(recipients="grey@example.test"))
    error = error_of(delivery)
    assert isinstance(error, TransientDeliveryError)
    assert error.reply
    assert (error.stage, error.reply.code, error.reply.enhanced_status) == (Stage.RECIPIENT, 450, "4.7.1")
    assert list(delivery.deferred) == ["grey@example.test"]
    postfix.wait_until_idle()
    assert postfix.mails() == []


def test_a_greylisted_recipient_gets_the_mail_at_the_second_try_and_the_other_gets_it_once(postfix: Postfix) -> None:
    settings = settings_for(postfix)
    first = send(settings, compose(recipients=["greyonce-a@example.test", "you@example.test"]))
    assert (first.accepted, list(first.deferred)) == (("you@example.test",), ["greyonce-a@example.test"])
    second = send(settings, compose(recipients=list(first.deferred)))
    assert second.accepted == ("greyonce-a@example.test",)
    assert delivered_to(postfix.wait_for(2)) == ["greyonce-a@example.test", "you@example.test"]


def test_the_others_get_the_mail_when_one_of_three_is_refused(postfix: Postfix) -> None:
    delivery = send(
        settings_for(postfix), compose(recipients="a@example.test", cc="reject@example.test, c@example.test")
    )
    assert delivery.accepted == ("a@example.test", "c@example.test")
    assert list(delivery.refused) == ["reject@example.test"]
    error = error_of(delivery)
    assert isinstance(error, PermanentDeliveryError)
    assert error.reply
    assert (error.reply.code, error.reply.enhanced_status) == (550, "5.1.1")
    assert "Accepted: a@example.test, c@example.test." in str(error)
    assert delivered_to(postfix.wait_for(2)) == ["a@example.test", "c@example.test"]


def test_the_session_goes_on_after_a_mail_that_everybody_was_refused(postfix: Postfix) -> None:
    with connect(settings_for(postfix)) as session:
        assert not deliver_over(session, compose(recipients="reject@example.test")).accepted
        assert deliver_over(session, compose()).complete
    assert delivered_to(postfix.wait_for(1)) == ["you@example.test"]
    assert sessions(postfix) == ["ehlo=2 starttls=1 auth=1 mail=2 rcpt=1/2 data=1/2 rset=1 quit=1 commands=10/12"]


def test_a_local_part_beyond_ascii_arrives_by_smtputf8(postfix: Postfix) -> None:
    assert send(settings_for(postfix), compose(recipients="Jörg <jörg@example.test>")).complete
    postfix.wait_for(1)
    (content,) = postfix.contents()
    assert "\nDelivered-To: jörg@example.test\n".encode() in content
    assert "\n <jörg@example.test>\n".encode() in content
    assert b"with UTF8SMTPSA" in content


def test_an_international_domain_arrives_as_its_a_label(postfix: Postfix) -> None:
    delivery = send(settings_for(postfix), compose(recipients="you@bücher.test"))
    assert delivery.accepted == (f"you@{IDN}",)
    (mail,) = postfix.wait_for(1)
    assert (mail["Delivered-To"], mail["To"]) == (f"you@{IDN}", f"you@{IDN}")


def test_a_local_part_beyond_ascii_in_an_international_domain_arrives(postfix: Postfix) -> None:
    assert send(settings_for(postfix), compose(recipients="jörg@bücher.test")).complete
    postfix.wait_for(1)
    (content,) = postfix.contents()
    assert f"\nDelivered-To: jörg@{IDN}\n".encode() in content


def rich_mail() -> Email:
    return compose(
        subject="Größe: ✓ " + "a long subject " * 20,
        body="<p>Grüße, ✓</p>\n.\n" + "<b>x</b>" * 500 + "\n From here\nFrom there\n\n",
        text="Grüße ✓\n.\n..\nFrom there\n" + "y" * 2000 + "\ttrailing blanks  \n\n",
        is_html=True,
        recipients='"Doe, Jörg" <you@example.test>',
        cc="cc@example.test",
        headers={"X-Long": "word " * 300 + "end", "X-Odd": "tab and ✓"},
        attachments={"Bericht ✓.bin": bytes(range(256)) * 300, "page.html": b"<p>\r\n.\r\nlone \r and \n</p>"},
    )


def test_the_content_arrives_octet_for_octet_below_postfixs_own_header(postfix: Postfix) -> None:
    email = rich_mail()
    content = Content(email)
    # A boundary is made for each Content, so the same object has to be sent and compared.
    with connect(settings_for(postfix)) as session:
        assert deliver(session, email.envelope, content, size=content.size).complete
    sent = b"".join(content).replace(b"\r\n", b"\n")
    postfix.wait_for(2)
    for arrived in postfix.contents():
        assert arrived.endswith(b"\n" + sent)
        names = re.findall(rb"^([\w-]+):", arrived.removesuffix(sent), re.MULTILINE)
        assert names == [b"Return-Path", b"X-Original-To", b"Delivered-To", b"Received"]


def test_a_reader_gets_html_text_and_attachments_as_they_were_written(postfix: Postfix) -> None:
    email = rich_mail()
    assert send(settings_for(postfix), email).complete
    mail = postfix.wait_for(2)[0]
    html, text = mail.get_body(("html",)), mail.get_body(("plain",))
    assert html
    assert text
    assert (mail["Subject"], mail["Message-ID"]) == (email.subject, email.message_id)
    assert (html.get_content(), text.get_content()) == (email.body, email.text)
    attachments = {part.get_filename(): part.get_payload(decode=True) for part in mail.iter_attachments()}
    assert attachments == {each.name: each.open().read() for each in email.attachments}


def test_bcc_recipients_get_the_mail_and_are_named_nowhere_in_it(postfix: Postfix) -> None:
    delivery = send(settings_for(postfix), compose(bcc="secret@example.test"))
    assert delivery.accepted == ("you@example.test", "secret@example.test")
    mails = {mail["Delivered-To"]: mail for mail in postfix.wait_for(2)}
    assert sorted(mails) == ["secret@example.test", "you@example.test"]
    assert "secret" not in mails["you@example.test"].as_string()
    assert mails["secret@example.test"]["To"] == "you@example.test"
    assert mails["secret@example.test"]["Bcc"] is None


ENDS = ("\r\n.\r\n", "\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\n.\r", "\r.\r\n", "\r.\n", "\r\n\x00.\r\n")
ANOTHER = "MAIL FROM:<evil@example.test>\r\nRCPT TO:<victim@example.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nsmuggled"


def test_this_postfix_ends_data_at_a_bare_lf_so_that_a_leak_would_show(postfix: Postfix) -> None:
    with connect(settings_for(postfix)) as session:
        for command in ("MAIL FROM:<me@example.test>", "RCPT TO:<you@example.test>", "DATA"):
            session.docmd(command)
        session.send(f"Subject: s\r\n\r\nb\n.\n{ANOTHER}\r\n.\r\n")
        assert [session.getreply()[0] for _ in range(5)] == [250, 250, 250, 354, 250]
    assert delivered_to(postfix.wait_for(2)) == ["victim@example.test", "you@example.test"]


@pytest.mark.parametrize("end", [*ENDS, "".join(ENDS)], ids=repr)
@pytest.mark.parametrize("place", ["body", "html", "text", "attachment"])
def test_no_second_mail_can_be_smuggled_in(postfix: Postfix, place: str, end: str) -> None:
    words = f".first{end}{ANOTHER}{end}last"
    fields: dict[str, dict[str, object]] = {
        "body": {"body": words},
        "html": {"body": words, "text": "plain", "is_html": True},
        "text": {"body": "<p>html</p>", "text": words, "is_html": True},
        "attachment": {"attachments": {"words.txt": words.encode()}},
    }
    assert send(settings_for(postfix), compose(**fields[place])).complete
    assert sessions(postfix) == ["ehlo=2 starttls=1 auth=1 mail=1 rcpt=1 data=1 quit=1 commands=8"]
    (mail,) = postfix.wait_for(1)
    assert mail["Delivered-To"] == "you@example.test"
    assert "evil@" not in postfix.log
    assert words_in(mail, place) == (words.encode() if place == "attachment" else lines(words))


def words_in(mail: EmailMessage, place: str) -> bytes:
    if place == "attachment":
        (part,) = mail.iter_attachments()
    else:
        part = mail.get_body(("html",) if place == "html" else ("plain",))
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    # The Maildir has LF where CRLF crossed the wire, and its last line is ended even if the text's is not.
    return content if place == "attachment" else lines(content.decode().removesuffix("\n"))


def lines(text: str) -> bytes:
    """Text as it lies in a Maildir: LF for CRLF; a lone CR is content."""
    return text.replace("\r\n", "\n").encode()


def test_many_mails_go_over_one_session(postfix: Postfix) -> None:
    with connect(settings_for(postfix)) as session:
        deliveries = [deliver_over(session, compose(subject=str(number))) for number in range(30)]
    assert all(delivery.complete for delivery in deliveries)
    assert sorted(int(mail["Subject"]) for mail in postfix.wait_for(30)) == list(range(30))
    assert sessions(postfix) == ["ehlo=2 starttls=1 auth=1 mail=30 rcpt=30 data=30 quit=1 commands=95"]


@pytest.mark.parametrize(("security", "port"), [(Security.STARTTLS, "starttls"), (Security.TLS, "smtps")])
def test_a_session_ends_with_quit_and_nothing_is_lost_on_the_way(
    postfix: Postfix, security: Security, port: str
) -> None:
    with connect(settings_for(postfix, security=security, port=getattr(postfix, port))):
        pass
    (counts,) = sessions(postfix)
    assert "quit=1" in counts
    assert "/" not in counts, "no command failed"
    for sign in ("lost connection", "SSL_", "warning:", "timeout", "pipelining"):
        assert sign not in postfix.log
