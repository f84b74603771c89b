"""The node that says what LoRAs do, in words."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .. import carlos_core as carlos
from ..carlos_core.counting import counted
from ..carlos_core.drawing import theme
from ..carlos_core.drawing.listing import MOST_ROWS, Said
from ..carlos_core.errors import RetrievalError
from ..carlos_core.search.describing import FITS, KINDS, PERHAPS, UNNAMED
from .common import matches, pictures
from .common.csv_text import csv_text
from .common.descriptions import describer_of, not_kept, told_by
from .common.report import facts_text, number, report, table
from .common.schema import search_aliases
from .common.sockets import CarlosDb, picture_output
from .host import folders, lora_folder
from .host.progress import NodeProgress

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase
    from ..carlos_core.records import LoraRecord
    from ..carlos_core.search.describing import Describer, Description

_SHOWN = 300
_OWN_PHRASES = "No phrase fits surely: write your own into phrases.txt in models/carlos, one a line."
_SAID = ("named", "perhaps named", "with an effect that no phrase names", "with no one effect", "changing nothing")
_WORDS = dict(zip(KINDS, _SAID, strict=True))


class CarlosDescribeLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosDescribeLoras",
            display_name="Describe LoRAs (CARLoS)",
            category="CARLoS",
            description="Says in words what each LoRA of a database does to pictures, as it was measured.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input(
                    "names",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip='Which LoRAs, one a line: a part of the name or file, a pattern such as "styles/*", or an id. '
                    "Empty: all.",
                ),
                io.Boolean.Input(
                    "installed_only", default=False, optional=True, tooltip="Only LoRAs whose file is in models/loras."
                ),
                io.Boolean.Input(
                    "keep",
                    default=True,
                    optional=True,
                    tooltip="Keeps the words with the rows, so that other reports show them. For a database of your own.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report"),
                io.String.Output(
                    display_name="csv", tooltip="One line for each LoRA, for a spreadsheet. Save it as a .csv file."
                ),
                io.String.Output(display_name="facts", tooltip="The same as JSON, for scripts: all LoRAs."),
                picture_output(),
            ],
            **search_aliases(
                "what does this lora do", "explain lora", "lora description", "caption lora", "list loras", "export"
            ),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return f"{matches.fingerprint()}|{folders.own_phrases_state()}"

    @classmethod
    def execute(
        cls, database: MetricsDatabase, names: str = "", installed_only: bool = False, keep: bool = True
    ) -> io.NodeOutput:
        at_hand = lora_folder.installed(lora_folder.resolved(database))
        ids = _chosen(database, names, at_hand if installed_only else None)
        describer = describer_of(database)
        progress = NodeProgress(cls.hidden.unique_id)
        descriptions = describer.describe(ids, progress) if ids else []
        # Otherwise the last step that took long would stay on the node.
        progress.say(f"done: {counted(len(descriptions), 'LoRA')}")
        can_keep = keep and bool(descriptions) and not database.read_only and database.path is not None
        reason = not_kept(carlos.DatabaseFile.of(database), database, descriptions, describer) if can_keep else ""
        is_kept = can_keep and not reason
        records = [record for each in descriptions if (record := database.row(each.lora_id)) is not None]
        described = sorted(zip(descriptions, records, strict=True), key=lambda pair: (pair[1].name.casefold(), pair[0].lora_id))
        facts = [_facts(*pair, is_installed=pair[0].lora_id in at_hand) for pair in described]
        about = {
            "database": database.name,
            "encoder_id": database.encoder_id,
            "phrases": describer.n_phrases,
            "phrases_hash": describer.phrases_hash,
            "among": describer.n_loras,
            "described": len(facts),
            "kept": is_kept,
        }
        how = "Kept with the rows." if is_kept else f"Not kept with the rows: {reason}" if reason else ""
        lines = _lines(database, describer, facts, how)
        text = report(lines, {**about, "loras": facts[:_SHOWN]}).text
        rows = pictures.Rows(database)
        drawn = [
            rows.of_record(record, record.name, [Said(told.text)], is_installed=told.lora_id in at_hand)
            for told, record in described[:MOST_ROWS]
        ]
        title, notes = _heading(database, facts)
        picture, shown = pictures.drawn(rows.listing(Said(title), notes, drawn, len(described)), text)
        return io.NodeOutput(text, csv_text(_cells(facts)), facts_text({**about, "loras": facts}), picture, ui=shown)


def _chosen(database: MetricsDatabase, names: str, at_hand: Any) -> list[str]:
    """Ids of the rows that lines of `names` name, all if there are none. at_hand: ids to choose among; None for all.

    Raises RetrievalError for a line that no row has.
    """
    lines = [line.strip() for line in names.splitlines() if line.strip()]
    ids = database.column("lora_id")
    names_of = [
        [name.casefold() for name in names if name is not None]
        for names in zip(database.column("file_name"), database.column("model_name"), strict=True)
    ]
    chosen: set[str] = set()
    for line in lines:
        wanted = line.casefold()
        found = {
            lora_id
            for lora_id, names in zip(ids, names_of, strict=True)
            if wanted == lora_id.casefold() or any(wanted in name or fnmatchcase(name, wanted) for name in names)
        }
        if not found:
            raise RetrievalError(
                f"No LoRA of {database.name} is called {line!r}.", "Write a part of its name or file, or its id."
            )
        chosen |= found
    return [lora_id for lora_id in ids if (not lines or lora_id in chosen) and (at_hand is None or lora_id in at_hand)]


def _facts(description: Description, record: LoraRecord, *, is_installed: bool) -> dict[str, Any]:
    return {
        "lora_id": record.lora_id,
        "name": record.name,
        "file": record.file_name,
        "described_as": description.text,
        "kind": description.kind,
        "phrases": [vars(fit) for fit in description.phrases],
        "strength": record.strength,
        "consistency": record.consistency,
        "base_model": record.metadata.base_model,
        "trigger_words": list(record.metadata.trigger_words or ()),
        "installed": is_installed,
    }


def _lines(database: MetricsDatabase, describer: Describer, facts: list[dict[str, Any]], kept: str) -> list[str]:
    """kept: whether the words are kept with the rows, in words."""
    if not facts:
        return [f"{database.name}: no LoRA to describe. {_nothing(database)}"]
    kinds = Counter(fact["kind"] for fact in facts)
    cells = [
        (
            fact["name"],
            fact["described_as"],
            "/".join(dict.fromkeys(fit["word"] for fit in fact["phrases"])) or "-",
            number(fact["strength"], 2),
            number(fact["consistency"]),
            "yes" if fact["installed"] else "no",
        )
        for fact in facts[:_SHOWN]
    ]
    return [
        f"{counted(len(facts), 'LoRA')} of {database.name} ({database.encoder_id}): {_counts(facts)}.",
        f"What each does: {told_by(describer)}. {kept}".rstrip(),
        *table(("LoRA", "what it does", "confidence", "strength", "consistency", "installed"), cells),
        *([f"and {len(facts) - _SHOWN} more, in the outputs csv and facts"] if len(facts) > _SHOWN else []),
        *([_OWN_PHRASES] if not kinds[FITS] and (kinds[PERHAPS] or kinds[UNNAMED]) else []),
    ]


def _heading(database: MetricsDatabase, facts: list[dict[str, Any]]) -> tuple[str, list[Said]]:
    """Title and notes of the picture."""
    if not facts:
        return "No LoRA to describe", [Said(_nothing(database))]
    does = "does" if len(facts) == 1 else "do"
    return f"What {counted(len(facts), 'LoRA')} of {database.name} {does}", [Said(f"{_counts(facts)}.", theme.QUIET)]


def _counts(facts: list[dict[str, Any]]) -> str:
    """How many are of each kind, in words."""
    kinds = Counter(fact["kind"] for fact in facts)
    return ", ".join(f"{kinds[kind]} {_WORDS[kind]}" for kind in KINDS if kinds[kind])


def _nothing(database: MetricsDatabase) -> str:
    return "Index some LoRAs first." if not len(database) else "None of its LoRAs is installed."


def _cells(facts: list[dict[str, Any]]) -> list[list[Any]]:
    names = ("lora_id", "name", "file", "described_as", "kind", "strength", "consistency", "base_model", "installed")
    rows = [[*(fact[name] for name in names), ", ".join(fact["trigger_words"])] for fact in facts]
    return [[*names, "trigger_words"], *rows]


NODES = [CarlosDescribeLoras]
