"""``python -m airflow_smtp_interface``, for Airflow 3.1, whose own command line takes no commands of providers."""

from __future__ import annotations

import sys

from airflow_smtp_interface.cli import main

sys.exit(main())
