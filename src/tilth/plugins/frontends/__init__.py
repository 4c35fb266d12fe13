"""Frameworks that models come from, one per file."""
