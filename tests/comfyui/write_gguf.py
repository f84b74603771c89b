"""Writes the mini-world's diffusion model as a GGUF file.

usage: python tests/comfyui/write_gguf.py CHECKPOINT TARGET PACKING [CHANGE]  (with ComfyUI's Python)

PACKING: Q8_0 or Q4_0. CHANGE: see `weights_of`.
"""

from __future__ import annotations

import sys

import gguf
from packed_weights import PREFIX, is_packed, weights_of


def main() -> None:
    checkpoint, target, form, *change = sys.argv[1:]
    packing = gguf.GGMLQuantizationType[form]
    writer = gguf.GGUFWriter(target, "sd3")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, weight in weights_of(checkpoint, *change).items():
        if not name.startswith(PREFIX):
            continue
        if is_packed(name, weight):
            packed = gguf.quants.quantize(weight.float().numpy(), packing)
            writer.add_tensor(name.removeprefix(PREFIX), packed, raw_dtype=packing)
        else:
            writer.add_tensor(name.removeprefix(PREFIX), weight.half().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
