"""What Airflow reads at start-up, in every process: a literal that imports nothing."""

from __future__ import annotations

_CONN_FIELDS = {
    "to": {
        "label": "To",
        "description": "Default recipients, separated by commas. A task's recipients override them.",
        "schema": {"type": ["string", "null"]},
    },
    "from": {
        "label": "From",
        "description": "Default sender. Left empty, User is taken, if it is an address.",
        "schema": {"type": ["string", "null"]},
    },
    "active": {
        "label": "Active",
        "description": "Switched off, nothing is sent through this interface.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "security": {
        "label": "Security",
        "description": "auto: TLS from the first byte on port 465, else STARTTLS required. starttls: STARTTLS "
        "required. tls: TLS from the first byte. none: no encryption, anybody on the way can read the mail.",
        "schema": {"type": ["string", "null"], "default": "auto", "enum": ["auto", "starttls", "tls", "none"]},
    },
    "timeout": {
        "label": "Timeout",
        "description": "Seconds for any one reply of the server, from its first to its last byte.",
        "schema": {"type": ["number", "null"], "default": 30, "minimum": 0},
    },
    "data_timeout": {
        "label": "Data timeout",
        "description": "Seconds for the reply to the end of a mail (RFC 5321 recommends 600).",
        "schema": {"type": ["number", "null"], "default": 600, "minimum": 0},
    },
    "connect_attempts": {
        "label": "Connect attempts",
        "description": "Tries to connect and log in. A mail itself is never sent twice.",
        "schema": {"type": ["integer", "null"], "default": 3, "minimum": 1},
    },
    "ca_certificate": {
        "label": "CA certificate",
        "description": "PEM certificates trusted besides the system's, for servers with a private CA.",
        "schema": {"type": ["string", "null"], "format": "multiline"},
    },
    "verify_certificate": {
        "label": "Verify certificate",
        "description": "Switched off, any certificate of any host is accepted; every task logs a warning.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "cleartext_login": {
        "label": "Cleartext login",
        "description": "Allow the password to cross the network unencrypted.",
        "schema": {"type": ["boolean", "null"], "default": False},
    },
    "allowed_recipients": {
        "label": "Allowed recipients",
        "description": "Addresses and @domains that may be written to. Left empty, everybody may.",
        "schema": {"type": ["string", "null"]},
    },
    "redirect_to": {
        "label": "Redirect all mail to",
        "description": "For staging: every mail goes here instead of to its recipients.",
        "schema": {"type": ["string", "null"]},
    },
    "local_hostname": {
        "label": "EHLO name",
        "description": "What the client calls itself. Left empty, its address.",
        "schema": {"type": ["string", "null"]},
    },
    "pipelining": {
        "label": "Pipelining",
        "description": "off: one command at a time, for servers that offer pipelining and cannot.",
        "schema": {"type": ["string", "null"], "default": "auto", "enum": ["auto", "off"]},
    },
    "messages_per_connection": {
        "label": "Mails per connection",
        "description": "Where the provider limits them; for bulk sending.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "messages_per_minute": {
        "label": "Mails per minute",
        "description": "Where the provider limits them; for bulk sending.",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
}

_UI_FIELD_BEHAVIOUR = {
    "hidden-fields": ["schema"],
    # Airflow 3.1 writes the label of a field that has a placeholder in lower case, unless it is given here.
    "relabeling": {"host": "Host", "login": "User", "port": "Port"},
    "placeholders": {
        "host": "smtp.example.com",
        "port": "587 (STARTTLS), 465 (TLS), 25 (none)",
        "login": "user@example.com",
    },
}


def get_provider_info() -> dict[str, object]:
    """Return what ``provider_info.schema.json`` and ``provider.yaml.schema.json`` of Airflow describe."""
    return {
        "package-name": "airflow-provider-smtp-interface",
        "name": "SMTP interface",
        "description": "E-mail through an SMTP interface: a connection type, a hook and an operator.",
        "connection-types": [
            {
                "connection-type": "smtp_interface",
                "hook-name": "SMTP interface",
                "hook-class-name": "airflow_smtp_interface.hooks.smtp_interface.SmtpInterfaceHook",
                "ui-field-behaviour": _UI_FIELD_BEHAVIOUR,
                "conn-fields": _CONN_FIELDS,
            }
        ],
        "cli": ["airflow_smtp_interface.cli.get_cli_commands"],
        "extra-links": ["airflow_smtp_interface.operators.links.SentEmailLink"],
        "config": {
            "smtp_interface": {
                "description": "Sending mail through SMTP interfaces.",
                "options": {
                    "keep_sent": {
                        "description": "What the Email tab of a task can show of the mail it sent, kept as XCom "
                        "'email' for everybody who may read the Dag's XComs: 'full' (without attachments), 'headers' "
                        "(without the bodies too) or 'off'. The operator's parameter keep_sent overrides it.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "headers",
                        "default": "full",
                    }
                },
            }
        },
    }
