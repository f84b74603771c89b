"""diffusers' pipelines from a folder, a single file or the Hugging Face hub: safetensors only, and no code from strangers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError, safe_open

from ..errors import GenerationError
from ..foreign import printable
from ..storage import home
from .families import FAMILIES
from .model import DiffusersModel
from .quiet import quiet

logger = logging.getLogger(__name__)

SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0"
"""The model of the published protocol."""

_INDEX = "model_index.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
_TELLING = {
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": "FluxPipeline",
    "double_blocks.0.img_attn.qkv.weight": "FluxPipeline",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "StableDiffusion3Pipeline",
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": "StableDiffusionXLPipeline",
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": "StableDiffusionPipeline",
    "cond_stage_model.model.token_embedding.weight": "StableDiffusionPipeline",
}
"""A tensor of a single file -> the pipeline for it."""

_WITHOUT_CHECKER = {"safety_checker": None, "requires_safety_checker": False}
"""It would make pictures black: then they say nothing of a LoRA."""

_ODD = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What readers of models raise over a bad file."""


def models_directory() -> Path:
    """Where models may be put by hand, a folder each."""
    return home() / "models"


def own_folder(name: str) -> Path:
    """Where a model of the hub may be put by hand. Two of different owners may have the same last part of their ids."""
    return models_directory() / (name.rpartition("/")[2] if name == SDXL_BASE else name.replace("/", "--"))


def load_model(source: str | Path, device: str | torch.device = "", config: str | Path | None = None) -> DiffusersModel:
    """A model of diffusers, ready to make pictures: float32 on the CPU, half precision on a GPU.

    Args:
        source: a folder in diffusers' layout, a .safetensors file of a whole checkpoint, or an id of the Hugging Face hub, which
            is looked for in `models_directory` and in the hub's cache before it is fetched.
        device: as torch calls it; default is the GPU if there is one, otherwise the CPU.
        config: with a single file: a folder with the model's configuration and tokenizers, without weights; default is the one
            that diffusers knows for it, from the hub.

    Raises GenerationError for a model that is not there, cannot be fetched or is of a kind that is not supported.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    path = Path(source).expanduser()
    if path.suffix.lower() in _PICKLES:
        raise GenerationError(
            f"{printable(path.name)} may be a pickle, which can run code when it is read.", "Use a .safetensors file."
        )
    if path.is_file():
        return _of_file(path, where, config)
    if (path / _INDEX).is_file():
        return _of_folder(path, where, _variant(path))
    name = str(source)
    if path.exists() or not _HUB_ID.fullmatch(name):
        raise GenerationError(
            f"There is no model of diffusers at {printable(name)}.",
            f"Name a folder with {_INDEX}, a .safetensors file of a checkpoint, or an id of the Hugging Face hub.",
        )
    own = own_folder(name)
    if (own / _INDEX).is_file():
        return _of_folder(own, where, _variant(own), name)
    folder, variant = _fetched(name, where)
    return _of_folder(folder, where, variant, name)


def _of_folder(folder: Path, device: torch.device, variant: str | None, name: str = "") -> DiffusersModel:
    """variant: what follows the names of the weights' files, such as "fp16". name: of the model, if it has one on the hub."""
    index = _index_of(folder)
    kind = _supported(index.get("_class_name"), folder.name)
    # Without a mention, a component that a model lacks would be one that is missing.
    lacking: dict[str, Any] = {
        key: None for key, value in index.items() if isinstance(value, list) and value and value[0] is None
    }
    if kind == "StableDiffusionPipeline":
        lacking |= _WITHOUT_CHECKER
    with quiet():
        try:
            pipe = getattr(diffusers, kind).from_pretrained(
                folder,
                variant=variant,
                dtype=_dtype(kind, device),
                use_safetensors=True,
                local_files_only=True,
                **lacking,
            )
        except _ODD as error:
            raise _unreadable(name or folder.name, error) from error
    return DiffusersModel(pipe, FAMILIES[kind], device)


def _of_file(path: Path, device: torch.device, config: str | Path | None) -> DiffusersModel:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise _unreadable(path.name, error) from error
    kind = _supported(next((kind for name, kind in _TELLING.items() if name in names), None), path.name)
    given = {"config": str(config), "local_files_only": True} if config is not None else {}
    with quiet():
        try:
            pipe = getattr(diffusers, kind).from_single_file(str(path), dtype=_dtype(kind, device), **given)
        # It may be fetched from the hub: connections break in too many ways to name.
        except Exception as error:
            raise GenerationError(
                f"diffusers cannot load {printable(path.name)} ({_reason(error)}).",
                "A single file holds neither configuration nor tokenizers, which diffusers fetches from the Hugging Face hub: "
                "name a folder that has them (config=..., or --model-config), or load the model as a folder.",
            ) from error
    return DiffusersModel(pipe, FAMILIES[kind], device)


def _fetched(name: str, device: torch.device) -> tuple[Path, str | None]:
    """The folder of a model in the hub's cache, and its variant. What is missing there is fetched, with a bar of progress."""
    # Most repositories also have the weights in half precision: half the bytes.
    variants = (None, "fp16") if device.type == "cpu" else ("fp16", None)
    reason = ""
    for variant in variants:
        try:
            return Path(diffusers.DiffusionPipeline.download(name, variant=variant, use_safetensors=True)), variant
        # Connections break in too many ways to name.
        except Exception as error:
            reason = reason or _reason(error)
            logger.info("carlos: %s cannot be had%s: %s", name, f" as {variant}" if variant else "", error)
    raise GenerationError(
        f"The model {name} is not here and could not be fetched ({reason}).",
        f"Go online once, or put its folder (with {_INDEX}, as `hf download {name}` gets it) at {own_folder(name)}.",
    )


def _index_of(folder: Path) -> Mapping[str, Any]:
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(folder.name, error) from error
    return index if isinstance(index, dict) else {}


def _supported(kind: object, name: str) -> str:
    if isinstance(kind, str) and kind in FAMILIES:
        return kind
    known = ", ".join(each.removesuffix("Pipeline") for each in FAMILIES)
    raise GenerationError(
        f"{printable(name)} is of a kind that is not supported ({printable(str(kind))[:60]}).", f"Choose a model of {known}."
    )


def _variant(folder: Path) -> str | None:
    """ "fp16" for a folder whose weights are there in that form alone."""
    weights = [path.name for path in folder.glob("*/*.safetensors")]
    return "fp16" if weights and all(".fp16" in name for name in weights) else None


def _dtype(kind: str, device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else FAMILIES[kind].half


def _unreadable(name: str, error: Exception) -> GenerationError:
    what = f"diffusers cannot load {printable(name)} ({_reason(error)})."
    return GenerationError(what, "Check that all of its files are whole.")


def _reason(error: Exception) -> str:
    return printable((str(error).splitlines() or [""])[0].strip().rstrip(".") or type(error).__name__)[:300]
