"""How long does it take to know which of 5,000 LoRA files fit a newly loaded model?

usage: python -m benchmarks.model_fit COMFYUI_FOLDER [--files 5000] [--layouts 50]   (with ComfyUI's Python)

The model has SDXL's layers at full size, without values; the files have up to 722 layers of its names each, in so many ranks and
widths. Half of the layouts fit. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.model_families import CLASSES, CONFIGS


def sdxl() -> Any:
    """A MODEL of SDXL's layers on the meta device."""
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, CLASSES["sdxl"])(CONFIGS["sdxl"])
    config.set_inference_dtype(torch.float16, None)
    meta = torch.device("meta")
    model = config.get_model({}, "", device=meta)
    return comfy.model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def write_file(path: Path, layers: dict[str, tuple[int, int]], rank: int, width: int) -> None:
    """A LoRA file whose tensors are a hole: only its header is of interest."""
    header: dict[str, Any] = {}
    end = 0
    for name, (rows, columns) in layers.items():
        for part, shape in (("lora_up", [rows, rank]), ("lora_down", [rank, columns * width]), ("alpha", [])):
            size = 2 * (shape[0] * shape[1] if shape else 1)
            key = f"{name}.alpha" if part == "alpha" else f"{name}.{part}.weight"
            header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
            end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--layouts", type=int, default=50)
    options = parser.parse_args()
    sys.path.insert(0, str(options.comfyui))
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.lora

    from carlos_core.comfy.layers import ModelLayers
    from carlos_core.comfy.lora_fit import fit_of_file
    from carlos_core.loras.fits import fits_of
    from carlos_core.loras.library import scan

    model = sdxl()
    weights = model.model.state_dict()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    names = [name for name, key in keys.items() if name.startswith("lora_unet_") and "transformer_blocks" in name]
    layers = {name: tuple(weights[keys[name]].shape) for name in names if weights[keys[name]].ndim == 2}
    layers = dict(list(layers.items())[:722])
    with tempfile.TemporaryDirectory() as name:
        folder, index = Path(name) / "loras", Path(name) / "loras.sqlite"
        folder.mkdir()
        for place in range(options.files):
            layout = place % options.layouts
            write_file(folder / f"{place}.safetensors", layers, 4 + layout // 2, 1 + layout % 2)
        files = [(path.name, path) for path in sorted(folder.iterdir())]
        begin = time.perf_counter()
        library = scan(files, index, hash_files=False)
        scanned = time.perf_counter() - begin
        begin = time.perf_counter()
        known = ModelLayers(model, None)
        found = fits_of(library.entries, index, known.identity, lambda path: fit_of_file(path, known))
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        known = ModelLayers(model, None)
        again = fits_of(library.entries, index, known.identity, lambda path: fit_of_file(path, known))
        second = time.perf_counter() - begin
    assert found == again
    n_fitting = sum(fit.fits for fit in found.values())
    print("| files | layouts | layers a file | headers read, once | fits, new model | fits, again | fit |")
    print("|---|---|---|---|---|---|---|")
    times = f"{scanned:.1f} s | {first:.2f} s | {second:.3f} s"
    print(f"| {len(files):,} | {options.layouts:,} | {len(layers)} | {times} | {n_fitting:,} |")


if __name__ == "__main__":
    main()
