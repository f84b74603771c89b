"""What the nodes that find LoRAs share: the limits they offer, their outputs and their report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ...carlos_core.loras.family import FAMILIES
from ...carlos_core.loras.matching import Resolved
from ...carlos_core.records import Match, Matches
from ...carlos_core.search import ranking as retrieval
from ..host import folders
from .report import number, report, table
from .sockets import CarlosMatches

ANY_BASE_MODEL = "any"

_DOUBT = "Probably nothing fits: for an effect that none of these LoRAs has, the best would look this good {:.0%} of the time."


def top_k_input() -> io.Input:
    return io.Int.Input("top_k", default=5, min=1, max=100, tooltip="How many LoRAs to list.")


def prompts_input() -> io.Input:
    return io.Combo.Input(
        "prompts",
        options=[folders.DEFAULT_PROMPTS, *folders.prompt_set_names()],
        default=folders.DEFAULT_PROMPTS,
        tooltip="Prompt set behind the query's signature: built in, or a file in models/carlos/prompts.",
    )


def effect_inputs(*, optional: bool) -> list[io.Input]:
    """Limits on what was measured."""
    return [
        io.Float.Input(
            "max_strength",
            default=retrieval.MAX_STRENGTH,
            min=0.0,
            max=100.0,
            step=0.1,
            optional=optional,
            tooltip="Leave out LoRAs that change pictures more than this: they tend to break them.",
        ),
        io.Float.Input(
            "min_consistency",
            default=retrieval.MIN_CONSISTENCY,
            min=-1.0,
            max=1.0,
            step=0.001,
            optional=optional,
            tooltip="Leave out LoRAs whose effect differs more than this from picture to picture.",
        ),
    ]


def file_inputs(*, optional: bool) -> list[io.Input]:
    """Limits on the files: their family, and whether they are at hand."""
    return [
        io.Combo.Input(
            "base_model",
            options=[ANY_BASE_MODEL, *FAMILIES],
            default=ANY_BASE_MODEL,
            optional=optional,
            tooltip="Only LoRAs for this family of models; those of unknown family stay in the list.",
        ),
        io.Boolean.Input("installed_only", default=False, optional=optional, tooltip="Only LoRAs whose file is in models/loras."),
    ]


def nsfw_input(*, optional: bool) -> io.Input:
    return io.Int.Input(
        "max_nsfw_level",
        default=retrieval.NO_NSFW_LIMIT,
        min=1,
        max=retrieval.NO_NSFW_LIMIT,
        optional=optional,
        tooltip="Highest level of the LoRA's pictures on CivitAI: 1 for all ages, 2 PG-13, 4 R, 8 X, 16 XXX, 32 no limit.",
    )


def civitai_inputs() -> list[io.Input]:
    """Limits on what CivitAI says; LoRAs of which it says nothing stay."""
    return [
        nsfw_input(optional=True),
        io.Int.Input(
            "min_downloads", default=0, min=0, max=100_000_000, optional=True, tooltip="Least number of downloads on CivitAI."
        ),
    ]


def optional_limits() -> list[io.Input]:
    """All limits, for nodes that work without any of them being given."""
    return [*effect_inputs(optional=True), *file_inputs(optional=True), *civitai_inputs()]


def outputs() -> list[io.Output]:
    return [
        CarlosMatches.Output(display_name="matches"),
        io.AnyType.Output(display_name="lora_name", tooltip="Best installed match: wire it into Load LoRA."),
        io.Float.Output(display_name="score", tooltip="Its score; 0 if none is installed."),
        io.String.Output(display_name="report"),
    ]


def fingerprint() -> str:
    """A LoRA or a sidecar that came, went or changed since changes the answer, though no input does."""
    return str(hash(folders.lora_survey()))


def resolved(database: Any) -> dict[str, Resolved]:
    """lora_id -> its file, or why none can be taken, of the rows of which there is something to say."""
    return folders.lora_library().resolve(database.identities)


def installed(files: Mapping[str, Resolved]) -> dict[str, str]:
    """lora_id -> name in ComfyUI's list, of the rows whose file is at hand. files: what `resolved` gave."""
    return {lora_id: where.name for lora_id, where in files.items() if where.name is not None}


def base_model_of(choice: str) -> str | None:
    """The family that a combo's value stands for. Raises CarlosError for a value that is not offered."""
    folders.check_choice(choice, (ANY_BASE_MODEL, *FAMILIES), "base model")
    return None if choice == ANY_BASE_MODEL else choice


def node_output(
    database: Any, query: str, signature: Any, *notes: str, base_model: str = ANY_BASE_MODEL, **limits: Any
) -> io.NodeOutput:
    """The outputs of a search for a signature. notes: lines that the report begins with. limits: as the nodes' inputs give
    them, those of `retrieval.find_matches`."""
    files = resolved(database)
    matches = retrieval.find_matches(
        database, query, signature, base_model=base_model_of(base_model), installed=installed(files), **limits
    )
    return output_of(files, matches, *notes)


def output_of(files: Mapping[str, Resolved], matches: Matches, *notes: str) -> io.NodeOutput:
    """The outputs for matches. files: what `resolved` gave."""
    text = report([*notes, *_table(matches), *_notes(matches, files)], _facts(matches, files))
    if not matches.installed:
        reason = matches.reason or "None of the matches is installed: put one of them into models/loras."
        return io.NodeOutput(matches, ExecutionBlocker(reason), 0.0, text, ui=ui.PreviewText(text))
    best = matches.installed[0]
    return io.NodeOutput(matches, best.file, best.score, text, ui=ui.PreviewText(text))


def name_of(match: Match) -> str:
    """A LoRA's name in a table."""
    return match.name if match.row.get("version_id") is None else f"{match.name} [CivitAI version {match.version_id}]"


def file_of(match: Match) -> str | None:
    """File name with "/" between folders, as reports give it."""
    return match.file.replace("\\", "/") if match.file else match.row.get("file_name")


def _table(matches: Matches) -> list[str]:
    if not matches.items:
        return [f"Nothing fits {matches.query!r}. {matches.reason}"]
    best = matches.items[0].confidence
    doubt = [] if best is None or best.fits else [_DOUBT.format(best.p_value)]
    confidence = () if best is None else ("confidence",)
    header = ("rank", "score", *confidence, "strength", "consistency", "installed", "base model", "LoRA")
    return [f"LoRAs for {matches.query!r}:", *doubt, *table(header, [_cells(match) for match in matches.items])]


def _cells(match: Match) -> tuple[str, ...]:
    return (
        str(match.rank),
        number(match.score),
        *(() if match.confidence is None else (match.confidence.word,)),
        number(match.vector.strength, 2),
        number(match.vector.consistency),
        "yes" if match.file else "no",
        match.row.get("base_model") or "unknown",
        name_of(match),
    )


def _notes(matches: Matches, files: Mapping[str, Resolved]) -> list[str]:
    """What is ambiguous about the files of the matches, and of how many others that are for this reason not installed."""
    listed = {match.lora_id for match in matches.items}
    notes = [
        f"{match.name}: {files[match.lora_id].note}"
        for match in matches.items
        if match.lora_id in files and files[match.lora_id].note
    ]
    unclear = [where.note for lora_id, where in files.items() if where.name is None and lora_id not in listed]
    if unclear:
        notes.append(f"not counted as installed: {len(unclear)} more LoRAs of the database, e.g. because {unclear[0]}")
    return notes


def _facts(matches: Matches, files: Mapping[str, Resolved]) -> dict[str, object]:
    return {
        "query": matches.query,
        "matches": [
            {
                "rank": match.rank,
                "lora_id": match.lora_id,
                "file": file_of(match),
                "score": match.score,
                "strength": match.vector.strength,
                "consistency": match.vector.consistency,
                "installed": match.file is not None,
                "found_by": files[match.lora_id].by if match.file is not None else None,
                **_confidence(match),
            }
            for match in matches.items
        ],
    }


def _confidence(match: Match) -> dict[str, object]:
    if match.confidence is None:
        return {}
    return {"confidence": match.confidence.word, "p_value": match.confidence.p_value}
