"""The Python senders. Run as a program in a fresh process, it lets one of them do one job and prints what it cost.

Arguments: the sender's name and the job as JSON. What a sender imports and prepares is not measured.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HTML = "<h1>Load of 2026-05-04</h1>" + "<p>All 1200 rows of <b>sales</b> were loaded in 41 s.</p>" * 12
TEXT = "Load of 2026-05-04\n\n" + "All 1200 rows of sales were loaded in 41 s.\n" * 12
SUBJECT, FROM = "Sales were loaded", "Reports <reports@example.org>"
USER, PASSWORD = "reports", "correct horse"

Job = dict[str, Any]  # host, port, mails, recipients, login, attachment
Send = Callable[[], object]


def recipients(job: Job) -> list[str]:
    """Return the addresses each mail goes to."""
    return [f"alice{number}@example.org" for number in range(job["recipients"])]


def define(conn_type: str, job: Job, extra: dict[str, object]) -> None:
    """Define the Airflow connection ``mail``."""
    login = {"login": USER, "password": PASSWORD} if job["login"] else {}
    connection = {"conn_type": conn_type, "host": job["host"], "port": job["port"], **login, "extra": extra}
    os.environ["AIRFLOW_CONN_MAIL"] = json.dumps(connection)


def ours_hook(job: Job) -> tuple[Any, dict[str, object]]:
    """Return our hook, its connection read, and the parameters of one mail."""
    from airflow_smtp_interface.hooks.smtp_interface import SmtpInterfaceHook

    define("smtp_interface", job, {"security": "starttls" if job["login"] else "none", "from": FROM})
    hook = SmtpInterfaceHook("mail")
    assert hook.settings
    mail = {"subject": SUBJECT, "body": HTML, "is_html": True, "text": TEXT, "recipients": recipients(job)}
    if job["attachment"]:
        mail["attachments"] = [job["attachment"]]
    return hook, mail


def ours(job: Job) -> Send:
    """Prepare ``hook.send_email`` in one ``with``."""
    hook, mail = ours_hook(job)

    def send() -> None:
        with hook:
            for _ in range(job["mails"]):
                hook.send_email(**mail)

    return send


def ours_bulk(job: Job) -> Send:
    """Prepare ``hook.send_all``."""
    from airflow_smtp_interface.mail.message import Email

    hook, mail = ours_hook(job)

    def send() -> None:
        emails = (Email.compose(**mail) for _ in range(job["mails"]))
        accepted = sum(len(each.accepted) for each in hook.send_all(emails, connections=job["connections"]))
        assert accepted == job["mails"] * job["recipients"]

    return send


def official_hook(job: Job) -> tuple[Any, dict[str, object]]:
    """Return the official provider's hook and the parameters of one mail; it knows no text alternative."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    define("smtp", job, {"disable_ssl": True, "disable_tls": not job["login"], "from_email": FROM})
    hook = SmtpHook("mail", auth_type="basic")
    hook.get_connection("mail")
    mail = {"to": recipients(job), "subject": SUBJECT, "html_content": HTML}
    return hook, {**mail, "files": [job["attachment"]] if job["attachment"] else None}


def official(job: Job) -> Send:
    """Prepare the official hook in one ``with``."""
    hook, mail = official_hook(job)

    def send() -> None:
        with hook:
            for _ in range(job["mails"]):
                hook.send_email_smtp(**mail)

    return send


def official_anew(job: Job) -> Send:
    """Prepare the official hook with one connection a mail, as its operator uses it."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    _, mail = official_hook(job)

    def send() -> None:
        for _ in range(job["mails"]):
            with SmtpHook("mail", auth_type="basic") as hook:
                hook.send_email_smtp(**mail)

    return send


def message(job: Job) -> Any:
    """Return the mail as an ``EmailMessage``."""
    from email.message import EmailMessage

    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = FROM, ", ".join(recipients(job)), SUBJECT
    mail.set_content(TEXT)
    mail.add_alternative(HTML, subtype="html")
    if job["attachment"]:
        path = Path(job["attachment"])
        mail.add_attachment(path.read_bytes(), maintype="application", subtype="octet-stream", filename=path.name)
    return mail


def stdlib(job: Job) -> Send:
    """Prepare smtplib."""
    import smtplib
    import ssl
    from email.message import EmailMessage  # noqa: F401 imports are not measured

    def send() -> None:
        with smtplib.SMTP(job["host"], job["port"]) as smtp:
            if job["login"]:
                smtp.starttls(context=ssl.create_default_context())
                smtp.login(USER, PASSWORD)
            for _ in range(job["mails"]):
                smtp.send_message(message(job))

    return send


def aio(job: Job) -> Send:
    """Prepare aiosmtplib."""
    import asyncio

    import aiosmtplib

    server = {"hostname": job["host"], "port": job["port"]}
    login = {"username": USER, "password": PASSWORD} if job["login"] else {}

    async def session() -> None:
        async with aiosmtplib.SMTP(**server, start_tls=job["login"], **login) as smtp:
            for _ in range(job["mails"]):
                await smtp.send_message(message(job))

    return lambda: asyncio.run(session())


def redmail(job: Job) -> Send:
    """Prepare redmail."""
    from redmail import EmailSender

    login = {"username": USER, "password": PASSWORD} if job["login"] else {}
    sender = EmailSender(job["host"], job["port"], use_starttls=job["login"], **login)
    mail = {"subject": SUBJECT, "sender": FROM, "receivers": recipients(job), "html": HTML, "text": TEXT}

    def send() -> None:
        with sender:
            for _ in range(job["mails"]):
                sender.send(**mail)

    return send


def django(job: Job) -> Send:
    """Prepare Django."""
    from django.conf import settings
    from django.core.mail import EmailMultiAlternatives, get_connection

    settings.configure()
    login = {"username": USER, "password": PASSWORD, "use_tls": True} if job["login"] else {}
    connection = get_connection(host=job["host"], port=job["port"], **login)

    def mails() -> Any:
        for _ in range(job["mails"]):
            mail = EmailMultiAlternatives(SUBJECT, TEXT, FROM, recipients(job))
            mail.attach_alternative(HTML, "text/html")
            yield mail

    return lambda: connection.send_messages(list(mails()))


def memory(field: str) -> float:
    """Return a size of this process in MB: now (``VmRSS``) or at its peak (``VmHWM``)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0]) / 1024


def main() -> None:
    """Do one job and print wall seconds, CPU seconds and megabytes over what the process had before."""
    send = globals()[sys.argv[1]](json.loads(sys.argv[2]))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew here (proc(5))
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    send()
    figures = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print("FIGURES", json.dumps({**figures, "memory": memory("VmHWM") - before}))


if __name__ == "__main__":
    main()
