"""Operators: tasks that send mail."""
