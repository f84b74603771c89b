"""What the exit status of `carlos` means. docs/agents.md has the same table."""

from __future__ import annotations

DONE = 0
FAILED = 1
"""What was asked for cannot be done: the message says why, and what to do."""

USAGE = 2
"""The command line makes no sense."""

NOTHING_FITS = 3
"""A search that found nothing, or nothing as sure as was asked for."""

SOME_FAILED = 4
"""A folder was indexed, but for some LoRAs that could not be."""

INTERRUPTED = 130
"""Ctrl-C. What was finished is kept."""
