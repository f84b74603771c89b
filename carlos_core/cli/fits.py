"""`carlos fits`: which LoRAs a checkpoint can take."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options
from .app import MEASURING, command
from .codes import DONE, NOTHING_FITS
from .comfyui import ComfyUI, answers
from .index_run import this_comfyui
from .output import Answer, Table
from .places import places_of
from .progress import showing


@command(
    "fits",
    MEASURING,
    "fits --checkpoint sd_xl_base_1.0.safetensors --comfyui ~/ComfyUI",
    'fits --checkpoint sdxl.safetensors --comfyui ~/ComfyUI --json | jq -r ".result.loras[] | select(.fits) | .name"',
)
def fits(
    checkpoint: options.Checkpoint,
    only_fitting: Annotated[bool, typer.Option("--only-fitting", help="List only what fits.")] = False,
    loras: options.Loras = None,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """List which LoRAs have layers that fit a checkpoint, told from the files' headers."""
    host = this_comfyui(ComfyUI.of(comfyui, python, base_directory, comfyui_args))
    places = places_of(host, loras)
    request = {"command": "fits", "checkpoint": checkpoint, "loras": [(name, str(path)) for name, path in places.loras]}
    found: dict[str, Any] = {}
    with showing() as shown, answers(host, request) as events:
        for event in events:
            if event["event"] == "progress":
                shown.tell(event["done"], event["total"], "looking at LoRA files")
            found = event
    of = [(name, fit) for name, fit in found["fits"]]
    listed = [
        {"name": name, "fits": fit is not None and fit["fits"], "layers": fit and fit["layers"], "of": fit and fit["of"]}
        for name, fit in of
        if not only_fitting or (fit is not None and fit["fits"])
    ]
    n_fitting = sum(fit is not None and fit["fits"] for _name, fit in of)
    result = {"checkpoint": checkpoint, "class": found["class"], "family": found["family"], "fitting": n_fitting, "loras": listed}
    rows = [
        (
            each["name"],
            "yes" if each["fits"] else "no" if each["of"] is not None else "unreadable",
            f"{each['layers']} of {each['of']}",
        )
        for each in listed
    ]
    said: list[str | Table] = [
        f"{n_fitting} of {len(of)} LoRAs fit this {found['class']} model.",
        Table(("LoRA", "fits", "layers"), rows),
    ]
    return Answer(result, said, code=DONE if n_fitting else NOTHING_FITS)
