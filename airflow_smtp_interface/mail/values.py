"""Plain values from what a human or a template wrote: switches, numbers, rendered lists, lines of text."""

from __future__ import annotations

import ast
import json
import math
import re

from airflow_smtp_interface.mail.errors import InvalidEmail

CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What could end a header's line early in any reader's eyes, and lone surrogates, which have no UTF-8 form."""

_WEEK = 604_800  # seconds; far beyond it the system calls that wait raise OverflowError
_MILLIARD = 1_000_000_000
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def parse_bool(value: object) -> bool:
    """Return the truth value of a switch, strictly.

    :param value: a bool, 0, 1, or one of the words true, false, 1, 0, yes, no, on, off in any case.
    :raises ValueError: for anything else, with a text to put behind the field's name.
    """
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{value!r} is neither true nor false; write true, false, yes, no, on, off, 1 or 0")


def parse_seconds(value: object) -> float:
    """Return a positive number of seconds, fractions allowed, a week at most.

    :raises ValueError: if it is not one.
    """
    try:
        seconds = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds <= _WEEK:
        raise ValueError(
            f"{value!r} is not a positive number of seconds up to {_WEEK}, a week; write one such as 30 or 2.5"
        )
    return seconds


def parse_count(value: object) -> int:
    """Return a whole number from 1 to a milliard.

    :raises ValueError: if it is not one.
    """
    text = str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not (re.fullmatch(r"0*[1-9][0-9]{0,9}", text) and int(text) <= _MILLIARD):
        raise ValueError(f"{value!r} is not a whole number from 1 to {_MILLIARD}")
    return int(text)


def rendered_collection(text: str) -> object | None:
    """Return the list, tuple, set or mapping that a template rendered as text, or None if it is other text.

    Airflow renders ``"{{ ti.xcom_pull('make_list') }}"`` to Python's notation (``['a@x', 'b@y']``) unless the Dag
    renders native objects; ``{{ … | tojson }}`` gives JSON.

    :raises ValueError: if the text begins like a collection but cannot be read as one.
    """
    text = text.strip(" \t\r\n")
    if text[:1] + text[-1:] not in ("[]", "()", "{}"):
        return None
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise ValueError("begins like a list, but is neither JSON nor a Python list") from None
    return value


def one_line(text: object, *, field: str) -> str:
    """Return a text that is to stand in a header.

    :raises InvalidEmail: if it is not text, or holds a line break or another control character.
    """
    if not isinstance(text, str):
        raise InvalidEmail(_not_text(text, field))
    if found := CONTROL_CHARACTER.search(text):
        raise InvalidEmail(f"{field}: {text!r} holds the control character U+{ord(found[0]):04X}; remove it")
    return text


def encodable(text: object, *, field: str) -> str:
    """Return a text that is to be sent as UTF-8.

    :raises InvalidEmail: if it is not text, or holds a lone surrogate.
    """
    if not isinstance(text, str):
        raise InvalidEmail(_not_text(text, field))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidEmail(
            f"{field}: holds the lone surrogate U+{ord(text[error.start]):04X} at position {error.start}, "
            "which has no UTF-8 form; decode the text with the right encoding"
        ) from None
    return text


def _not_text(value: object, field: str) -> str:
    return (
        f"{field}: {value!r} is {type(value).__name__}, not text; wrap it in str(), or pass a template that gives text"
    )
