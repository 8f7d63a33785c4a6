"""A local mailbox to develop against: a mail server on loopback that keeps what it gets."""

from __future__ import annotations

from airflow_smtp_interface.inbox.server import Inbox, ReceivedMail

__all__ = ["Inbox", "ReceivedMail"]
