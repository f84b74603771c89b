"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_COMFYUI, _FILTERS = "ComfyUI", "What may be found"

Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON object on stdout instead of a table.")]

Database = Annotated[
    str,
    typer.Option(
        "--database",
        "-d",
        envvar="CARLOS_DATABASE",
        metavar="FILE",
        help="A .parquet file, or its name in ComfyUI's models/carlos. bundled: 740 published SDXL LoRAs.",
    ),
]
OwnDatabase = Annotated[
    str,
    typer.Option(
        "--database",
        "-d",
        envvar="CARLOS_DATABASE",
        metavar="FILE",
        help="Your own database. A plain name is in ComfyUI's models/carlos. It is made if it is not there.",
        show_default=False,
    ),
]
Loras = Annotated[
    list[Path] | None,
    typer.Option(
        "--loras", metavar="DIR", help="A folder of LoRA files: what is in it is installed. May be given several times."
    ),
]
ComfyUI = Annotated[
    Path | None,
    typer.Option(
        "--comfyui",
        envvar="CARLOS_COMFYUI",
        metavar="DIR",
        help="Your ComfyUI: its LoRAs, databases and caches are used, and its models.",
        rich_help_panel=_COMFYUI,
    ),
]
Python = Annotated[
    Path | None,
    typer.Option(
        "--python",
        envvar="CARLOS_COMFYUI_PYTHON",
        metavar="FILE",
        help="The Python that runs your ComfyUI. Default: that of DIR/.venv, DIR/venv or python_embeded beside it.",
        rich_help_panel=_COMFYUI,
    ),
]
BaseDirectory = Annotated[
    Path | None,
    typer.Option(
        "--base-directory",
        envvar="CARLOS_COMFYUI_BASE",
        metavar="DIR",
        help="ComfyUI's own option: where its models, input and user folders are.",
        rich_help_panel=_COMFYUI,
    ),
]
ComfyUIArguments = Annotated[
    str,
    typer.Option(
        "--comfyui-args",
        envvar="CARLOS_COMFYUI_ARGS",
        metavar="TEXT",
        help='Further options of ComfyUI, as you start it: "--cpu", "--lowvram", "--extra-model-paths-config FILE".',
        rich_help_panel=_COMFYUI,
    ),
]

TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, max=1000, help="So many LoRAs at most.")]
InstalledOnly = Annotated[
    bool, typer.Option("--installed-only", help="Only LoRAs whose file is here (--loras or --comfyui).", rich_help_panel=_FILTERS)
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base-model",
        metavar="FAMILY",
        help='Only LoRAs of a family, such as "SDXL" or "Flux", and those that do not say.',
        rich_help_panel=_FILTERS,
    ),
]
MaxStrength = Annotated[float, typer.Option("--max-strength", help="Stronger LoRAs break pictures.", rich_help_panel=_FILTERS)]
MinConsistency = Annotated[
    float, typer.Option("--min-consistency", help="Less consistent ones do no one thing.", rich_help_panel=_FILTERS)
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="ID", help="Not this LoRA. May be given several times.", rich_help_panel=_FILTERS),
]

Checkpoint = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        envvar="CARLOS_CHECKPOINT",
        metavar="NAME",
        help="A checkpoint by its name in ComfyUI's list. It should be of the LoRAs' family.",
        show_default=False,
    ),
]
