"""A run over LoRA files, told event by event to whoever started it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .estimate import LibraryProgress
from .failures import Failure
from .run_facts import facts_of, plan_lines

if TYPE_CHECKING:
    from ..progress import OnProgress, Progress
    from ..records import LayerFit
    from .indexer import Indexer


class Teller(Protocol):
    """Where events go."""

    def send(self, event: str, **facts: Any) -> None: ...

    def send_progress(self, done: int, total: int, note: str, *, kept: int = 0) -> None: ...


class ToldProgress:
    """Progress as events; it counts the pictures that were kept."""

    def __init__(self, teller: Teller) -> None:
        self._teller, self._kept = teller, 0

    def titled(self, title: Callable[[], str]) -> OnProgress:
        """A callback whose notes begin with a title."""

        def tell(progress: Progress) -> None:
            self._kept += progress.kept
            note = f"{title()}{progress.note}" if progress.note else ""
            self._teller.send_progress(progress.done, progress.total, note, kept=self._kept)

        return tell


def tell_run(
    indexer: Indexer,
    files: Sequence[tuple[str, Path]],
    teller: Teller,
    shown: ToldProgress,
    fits: Mapping[str, LayerFit],
) -> int:
    """Measure files one after another: the plan, then each outcome or failure as soon as it is kept. Returns how many are kept.

    files: (name, path) of each. fits: layers that fit the model, by name, as far as they are known.
    """
    teller.send("plan", lines=plan_lines(indexer), protocol_id=indexer.protocol.protocol_id)
    progress = LibraryProgress(indexer, [name for name, _path in files], shown.titled)
    teller.send_progress(0, 0, f"{len(files)} LoRAs, {progress.known}")
    n_kept = 0
    for result in indexer.index_all(files, progress):
        if isinstance(result, Failure):
            teller.send("failure", **vars(result), is_for_another_model=False)
        else:
            n_kept += 1
            fit = fits.get(result.lora.name)
            teller.send("outcome", is_new=result.is_new, has_effect=result.has_effect, **facts_of(result, fit))
    return n_kept
