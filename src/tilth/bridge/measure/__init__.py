"""Measuring builds in child processes."""
