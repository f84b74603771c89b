"""Families of base models, as people, files and sites name them: labels for LoRAs whose file is not on this machine.

What fits a loaded model is told from the file itself (`fits`); labels say what a LoRA was trained for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

FAMILIES = (
    *("SD 1.5", "SD 2", "SDXL", "Pony", "Illustrious", "SD 3", "Flux"),
    *("Flux.2", "Z-Image", "Qwen-Image", "Chroma", "Anima", "Krea 2", "Lumina 2", "HiDream", "AuraFlow", "Ernie-Image"),
    *("Wan", "LTXV", "Hunyuan Video", "Kolors", "PixArt", "Cosmos", "Kandinsky 5"),
)
"""Pony and Illustrious have SDXL's shapes, but their LoRAs are trained for other pictures."""

_OF_SDXL = frozenset(("SDXL", "Pony", "Illustrious"))

# The first that is found counts: names that hold another family's name come before it.
_PATTERNS = (
    ("AuraFlow", r"aura[-_ ]?flow|pony([-_ ]?diffusion)?[-_ ]?v?7"),
    ("Flux.2", r"flux[-_. ]?2|(?<![a-z])klein(?![a-z])"),
    ("Chroma", r"(?<![a-z])chroma(?!tic)"),
    ("Krea 2", r"krea[-_ ]?2"),
    ("Z-Image", r"(?<![a-z])z[-_ ]?image"),
    ("Qwen-Image", r"qwen"),
    ("Ernie-Image", r"(?<![a-z])ernie"),
    ("Lumina 2", r"(?<![a-z])lumina(?!nce|r)|neta[-_ ]?lumina|netayume"),
    ("HiDream", r"hidream"),
    ("Hunyuan Video", r"hunyuan[-_ ]?video|hunyuan[-_ ]?image|hyvideo"),
    ("LTXV", r"ltx"),
    ("Wan", r"(?<![a-z])wan(video|animate|vace)?(?![a-z])"),
    ("Kolors", r"kolors"),
    ("PixArt", r"pixart"),
    ("Cosmos", r"cosmos"),
    ("Kandinsky 5", r"kandinsky[-_ ]?5"),
    ("Anima", r"(?<![a-z])anima(?![a-z])"),
    ("Pony", r"pony(?!tail)|(?<![a-z])pdxl"),
    ("Illustrious", r"illustrious|(?<![a-z])ilxl|noob(?!ie)"),
    ("SDXL", r"sd[-_ ]?xl|stable[-_ ]?diffusion[-_ ]?xl|(?<!x)xl(?![a-z])|ssd[-_ ]?1b|segmind[-_ ]?vega|koala[-_ ]?(1b|700m)"),
    ("Flux", r"flux"),
    ("SD 3", r"sd[-_ ]?3|stable[-_ ]?diffusion[-_ ]?v?3"),
    ("SD 2", r"sd[-_ ]?v?2|sd[-_ ]turbo|stable[-_ ]?diffusion[-_ ]?v?2|^v2-[01]"),
    ("SD 1.5", r"sd[-_ ]?v?1|stable[-_ ]?diffusion[-_ ]?v?1|^v1-[45]|^1\.5$"),
)

_OF_FLUX = r"double_blocks|single_transformer_blocks"
_OF_LUMINA = r"layers[._]\d+[._](attention|feed_forward|adaLN)"
_BLOCKS: tuple[tuple[str, str, int | None], ...] = (
    ("Chroma", r"distilled_guidance_layer", None),
    ("Hunyuan Video", r"double_blocks\.\d+\.img_attn_qkv", None),
    ("AuraFlow", r"joint_transformer_blocks", None),
    ("Flux.2", r"to_qkv_mlp_proj", None),
    ("Flux", _OF_FLUX, 3072),
    ("Flux.2", _OF_FLUX, 6144),
    ("Flux.2", _OF_FLUX, 4096),
    ("Flux", _OF_FLUX, None),
    ("SD 3", r"joint_blocks", None),
    ("Qwen-Image", r"(img|txt)_mlp", None),
    ("Z-Image", _OF_LUMINA, 3840),
    ("Lumina 2", _OF_LUMINA, 2304),
    ("Anima", r"blocks[._]\d+[._]cross_attn[._](q|k|v|output)_proj", None),
    ("Wan", r"blocks[._]\d+[._](self_attn|cross_attn|ffn)[._]", None),
)
"""Family, names of its transformer's blocks, and a width that tells it from others of these names; the first counts."""


@lru_cache(maxsize=4096)
def family_of_name(base_model: str | None) -> str | None:
    """Family of a base model as people and files name it ("SDXL 1.0", "sd_v1", "Flux.1 D"); None if it is not known."""
    if not base_model:
        return None
    name = base_model.lower()
    return next((family for family, pattern in _PATTERNS if re.search(pattern, name)), None)


def fits(base_model: str | None, wanted: str | Collection[str]) -> bool:
    """Whether a LoRA for `base_model` may be used on a model of the family `wanted`, or of one of several families.

    base_model: as people and files name it. A LoRA of unknown family is allowed everywhere.
    """
    family = family_of_name(base_model)
    return family is None or family in ((wanted,) if isinstance(wanted, str) else wanted)


def families_alike(family: str) -> frozenset[str]:
    """The families with the same shapes as this one, so that a model's shapes cannot tell them apart. Includes itself."""
    return _OF_SDXL if family in _OF_SDXL else frozenset((family,))


def family_of_header(metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Family of a LoRA file from its own words, otherwise from the names and shapes of its tensors; None if neither tells."""
    version, architecture, checkpoint = (
        family_of_name(metadata.get(key)) for key in ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")
    )
    named = version or architecture
    # Trainers call Pony and Illustrious SDXL; the name of the checkpoint that was trained on is more exact.
    if checkpoint in ("Pony", "Illustrious") and named in (None, "SDXL"):
        return checkpoint
    if named or checkpoint:
        return named or checkpoint
    # An architecture that is named and not known here may still share tensor names with one that is.
    return None if metadata.get("modelspec.architecture") else _family_of_shapes(shapes)


def _family_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    names = " ".join(shapes)
    widths = {size for shape in shapes.values() if len(shape) >= 2 for size in (shape[0], shape[-1])}
    of_blocks = _family_of_blocks(names, widths)
    if of_blocks is not None:
        return of_blocks
    if "lora_te2_" in names or "text_encoder_2" in names:
        return "SDXL"
    if not re.search(r"(down|up|input|output)_blocks|mid_block|middle_block", names):
        return None
    widths_of_text = {
        shape[1] for name, shape in shapes.items() if len(shape) >= 2 and "attn2" in name and _is_factor_of_keys_or_values(name)
    }
    # The cross-attention's input is the width of the text encoder's features.
    return next((family for family, width in (("SD 1.5", 768), ("SD 2", 1024), ("SDXL", 2048)) if width in widths_of_text), None)


def _family_of_blocks(names: str, widths: Collection[int]) -> str | None:
    """Family by the names of a transformer's blocks; None for a U-Net and for a family that is not known.

    widths: of all layers, in and out.
    """
    for family, pattern, width in _BLOCKS:
        if (width is None or width in widths) and re.search(pattern, names):
            return family
    # Qwen-Image has these names too, and Flux without its single blocks; both are wider than any SD 3.
    has_names_of_sd3 = re.search(r"transformer_blocks[._]\d+[._]attn[._]add_k_proj", names) is not None
    return "SD 3" if has_names_of_sd3 and 3072 not in widths else None


def _is_factor_of_keys_or_values(name: str) -> bool:
    """Whether a tensor is the factor of a projection to keys or values that takes the projection's input."""
    found = re.search(r"to_[kv][._]", name)
    return found is not None and any(name.find(factor, found.end()) >= 0 for factor in ("down", "lora_A", "hada_w1_b"))
