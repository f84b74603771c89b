"""Options of a measurement: those of the nodes LoRA Indexer and Index Library, by the same names."""

from __future__ import annotations

from typing import Annotated

import typer

_HEADLESS = "Without ComfyUI"
_MEASURING, _CUSTOM = "How it is measured", "Only for --preset custom (or --sampling 'as given')"

Diffusers = Annotated[
    str,
    typer.Option(
        "--diffusers",
        envvar="CARLOS_DIFFUSERS",
        metavar="MODEL",
        help="A model for diffusers: its folder, a .safetensors file of a checkpoint, or its id on the Hugging Face hub.",
        show_default=False,
        rich_help_panel=_HEADLESS,
    ),
]
ModelConfig = Annotated[
    str | None,
    typer.Option(
        "--model-config",
        metavar="DIR",
        help="With a .safetensors file: a folder with the model's configuration and tokenizers. Default: from the hub.",
        rich_help_panel=_HEADLESS,
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        metavar="WORD",
        help="quick: at most 900 model evaluations for each LoRA. standard: until the direction is known. paper: the published "
        "protocol, 224,000. custom: all prompts x seeds.",
        rich_help_panel=_MEASURING,
    ),
]
Prompts = Annotated[
    str,
    typer.Option(
        "--prompts",
        metavar="NAME",
        help="A prompt set: a .json file, or its name in models/carlos/prompts.",
        rich_help_panel=_MEASURING,
    ),
]
IndexPrompts = Annotated[
    str,
    typer.Option(
        "--index-prompts",
        metavar="NAME",
        help="The prompts to try LoRAs on: a .json file, or its name in models/carlos/prompts.",
        rich_help_panel=_MEASURING,
    ),
]
Width = Annotated[int, typer.Option("--width", min=0, max=8192, help="0: the model's native size.", rich_help_panel=_MEASURING)]
Height = Annotated[int, typer.Option("--height", min=0, max=8192, help="0: the model's native size.", rich_help_panel=_MEASURING)]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=0, max=256, help="Pictures at a time. 0: as memory allows.", rich_help_panel=_MEASURING)
]
LoraWeight = Annotated[
    float, typer.Option("--lora-weight", min=-10, max=10, help="The weight to measure at.", rich_help_panel=_MEASURING)
]
Triggers = Annotated[
    str, typer.Option("--triggers", metavar="WORDS", help='"lora side" or "both sides".', rich_help_panel=_MEASURING)
]
ScaleSweep = Annotated[
    bool, typer.Option("--scale-sweep", help="Also measure other weights, and suggest one.", rich_help_panel=_MEASURING)
]
Checkpoints = Annotated[
    str,
    typer.Option(
        "--measured-on",
        metavar="WORDS",
        help='"any of its shape": what another checkpoint of this shape has measured is not measured again. "this one": it is.',
        rich_help_panel=_MEASURING,
    ),
]
Sampling = Annotated[
    str,
    typer.Option("--sampling", metavar="WORDS", help='"automatic", "preset" or "as given".', rich_help_panel=_MEASURING),
]
UsedWithCfg = Annotated[
    float | None,
    typer.Option(
        "--used-with-cfg",
        metavar="CFG",
        help="The cfg that you use this checkpoint with; 1 for turbo and lightning. Nodes see it in the workflow.",
        rich_help_panel=_MEASURING,
    ),
]
Again = Annotated[bool, typer.Option("--overwrite", help="Measure again what the database has.", rich_help_panel=_MEASURING)]
Describe = Annotated[
    bool, typer.Option("--describe/--no-describe", help="Say in words what each does, afterwards.", rich_help_panel=_MEASURING)
]
NewEncoder = Annotated[
    str,
    typer.Option("--encoder", metavar="ID", help="The CLIP of a new database: open_clip's MODEL/TAG, or a name in encoders."),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, max=1024, help="Pictures of each prompt.", rich_help_panel=_CUSTOM)]
FirstSeed = Annotated[
    int, typer.Option("--first-seed", min=0, max=2**53, help="The next ones count up.", rich_help_panel=_CUSTOM)
]
MaxPrompts = Annotated[
    int, typer.Option("--max-prompts", min=0, max=100_000, help="Only so many prompts. 0: all.", rich_help_panel=_CUSTOM)
]
Steps = Annotated[int, typer.Option("--steps", min=1, max=1000, help="Sampler steps.", rich_help_panel=_CUSTOM)]
Cfg = Annotated[float, typer.Option("--cfg", min=0, max=100, help="Guidance.", rich_help_panel=_CUSTOM)]
Sampler = Annotated[str, typer.Option("--sampler", metavar="NAME", help="Sampler of ComfyUI.", rich_help_panel=_CUSTOM)]
Scheduler = Annotated[str, typer.Option("--scheduler", metavar="NAME", help="Scheduler of ComfyUI.", rich_help_panel=_CUSTOM)]
