"""Which of the LoRA files fit a model: looked at once for each layout and model, and kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import LoraError, UnreadableLoraError
from ..progress import OnProgress, Progress
from ..records import LayerFit
from .header import read_header
from .library import LibraryEntry
from .library_index import LibraryIndex

logger = logging.getLogger(__name__)


def fits_of(
    entries: Iterable[LibraryEntry],
    index_file: Path,
    model: str,
    look: Callable[[Path], LayerFit],
    on_progress: OnProgress | None = None,
) -> dict[str, LayerFit]:
    """How many layers of each LoRA file a model has, by name; files that cannot be read are left out.

    Args:
        entries: the files.
        index_file: where findings are kept between runs (`LibraryIndex`).
        model: stands for all that decides what fits: `ModelLayers.identity`.
        look: path -> fit, told from the file's header. It raises LoraError for a file that makes no sense: it fits nothing; and
            UnreadableLoraError for one that is gone by now.
        on_progress: called after each layout that had to be looked at.
    """
    usable = [entry for entry in entries if entry.is_usable]
    index = LibraryIndex(index_file)
    known = index.fits(model)
    missing: dict[str, list[Path]] = {}
    for entry in usable:
        if entry.layout not in known:
            missing.setdefault(entry.layout, []).append(entry.path)
    found: dict[str, LayerFit] = {}
    try:
        for done, (layout, paths) in enumerate(missing.items(), start=1):
            fit = next(filter(None, (_fit_of(path, layout, look) for path in paths)), None)
            if fit is not None:
                found[layout] = fit
            if on_progress is not None:
                on_progress(Progress(done, len(missing)))
    finally:
        index.save_fits(model, found)
    known |= found
    return {entry.name: known[entry.layout] for entry in usable if entry.layout in known}


def misfit_of(name: str, fit: LayerFit, model: str) -> str:
    """That a LoRA is for another model than the one that is loaded, and how that is known."""
    shapes = f"; {fit.of_other_shape} have its names and other shapes" if fit.of_other_shape else ""
    return f"{name} does not fit: {fit.layers} of {fit.of} layers match this {model} model{shapes}."


def _fit_of(path: Path, layout: str, look: Callable[[Path], LayerFit]) -> LayerFit | None:
    """How a file of a layout fits; None if it is gone, or another by now: what is kept is for all files of the layout."""
    try:
        try:
            fit = look(path)
        except UnreadableLoraError:
            raise
        except LoraError as error:
            logger.info("carlos: %s", error)
            fit = LayerFit(0, 0)
        return fit if read_header(path).layout == layout else None
    except LoraError as error:
        logger.info("carlos: %s", error)
        return None
