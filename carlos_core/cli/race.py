"""`carlos race`: the LoRAs for a sentence among files that nobody has measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..counting import counted, number, share
from ..errors import CarlosError
from ..measuring.failures import Failure, alike
from ..measuring.settings import RACE_EVALUATIONS
from . import measure_options as measuring
from . import options
from .app import GO_ON, MEASURING, Interrupted, command
from .codes import DONE, NOTHING_FITS
from .comfyui import ComfyUI, answers
from .facts import database_facts, database_line
from .find import Query
from .index import DEFAULT_ENCODER
from .index_run import RunSeen, chosen_files, own_database, this_comfyui
from .output import Answer, Table
from .places import places_of
from .progress import showing

_PANEL = "When it is over"


@command(
    "race",
    MEASURING,
    'race "snowfall" -d my_loras --checkpoint sd_xl_base_1.0.safetensors --comfyui ~/ComfyUI',
    'race "oil painting" --filter "styles/*" -d my_loras --checkpoint sdxl.safetensors --comfyui ~/ComfyUI --max-minutes 10',
    'race "snowfall" -d my_loras --checkpoint sdxl.safetensors --comfyui ~/ComfyUI --json | jq -r ".result.choice[0].file"',
)
def race(
    query: Query,
    database: options.OwnDatabase,
    checkpoint: options.Checkpoint,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="A prompt of your own to try them on. Default: the index prompts.")
    ] = "",
    name_filter: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help='Parts of the names, or patterns ("styles/*"), with commas.')
    ] = "",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=100, help="How many to find.", rich_help_panel=_PANEL)] = 3,
    confidence: Annotated[
        float, typer.Option("--confidence", help="How sure it must be that no other fits better.", rich_help_panel=_PANEL)
    ] = 0.9,
    max_model_evaluations: Annotated[
        int, typer.Option("--max-model-evaluations", min=0, help="Forward passes at most. 0: any.", rich_help_panel=_PANEL)
    ] = RACE_EVALUATIONS,
    max_minutes: Annotated[float, typer.Option("--max-minutes", min=0, help="0: no limit.", rich_help_panel=_PANEL)] = 0.0,
    encoder: measuring.NewEncoder = DEFAULT_ENCODER,
    prompts: Annotated[
        str, typer.Option("--prompts", metavar="NAME", help="A prompt set for what the sentence means, for experts.")
    ] = "default",
    index_prompts: measuring.IndexPrompts = "default",
    width: measuring.Width = 0,
    height: measuring.Height = 0,
    sampling: measuring.Sampling = "automatic",
    steps: measuring.Steps = 25,
    cfg: measuring.Cfg = 5.0,
    sampler: measuring.Sampler = "euler",
    scheduler: measuring.Scheduler = "normal",
    used_with_cfg: measuring.UsedWithCfg = None,
    max_strength: options.MaxStrength = 9.8,
    min_consistency: options.MinConsistency = 0.041,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """Find the LoRAs for a sentence without measuring all of them first, as the node Race LoRAs does."""
    host = this_comfyui(ComfyUI.of(comfyui, python, base_directory, comfyui_args))
    places = places_of(host)
    files = chosen_files(places, None, None, name_filter)
    path = own_database(places, database, encoder)
    request = {
        "command": "race",
        "query": query,
        "checkpoint": checkpoint,
        "settings": {
            "prompt": prompt,
            "index_prompts": _prompt_set(index_prompts),
            "sampling": sampling,
            "width": width,
            "height": height,
            "steps": steps,
            "cfg": cfg,
            "sampler_name": sampler,
            "scheduler": scheduler,
        },
        "rules": {
            "top_k": top_k,
            "confidence": confidence,
            "max_model_evaluations": max_model_evaluations,
            "max_minutes": max_minutes,
        },
        "limits": {"max_strength": max_strength, "min_consistency": min_consistency},
        "prompts": _prompt_set(prompts),
        "database": str(path),
        "loras": [(name, str(file)) for name, file in files],
        "guidances": () if used_with_cfg is None else (used_with_cfg,),
    }
    return _answer_of(_Seen.of(host, request), path)


def _prompt_set(name: str) -> str:
    """The name of a prompt set, or the path of one for another working folder."""
    return str(Path(name).absolute()) if name.endswith(".json") else name


class _Seen(RunSeen):
    """What ComfyUI's process has said of a race."""

    @classmethod
    def of(cls, host: ComfyUI, request: Mapping[str, Any]) -> _Seen:
        """What it says to a request. Raises CarlosError, and Interrupted for Ctrl-C; what was finished is kept."""
        seen = cls()
        with showing() as shown:
            try:
                with answers(host, request) as events:
                    for event in events:
                        seen.take(event, shown)
            except KeyboardInterrupt:
                raise Interrupted(f"Interrupted: {counted(seen.pictures, 'picture')} kept.", GO_ON) from None
            except CarlosError as error:
                if not seen.pictures:
                    raise
                raise type(error)(error.what, f"{error.hint} {counted(seen.pictures, 'picture')} kept.".strip()) from error
        return seen


def _answer_of(seen: _Seen, path: Path) -> Answer:
    from ..database.database import load_database
    from ..measuring.run_facts import parts_of_cost

    opened, found = load_database(path), seen.result
    failed = [*found["failed"], *({"file": each["file"], "reason": each["reason"]} for each in seen.failures)]
    result = {**found, "failed": failed, "fits": bool(found["choice"]), "database": database_facts(opened)}
    rows = [
        (
            str(rank),
            choice["file"],
            number(choice["score"]),
            number(choice["score_se"]),
            f"{choice['model_evaluations']:,}",
        )
        for rank, choice in enumerate(found["choice"] or found["leaders"], start=1)
    ]
    n_trial = ((found.get("settings") or {}).get("quick_steps") or {}).get("model_evaluations") or 0
    cost = f"{found['model_evaluations']:,} model evaluations ({parts_of_cost(n_trial, found['base_model_evaluations'])})"
    left = f"{found['left']} of {counted(found['candidates'], 'LoRA')} left"
    n_unfit = found["left_out"].get("does not fit", 0)
    shown: list[str | Table] = [
        *([] if found["choice"] else [f"{found['nothing']}{' The nearest:' if found['leaders'] else ''}"]),
        Table(("rank", "LoRA", "score", "+-", "model evaluations"), rows, ("rank", "score", "+-", "model evaluations")),
        f"{found['reason']}: {share(found['confidence'])} sure, {left}, {cost}",
        *found["notes"],
        *([f"{counted(n_unfit, 'LoRA is', 'LoRAs are')} left out: for other models"] if n_unfit else []),
        *(f"failed: {', '.join(group.files)}: {group.reason}" for group in alike(Failure(**failure) for failure in failed)),
        database_line(opened),
    ]
    return Answer(result, shown, (), DONE if found["choice"] else NOTHING_FITS)
