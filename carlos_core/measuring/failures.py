"""LoRAs of a run that could not be measured, and the same reason said once."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

FEW = 5
"""From so many files on, what is said of all of them alike is said once."""


@dataclass(frozen=True)
class Failure:
    """A LoRA of a library run that could not be measured, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Alike:
    """Files of which the same is said, but for their names."""

    reason: str
    """With "..." in place of the file's name, if there are several."""

    files: tuple[str, ...]


def alike(said: Iterable[Failure]) -> list[Alike]:
    """What is said of files, the same only once, in the order in which it was first said."""
    groups: dict[str, list[Failure]] = {}
    for failure in said:
        groups.setdefault(_without_name(failure), []).append(failure)
    found = []
    for reason, failures in groups.items():
        if len(failures) >= FEW:
            found.append(Alike(reason, tuple(failure.file for failure in failures)))
        else:
            found += [Alike(failure.reason, (failure.file,)) for failure in failures]
    return found


@dataclass
class FailureLog:
    """The log of a run: each reason at once when it is first met, and how many more files there were at the end."""

    _failures: list[Failure] = field(default_factory=list)

    def add(self, failure: Failure) -> None:
        """Take in a failure, and log it unless one like it was."""
        if not any(_without_name(other) == _without_name(failure) for other in self._failures):
            logger.warning("carlos: %s could not be indexed: %s", failure.file, failure.reason)
        self._failures.append(failure)

    def close(self) -> None:
        """Log what was not said at once."""
        groups: dict[str, list[str]] = {}
        for failure in self._failures:
            groups.setdefault(_without_name(failure), []).append(failure.file)
        for reason, files in groups.items():
            if len(files) > 1:
                logger.warning("carlos: %d LoRAs could not be indexed: %s They are: %s", len(files), reason, ", ".join(files))


def _without_name(failure: Failure) -> str:
    """A reason with "..." in place of its file's name, so that those of several files can be compared."""
    reason = failure.reason
    for name in (failure.file, failure.file.rsplit("/", 1)[-1]):
        if name:
            reason = reason.replace(name, "...")
    return reason
