"""What an indexing run tells while it goes on, and when it is cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from comfy.model_management import InterruptProcessingException

from ... import carlos_core as carlos
from ...carlos_core.counting import counted
from ...carlos_core.measuring.run_facts import plan_lines
from ..host.progress import NodeProgress, Tally

if TYPE_CHECKING:
    from ...carlos_core.measuring.estimate import LibraryProgress
    from ...carlos_core.measuring.indexer import Indexer

logger = logging.getLogger(__name__)


def library_progress(node_id: str | None, indexer: Indexer, names: list[str], tally: Tally) -> LibraryProgress:
    """Progress of a library run on its node, which says first how long it will take."""
    progress: LibraryProgress = carlos.LibraryProgress(indexer, names, lambda title: NodeProgress(node_id, title, tally))
    said = f"{counted(len(names), 'LoRA')}, {progress.known}; each is saved as it comes"
    NodeProgress(node_id).say(f"{plan_lines(indexer)[0]}; {said}")
    return progress


@contextmanager
def told_when_cancelled(node_id: str | None, tally: Tally, so_far: Callable[[], str] = str) -> Iterator[None]:
    """Say on the node and in the log what a cancelled run has kept. so_far: what else is known by then."""
    try:
        yield
    except InterruptProcessingException:
        said = f"{tally}{so_far()}"
        logger.info("carlos: %s", said)
        NodeProgress(node_id).say(said)
        raise
