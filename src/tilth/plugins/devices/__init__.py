"""Chips that can be found on a machine, one kind per file."""
