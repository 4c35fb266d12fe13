"""Engines that execute graphs, one per file."""
