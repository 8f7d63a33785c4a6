"""An SMTP interface for Apache Airflow: a connection type, a hook and an e-mail operator."""

__version__ = "0.1.0"
