"""Hooks: from a connection id to a session with its mail server."""
