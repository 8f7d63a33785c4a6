"""How long a deferred mail waits in the triggerer, and what goes on over the wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_smtp_interface.operators.exceptions import AirflowFailException


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What a resumed task knows of its earlier attempts. Never a body or a secret: the database stores it.

    :param message_id: the Message-ID of all attempts; None before the first.
    :param accepted: who has the mail already, with the server's words.
    :param attempt: how many attempts there were.
    :param deadline: when to give up; None before the first wait.
    """

    message_id: str | None = None
    accepted: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 0
    deadline: datetime | None = None

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> Waiting:
        """Read what :meth:`as_kwargs` has written.

        :raises AirflowFailException: if Airflow has lost it.
        """
        if not kwargs:
            raise AirflowFailException(
                "Airflow has not kept what this deferred task knew of its earlier attempts (dag.test() loses it), so "
                "nothing more is sent: some might get the mail twice. Run the Dag under a scheduler and a triggerer."
            )
        return cls(**{**kwargs, "deadline": datetime.fromisoformat(kwargs["deadline"])})

    def as_kwargs(self) -> dict[str, object]:
        """Return JSON values for the method that resumes the task."""
        deadline = self.deadline.isoformat() if self.deadline else None
        return {
            "message_id": self.message_id,
            "accepted": dict(self.accepted),
            "attempt": self.attempt,
            "deadline": deadline,
        }

    def next(
        self, *, message_id: str | None, accepted: Mapping[str, str], delays: Sequence[timedelta], max_wait: timedelta
    ) -> tuple[Waiting, timedelta] | None:
        """Return what goes on and how long to wait, or None if the time is over.

        :param delays: before the first, second, … further attempt; the last one from then on.
        :param max_wait: from the first attempt to the last.
        """
        now = datetime.now(UTC)
        deadline = self.deadline or now + max_wait
        if now >= deadline:
            return None
        waiting = Waiting(message_id=message_id, accepted=accepted, attempt=self.attempt + 1, deadline=deadline)
        return waiting, min(delays[min(self.attempt, len(delays) - 1)], deadline - now)
