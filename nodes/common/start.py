"""What somebody is told whose LoRAs a database hardly knows: what can be done now, and what it would cost here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ... import carlos_core as carlos
from ...carlos_core.comfy.families import class_of_model, sampled_model
from ...carlos_core.comfy.trial import tried_speed
from ...carlos_core.comfy.workflow import guidances_of
from ...carlos_core.errors import EncoderError
from ...carlos_core.loras.same_file import by_file
from ...carlos_core.measuring.chosen_sampling import chosen_sampling
from ...carlos_core.measuring.settings import MeasureSettings
from ..host import folders, lora_folder, runtime
from ..host.progress import NodeProgress

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.measuring.start import Costs, Files, Start

logger = logging.getLogger(__name__)

_SURE = ("hash", "version id")
"""By what a file is known to be a published row: a name may be that of another LoRA."""


def start_of(
    database: MetricsDatabase, installed: Mapping[str, str], hidden: Any, model: Any = None, clip: Any = None
) -> Start | None:
    """What can be done now; None where the database knows enough of the LoRA files.

    With a model, and its clip, it is tried once how fast the model is.

    Args:
        database: which a node works with.
        installed: lora_id -> name in ComfyUI's list, of its rows.
        hidden: of the node; with a model, it asks for `prompt` and `unique_id`.
        model: a MODEL; None if the node has none.
        clip: its CLIP; None if it is not known.
    """
    files = _files(set(installed.values()), model, clip)
    if not files.are_unknown:
        return None
    kind = "" if model is None else class_of_model(model)
    costs = _costs(files, hidden, model, clip) if model is not None and files.unmeasured else None
    bundled = runtime.bundled()
    return carlos.Start(files, len(database), database.path == bundled.path, len(bundled), kind, costs)


def _files(measured: set[str], model: Any, clip: Any) -> Files:
    """measured: names of the files that the database knows."""
    library = lora_folder.lora_library()
    names = [[entry.name for entry in same] for same in by_file(entry for entry in library.entries if entry.is_usable)]
    fits = None if model is None else lora_folder.lora_fits(model, clip)
    found = library.resolve(runtime.bundled().identities).values()
    published = {where.name for where in found if where.name is not None and where.by in _SURE}
    usable = names if fits is None else [same for same in names if any(name in fits and fits[name].fits for name in same)]
    return carlos.Files(
        listed=len(names),
        fitting=None if fits is None else len(usable),
        measured=sum(not measured.isdisjoint(same) for same in usable),
        published=sum(not published.isdisjoint(same) for same in usable),
        unreadable=sum(not entry.is_usable for entry in library.entries),
    )


def _costs(files: Files, hidden: Any, model: Any, clip: Any) -> Costs:
    guidances = guidances_of(hidden.prompt, hidden.unique_id)
    sampling = chosen_sampling(sampled_model(model), MeasureSettings(preset="quick"), guidances).sampling
    progress = NodeProgress(hidden.unique_id)
    with progress.for_a_while():
        seconds = tried_speed(model, clip, folders.cache_folder(), progress.say)
    return carlos.Costs.of(files.unmeasured, sampling.evaluations_per_image, seconds)


def lines(start: Start | None) -> list[str]:
    """For a report."""
    return [] if start is None else [str(start)]


def facts_of(start: Start | None) -> dict[str, Any]:
    """For a report's JSON: nothing where the database knows enough."""
    return {} if start is None else {"start": start.facts}


@contextmanager
def told_before_fetching(start: Start | None, database: MetricsDatabase, hidden: Any) -> Iterator[None]:
    """Say what can be done on the node and in the log before the encoder is fetched, and in the error if that fails."""
    if start is None or runtime.is_encoder_at_hand(database):
        yield
        return
    logger.info("carlos: %s", start)
    progress = NodeProgress(hidden.unique_id)
    try:
        with progress.for_a_while():
            progress.say(f"{start} Now CLIP is fetched, to search this database.")
            yield
    except EncoderError as error:
        raise type(error)(error.what, f"{error.hint} {start}".strip()) from error
