"""Tasks that send mail, and some that send none, for the Email tab to show."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from airflow_smtp_interface.operators.email_actor import EmailActorOperator

REPORT = """
<h1 style="color: #0b6e4f">Sales of {{ ds }}</h1>
<p>All 1200 rows of <b>sales</b> were loaded. <a href="{{ var.value.elsewhere }}/report">The report</a></p>
<table border="1" cellpadding="6"><tr><th>product</th><th>sold</th></tr><tr><td>tea</td><td>120</td></tr></table>
<img src="{{ var.value.elsewhere }}/logo.png" alt="the company's logo">
"""
HOSTILE = """
<h1>Inert</h1>
<a href="{{ var.value.elsewhere }}/link">Follow</a>
<a href="{{ var.value.elsewhere }}/top" target="_top">Leave</a>
<a href="{{ var.value.elsewhere }}/self" target="_self">Stay</a>
<img src="{{ var.value.elsewhere }}/pixel.png">
<link rel="stylesheet" href="{{ var.value.elsewhere }}/style.css">
<style>@import url({{ var.value.elsewhere }}/import.css);
@font-face { font-family: f; src: url({{ var.value.elsewhere }}/font) }
p { font-family: f }</style><p>Font</p>
<div style="background-image: url({{ var.value.elsewhere }}/background.png)"></div>
<iframe src="{{ var.value.elsewhere }}/frame"></iframe>
<object data="{{ var.value.elsewhere }}/object"></object>
<video src="{{ var.value.elsewhere }}/video" autoplay></video>
<form action="{{ var.value.elsewhere }}/form"><input name="q"><button>Press</button></form>
<meta http-equiv="refresh" content="0; url={{ var.value.elsewhere }}/refresh">
<script>parent.document.title = "taken over"; fetch("{{ var.value.elsewhere }}/script")</script>
<img src="x" onerror="document.body.append('event handler ran')">
"""

with DAG("mails", schedule=None):

    @task(trigger_rule="all_done")
    def no_mail() -> None:
        """Send none."""

    @task
    def somebody_elses(ti: Any = None) -> None:
        """Leave an XCom of the same name that is no mail."""
        ti.xcom_push(key="email", value="ann@example.com")

    report = EmailActorOperator(
        task_id="report",
        smtp_interface_conn_id="by_hand",
        recipients=["Ann Müller <ann@example.com>", "sales@example.com"],
        cc="audit@example.com",
        bcc="archive@example.com",
        subject="Sales of {{ ds }}",
        is_html=True,
        body=REPORT,
        attachment="product,sold\r\ntea,120\r\n",
        attachment_name="sales-{{ ds }}.csv",
    )
    hostile = EmailActorOperator(
        task_id="hostile",
        smtp_interface_conn_id="by_hand",
        subject="<script>alert(1)</script>",
        is_html=True,
        autoescape=False,
        body=HOSTILE,
        attachment="a name without a place to break the line",
        attachment_name=f"{'long' * 40}.txt",
    )
    EmailActorOperator.partial(task_id="each", smtp_interface_conn_id="by_hand", body="Hello").expand(
        subject=["For Ann", "For Bob"]
    )
    refused = EmailActorOperator(
        task_id="refused",
        smtp_interface_conn_id="faulty",
        recipients="ann@example.com, gone@example.com",
        subject="Half of it",
        body="Hello",
    )
    private = EmailActorOperator(
        task_id="private", smtp_interface_conn_id="by_hand", subject="Private", body="Hidden words", keep_sent="headers"
    )
    somebody_elses()
    refused >> no_mail()
