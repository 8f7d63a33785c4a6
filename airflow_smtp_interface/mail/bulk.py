"""Many mails over few sessions: a thread each, in the order given, within the provider's limits."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from airflow_smtp_interface.mail.delivery import Cause, Delivery, Failure, Stage
from airflow_smtp_interface.mail.errors import DeliveryError, named
from airflow_smtp_interface.mail.session import SmtpSession, connect
from airflow_smtp_interface.mail.transaction import Item, deliver_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_smtp_interface.mail.settings import SmtpSettings

MAX_CONNECTIONS = 10
_AHEAD = 32  # mails taken in for each connection before the first of them has to be done
_AT_ONCE = 16  # mails after an awaited one whose results are waited for too,
_PATIENCE = 0.02  # for so many seconds

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    """One mail between intake and result."""

    item: Item
    delivery: Delivery | None = None
    error: BaseException | None = None
    tries: int = 0
    is_first: bool = False  # of its session

    @property
    def is_done(self) -> bool:
        return self.delivery is not None or self.error is not None


def send_all(settings: SmtpSettings, items: Iterable[Item], *, connections: int) -> Iterator[Delivery]:
    """Send mails over several sessions and yield what became of each, in their order.

    A lost connection is opened anew and goes on with the first mail that nobody can have; one whose last answer was
    lost is reported as unknown and not sent again. Closing the generator stops the intake and brings the mails under
    way to their end.

    :param items: taken in as the results are taken out, a bounded number ahead; an error it raises comes through after
        the results of the mails before it.
    :param connections: 1 to 10 sessions; each is opened when there is a mail for it.
    :raises DeliveryError: where no session can be opened any more; nobody has a mail whose result did not come before.
    """
    if not 1 <= connections <= MAX_CONNECTIONS:
        raise ValueError(f"connections: {connections} is not between 1 and {MAX_CONNECTIONS}")
    return _send_all(settings, items, connections)


def _send_all(settings: SmtpSettings, items: Iterable[Item], connections: int) -> Iterator[Delivery]:
    pool = _Pool(settings, connections)
    window: deque[_Job] = deque()
    intake = iter(items)
    failure: BaseException | None = None
    try:
        while True:
            taken = 0
            while failure is None and len(window) < connections * _AHEAD and not (taken and window[0].is_done):
                taken += 1
                try:
                    item = next(intake, None)
                except Exception as error:  # noqa: BLE001 the author's own: the mails before it come first
                    failure, item = error, None
                if item is None:
                    break
                window.append(pool.put(item))
            if not window:
                break
            job = window.popleft()
            pool.wait_for(job, later=window)
            if job.error and not any(later.delivery for later in window):
                window.appendleft(job)
                raise job.error
            failure = failure or job.error
            yield job.delivery or _deferred(job.item, job.error)
        if failure:
            raise failure
    finally:
        pool.close()
        _log_the_rest(window)


def _deferred(item: Item, error: BaseException | None) -> Delivery:
    """Say that nobody has a mail, for a reason that is not the server's word on it."""
    reason = error if isinstance(error, DeliveryError) else None
    failure = Failure(
        stage=reason.stage if reason else Stage.CONTENT,
        text=str(reason or f"{type(error).__name__}: {error}"),
        cause=reason.cause if reason else Cause.CONTENT_UNREADABLE,
    )
    envelope = item.envelope
    deferred = dict.fromkeys(envelope.recipients, failure)
    return Delivery(message_id=item.message_id, sender=envelope.sender, deferred=deferred, size=item.size)


def _log_the_rest(window: Iterable[_Job]) -> None:
    """Say what became of mails whose results nobody took."""
    sent = [job for job in window if job.delivery]
    if window:
        accepted = sum(len(job.delivery.accepted) for job in sent if job.delivery)
        unsent = [job for job in window if not job.delivery]
        _log.warning(
            "Bulk sending was ended early: of the mails taken in, %d more were brought to their end (%d recipients "
            "accepted: %s), %d were not sent (%s)",
            len(sent),
            accepted,
            _message_ids(sent),
            len(unsent),
            _message_ids(unsent),
        )


def _message_ids(jobs: Iterable[_Job]) -> str:
    return named(dict.fromkeys(job.item.message_id for job in jobs)) or "none"


class _Pool:
    """Threads with a session each, and the jobs between them."""

    def __init__(self, settings: SmtpSettings, connections: int) -> None:
        self._settings = settings
        self._connections = connections
        self._lock = threading.Lock()
        self._offered = threading.Condition(self._lock)  # threads wait for a mail
        self._answered = threading.Condition(self._lock)  # the caller waits for one result
        self._awaited: _Job | None = None
        self._jobs: deque[_Job] = deque()
        self._closing = threading.Event()
        self._idle = 0
        self._alive = 0
        self._failure: BaseException | None = None  # why no session can be opened any more
        self._threads: list[threading.Thread] = []
        self._pace = _Pace(settings.messages_per_minute)

    def put(self, item: Item) -> _Job:
        """Take in a mail."""
        job = _Job(item)
        with self._lock:
            if self._failure:
                job.error = self._failure
                return job
            self._jobs.append(job)
            if self._idle < len(self._jobs) and len(self._threads) < self._connections:
                self._begin_thread()
            elif self._idle:
                self._offered.notify()
        return job

    def _begin_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="smtp-interface", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the machine has no more of them
            if not self._alive:
                raise
        else:
            self._threads.append(thread)
            self._alive += 1

    def wait_for(self, job: _Job, *, later: Sequence[_Job]) -> None:
        """Return when a mail has a result.

        Changing threads costs more than a mail does: where many are done in no time, the caller is woken for several.

        :param later: the mails after it.
        """
        with self._lock:
            if not job.is_done and later:
                self._awaited = later[min(len(later), _AT_ONCE) - 1]
                self._answered.wait(_PATIENCE)
            self._awaited = job
            self._answered.wait_for(lambda: job.is_done)

    def close(self) -> None:
        """Stop: mails under way come to their end, the others are not sent."""
        with self._lock:
            self._closing.set()
            self._offered.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        again: deque[_Job] = deque()  # taken, but lost with a session before anybody could get them
        session: SmtpSession | None = None
        try:
            while first := again.popleft() if again else self._take(wait=True):
                if session is None or not session.is_usable():
                    if session:
                        session.leave()
                    session = connect(self._settings)
                again.extendleft(reversed(self._run(session, first, again)))
                if session.sock and self._is_worn(session):
                    session.leave()
        except BaseException as error:  # noqa: BLE001 whatever it is, nobody may wait for these mails for ever
            self._give_up(error, [*([first] if first else []), *again])
        finally:
            if session:
                session.leave()

    def _run(self, session: SmtpSession, first: _Job, again: deque[_Job]) -> list[_Job]:
        """Send mails in a row until there is none, or the session is closed or has had its share.

        :return: those that have to be sent over another session.
        """
        under_way: deque[_Job] = deque()
        retry: list[_Job] = []
        try:
            for delivery in deliver_all(session, self._mails(session, first, again, under_way)):
                job = under_way.popleft()
                job.tries += 1
                if job.tries == 1 and _may_go_over_another_session(delivery, fresh=job.is_first):
                    retry.append(job)
                    session.close()
                else:
                    self._finish(job, delivery)
        except BaseException as error:  # noqa: BLE001 whatever the content's own code raises belongs to its mail
            session.close()
            for job in under_way:
                self._finish(job, _deferred(job.item, error))
        return retry

    def _mails(
        self, session: SmtpSession, first: _Job, again: deque[_Job], under_way: deque[_Job]
    ) -> Iterator[Item | None]:
        """Yield what goes over a session, in a row; None where the next mail has to be waited for."""
        job: _Job | None = first
        while True:
            if under_way and (job is None or self._pace.is_full()):
                if job:
                    again.appendleft(job)  # nobody has begun it, and the session may end meanwhile
                yield None  # the mail under way is not held back while nothing follows it
                job = again.popleft() if job else None
            if job is None or not self._pace.wait(self._closing):
                return
            under_way.append(job)
            job.is_first = session.mails == 0
            session.mails += 1
            yield job.item
            job = None
            if not self._is_worn(session):
                job = again.popleft() if again else self._take(wait=False)

    def _is_worn(self, session: SmtpSession) -> bool:
        share = self._settings.messages_per_connection
        return share is not None and session.mails >= share

    def _take(self, *, wait: bool) -> _Job | None:
        """Return the next mail that nobody has begun; None if there is none, or the pool is closing."""
        with self._lock:
            if wait:
                self._idle += 1
                self._offered.wait_for(lambda: self._jobs or self._closing.is_set())
                self._idle -= 1
            return self._jobs.popleft() if self._jobs and not self._closing.is_set() else None

    def _finish(self, job: _Job, delivery: Delivery) -> None:
        with self._lock:
            job.delivery = delivery
            if job is self._awaited:
                self._answered.notify()

    def _give_up(self, error: BaseException, jobs: list[_Job]) -> None:
        """Leave the mails to the other threads; if there is none, no session can be opened for anybody."""
        with self._lock:
            self._jobs.extendleft(reversed(jobs))
            self._alive -= 1
            if not self._alive:
                self._failure = error
                for job in self._jobs:
                    job.error = error
                self._jobs.clear()
            self._offered.notify_all()
            self._answered.notify()


class _Pace:
    """Keeps to a number of mails in any minute."""

    def __init__(self, per_minute: int | None) -> None:
        self._lock = threading.Lock()
        self._begun: deque[float] | None = deque(maxlen=per_minute) if per_minute else None

    def is_full(self) -> bool:
        """Whether the next mail has to wait."""
        begun = self._begun
        return begun is not None and len(begun) == begun.maxlen and begun[0] + 60 > monotonic()

    def wait(self, closing: threading.Event) -> bool:
        """Wait until the next mail may begin; say whether it may, or sending has been ended meanwhile."""
        if self._begun is None:
            return True
        with self._lock:
            if len(self._begun) == self._begun.maxlen and closing.wait(max(0.0, self._begun[0] + 60 - monotonic())):
                return False
            self._begun.append(monotonic())
            return True


def _may_go_over_another_session(delivery: Delivery, *, fresh: bool) -> bool:
    """Whether nobody can have a mail, and the reason lies in the session rather than in the mail.

    :param fresh: whether it was the session's first mail; then the server is as unwilling to take the next one.
    """
    if delivery.accepted or delivery.unknown or delivery.refused:
        return False
    failure = next(iter(delivery.deferred.values()))
    if failure.cause is Cause.ODD_REPLY:
        return True  # the next session speaks one command at a time
    lost = failure.reply is None or failure.reply.code == 421
    # A sender who was welcome before is not now: "too many messages in this connection".
    too_many = failure.stage is Stage.SENDER
    return not fresh and failure.cause is not Cause.CONTENT_UNREADABLE and (lost or too_many)
