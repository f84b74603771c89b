"""LoRAs of every family of models against a model of every family: what the header says, what is applied, what really changes.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/matrix_run.py WORK  (with ComfyUI's Python)

The models are ComfyUI's own classes with few and narrow layers and random weights; widths of families differ as in reality.
Writes what it found to WORK/matrix.json.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

(WORK,) = sys.argv[1:]

sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.lora
import comfy.sd
import comfy.supported_models
import folder_paths
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, build
from torch import Tensor

from carlos_core.comfy.families import model_family
from carlos_core.comfy.layers import ModelLayers, model_key
from carlos_core.comfy.lora_fit import fit_of_file
from carlos_core.comfy.patching import apply_lora
from carlos_core.errors import LoraError

ROOT = Path(__file__).resolve().parents[2]
HALVES = ("SDXL", "ZImage")
RANK = 2
LARGEST = 1 << 18
KINDS = ("old diffusers", "loha", "lokr", "dora", "diff", "oft")


def lora(names: Mapping[str, tuple[int, int]], kind: str) -> dict[str, Tensor]:
    """A LoRA of a kind for layers (name -> [out, in])."""
    found: dict[str, Tensor] = {}
    for name, (rows, columns) in names.items():
        up, down = torch.randn(rows, RANK), torch.randn(RANK, columns)
        if kind == "kohya":
            found |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
        elif kind == "peft":
            found |= {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}
        elif kind == "old diffusers":
            found |= {f"{name}_lora.up.weight": up, f"{name}_lora.down.weight": down}
        elif kind == "loha":
            found |= {
                f"{name}.hada_w1_a": up,
                f"{name}.hada_w1_b": down,
                f"{name}.hada_w2_a": up + 1,
                f"{name}.hada_w2_b": down + 1,
            }
        elif kind == "lokr":
            found |= {f"{name}.lokr_w1": torch.randn(2, 2), f"{name}.lokr_w2": torch.randn(rows // 2, columns // 2)}
        elif kind == "dora":
            found |= {
                f"{name}.lora_up.weight": up,
                f"{name}.lora_down.weight": down,
                f"{name}.dora_scale": torch.ones(1, columns),
            }
        elif kind == "diff":
            found[f"{name}.diff"] = up @ down
        elif kind == "oft":
            found |= {f"{name}.oft_blocks": torch.randn(2, rows // 2, rows // 2) * 0.1, f"{name}.alpha": torch.tensor(1.0)}
    return found


def layouts(model: Any) -> dict[str, dict[str, Tensor]]:
    """The LoRAs that are made for a model: each spelling of names that ComfyUI knows for it, and kinds of LoRAs."""
    shapes = {key: tuple(weight.shape) for key, weight in model.model.state_dict().items()}
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    spellings: dict[str, dict[str, tuple[int, int]]] = {}
    for name, target in keys.items():
        key, part = (target, None) if isinstance(target, str) else (target[0], target[1])
        # The largest layers, such as those of text adapters that cannot be narrowed, would take most of the time.
        if key.endswith(".weight") and len(shapes.get(key, ())) == 2 and prod(shapes[key]) <= LARGEST:
            rows, columns = shapes[key]
            size = (part[2], columns) if part is not None and part[0] == 0 else (rows, columns)
            spellings.setdefault(_spelling(name), {})[name] = size
    made = {spelling: lora(names, "peft" if "." in next(iter(names)) else "kohya") for spelling, names in spellings.items()}
    plain = {name: size for name, size in spellings["lora_unet"].items() if not size[0] % 2 and not size[1] % 2}
    return made | {kind: lora(plain, kind) for kind in KINDS}


def _spelling(name: str) -> str:
    for start in ("lora_unet", "lora_transformer", "lycoris", "diffusion_model.", "transformer.", "unet.", "base_model.model."):
        if name.startswith(start):
            return start
    return "bare"


def changed_by_comfyui(model: Any, tensors: Mapping[str, Tensor]) -> set[str]:
    """Weights that ComfyUI's own Load LoRA and its own arithmetic change, patch by patch; one at which it stops does nothing."""
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0.0)
    weights = model.model.state_dict()
    found = set()
    for key, patches in patched.patches.items():
        for patch in patches:
            try:
                after = comfy.lora.calculate_weight([patch], weights[key].clone(), key)
            except (RuntimeError, IndexError):
                continue
            if not torch.equal(after, weights[key]):
                found.add(key)
    return found


def cell(model: Any, layers: ModelLayers, path: Path) -> dict[str, Any]:
    tensors = load_file(path)
    fit = fit_of_file(path, layers)
    try:
        applied = apply_lora(model, None, dict(tensors), path.name, 1.0, 1.0)[0]
        patched = {key if isinstance(key, str) else key[0] for key in applied.patches}
    except LoraError:
        patched = set()
    changed = changed_by_comfyui(model, tensors)
    return {"layers": fit.layers, "of": fit.of, "fits": fit.fits, "patched": sorted(patched), "changed": sorted(changed)}


def families() -> dict[str, str | None]:
    """Every class of models of this ComfyUI, and what we call its family."""
    everything = vars(comfy.supported_models).values()
    kinds = (kind for kind in everything if isinstance(kind, type) and kind.__module__ == comfy.supported_models.__name__)
    configs: dict[str, Any] = {kind.__name__: object.__new__(kind) for kind in kinds}
    return {name: model_family(SimpleNamespace(model=SimpleNamespace(model_config=config))) for name, config in configs.items()}


def offered(models: Mapping[str, Any], files: Mapping[str, tuple[str, Path]]) -> dict[str, dict[str, Any]]:
    """What a library, half SDXL's and half Z-Image's, offers each of the two models, by the nodes' own code."""
    pack = importlib.util.spec_from_file_location("carlos_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert pack is not None
    sys.modules["carlos_pack"] = importlib.util.module_from_spec(pack)
    model_fit = importlib.import_module("carlos_pack.nodes.common.model_fit")
    database_module = importlib.import_module("carlos_pack.carlos_core.database.database")
    limits = importlib.import_module("carlos_pack.carlos_core.search.limits")
    records = importlib.import_module("carlos_pack.carlos_core.records")
    folder = Path(WORK) / "models" / "loras"
    folder.mkdir(parents=True)
    folder_paths.folder_names_and_paths["loras"] = ([str(folder)], {".safetensors"})
    folder_paths.set_user_directory(WORK)
    database, installed = database_module.MetricsDatabase.empty("some encoder", dimension=4), {}
    for family, path in files.values():
        if family in HALVES:
            shutil.copy(path, folder)
            installed[path.name] = path.name
            direction = np.asarray([1, 0, 0, 0], np.float32)
            database.upsert(records.LoraRecord(lora_id=path.name, direction=direction, strength=5.0, consistency=0.2))
    hidden = SimpleNamespace(prompt=None, unique_id=None)
    found = {}
    for family in set(HALVES) & set(models):
        allowed = model_fit.for_model(limits.SearchLimits(), database, models[family], None, installed, hidden)
        mask = allowed.limits.mask(database, installed).tolist()
        names = [name for name, is_in in zip(database.column("lora_id"), mask, strict=True) if is_in]
        found[family] = {
            "offered": sorted({name.split()[0] for name in names}),
            "n": len(names),
            "left_out": allowed.facts,
            "notes": allowed.notes,
        }
    return found


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    models = {family: model for family in CONFIGS if (model := build(family)) is not None}
    files: dict[str, tuple[str, Path]] = {}
    for family, model in models.items():
        for layout, tensors in layouts(model).items():
            path = Path(WORK) / f"{family} {layout}.safetensors".replace("/", "_")
            save_file({key: value.contiguous() for key, value in tensors.items()}, path)
            files[f"{family}: {layout}"] = (family, path)
    found: dict[str, Any] = {"absent": sorted(set(CONFIGS) - set(models)), "keys": {}, "cells": {}}
    for family, model in models.items():
        layers = ModelLayers(model, None)
        found["keys"][family] = model_key(model)
        for name, (_, path) in files.items():
            found["cells"][f"{name} on {family}"] = cell(model, layers, path)
    found["families"] = families()
    found["library"] = offered(models, files)
    found["files"] = {family: sum(of == family for of, _ in files.values()) for family in models}
    (Path(WORK) / "matrix.json").write_text(json.dumps(found, indent=1))


main()
