"""One LoRA that a node is told: by its file in ComfyUI's list, or by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ...carlos_core.comfy.families import class_of_model
from ...carlos_core.errors import RetrievalError
from ...carlos_core.search.queries import row_of
from ..host import lora_folder
from .model_fit import misfit_of

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.loras.matching import Resolved
    from ...carlos_core.records import LoraRecord

BY_ID = "by lora_id"


def lora_name_input(tooltip: str) -> io.Input:
    """The list of LoRAs, with `BY_ID` for the id in another widget."""
    return io.Combo.Input("lora_name", options=[BY_ID, *lora_folder.lora_names()], default=BY_ID, optional=True, tooltip=tooltip)


def wanted_row(database: MetricsDatabase, lora_name: str, lora_id: str) -> LoraRecord | None:
    """The row that a node's widgets ask for; None if they ask for none.

    Raises RetrievalError for a LoRA that the database does not have, LoraError for a file that is not listed.
    """
    wanted = id_of_file(database, lora_name) if lora_name != BY_ID else lora_id.strip()
    return row_of(database, wanted) if wanted else None


def id_of_file(database: MetricsDatabase, lora_name: str, model: Any = None) -> str:
    """Id of the row whose file is `lora_name`, or a copy of it: content decides.

    Raises RetrievalError if it has none, LoraError for a name that is not listed or a file that is not a LoRA.

    model: that the node was given, None if it has none: a LoRA for another one cannot be indexed with it.
    """
    path = lora_folder.lora_path(lora_name)

    def rows_of(files: dict[str, Resolved]) -> tuple[list[str], list[str]]:
        found = [lora_id for lora_id, file in lora_folder.installed(files).items() if file == lora_name]
        return found, found

    found = lora_folder.surely(database, rows_of)
    if found:
        return found[0]
    fit = None if model is None else lora_folder.lora_fit(path, model, None)
    if fit is not None and fit.of and not fit.fits:
        raise RetrievalError(
            f"{lora_name} is not in {database.name}. {misfit_of(lora_name, fit, class_of_model(model))}",
            "Index it with a checkpoint that it was made for.",
        )
    same = database.id_of("", lora_folder.read_lora(path, lora_name).sha256)
    if same in database:
        return same
    raise RetrievalError(f"{lora_name} is not in {database.name}.", "Index it with LoRA Indexer first.")
