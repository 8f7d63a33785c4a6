"""Who has been accepted already: a record that outlives the tries of a task, in Airflow 3.3's task state store."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from airflow_smtp_interface.mail.addresses import without_case

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta

    from airflow.sdk import Context

    from airflow_smtp_interface.mail.delivery import Delivery

_KEY = "smtp_interface"

_log = logging.getLogger(__name__)


class Store(Protocol):
    """What is used of ``context["task_state_store"]``: it is the task instance's own, mapped ones each have one."""

    def get(self, key: str) -> Any:
        """Return the JSON value stored, or None."""

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        """Store a JSON value."""


@dataclass(kw_only=True)
class Ledger:
    """Who has been accepted already, and whose mail is in doubt.

    A generation is one run of a task with all its retries; Airflow begins another when a human clears the task.

    :param store: where the record is kept; None where Airflow has no task state store (3.1, 3.2).
    :param generation: ``ti.max_tries``, which stays the same over the retries and is raised by each Clear.
    :param message_id: the Message-ID of all tries.
    :param accepted: the recipients that the server has answered for, with its words.
    :param refused: the recipients that ``on_refused="warn"`` has given up.
    :param in_flight: the recipients of a mail whose final dot may have been sent and whose answer was not recorded.
    :param told: whether the error that a human sees has named those in flight.
    :param finished: whether nobody is left.
    """

    store: Store | None
    generation: int
    message_id: str
    accepted: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    in_flight: tuple[str, ...] = ()
    told: bool = False
    finished: bool = False

    @classmethod
    def open(cls, context: Context, *, message_id: str, accepted: Mapping[str, str]) -> Ledger:
        """Read what earlier tries have left.

        :param message_id: for a mail that is sent for the first time.
        :param accepted: who was accepted before the task was deferred; goes on where there is no store.
        """
        store: Store | None = context.get("task_state_store")
        ti = context.get("ti")  # None where execute() is called by hand
        generation = ti.max_tries if ti else 0
        fresh = cls(store=store, generation=generation, message_id=message_id, accepted=dict(accepted))
        record = store.get(_KEY) if store else None
        if not record:
            return fresh
        ledger = cls(store=store, **{**record, "in_flight": tuple(record["in_flight"])})
        if ledger.generation == generation:
            ledger.accepted |= accepted
            return ledger
        if ledger.finished:
            _log.info("The task was cleared after everybody had the mail: it is sent to everybody again.")
            return fresh
        again = ledger.in_flight if ledger.told else ()
        _log.warning(
            "The task was cleared before everybody had the mail: it goes on with the rest, under the same "
            "Message-ID %s. %d recipients have it already, and %d may have it and get it again. To send it to all of "
            "them, delete the task state %r of this task instance (Airflow's API: DELETE "
            "/api/v2/dags/…/dagRuns/…/taskInstances/…/state-store/%s) and clear the task once more.",
            ledger.message_id,
            len(ledger.accepted),
            len(again),
            _KEY,
            _KEY,
        )
        ledger.generation = generation
        if ledger.told:  # who clears the task then has looked whether the mail arrived
            ledger.in_flight, ledger.told = (), False
        return ledger

    def left(self, recipients: Iterable[str]) -> tuple[str, ...]:
        """Return those who have to get the mail still."""
        have = set(map(without_case, self.accepted))
        return () if self.finished else tuple(each for each in recipients if without_case(each) not in have)

    def begin(self, recipients: tuple[str, ...]) -> None:
        """Record that the final dot is about to be sent: if this process dies now, the mail is in doubt."""
        self.in_flight, self.told = recipients, False
        try:
            self._write()
        except BaseException:
            self.in_flight = ()  # the final dot is not sent then
            raise

    def tell(self) -> None:
        """Record that those in flight are named to a human."""
        self.told = True
        self._write()

    def record(self, delivery: Delivery) -> None:
        """Record what the server has answered."""
        self.accepted |= dict.fromkeys(delivery.accepted, str(delivery.reply))
        self.in_flight, self.told = tuple(delivery.unknown), bool(delivery.unknown)
        self.finished = delivery.complete
        self._write()

    def finish(self, delivery: Delivery) -> None:
        """Record that those refused are given up."""
        self.refused = {address: str(failure) for address, failure in delivery.refused.items()}
        self.finished = True
        self._write()

    def _write(self) -> None:
        if self.store is None:
            return
        from airflow.sdk import NEVER_EXPIRE  # type: ignore[attr-defined]  # Airflow 3.3

        record = {
            "generation": self.generation,
            "finished": self.finished,
            "message_id": self.message_id,
            "accepted": self.accepted,
            "in_flight": list(self.in_flight),
        }
        if self.refused:
            record["refused"] = self.refused
        if self.told:
            record["told"] = True
        self.store.set(_KEY, record, retention=NEVER_EXPIRE)
