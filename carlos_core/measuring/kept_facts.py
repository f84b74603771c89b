"""Small facts that later runs want to know, in a JSON file of the working folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..storage import locked, write_atomically

logger = logging.getLogger(__name__)

SPEEDS, NOISE_FLOORS, BASE_CHECKS, QUICK_STEPS = FILES = (
    "speeds.json",
    "noise_floors.json",
    "base_checks.json",
    "quick_steps.json",
)
"""The files that there are."""

_MOST = 500
"""Values in a file: one for each model and setting that was used."""


class KeptFacts:
    """Values by key. They save time only: a file that cannot be read or written counts as missing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> Any:
        """A value as it was kept; None if there is none."""
        try:
            return self._read().get(key)
        except OSError as error:
            logger.warning("carlos: %s cannot be read: %s", self._path, error)
            return None

    def keep(self, key: str, value: Any) -> None:
        """Keep a value of plain data, beside those that others have kept. If there are too many, the oldest goes."""
        self.keep_all({key: value})

    def keep_all(self, values: Mapping[str, Any]) -> None:
        """The same for a few values at once."""
        try:
            with locked(self._path):
                others = [(name, kept) for name, kept in self._read().items() if name not in values]
                text = json.dumps({**dict(others[len(values) - _MOST :]), **values}, indent=1)
                write_atomically(self._path, lambda file: file.write_text(text, encoding="utf-8"), is_cache=True)
        except OSError as error:
            logger.warning("carlos: %s cannot be written (%s); the next run finds out anew", self._path, error)

    def _read(self) -> dict[str, Any]:
        """What the file holds; nothing if it is missing or makes no sense. Raises OSError if it is there but cannot be read."""
        try:
            facts = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
            return {}
        return facts if isinstance(facts, dict) else {}
