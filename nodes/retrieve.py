"""Nodes that find LoRAs for a sentence."""

from collections.abc import Mapping

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..carlos_core import retrieval
from ..carlos_core.loras import FAMILIES, Resolved
from ..carlos_core.prompts import default_signature_prompts
from ..carlos_core.types import Match, Matches
from . import encoding, folders
from .report import number, report, table
from .sockets import CarlosDb, CarlosMatches

ANY_BASE_MODEL = "any"

_DOUBT = "Probably nothing fits: for an effect that none of these LoRAs has, the best would look this good {:.0%} of the time."


class CarlosLoraRetriever(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLoraRetriever",
            display_name="LoRA Retriever (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs by what they do to pictures, for a sentence of yours.",
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input(
                    "query",
                    multiline=True,
                    tooltip='What the LoRA should do, e.g. "snowfall, cold winter scene, visible breath".',
                ),
                io.Int.Input("top_k", default=5, min=1, max=100, tooltip="How many LoRAs to list."),
                io.Float.Input(
                    "max_strength",
                    default=retrieval.MAX_STRENGTH,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Leave out LoRAs that change pictures more than this: they tend to break them.",
                ),
                io.Float.Input(
                    "min_consistency",
                    default=retrieval.MIN_CONSISTENCY,
                    min=-1.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Leave out LoRAs whose effect differs more than this from picture to picture.",
                ),
                io.Combo.Input(
                    "base_model",
                    options=[ANY_BASE_MODEL, *FAMILIES],
                    default=ANY_BASE_MODEL,
                    tooltip="Only LoRAs for this family of models; those of unknown family stay in the list.",
                ),
                io.Boolean.Input("installed_only", default=False, tooltip="Only LoRAs whose file is in models/loras."),
                io.Combo.Input(
                    "prompts",
                    options=[folders.DEFAULT_PROMPTS, *folders.prompt_set_names()],
                    default=folders.DEFAULT_PROMPTS,
                    tooltip="Prompt set behind the query's signature: built in, or a file in models/carlos/prompts.",
                ),
                io.Float.Input(
                    "min_alignment",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Leave out LoRAs whose direction is known less well than this cosine says. 0: no limit.",
                ),
                io.Combo.Input(
                    "ranking",
                    options=list(retrieval.RANKINGS),
                    default=retrieval.PUBLISHED,
                    optional=True,
                    tooltip="By the published score, or by how far a LoRA stands out of what it has in common with any sentence, "
                    "with a word for how sure that is.",
                ),
            ],
            outputs=[
                CarlosMatches.Output(display_name="matches"),
                io.AnyType.Output(display_name="lora_name", tooltip="Best installed match: wire it into Load LoRA."),
                io.Float.Output(display_name="score", tooltip="Its score, a cosine; 0 if none is installed."),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        # A LoRA or a sidecar that came, went or changed since changes the answer, though no input does.
        return str(hash(folders.lora_survey()))

    @classmethod
    def execute(
        cls,
        database,
        query: str,
        top_k: int,
        max_strength: float,
        min_consistency: float,
        base_model: str,
        installed_only: bool,
        prompts: str,
        min_alignment: float = 0.0,
        ranking: str = retrieval.PUBLISHED,
    ) -> io.NodeOutput:
        folders.check_choice(base_model, (ANY_BASE_MODEL, *FAMILIES), "base model")
        folders.check_choice(ranking, retrieval.RANKINGS, "ranking")
        signature_prompts = folders.prompt_set(prompts, default_signature_prompts())
        signature = retrieval.signature_for(
            database, query, prompts=signature_prompts, cache=encoding.signature_cache(), load=encoding.load_encoder
        )
        resolved = folders.lora_library().resolve(database.identities)
        matches = retrieval.find_matches(
            database,
            query,
            signature,
            top_k=top_k,
            max_strength=max_strength,
            min_consistency=min_consistency,
            min_alignment=min_alignment,
            base_model=None if base_model == ANY_BASE_MODEL else base_model,
            installed={lora_id: found.name for lora_id, found in resolved.items() if found.name is not None},
            installed_only=installed_only,
            ranking=ranking,
            background=encoding.background(database, signature_prompts) if ranking == retrieval.CALIBRATED else None,
        )
        text = report([*_table(matches), *_notes(matches, resolved)], _facts(matches, resolved))
        if not matches.installed:
            reason = matches.reason or "None of the matches is installed: put one of them into models/loras."
            return io.NodeOutput(matches, ExecutionBlocker(reason), 0.0, text, ui=ui.PreviewText(text))
        best = matches.installed[0]
        return io.NodeOutput(matches, best.file, best.score, text, ui=ui.PreviewText(text))


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
        match.name if match.row.get("version_id") is None else f"{match.name} [CivitAI version {match.version_id}]",
    )


def _notes(matches: Matches, resolved: Mapping[str, Resolved]) -> list[str]:
    """What is ambiguous about the files of the matches, and of how many others that are for this reason not installed."""
    listed = {match.lora_id for match in matches.items}
    notes = [
        f"{match.name}: {resolved[match.lora_id].note}"
        for match in matches.items
        if match.lora_id in resolved and resolved[match.lora_id].note
    ]
    unclear = [found.note for lora_id, found in resolved.items() if found.name is None and lora_id not in listed]
    if unclear:
        notes.append(f"not counted as installed: {len(unclear)} more LoRAs of the database, e.g. because {unclear[0]}")
    return notes


def _facts(matches: Matches, resolved: Mapping[str, Resolved]) -> dict[str, object]:
    return {
        "query": matches.query,
        "matches": [
            {
                "rank": match.rank,
                "lora_id": match.lora_id,
                "file": match.file.replace("\\", "/") if match.file else match.row.get("file_name"),
                "score": match.score,
                "strength": match.vector.strength,
                "consistency": match.vector.consistency,
                "installed": match.file is not None,
                "found_by": resolved[match.lora_id].by if match.file is not None else None,
                **_confidence(match),
            }
            for match in matches.items
        ],
    }


def _confidence(match: Match) -> dict[str, object]:
    if match.confidence is None:
        return {}
    return {"confidence": match.confidence.word, "p_value": match.confidence.p_value}


NODES = [CarlosLoraRetriever]
