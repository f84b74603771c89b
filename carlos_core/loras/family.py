"""Families of base models: LoRAs fit within a family, and not across families."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

FAMILIES = ("SD 1.5", "SD 2", "SDXL", "Pony", "Illustrious", "SD 3", "Flux")
"""Pony and Illustrious have SDXL's shapes, but their LoRAs are trained for other pictures."""

_OF_SDXL = frozenset(("SDXL", "Pony", "Illustrious"))

_PATTERNS = (
    ("Pony", r"pony"),
    ("Illustrious", r"illustrious|noobai|\bnoob"),
    ("SDXL", r"sd[-_ ]?xl|stable-diffusion-xl|\bxl\b"),
    ("Flux", r"flux"),
    ("SD 3", r"sd[-_ ]?3|stable-diffusion-3"),
    ("SD 2", r"sd[-_ ]?v?2|stable-diffusion-v?2"),
    ("SD 1.5", r"sd[-_ ]?v?1|stable-diffusion-v?1|^1\.5$"),
)


@lru_cache(maxsize=4096)
def family_of_name(base_model: str | None) -> str | None:
    """Family of a base model as people and files name it ("SDXL 1.0", "sd_v1", "Flux.1 D"); None if it is not known."""
    if not base_model:
        return None
    name = base_model.lower()
    return next((family for family, pattern in _PATTERNS if re.search(pattern, name)), None)


def fits(base_model: str | None, wanted: str | Collection[str]) -> bool:
    """Whether a LoRA for `base_model`, as people and files name it, may be used on a model of a family, or of one of several.

    wanted: the family, or the families. A LoRA of unknown family fits everywhere, as nothing speaks against it.
    """
    family = family_of_name(base_model)
    return family is None or family in ((wanted,) if isinstance(wanted, str) else wanted)


def families_alike(family: str) -> frozenset[str]:
    """The families whose models have the same shapes as models of this one, which is among them."""
    return _OF_SDXL if family in _OF_SDXL else frozenset((family,))


def family_of_header(metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Family of a LoRA file from its metadata, otherwise from its tensors' names and shapes; None if neither tells."""
    named = [family_of_name(metadata.get(key)) for key in ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")]
    # Trainers call Pony and Illustrious SDXL; the name of the checkpoint that was trained on is more exact.
    exact = next((family for family in named if family in ("Pony", "Illustrious")), None)
    if exact or any(named):
        return exact or next(filter(None, named))
    # An architecture that is named but is not one of ours may still share tensor names with one (HunyuanVideo with Flux).
    return None if metadata.get("modelspec.architecture") else _family_of_shapes(shapes)


def _family_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    names = " ".join(shapes)
    if "double_blocks" in names or "single_transformer_blocks" in names:
        return "Flux"
    if "joint_blocks" in names:
        return "SD 3"
    if "transformer_blocks.0.attn.add_k_proj" in names:
        # Qwen-Image also has these names, and so has Flux without its single blocks; both are wider than any SD 3.
        return None if any(shape[-1:] == (3072,) for shape in shapes.values()) else "SD 3"
    if "lora_te2_" in names or "text_encoder_2" in names:
        return "SDXL"
    widths = {
        shape[1] for name, shape in shapes.items() if len(shape) >= 2 and "attn2" in name and _is_factor_of_keys_or_values(name)
    }
    # The cross-attention's input is the width of the text encoder's features.
    return next((family for family, width in (("SD 1.5", 768), ("SD 2", 1024), ("SDXL", 2048)) if width in widths), None)


def _is_factor_of_keys_or_values(name: str) -> bool:
    """Whether a tensor is that factor of a projection to keys or values that the input goes into."""
    found = re.search(r"to_[kv][._]", name)
    return found is not None and any(name.find(factor, found.end()) >= 0 for factor in ("down", "lora_A", "hada_w1_b"))
