"""Text written by a human becomes addresses, or an error that names field, text and remedy."""

from __future__ import annotations

from email.headerregistry import Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_smtp_interface.mail.addresses import addr_spec, parse_address, parse_addresses
from airflow_smtp_interface.mail.errors import InvalidAddress


def specs(text: object) -> list[str]:
    return [addr_spec(address) for address in parse_addresses(text, field="recipients")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a@x.org", ["a@x.org"]),
        ("a@x.org, b@x.org; c@x.org\nd@x.org\r\ne@x.org", ["a@x.org", "b@x.org", "c@x.org", "d@x.org", "e@x.org"]),
        (" a@x.org ,; \n", ["a@x.org"]),
        ('"Doe, Jane" <jane@x.org>, "a;b" <b@x.org>', ["jane@x.org", "b@x.org"]),
        (["a@x.org", "Bob <b@x.org>"], ["a@x.org", "b@x.org"]),
        (("a@x.org", "b@x.org"), ["a@x.org", "b@x.org"]),
        ({"b@x.org", "a@x.org"}, ["a@x.org", "b@x.org"]),
        ((each for each in ["a@x.org", "b@x.org"]), ["a@x.org", "b@x.org"]),
        ("['a@x.org', 'b@x.org']", ["a@x.org", "b@x.org"]),
        ('["a@x.org", "b@x.org"]', ["a@x.org", "b@x.org"]),
        ("('a@x.org',)", ["a@x.org"]),
        ("{'b@x.org', 'a@x.org'}", ["a@x.org", "b@x.org"]),
        ("<a@x.org>", ["a@x.org"]),
        ("a@localhost", ["a@localhost"]),
        ("a@mail.local", ["a@mail.local"]),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"]),
        ("a@[IPv6:2001:db8::1]", ["a@[IPv6:2001:db8::1]"]),
        ('"a b"@x.org', ['"a b"@x.org']),
        ('"a@evil> x"@y.org', ['"a@evil> x"@y.org']),
        ('"a\\"b"@x.org', ['"a\\"b"@x.org']),
        ('"a..b"@x.org', ['"a..b"@x.org']),
        ("a+b.c='d@x.org", ["a+b.c='d@x.org"]),
        ("info@bücher.example", ["info@xn--bcher-kva.example"]),
        ("info@BÜCHER.Example", ["info@xn--bcher-kva.Example"]),
        ("info@xn--bcher-kva.example", ["info@xn--bcher-kva.example"]),
        ("jörg@x.org", ["jörg@x.org"]),
        (None, []),
    ],
)
def test_addresses_are_read_from_every_form_that_people_and_templates_write(text: object, expected: list[str]) -> None:
    assert specs(text) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Jörg Müller <j@x.org>", "Jörg Müller"),
        ('"Doe, Jane" <j@x.org>', "Doe, Jane"),
        ('"say \\"hi\\"" <j@x.org>', 'say "hi"'),
        ("J. O'Neil <j@x.org>", "J. O'Neil"),
        ("=?utf-8?q?x?= <j@x.org>", "=?utf-8?q?x?="),
        ("<j@x.org>", ""),
        ('"" <j@x.org>', ""),
    ],
)
def test_the_name_is_what_stands_before_the_angle_brackets(text: str, name: str) -> None:
    assert parse_address(text, field="to").display_name == name


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "is empty"),
        (" ,;\n", "is empty"),
        ([], "is empty"),
        ("[]", "is empty"),
        ("None", "a template may have rendered to nothing"),
        (["None"], "a template may have rendered to nothing"),
        (["a@x.org", ""], "a template may have rendered to nothing"),
        ("a@x.org\0", "U+0000"),
        ("a@x.org\x0b", "U+000B"),
        ("a@x.org\x0c", "U+000C"),
        ("a@x.org\x85", "U+0085"),
        ("a@x.org\u2028", "U+2028"),
        ("\u202ea@x.org", "U+202E"),
        ("\ud800@x.org", "U+D800"),
        (["a@x.org\r\nBcc: evil@x.org"], "U+000D"),
        (["a@x.org\n"], "U+000A"),
        ("Team: a@x.org, b@x.org;", "group"),
        ("Team: <a@x.org>", "group"),
        ("<@relay.org:a@x.org>", "source route"),
        ("@relay.org,@b.org:a@x.org", "source route"),
        ("a@x.org (Jane)", "comment"),
        ("(Jane) a@x.org", "comment"),
        ("Jane (Sales) <a@x.org>", "comment"),
        ("alice@a<bob@b>", "quote the name"),
        ("a@x.org <b@x.org>", "quote the name"),
        ("alice＠x.org", "full-width"),
        ("ａlice@x.org", "full-width"),
        ("alice@ｘ.org", "U+FF58"),
        ("alice@\u212ax.org", "another spelling"),
        ("alice@x\u3002org", "U+3002"),
        ("one@x.org> NOTIFY=NEVER ORCPT=rfc822;a", "angle brackets"),
        ("<a@x.org", "angle bracket"),
        ("<a@x.org> b", "angle brackets"),
        (["a@x.org, b@x.org"], "one address an item"),
        ([None], "NoneType"),
        ([1], "int"),
        (5, "int"),
        (b"a@x.org", "bytes"),
        ({"a@x.org": 1}, "dict"),
        ("{'a@x.org': 1}", "dict"),
        ("[a@x.org]", "list"),
        ("a@x..org", "label"),
        ("a@-x.org", "label"),
        ("a@x_y.org", "label"),
        ("a@x.org:25", "label"),
        ("a@", "label"),
        ("a@b@x.org", "label"),
        ("a@[300.1.1.1]", "address literal"),
        ("a@[IPv6:zz]", "address literal"),
        ("a@[127.0.0.1", "address literal"),
        ("a:b@x.org", "colon"),
        ("alice", "is not an address"),
        ("a..b@x.org", "is not an address"),
        (".a@x.org", "is not an address"),
        ("a b@x.org", "is not an address"),
        ('""@x.org', "is not an address"),
        ('"a"b@x.org', "is not an address"),
        ('"a@x.org', "is not an address"),
        ("x" * 65 + "@x.org", "64 octets"),
        ("a@" + "x." * 128 + "org", "255 octets"),
    ],
)
def test_anything_else_is_refused_with_field_text_and_remedy(text: object, remedy: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        parse_addresses(text, field="recipients")
    assert str(caught.value).startswith("recipients: ")
    assert remedy in str(caught.value)


def test_a_local_part_with_invalid_idn_names_the_domain() -> None:
    with pytest.raises(InvalidAddress, match="international domain"):
        parse_addresses("a@☃☃-.org", field="cc")


ATOM = "abcXYZ019!#$%&'*+/=?^_`{|}~-"
local_parts = st.one_of(
    st.lists(st.text(ATOM, min_size=1, max_size=8), min_size=1, max_size=3).map(".".join),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30),
)
labels = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?", fullmatch=True)
domains = st.lists(labels, min_size=1, max_size=4).map(".".join)
names = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["Cc", "Cs"]), max_size=40)


@given(local_parts, domains, names)
def test_an_address_written_out_is_read_back(local: str, domain: str, name: str) -> None:
    address = Address(display_name=name, username=local, domain=domain)
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_address(f'"{quoted}" <{addr_spec(address)}>', field="to") == address


_PIECES = st.lists(
    st.sampled_from(
        [
            "a",
            "b.c",
            "jörg",
            '"',
            '"x y"',
            "\\",
            "@",
            "@x.org",
            "@[192.0.2.1]",
            "@bücher.example",
            "<",
            ">",
            ".",
            ",",
            " ",
            "(",
            "\r\n",
            "\0",
        ]
    ),
    max_size=6,
).map("".join)


@given(_PIECES | st.text(max_size=40))
def test_any_text_is_an_address_that_reads_back_or_an_invalid_one(text: str) -> None:
    try:
        (address,) = parse_addresses([text], field="to")
    except InvalidAddress:
        return
    assert "\r" not in addr_spec(address)
    assert addr_spec(parse_address(addr_spec(address), field="to")) == addr_spec(address)
