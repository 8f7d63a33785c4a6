"""A connection's fields become settings, or one error that lists every problem."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from airflow_smtp_interface.mail.addresses import addr_spec
from airflow_smtp_interface.mail.errors import InterfaceInactive, InvalidSettings, RecipientNotAllowed
from airflow_smtp_interface.mail.settings import Pipelining, Security, SmtpSettings
from tests.mail.conftest import Certificates


def connection(extra: object = None, **fields: object) -> SimpleNamespace:
    given = {"conn_id": "smtp_x", "host": "mail.x.org", "login": None, "password": None, "schema": None, "port": None}
    text = extra if isinstance(extra, str) or extra is None else json.dumps(extra)
    return SimpleNamespace(**{**given, "extra": text, **fields})


def settings(extra: object = None, **fields: object) -> SmtpSettings:
    return SmtpSettings.from_connection(connection(extra, **fields))


def problems(extra: object = None, **fields: object) -> str:
    with pytest.raises(InvalidSettings) as caught:
        settings(extra, **fields)
    return str(caught.value)


def test_a_host_alone_is_enough() -> None:
    assert settings() == SmtpSettings(host="mail.x.org", name="smtp_x")


@pytest.mark.parametrize("extra", [None, "", "{}", {"to": None, "from": "", "redirect_to": [], "timeout": None}])
def test_null_and_empty_extras_mean_absent(extra: object) -> None:
    assert settings(extra) == settings()


@pytest.mark.parametrize(
    ("security", "port"), [(None, 587), ("auto", 587), ("starttls", 587), ("tls", 465), ("none", 25), ("TLS", 465)]
)
def test_the_port_follows_from_the_security(security: str | None, port: int) -> None:
    assert settings({"security": security}).port == port


@pytest.mark.parametrize(
    ("security", "port", "from_start"),
    [("auto", 465, True), ("auto", 587, False), ("tls", 1, True), ("starttls", 465, False), ("none", 465, False)],
)
def test_tls_from_the_first_byte_on_port_465_or_when_told(security: str, port: int, from_start: bool) -> None:
    assert settings({"security": security}, port=port).tls_from_start is from_start


def test_every_extra_is_read_from_json_types() -> None:
    read = settings(
        {
            "to": ["a@x.org", "b@x.org"],
            "from": "Me <me@x.org>",
            "active": False,
            "security": "none",
            "timeout": 2.5,
            "data_timeout": 60,
            "connect_attempts": 1,
            "verify_certificate": False,
            "cleartext_login": True,
            "allowed_recipients": ["Alice@X.org", "@Bücher.example"],
            "redirect_to": "stage@x.org",
            "local_hostname": "client.x.org",
            "pipelining": "off",
            "messages_per_connection": 100,
            "messages_per_minute": 30,
        },
        login="user",
        password="secret",
        port=2525,
    )
    assert [addr_spec(each) for each in read.recipients] == ["a@x.org", "b@x.org"]
    assert addr_spec(read.sender) == "me@x.org"  # type: ignore[arg-type]
    assert (read.active, read.security, read.timeout, read.data_timeout) == (False, Security.NONE, 2.5, 60.0)
    assert (read.connect_attempts, read.verify_certificate, read.cleartext_login) == (1, False, True)
    assert read.allowed_recipients == ("alice@x.org", "@xn--bcher-kva.example")
    assert (read.local_hostname, read.pipelining) == ("client.x.org", Pipelining.OFF)
    assert (read.messages_per_connection, read.messages_per_minute, read.port) == (100, 30, 2525)


def test_every_extra_is_read_from_text_as_a_uri_gives_it() -> None:
    read = settings(
        {
            "to": "a@x.org; b@x.org",
            "active": "no",
            "timeout": "0.5",
            "connect_attempts": "2",
            "verify_certificate": "off",
            "allowed_recipients": "a@x.org, @y.org",
            "messages_per_minute": "30",
        }
    )
    assert (len(read.recipients), read.active, read.timeout, read.connect_attempts) == (2, False, 0.5, 2)
    assert (read.verify_certificate, read.messages_per_minute) == (False, 30)
    assert read.allowed_recipients == ("a@x.org", "@y.org")


@pytest.mark.parametrize("break_", ["", " "])
def test_a_ca_certificate_whose_line_breaks_a_form_has_swallowed_is_read(
    certificates: Certificates, break_: str
) -> None:
    two = certificates.pem + certificates.pem
    assert settings({"ca_certificate": two.replace("\n", break_)}).ca_certificate == two


def test_a_ca_certificate_is_read(certificates: Certificates) -> None:
    assert settings({"ca_certificate": certificates.pem}).ca_certificate == certificates.pem


def test_allowed_recipients_may_be_a_rendered_list() -> None:
    assert settings({"allowed_recipients": '["a@x.org", "@y.org"]'}).allowed_recipients == ("a@x.org", "@y.org")


def test_from_falls_back_to_a_user_that_is_an_address() -> None:
    assert addr_spec(settings(login="me@x.org", password="p").sender) == "me@x.org"  # type: ignore[arg-type]
    assert settings(login="me", password="p").sender is None
    assert addr_spec(settings({"from": "f@x.org"}, login="me@x.org", password="p").sender) == "f@x.org"  # type: ignore[arg-type]


def test_the_password_is_in_no_repr() -> None:
    assert "secret" not in repr(settings(login="me", password="secret"))


@pytest.mark.parametrize(
    ("host", "read"),
    [
        ("mail.x.org.", "mail.x.org"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_the_host_is_a_name_or_an_address(host: str, read: str) -> None:
    assert settings(host=host).host == read


@pytest.mark.parametrize(
    ("extra", "fields", "problem"),
    [
        ({}, {"host": None}, "Host: is empty"),
        ({}, {"host": "smtp://mail.x.org"}, "Host: 'smtp://mail.x.org' is a URL"),
        ({}, {"host": "mail.x.org:587"}, "Host: 'mail.x.org:587' holds a port"),
        ({}, {"host": "mail x.org"}, "Host: 'mail x.org' is not a host name"),
        ({}, {"host": "1::2::3"}, "Host: has no valid address literal"),
        ({}, {"port": 0}, "Port: 0 is not between 1 and 65535"),
        ({}, {"port": 70000}, "Port: 70000 is not between"),
        ({}, {"login": "me"}, "Password: is empty, but User is set"),
        ({}, {"password": "secret"}, "User: is empty, but Password is set"),
        ({}, {"login": "me", "password": "secret\n"}, "Password: holds a line break, NUL"),
        ({}, {"login": "me\0", "password": "secret"}, "User: holds a line break, NUL"),
        ({}, {"schema": "x"}, "Schema: 'x' is not used"),
        ("{", {}, "Extra: is not JSON"),
        ("[]", {}, "Extra: is no JSON object"),
        ({"tto": "a@x.org"}, {}, "tto: there is no such field; did you mean to?"),
        ({"verify_certificat": True}, {}, "did you mean verify_certificate?"),
        ({"zzzzzz": 1}, {}, "zzzzzz: there is no such field; the fields are to, from, active"),
        ({"to": "alice"}, {}, "to: 'alice' is not an address"),
        ({"to": 5}, {}, "to: 5 is int"),
        ({"from": "a@x.org, b@x.org"}, {}, "from: 'a@x.org, b@x.org' holds more than one address"),
        ({"active": "fals"}, {}, "active: 'fals' is neither true nor false"),
        ({"security": "ssl"}, {}, "security: 'ssl' is none of auto, starttls, tls, none"),
        ({"timeout": 0}, {}, "timeout: 0 is not a positive number of seconds up to 604800"),
        ({"timeout": "nan"}, {}, "timeout: 'nan' is not a positive number of seconds"),
        ({"timeout": 10**400}, {}, "timeout: 1000"),
        ({"timeout": "1_0"}, {}, "timeout: '1_0' is not a positive number"),
        (
            {"data_timeout": 604_801},
            {},
            "data_timeout: 604801 is not a positive number of seconds up to 604800, a week; write",
        ),
        ({"timeout": True}, {}, "timeout: True is not a positive number of seconds"),
        ({"timeout": [1]}, {}, r"timeout: [1] is not a positive number of seconds"),
        ({"connect_attempts": 0}, {}, "connect_attempts: 0 is not a whole number from 1 to 1000000000"),
        ({"messages_per_minute": 10**9 + 1}, {}, "messages_per_minute: 1000000001 is not a whole number"),
        ({"connect_attempts": 1.5}, {}, "connect_attempts: 1.5 is not a whole number"),
        ({"messages_per_minute": True}, {}, "messages_per_minute: True is not a whole number"),
        ({"ca_certificate": "no PEM"}, {}, "ca_certificate: holds no PEM certificate"),
        ({"ca_certificate": 5}, {}, "ca_certificate: 5 is int, not text"),
        ({"local_hostname": "a b"}, {}, "local_hostname: has no valid domain"),
        ({"allowed_recipients": "@x.org, alice"}, {}, "allowed_recipients: 'alice' is not an address"),
        ({"allowed_recipients": 5}, {}, "allowed_recipients: 5 is int"),
        (
            {"allowed_recipients": " "},
            {},
            "allowed_recipients: holds no address; write addresses and",
        ),
        ({"allowed_recipients": ","}, {}, "allowed_recipients: holds no address"),
        ({"pipelining": "on"}, {}, "pipelining: 'on' is none of auto, off"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_field(extra: object, fields: dict[str, object], problem: str) -> None:
    text = problems(extra, **fields)
    assert text.startswith("connection 'smtp_x' cannot be used:\n- ")
    assert problem in text


def test_all_problems_are_reported_at_once_and_never_the_password() -> None:
    text = problems({"active": "x", "timeout": -1, "tto": 1}, host="", login="me\n", password="hunter\0two", port=0)
    assert text.count("\n- ") == 7
    assert "hunter" not in text


def test_an_interface_that_is_switched_off_needs_no_host() -> None:
    with pytest.raises(InterfaceInactive, match=r"connection 'smtp_x' is switched off \(Active\)"):
        settings({"active": False}, host=None).check_active()
    settings().check_active()


def test_only_allowed_recipients_may_be_written_to() -> None:
    allowed = settings({"allowed_recipients": "alice@x.org, @y.org"})
    allowed.check_allowed(["Alice@X.ORG", "anybody@Y.org"])
    with pytest.raises(RecipientNotAllowed, match=r"recipients: bob@x.org, eve@sub.y.org not among"):
        allowed.check_allowed(["alice@x.org", "bob@x.org", "eve@sub.y.org"])
    settings().check_allowed(["anybody@anywhere.org"])
