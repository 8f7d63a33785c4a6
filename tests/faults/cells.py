"""The matrix as data: what a server, or somebody on the way to it, does, and what a sender then has to say.

Each mail is for a@x.org and b@x.org. Lost or odd before the final dot means that nobody got it, after it that only a
human knows; a 4xx or 5xx is believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_smtp_interface.mail.errors import (
    DeliveryError,
    OutcomeUnknown,
    PermanentDeliveryError,
    Stage,
    TransientDeliveryError,
)
from airflow_smtp_interface.mail.settings import Security
from tests.peers.fault_server import Authority, Fault, FaultServer

A, B = "a@x.org", "b@x.org"
BOTH = (A, B)
USER, PASSWORD = "user", "hunter2"
TIMEOUT = 0.6  # seconds; the cells' ``seconds`` count in it
BIG = 6_000_000  # octets of an attachment, more than the sockets' buffers hold


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fault and what is right then.

    :param name: unique.
    :param way: how the sender is told to reach the server.
    :param faults: as :meth:`Fault.parse` reads them.
    :param server: further options of the fault server.
    :param flaw: what is wrong with its certificate.
    :param speaks: the way it expects, where that is not the sender's.
    :param listens: whether it runs at all.
    :param login: whether the sender has a user and a password.
    :param attachment: octets.
    :param extra: further fields of our connection.
    :param error: the class of the error, exactly; None where everybody gets the mail.
    :param stage: where the error says that it happened.
    :param words: a regular expression for the server's or the socket's words in its text.
    :param accepted: recipients that get it. ``refused``, ``deferred`` and ``unknown`` are the other groups.
    :param commits: how many mails the server keeps.
    :param seconds: what the faults may take, beside the sender's own time.
    :param pauses: seconds at least, for the growing pauses between attempts.
    :param connections: that the server sees.
    """

    name: str
    way: Security = Security.STARTTLS
    faults: tuple[str, ...] = ()
    server: Mapping[str, object] = field(default_factory=dict)
    flaw: str = ""
    speaks: Security | None = None
    listens: bool = True
    login: bool = True
    attachment: int = 0
    extra: Mapping[str, object] = field(default_factory=dict)
    error: type[DeliveryError] | None = None
    stage: Stage | None = None
    words: str = ""
    accepted: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    commits: int = 0
    seconds: float = 0
    pauses: float = 0
    connections: int = 1

    @property
    def only_ours(self) -> bool:
        """Whether it is about fields that only our connection has."""
        return not {"connect_attempts", "data_timeout", "pipelining"}.isdisjoint(self.extra)

    @property
    def copies(self) -> Counter[str]:
        """What the server keeps for each recipient."""
        kept = self.accepted + self.unknown or BOTH  # a server that lies keeps it for those that it refuses
        return Counter(kept * self.commits)

    def start(self, authority: Authority) -> FaultServer:
        """Return its server, to be entered."""
        speaks = self.speaks or self.way
        options: dict[str, Any] = {
            "plan": [Fault.parse(text) for text in self.faults],
            "tls": None if speaks is Security.NONE else authority.context(self.flaw),
            "implicit_tls": speaks is Security.TLS,
            "auth": ("PLAIN", "LOGIN"),
            "auth_before_tls": speaks is Security.NONE,
            "users": {USER: PASSWORD},
        }
        return FaultServer(**{**options, **self.server}, listens=self.listens)


def cell(*faults: str, **fields: Any) -> Cell:
    return Cell(**{"name": ", ".join(faults), "faults": faults, **fields})


def works(*faults: str, **fields: Any) -> Cell:
    """Everybody gets it."""
    return cell(*faults, **{"accepted": BOTH, "commits": 1, **fields})


def fails(*faults: str, error: type[DeliveryError] = TransientDeliveryError, **fields: Any) -> Cell:
    """Nobody gets it, unless the fields say who does."""
    told = fields["stage"] not in (Stage.CONNECT, Stage.TLS, Stage.AUTH)
    if told and not fields.keys() & {"refused", "deferred", "unknown"}:
        fields["refused" if error is PermanentDeliveryError else "deferred"] = BOTH
    return cell(*faults, error=error, **fields)


def in_doubt(*faults: str, **fields: Any) -> Cell:
    """Only a human knows who gets it."""
    kept = int(faults[-1].endswith("!"))
    given = {"stage": Stage.ACCEPTANCE, "unknown": BOTH, "commits": kept, **fields}
    return fails(*faults, error=OutcomeUnknown, **given)


def changed(cells: Iterable[Cell], prefix: str, **fields: Any) -> list[Cell]:
    return [replace(each, name=f"{prefix}: {each.name}", **fields) for each in cells]


LATER, NEVER, CLOSING = "450 4.7.1 later", "550 5.7.1 never", "421 4.3.2 going down"
REFUSALS = {LATER: TransientDeliveryError, NEVER: PermanentDeliveryError, CLOSING: TransientDeliveryError}
HUNG_UP = r"closed|reset|EOF|[Bb]roken pipe"
SILENT = r"in time|within \S+ s|timed out|stopped reading"
# What comes in the place of a reply, and the words for it.
LOSSES = {
    **dict.fromkeys(("drop", "reset", "half"), HUNG_UP),
    **dict.fromkeys(("hang", "drip"), SILENT),
    "garbage": "garbage",
    "no-code": "go on",
    "mixed-codes": "two",
    "long-line": r"more than \d+ octets|too long",
}
ODDITIES = ("40-lines", "slow", "pieces", "bare-lf")
FLAWS = {
    "wrong-host": r"mismatch|doesn't match|not valid for",
    "expired": "expired",
    "self-signed": "self-signed",
    "unknown-authority": "local issuer",
    "old-tls": r"(?i:version)",
}


def words_of(reply: str) -> str:
    """The text without the code: smtplib writes the two apart."""
    return reply.partition(" ")[2].replace(".", r"\.").rstrip("!")


def seconds_of(action: str) -> float:
    return TIMEOUT if LOSSES[action] == SILENT else 0


def refusals(stage: str, where: Stage, **fields: Any) -> list[Cell]:
    return [
        fails(f"{stage}={reply}", error=error, stage=where, words=words_of(reply), **fields)
        for reply, error in REFUSALS.items()
    ]


def losses(stage: str, where: Stage, actions: Iterable[str] = tuple(LOSSES)) -> list[Cell]:
    return [
        fails(f"{stage}={action}", stage=where, words=LOSSES[action], seconds=seconds_of(action)) for action in actions
    ]


def oddities(stage: str) -> list[Cell]:
    return [works(f"{stage}={action}") for action in ODDITIES]


def everything(stage: str, where: Stage) -> list[Cell]:
    return refusals(stage, where) + losses(stage, where) + oddities(stage)


def ehlo(stage: str = "ehlo") -> list[Cell]:
    """After a 5xx HELO is tried (RFC 5321 section 3.2); here it is refused as well."""
    return [
        replace(each, faults=(*each.faults, f"helo={NEVER}")) if NEVER in each.name else each
        for each in everything(stage, Stage.CONNECT)
    ]


def handshake() -> list[Cell]:
    permanent: dict[str, Any] = {"error": PermanentDeliveryError, "stage": Stage.TLS}
    plain_text = r"does not speak TLS|(?i:wrong.version)"
    flaws = [fails(name=f"certificate {flaw}", flaw=flaw, words=words, **permanent) for flaw, words in FLAWS.items()]
    ignored = [
        works(name=f"certificate {flaw}, not verified", flaw=flaw, extra={"verify_certificate": False})
        for flaw in FLAWS
        if flaw != "old-tls"
    ]
    return [
        *losses("handshake", Stage.TLS, ("drop", "reset", "half", "hang", "drip")),
        *(
            fails(f"handshake={action}", words=plain_text, **permanent)
            for action in ("garbage", "no-code", "454 4.7.0 no TLS now")
        ),
        works("handshake=slow"),
        *flaws,
        *ignored,
    ]


def encryption() -> list[Cell]:
    """STARTTLS that somebody takes away, or misuses."""

    def missing(*faults: str, **fields: Any) -> Cell:
        words = r"not offer STARTTLS|STARTTLS extension not supported"
        return fails(*faults, error=PermanentDeliveryError, stage=Stage.TLS, words=words, **fields)

    stripped = {"stripped": ("STARTTLS",)}
    return [
        missing(name="STARTTLS stripped", server=stripped),
        missing(name="STARTTLS stripped, AUTH in clear", server={**stripped, "auth_before_tls": True}),
        missing(name="no TLS, AUTH in clear", speaks=Security.NONE),
        missing("ehlo=502 5.5.1 what?", name="no EHLO"),
        fails("starttls=inject", error=PermanentDeliveryError, stage=Stage.TLS, words="tampering"),
        tls_port(),
    ]


def tls_port() -> Cell:
    fields = {"name": "a port for TLS", "words": "speaks TLS|timed out|closed", "speaks": Security.TLS}
    return fails(error=PermanentDeliveryError, stage=Stage.CONNECT, seconds=TIMEOUT, **fields)


def login() -> list[Cell]:
    def cannot(name: str, words: str, **server: object) -> Cell:
        return fails(name=name, words=words, server=server, error=PermanentDeliveryError, stage=Stage.AUTH)

    by_prompts = {"auth": ("LOGIN",)}
    missing = "offers no login|not supported"
    return [
        *everything("auth", Stage.AUTH),
        *changed(everything("prompt", Stage.AUTH), "AUTH LOGIN", server=by_prompts),
        fails("auth=334 more?", stage=Stage.AUTH, words="more"),
        fails("auth=250 2.0.0 hm", stage=Stage.AUTH, words="hm"),
        cannot("wrong password", "no such login", users={USER: "other"}),
        cannot("wrong password, AUTH LOGIN", "no such login", users={USER: "other"}, **by_prompts),
        cannot("AUTH not offered", missing, auth=()),
        cannot("AUTH only before TLS", missing, auth_before_tls=True, auth_under_tls=False),
        cannot("AUTH of unknown mechanisms", "GSSAPI|[Nn]o suitable", auth=("GSSAPI", "NTLM")),
        works(name="AUTH LOGIN", server=by_prompts),
        works(name="AUTH CRAM-MD5", server={"auth": ("CRAM-MD5",)}),
        works(name="no login", login=False),
    ]


def one_recipient(recipient: str) -> list[Cell]:
    """A refusal is one recipient's; what ends the session is everybody's."""
    stage, others = f"rcpt:{recipient}", tuple(each for each in BOTH if each != recipient)
    later, never, closing = refusals(stage, Stage.RECIPIENT)
    return [
        replace(later, deferred=(recipient,), accepted=others, commits=1),
        replace(never, refused=(recipient,), accepted=others, commits=1),
        closing,
        *losses(stage, Stage.RECIPIENT),
        *oddities(stage),
    ]


def mixed_recipients() -> list[Cell]:
    """Unknown outweighs deferred, deferred outweighs refused."""
    a_later, a_never, b_later, b_never = (f"rcpt:{each}={reply}" for each in BOTH for reply in (LATER, NEVER))
    rcpt, end = Stage.RECIPIENT, Stage.ACCEPTANCE
    b_deferred: dict[str, Any] = {"refused": (A,), "deferred": (B,)}
    a_deferred: dict[str, Any] = {"refused": (B,), "deferred": (A,)}
    later, never = words_of(LATER), words_of(NEVER)
    return [
        fails(a_never, b_later, stage=rcpt, words=later, **b_deferred),
        fails(a_later, b_never, stage=rcpt, words=later, **a_deferred),
        fails(a_never, "rcpt:b@x.org=drop", stage=rcpt, words=HUNG_UP, **b_deferred),
        fails(a_never, f"rcpt:b@x.org={CLOSING}", stage=rcpt, words=words_of(CLOSING), **b_deferred),
        fails(a_never, "data=drop", stage=Stage.DATA, words=HUNG_UP, **b_deferred),
        fails(a_never, f"data={LATER}", stage=Stage.DATA, words=later, **b_deferred),
        fails(a_later, f"data={NEVER}", stage=rcpt, words=f"{later}|{never}", **a_deferred),
        fails(a_never, f"body={LATER}", stage=end, words=later, **b_deferred),
        fails(a_later, f"body={NEVER}", stage=rcpt, words=f"{later}|{never}", **a_deferred),
        *(
            in_doubt(
                *(a_never, f"body={action}"),
                words=LOSSES[action],
                seconds=seconds_of(action),
                refused=(A,),
                unknown=(B,),
            )
            for action in ("drop", "reset", "hang", "garbage")
        ),
        in_doubt(a_later, "body=drop!", words=HUNG_UP, deferred=(A,), unknown=(B,)),
        *(
            fails(
                *(a_never, f"body={action}"),
                error=PermanentDeliveryError,
                stage=rcpt,
                words=never,
                refused=(A,),
                accepted=(B,),
                commits=1,
            )
            for action in ("then-drop", "then-reset", "slow")
        ),
        fails(f"rcpt={NEVER}", "data=354 go on", error=PermanentDeliveryError, stage=rcpt, words=never),
        fails(f"rcpt={LATER}", "data=354 go on", stage=rcpt, words=later),
        # A server that has forgotten its refusal: nobody shall get an empty mail.
        fails(*(f"mail={NEVER}", "rcpt=250 2.1.5 ok"), error=PermanentDeliveryError, stage=Stage.SENDER, words=never),
        fails(name="452 for everybody", server={"max_recipients": 0}, stage=rcpt, words="too many"),
        fails(
            name="452 after one recipient",
            server={"max_recipients": 1},
            stage=rcpt,
            words="too many",
            accepted=(A,),
            deferred=(B,),
            commits=1,
        ),
        works("rcpt:b@x.org=251 2.1.5 will forward"),
        works("rcpt:b@x.org=252 2.1.5 cannot tell"),
    ]


def after_the_dot() -> list[Cell]:
    refused = refusals("body", Stage.ACCEPTANCE)
    # A server that keeps the mail and says that it does not: no client can know.
    lies = [replace(each, name=f"{each.name}!", faults=(f"{each.faults[0]}!",), commits=1) for each in refused]
    return [
        *refused,
        *lies,
        *(
            in_doubt(f"body={action}{kept}", words=words, seconds=seconds_of(action))
            for action, words in LOSSES.items()
            for kept in ("", "!")
        ),
        *(in_doubt(f"body={reply}", words=words_of(reply)) for reply in ("354 go on", "354 go on!", "334 more!")),
        *oddities("body"),
        *(works(f"body={action}") for action in ("then-drop", "then-reset", "inject")),
    ]


def content() -> list[Cell]:
    """The server breaks off before the dot: the mail is big, so the sender cannot have come to it."""
    cells = [
        each
        for stage in ("content", "midway")
        for each in (
            *refusals(stage, Stage.CONTENT),
            *losses(stage, Stage.CONTENT, ("drop", "reset", "half", "hang", "drip", "garbage", "no-code", "long-line")),
        )
    ]
    cells += [fails("content=250 2.0.0 hm", stage=Stage.CONTENT, words="hm"), works(name="no fault")]
    small = in_doubt("content=hang", words=SILENT, seconds=TIMEOUT)
    return [*changed(cells, "big", attachment=BIG), small]


def hung_up_after_a_good_reply() -> list[Cell]:
    """It shows at the next command."""
    next_stage = {
        "connect": Stage.CONNECT,
        "ehlo": Stage.TLS,
        "starttls": Stage.TLS,
        "ehlo+1": Stage.AUTH,
        "auth": Stage.SENDER,
        "mail": Stage.RECIPIENT,
        "rcpt:b@x.org": Stage.DATA,
    }
    return [
        fails(f"{stage}={action}", stage=where, words=HUNG_UP)
        for stage, where in next_stage.items()
        for action in ("then-drop", "then-reset")
    ]


def odd_codes() -> list[Cell]:
    return [
        fails("mail=354 go on", stage=Stage.SENDER, words="go on"),
        fails("rcpt=354 go on", stage=Stage.RECIPIENT, words="go on"),
        fails("rcpt:b@x.org=354 go on", stage=Stage.RECIPIENT, words="go on"),
        fails("data=250 2.0.0 hm", stage=Stage.DATA, words="hm"),
        # One reply too many: each further one is taken for the next command's, until one does not fit.
        *(
            fails(f"{stage}=inject", stage=Stage.DATA, words="ok|injected")
            for stage in ("mail", f"rcpt:{A}", f"rcpt:{B}")
        ),
    ]


def bare_codes() -> list[Cell]:
    """Replies without any text."""
    return [works(fault) for fault in ("connect=220", "auth=235", "mail=250", "rcpt=250", "data=354", "body=250!")]


def size() -> list[Cell]:
    too_large: dict[str, Any] = {
        "error": PermanentDeliveryError,
        "stage": Stage.SENDER,
        "words": "server takes 99|too large",
    }
    return [
        fails(name="larger than SIZE", server={"extensions": ("SIZE 99",)}, **too_large),
        works(name="SIZE 0 is no limit", server={"extensions": ("SIZE 0",)}),
        works(name="no extensions", server={"extensions": ()}),
    ]


def after_the_mail() -> list[Cell]:
    """What comes once the result is known changes nothing."""
    quits = [works(f"quit={action}") for action in (*REFUSALS, *LOSSES, *ODDITIES)]
    resets = [
        fails(
            *(f"mail={NEVER}", f"rset={action}"),
            error=PermanentDeliveryError,
            stage=Stage.SENDER,
            words=words_of(NEVER),
            seconds=seconds_of(action) if action in LOSSES else 0,
        )
        for action in ("drop", "reset", "hang", "garbage", CLOSING, NEVER)
    ]
    return quits + resets


def everywhere() -> list[Cell]:
    stages = ("connect", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body", "quit")
    return [
        works(*(f"{stage}={action}" for stage in stages), name=f"{action} everywhere", seconds=seconds)
        for action, seconds in zip(ODDITIES, (0, 4, 1, 0), strict=True)
    ]


def transaction() -> list[Cell]:
    """The faults that matter most from MAIL on."""
    stages = {"mail": Stage.SENDER, "rcpt": Stage.RECIPIENT, "data": Stage.DATA}
    return [
        *(each for stage, where in stages.items() for each in refusals(stage, where)),
        *(each for stage, where in stages.items() for each in losses(stage, where, ("drop", "hang"))),
        *one_recipient(B)[:4],
        *refusals("body", Stage.ACCEPTANCE),
        *(in_doubt(f"body={action}!", words=LOSSES[action], seconds=seconds_of(action)) for action in ("drop", "hang")),
        works("body=then-drop"),
        works("quit=drop"),
        works(name="no fault"),
    ]


def nothing_listens() -> Cell:
    return fails(name="nothing listens", listens=False, stage=Stage.CONNECT, words="refused", connections=0)


def plain() -> list[Cell]:
    no_login = [
        *everything("connect", Stage.CONNECT),
        *ehlo(),
        *transaction(),
        works("ehlo=502 5.5.1 what?", name="no EHLO"),
        nothing_listens(),
        tls_port(),
    ]
    return changed(no_login, "plain", way=Security.NONE, login=False) + changed(
        [works(name="AUTH over loopback")], "plain", way=Security.NONE
    )


def implicit_tls() -> list[Cell]:
    plain_port: dict[str, Any] = {
        "name": "a plain port",
        "speaks": Security.STARTTLS,
        "words": r"does not speak TLS|(?i:wrong.version)",
    }
    cells = [
        *everything("connect", Stage.CONNECT),
        *handshake(),
        *transaction(),
        *refusals("auth", Stage.AUTH),
        nothing_listens(),
        fails(error=PermanentDeliveryError, stage=Stage.TLS, **plain_port),
    ]
    return changed(cells, "TLS", way=Security.TLS)


def attempts() -> list[Cell]:
    """*Connect attempts* repeat what comes before MAIL, with growing pauses, and nothing else."""
    pause = (0, 0.25, 0.75)
    again = [
        works(f"{fault}*{times}", connections=times + 1, pauses=pause[times])
        for times in (1, 2)
        for fault in ("connect=drop", f"connect={LATER}", "ehlo=reset", "starttls=454 4.7.0 busy", "handshake=drop")
    ]
    again += [
        works(f"{fault}*1", connections=2, pauses=pause[1])
        for fault in ("connect=garbage", "starttls=drop", "ehlo+1=drop", "auth=454 4.7.0 busy", "auth=drop")
    ]
    first = {
        ("connect=421 4.3.2 busy*1", "connect=drop"): (Stage.CONNECT, "busy"),
        ("auth=454 4.7.0 busy*1", "connect+1=drop"): (Stage.AUTH, "busy"),
        ("handshake=drop*1", f"connect+1={LATER}"): (Stage.TLS, HUNG_UP),
        ("starttls=454 4.7.0 busy*1", "connect+1=garbage"): (Stage.TLS, "busy"),
    }
    told = [fails(*faults, stage=where, words=words, connections=3) for faults, (where, words) in first.items()]
    once = [
        *(each for each in [*refusals("connect", Stage.CONNECT), *refusals("auth", Stage.AUTH)] if NEVER in each.name),
        *(each for each in handshake() if each.flaw == "expired" and each.error),
        *encryption()[:1],
        *(
            each
            for stage in _STAGES
            for each in refusals(stage, _STAGES[stage]) + losses(stage, _STAGES[stage], ["drop"])
        ),
        *(in_doubt(f"body={action}", words=HUNG_UP) for action in ("drop", "drop!", "reset!")),
    ]
    given_up = [replace(each, pauses=0.75) for each in [*told, nothing_listens()]]
    return changed([*again, *given_up, *once], "3 attempts", extra={"connect_attempts": 3})


_STAGES = {"mail": Stage.SENDER, "rcpt": Stage.RECIPIENT, "data": Stage.DATA}


def patience() -> list[Cell]:
    """*Data timeout* is for the reply to the final dot, *Timeout* for all others."""
    patient, short = {"timeout": TIMEOUT, "data_timeout": 30}, {"timeout": 30, "data_timeout": TIMEOUT}
    return [
        works("body=late", name="a late reply to the dot", extra=patient, seconds=1),
        replace(losses("data", Stage.DATA, ["hang"])[0], name="a long data timeout, data=hang", extra=patient),
        *changed(
            [in_doubt(f"body={action}!", words=SILENT, seconds=TIMEOUT) for action in ("hang", "drip")],
            "a short data timeout",
            extra=short,
        ),
    ]


def pipelining() -> list[Cell]:
    unoffered = {"extensions": ("SIZE 10485760", "8BITMIME")}
    return changed(transaction(), "no PIPELINING", server=unoffered) + changed(
        one_recipient(A) + odd_codes(), "pipelining off", extra={"pipelining": "off"}
    )


CELLS = [
    works(name="no fault"),
    *everything("connect", Stage.CONNECT),
    nothing_listens(),
    *ehlo(),
    *ehlo("ehlo+1"),
    *everything("starttls", Stage.TLS),
    *encryption(),
    *handshake(),
    *login(),
    *everything("mail", Stage.SENDER),
    *everything("rcpt", Stage.RECIPIENT),
    *one_recipient(A),
    *one_recipient(B),
    *mixed_recipients(),
    *everything("data", Stage.DATA),
    *odd_codes(),
    *bare_codes(),
    *content(),
    *after_the_dot(),
    *hung_up_after_a_good_reply(),
    *size(),
    *after_the_mail(),
    *everywhere(),
    *implicit_tls(),
    *plain(),
    *pipelining(),
    *attempts(),
    *patience(),
]
