"""`carlos index` and `carlos index-folder`: LoRAs measured with your ComfyUI, or with diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import measure_options as measuring
from . import options
from .app import MEASURING, Usage, command
from .comfyui import ComfyUI
from .diffusers_run import measuring_with_diffusers
from .index_run import IndexRun, chosen_files, measuring_with, shard_of, this_comfyui
from .output import Answer
from .places import places_of

DEFAULT_ENCODER = "ViT-B-32-quickgelu/openai"


@command(
    "index",
    MEASURING,
    "index pixel_art.safetensors -d my_loras --checkpoint sd_xl_base_1.0.safetensors --comfyui ~/ComfyUI",
    "index ./new.safetensors -d my_loras.parquet --checkpoint sdxl.safetensors --comfyui ~/ComfyUI --scale-sweep --json",
    "index ./new.safetensors -d my_loras.parquet --diffusers stabilityai/stable-diffusion-xl-base-1.0",
)
def index(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(help="LoRA files: paths, or names in ComfyUI's list.")],
    database: options.OwnDatabase,
    checkpoint: options.Checkpoint = "",
    diffusers: measuring.Diffusers = "",
    model_config: measuring.ModelConfig = None,
    preset: measuring.Preset = "standard",
    encoder: measuring.NewEncoder = DEFAULT_ENCODER,
    prompts: measuring.Prompts = "default",
    width: measuring.Width = 0,
    height: measuring.Height = 0,
    batch_size: measuring.BatchSize = 0,
    lora_weight: measuring.LoraWeight = 1.0,
    triggers: measuring.Triggers = "lora side",
    scale_sweep: measuring.ScaleSweep = False,
    measured_on: measuring.Checkpoints = "any of its shape",
    sampling: measuring.Sampling = "automatic",
    used_with_cfg: measuring.UsedWithCfg = None,
    overwrite: measuring.Again = False,
    describe: measuring.Describe = True,
    seeds: measuring.Seeds = 1,
    first_seed: measuring.FirstSeed = 0,
    max_prompts: measuring.MaxPrompts = 0,
    steps: measuring.Steps = 25,
    cfg: measuring.Cfg = 5.0,
    sampler: measuring.Sampler = "euler",
    scheduler: measuring.Scheduler = "normal",
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """Measure LoRAs with your ComfyUI, as the node LoRA Indexer does: the same pictures, the same rows. Or with diffusers."""
    given = locals()
    host = ComfyUI.of(comfyui, python, base_directory, comfyui_args)
    run = _run(host, given, context)
    return run.answer(database, encoder, chosen_files(run.places, files))


@command(
    "index-folder",
    MEASURING,
    "index-folder -d my_loras --checkpoint sd_xl_base_1.0.safetensors --comfyui ~/ComfyUI",
    'index-folder --filter "styles/*" -d my_loras --checkpoint sdxl.safetensors --comfyui ~/ComfyUI --preset standard',
    "index-folder --shard 1/2 -d part1.parquet --checkpoint sdxl.safetensors --comfyui ~/ComfyUI --json",
)
def index_folder(
    context: typer.Context,
    database: options.OwnDatabase,
    checkpoint: options.Checkpoint = "",
    diffusers: measuring.Diffusers = "",
    model_config: measuring.ModelConfig = None,
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of LoRA files. Default: all that ComfyUI lists.", show_default=False)
    ] = None,
    name_filter: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help='Parts of the names, or patterns ("styles/*"), with commas.')
    ] = "",
    shard: Annotated[
        str,
        typer.Option("--shard", metavar="I/N", help="Only the I-th of N parts, told by content: each LoRA is in one of them."),
    ] = "1/1",
    preset: measuring.Preset = "quick",
    encoder: measuring.NewEncoder = DEFAULT_ENCODER,
    prompts: measuring.Prompts = "default",
    width: measuring.Width = 0,
    height: measuring.Height = 0,
    batch_size: measuring.BatchSize = 0,
    lora_weight: measuring.LoraWeight = 1.0,
    triggers: measuring.Triggers = "lora side",
    scale_sweep: measuring.ScaleSweep = False,
    measured_on: measuring.Checkpoints = "any of its shape",
    sampling: measuring.Sampling = "automatic",
    used_with_cfg: measuring.UsedWithCfg = None,
    overwrite: measuring.Again = False,
    describe: measuring.Describe = True,
    seeds: measuring.Seeds = 1,
    first_seed: measuring.FirstSeed = 0,
    max_prompts: measuring.MaxPrompts = 0,
    steps: measuring.Steps = 25,
    cfg: measuring.Cfg = 5.0,
    sampler: measuring.Sampler = "euler",
    scheduler: measuring.Scheduler = "normal",
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """Measure a folder of LoRAs, one after another, as the node Index Library does. What is known is not measured again."""
    given = locals()
    part = shard_of(shard)
    run = _run(ComfyUI.of(comfyui, python, base_directory, comfyui_args), given, context)
    return run.answer(database, encoder, chosen_files(run.places, None, folder, name_filter), part)


def _run(host: ComfyUI | None, given: dict[str, Any], context: typer.Context) -> IndexRun:
    """A run with what the options name: a model of diffusers, or a ComfyUI with a checkpoint."""
    model = _model_of(given, context)
    guidances = _guidances(given["used_with_cfg"])
    if model:
        places = places_of(host)
        measure = measuring_with_diffusers(model, given["model_config"], places)
    else:
        measure, places = measuring_with(host), places_of(this_comfyui(host))
    return IndexRun(measure, places, given["checkpoint"], _settings(given), guidances, given["describe"])


def _model_of(given: dict[str, Any], context: typer.Context) -> str:
    """The model of diffusers; empty for a checkpoint of ComfyUI. Options come before variables. Raises Usage."""
    named = [name for name in ("checkpoint", "diffusers") if given[name]]
    if not named:
        raise Usage(
            "No model is named that makes the pictures.", "Give --checkpoint NAME with your ComfyUI, or --diffusers MODEL."
        )
    sources = {name: context.get_parameter_source(name) for name in named}
    typed = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if len(typed or named) > 1:
        raise Usage(
            f"Two models are named that make the pictures: {' and '.join(repr(given[name]) for name in named)}.",
            "Give --checkpoint with your ComfyUI, or --diffusers, and not both; variables count where neither is given.",
        )
    model: str = given["diffusers"] if "diffusers" in (typed or named) else ""
    # A file that is not there is told as such.
    is_file = Path(model).suffix.lower() == ".safetensors" or Path(model).expanduser().is_file()
    if given["model_config"] is not None and not is_file:
        raise Usage(
            "--model-config is for a single file of a checkpoint, and is not used here.",
            "Leave it out, or name a .safetensors file: --diffusers FILE.",
        )
    return model


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """The settings as the nodes' widgets call them."""
    renamed = {"sampler_name": given["sampler"], "checkpoint": given["measured_on"]}
    names = (
        "preset",
        "prompts",
        "width",
        "height",
        "batch_size",
        "lora_weight",
        "triggers",
        "scale_sweep",
        "sampling",
        "overwrite",
    )
    custom = ("seeds", "first_seed", "max_prompts", "steps", "cfg", "scheduler")
    plain = {name: given[name] for name in (*names, *custom)}
    if plain["prompts"].endswith(".json"):
        plain["prompts"] = str(Path(plain["prompts"]).absolute())
    return plain | renamed


def _guidances(used_with_cfg: float | None) -> tuple[float, ...]:
    return () if used_with_cfg is None else (used_with_cfg,)
