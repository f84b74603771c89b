"""What an indexing run tells while it goes on, and when it is cancelled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from comfy.model_management import InterruptProcessingException

from ... import carlos_core as carlos
from ...carlos_core.measuring.speed import UNKNOWN
from ..host.progress import NodeProgress, Tally
from .indexing import plan_lines

if TYPE_CHECKING:
    from ...carlos_core.measuring.estimate import LibraryEstimate
    from ...carlos_core.measuring.indexer import Indexer
    from ...carlos_core.progress import Progress

logger = logging.getLogger(__name__)


class LibraryProgress:
    """Progress of a library run: that of each LoRA, with its place among `names` and the time left for all of them."""

    def __init__(self, node_id: str | None, indexer: Indexer, names: list[str], tally: Tally) -> None:
        self._node_id, self._names, self._tally = node_id, names, tally
        self._estimate = carlos.LibraryEstimate(indexer, names)
        known = str(self._estimate) or UNKNOWN
        NodeProgress(node_id).say(f"{plan_lines(indexer)[0]}; {len(names)} LoRAs, {known}")

    def __call__(self, name: str) -> _OfLora:
        self._estimate.begin(name)
        place = f"{self._names.index(name) + 1} of {len(self._names)}"

        def title() -> str:
            return ", ".join(filter(None, [place, str(self._estimate), f"{name}: "]))

        return _OfLora(NodeProgress(self._node_id, title, self._tally), self._estimate)


class _OfLora:
    """Progress of one LoRA of a library run. The time that is told is that of the whole run."""

    def __init__(self, progress: NodeProgress, estimate: LibraryEstimate) -> None:
        self._progress, self._estimate = progress, estimate

    def __call__(self, progress: Progress) -> None:
        if progress.pictures_left is not None:
            self._estimate.update(progress.pictures_left)
        self._progress(replace(progress, note=progress.note_without_time or progress.note))


@contextmanager
def told_when_cancelled(node_id: str | None, tally: Tally) -> Iterator[None]:
    """Say on the node and in the log what a cancelled run has kept."""
    try:
        yield
    except InterruptProcessingException:
        logger.info("carlos: %s", tally)
        NodeProgress(node_id).say(str(tally))
        raise
