"""`carlos index` and `carlos index-folder`: LoRAs measured with your ComfyUI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import measure_options as measuring
from . import options
from .app import MEASURING, command
from .comfyui import ComfyUI
from .index_run import IndexRun, chosen_files, shard_of, this_comfyui
from .output import Answer
from .places import places_of

DEFAULT_ENCODER = "ViT-B-32-quickgelu/openai"


@command(
    "index",
    MEASURING,
    "index pixel_art.safetensors -d my_loras --checkpoint sd_xl_base_1.0.safetensors --comfyui ~/ComfyUI",
    "index ./new.safetensors -d my_loras.parquet --checkpoint sdxl.safetensors --comfyui ~/ComfyUI --scale-sweep --json",
)
def index(
    files: Annotated[list[str], typer.Argument(help="LoRA files: paths, or names in ComfyUI's list.")],
    database: options.OwnDatabase,
    checkpoint: options.Checkpoint,
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
    """Measure LoRAs with your ComfyUI, as the node LoRA Indexer does: the same pictures, the same rows."""
    given = locals()
    host = this_comfyui(ComfyUI.of(comfyui, python, base_directory, comfyui_args))
    places = places_of(host)
    return IndexRun(host, places, checkpoint, _settings(given), _guidances(used_with_cfg), describe).answer(
        database, encoder, chosen_files(places, files)
    )


@command(
    "index-folder",
    MEASURING,
    "index-folder -d my_loras --checkpoint sd_xl_base_1.0.safetensors --comfyui ~/ComfyUI",
    'index-folder --filter "styles/*" -d my_loras --checkpoint sdxl.safetensors --comfyui ~/ComfyUI --preset standard',
    "index-folder --shard 1/2 -d part1.parquet --checkpoint sdxl.safetensors --comfyui ~/ComfyUI --json",
)
def index_folder(
    database: options.OwnDatabase,
    checkpoint: options.Checkpoint,
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of LoRA files. Default: all that ComfyUI lists.", show_default=False)
    ] = None,
    name_filter: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help='Part of the names, or a pattern ("styles/*").')
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
    host = this_comfyui(ComfyUI.of(comfyui, python, base_directory, comfyui_args))
    places = places_of(host)
    run = IndexRun(host, places, checkpoint, _settings(given), _guidances(used_with_cfg), describe)
    return run.answer(database, encoder, chosen_files(places, None, folder, name_filter), part)


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
