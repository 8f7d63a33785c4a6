"""The mail core works where there is no Airflow."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["airflow"] = None  # any import of it fails from here on
import importlib, pkgutil
import airflow_smtp_interface.mail as mail
for module in pkgutil.iter_modules(mail.__path__):
    importlib.import_module(f"airflow_smtp_interface.mail.{module.name}")
import airflow_smtp_interface.provider_info
"""


def test_the_mail_core_imports_where_airflow_cannot_be_imported() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_provider_info_imports_nothing_of_the_project() -> None:
    program = (
        "import sys, airflow_smtp_interface.provider_info\n"
        "print([name for name in sys.modules if name.startswith(('airflow', 'smtplib', 'ssl'))])"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "['airflow_smtp_interface', 'airflow_smtp_interface.provider_info']"
