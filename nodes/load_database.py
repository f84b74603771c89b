"""Nodes that open metrics databases."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from .. import carlos_core as carlos
from ..carlos_core.clip.encoder import DEFAULT_ENCODER_ID
from ..carlos_core.database.names_alike import names_alike
from ..carlos_core.errors import DatabaseError
from .common import start
from .common.report import database_line
from .common.schema import advanced, keeps_report, search_aliases
from .common.sockets import CarlosDb
from .host import folders, lora_folder
from .host.progress import NodeProgress

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase

logger = logging.getLogger(__name__)

BUNDLED = "bundled"
EMPTY = "empty"


class CarlosMetricsDBLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosMetricsDBLoader",
            display_name="Metrics DB Loader (CARLoS)",
            category="CARLoS",
            description="Opens a database that says what each LoRA does: the published one, or your own in models/carlos.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "database",
                    options=[BUNDLED, EMPTY, *folders.database_names()],
                    default=BUNDLED,
                    tooltip="bundled: 740 published SDXL LoRAs, read-only. empty: no LoRAs. Otherwise a file in models/carlos.",
                ),
                io.String.Input(
                    "create_as",
                    default="",
                    tooltip="Name of a database of your own. It is made from the chosen one once, and opened from then on. "
                    "If you choose a file in database, that file is opened.",
                ),
                io.Combo.Input(
                    "encoder",
                    options=[DEFAULT_ENCODER_ID, *folders.encoders()],
                    default=DEFAULT_ENCODER_ID,
                    tooltip="CLIP model of the LoRAs in create_as. bundled and files in models/carlos know their own.",
                    **advanced(),
                ),
            ],
            outputs=[CarlosDb.Output(display_name="database")],
            **keeps_report(),
            **search_aliases("lora database", "open lora database", "load lora metrics", "my loras", "index"),
        )

    @classmethod
    def fingerprint_inputs(cls, database: str, create_as: str, encoder: str) -> str:
        paths = [folders.new_database_path(create_as)] if create_as.strip() else []
        if _is_file(database):
            paths.append(folders.database_path(database))
        return "|".join(map(_state_of, paths)) or "no file"

    @classmethod
    def execute(cls, database: str, create_as: str, encoder: str) -> io.NodeOutput:
        there = folders.database_names()
        opened = _opened(database, create_as, encoder)
        logger.info("carlos: %s", database_line(opened))
        slips = [each for each in (_slip(opened, there), _unused(opened, database, create_as)) if each]
        for slip in slips:
            logger.warning("carlos: %s", slip)
        first = start.start_of(opened, lora_folder.installed(lora_folder.resolved(opened)), cls.hidden)
        if first is not None:
            logger.info("carlos: %s", first)
        said = " ".join([*slips, *start.lines(first)])
        # Nodes of the size that they are placed with have room for two lines in the older renderer. The text stays while the
        # workflow goes on, and indexing adds LoRAs meanwhile.
        short = [] if first is None else [first.in_short]
        when = f"When opened: {database_line(opened)}"
        NodeProgress(cls.hidden.unique_id).say(" ".join([*slips, *short, when]))
        return io.NodeOutput(opened, ui=ui.PreviewText(said)) if said else io.NodeOutput(opened)


def _slip(opened: MetricsDatabase, there: Sequence[str]) -> str:
    """That a database was just made whose name is almost that of another one; empty if not. there: the names before."""
    if opened.path is None or opened.path.name in there:
        return ""
    alike = names_alike(opened.path.stem, [name.removesuffix(opened.path.suffix) for name in there])
    if not alike:
        return ""
    others = ", ".join(f"{name}{opened.path.suffix}" for name in alike)
    return (
        f"The new database {opened.path.name} was made, and {others} is there already. "
        "If you meant that one, correct create_as, and delete the new file from models/carlos."
    )


def _unused(opened: MetricsDatabase, database: str, create_as: str) -> str:
    """That another file than the one of create_as was opened, because it is chosen in database; empty if not."""
    if not (create_as.strip() and _is_file(database)) or opened.path == folders.new_database_path(create_as):
        return ""
    name = create_as.strip()
    return f"{database} is opened, because it is chosen in database: {name!r} in create_as is there already, and not used."


def _opened(database: str, create_as: str, encoder: str) -> MetricsDatabase:
    """The database of the widgets' values. Raises DatabaseError if the file that create_as names is not what was chosen."""
    if not create_as.strip():
        return _open(database, encoder)
    target = folders.new_database_path(create_as)
    if not target.exists():
        return _created(database, encoder, target)
    if _is_file(database):
        return _file_or_copy(database, target)
    there = carlos.load_database(target)
    _check_is_chosen(there, database, encoder)
    return there


def _created(database: str, encoder: str, target: Path) -> MetricsDatabase:
    source = _open(database, encoder)
    encoder_id = _encoder_id(encoder)
    if database == BUNDLED and source.encoder_id != encoder_id:
        raise DatabaseError(
            f"The bundled LoRAs were measured with the encoder {source.encoder_id}, and {encoder_id} is chosen.",
            "Choose 'empty' in database for a new one of that encoder, or the encoder of the bundled LoRAs.",
        )
    if _is_file(database):
        source.made_from = database
    return carlos.create_database(source, target)


def _file_or_copy(database: str, target: Path) -> MetricsDatabase:
    """The chosen file, which counts more than a name in create_as; unless that is the copy that was once made of it."""
    path = folders.database_path(database)
    copy = _loaded_or_none(target) if path != target else None
    if copy is not None and copy.made_from == database:
        return copy
    chosen = carlos.load_database(path)
    if copy is not None and _is_unmarked_copy(copy, chosen):
        return copy
    return chosen


def _loaded_or_none(path: Path) -> MetricsDatabase | None:
    try:
        return carlos.load_database(path)
    except DatabaseError as error:
        logger.warning("carlos: %s", error)
        return None


def _is_unmarked_copy(copy: MetricsDatabase, chosen: MetricsDatabase) -> bool:
    """Whether an earlier version made a database from the chosen one: such a copy does not say so, but it has all its rows."""
    rows = set(chosen.column("lora_id"))
    return not copy.made_from and bool(rows) and rows <= set(copy.column("lora_id"))


def _check_is_chosen(there: MetricsDatabase, database: str, encoder: str) -> None:
    """Raises DatabaseError if an existing file of create_as has another encoder than the chosen one, holds published LoRAs though
    `empty` is chosen, or none of them though `bundled` is."""
    name, encoder_id = there.name, _encoder_id(encoder)
    # One of that name with other weights is the chosen one all the same; that its weights are gone is said when they are needed.
    if there.encoder_id is not None and encoder_id.partition("@")[0] != there.encoder_id.partition("@")[0]:
        raise DatabaseError(
            f"{name} exists already, and its LoRAs were measured with the encoder {there.encoder_id}; {encoder_id} is chosen.",
            f"To open it, choose {name} in database, or its encoder in encoder. For a new database, type another name into "
            "create_as.",
        )
    published = _n_published(there)
    if database == EMPTY and published:
        raise DatabaseError(
            f"{name} exists already and holds {published} of the bundled LoRAs, and 'empty' is chosen.",
            f"To open it, choose {name} or 'bundled' in database. For a new database without them, type another name into "
            "create_as.",
        )
    if database == BUNDLED and not published:
        raise DatabaseError(
            f"{name} exists already and holds none of the bundled LoRAs, and 'bundled' is chosen.",
            f"To open it, choose {name} or 'empty' in database. For a new database with them, type another name into create_as.",
        )


def _n_published(database: MetricsDatabase) -> int:
    """How many LoRAs of the bundled database are in this one, measured again or not."""
    return len(set(database.column("lora_id")) & set(carlos.load_bundled_database().column("lora_id")))


def _is_file(database: str) -> bool:
    return database not in (BUNDLED, EMPTY)


def _state_of(path: Path) -> str:
    if not path.exists():
        # It is made in this run, or was deleted since the last run: no cached result may be used for it.
        return f"absent|{time.time_ns()}"
    stat = path.stat()
    return f"{path}|{stat.st_mtime_ns}|{stat.st_size}"


def _open(name: str, encoder: str) -> MetricsDatabase:
    if name == BUNDLED:
        return carlos.load_bundled_database()
    if name == EMPTY:
        encoder_id = _encoder_id(encoder)
        return carlos.MetricsDatabase.empty(encoder_id, carlos.encoder_dimension(encoder_id, folders.encoder_folders()))
    return carlos.load_database(folders.database_path(name))


def _encoder_id(name: str) -> str:
    local = folders.encoders()
    folders.check_choice(name, (DEFAULT_ENCODER_ID, *local), "encoder")
    return local[name].encoder_id if name in local else name


NODES = [CarlosMetricsDBLoader]
