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
    found = []
    for reason, failures in _grouped(said).items():
        if len(failures) >= FEW:
            found.append(Alike(reason, tuple(failure.file for failure in failures)))
        else:
            found += [Alike(failure.reason, (failure.file,)) for failure in failures]
    return found


@dataclass
class FailureLog:
    """The log of a run: each reason at once when it is first met, and how many more files there were at the end."""

    _alike: dict[str, list[Failure]] = field(default_factory=dict)

    def add(self, failure: Failure) -> None:
        """Take in a failure, and log it unless one like it was."""
        others = _group(self._alike, failure)
        if len(others) == 1:
            logger.warning("carlos: %s could not be indexed: %s", failure.file, failure.reason)

    def close(self) -> None:
        """Log what was not said at once."""
        for reason, failures in self._alike.items():
            if len(failures) > 1:
                files = ", ".join(failure.file for failure in failures)
                logger.warning("carlos: %d LoRAs could not be indexed: %s They are: %s", len(failures), reason, files)


def log_failures(failures: Iterable[Failure]) -> None:
    """Log what failed before anything was measured, as a run does."""
    log = FailureLog()
    for failure in failures:
        log.add(failure)
    log.close()


def _group(groups: dict[str, list[Failure]], failure: Failure) -> list[Failure]:
    """Put a failure to those alike, and return them."""
    alike = groups.setdefault(_without_name(failure), [])
    alike.append(failure)
    return alike


def _grouped(failures: Iterable[Failure]) -> dict[str, list[Failure]]:
    """Reason without the file's name -> failures, in the order in which the reasons were first met."""
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        _group(groups, failure)
    return groups


def _without_name(failure: Failure) -> str:
    """A reason with "..." in place of its file's name, so that those of several files can be compared."""
    reason = failure.reason
    for name in (failure.file, failure.file.rsplit("/", 1)[-1]):
        if name:
            reason = reason.replace(name, "...")
    return reason
