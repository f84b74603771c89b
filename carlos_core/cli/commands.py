"""All commands: importing their modules registers them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from . import app

_IN_THE_ORDER_OF_THE_HELP = ("demo", "find", "alike", "draw", "index", "race", "fits", "databases", "cache", "doctor")


def load() -> None:
    """Register all commands."""
    for name in _IN_THE_ORDER_OF_THE_HELP:
        import_module(f".{name}", __package__)


def run(arguments: Sequence[str]) -> int:
    """Run a command line. Returns the exit status."""
    load()
    return app.run(arguments)
