"""Trackers: one file each, the only ones that know a tracking server."""
