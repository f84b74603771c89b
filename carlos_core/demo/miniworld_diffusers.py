"""The mini-world as a folder that diffusers loads: Stable Diffusion 3's modules, for pictures of 128 x 128.

Its checkpoint is a single file in the original layout, as ComfyUI reads it. diffusers cannot: it knows neither a transformer of
this depth nor the tiny autoencoder by their files, and asks a hub for the rest.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip.tokenizer
import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from ..diffusers.families import FAMILIES
from ..diffusers.model import DiffusersModel
from ..diffusers.original_names import sd3_layers
from ..diffusers.quiet import quiet
from ..errors import GenerationError
from ..foreign import printable

SIDE = 128
"""Pixels of a picture's side: the table of positions is made for it."""

_WIDTH, _DEPTH, _HEADS, _PATCHES = 256, 4, 4, SIDE // 16
_CLIP_L, _CONTEXT, _POOLED = 768, 4096, 2048
_LATENT_SCALE, _LATENT_SHIFT = 1.5305, 0.0609
"""Of the latents of Stable Diffusion 3."""

_GAIN = 4.0
"""Of the average of the words in the pooled output."""

_VOCABULARY = 49_152
_BYTES = 256


def miniworld_model(miniworld: Path) -> DiffusersModel:
    """The mini-world's model on the CPU, as `diffusers.loading.load_model` would load it from its folder.

    miniworld: the folder of `mini_diffusion.safetensors`. Raises GenerationError where that file is missing or damaged.
    """
    with quiet():
        pipe = _pipeline(miniworld).to(dtype=torch.float32)
    return DiffusersModel(pipe, FAMILIES["StableDiffusion3Pipeline"], torch.device("cpu"))


def diffusers_folder(miniworld: Path, target: Path) -> Path:
    """Write the mini-world's model into the folder `target` (some 110 MB, float16), and return it. See `miniworld_model`."""
    with quiet():
        _pipeline(miniworld).save_pretrained(target)
    return target


def _pipeline(miniworld: Path) -> Any:
    """In float16."""
    path = miniworld / "mini_diffusion.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise GenerationError(
            f"The mini-world's model {path} cannot be read ({printable(str(error))}).",
            "Take it from tests/assets/miniworld of the repository again.",
        ) from error
    return StableDiffusion3Pipeline(
        transformer=_transformer(weights),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(weights),
        text_encoder=_text_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def _transformer(weights: Mapping[str, Tensor]) -> SD3Transformer2DModel:
    prefix = "model.diffusion_model."
    original = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    # Kept for those of the text encoders' outputs that are ever other than zero.
    for name, width in (("context_embedder.weight", _CONTEXT), ("y_embedder.mlp.0.weight", _POOLED)):
        original[name] = torch.nn.functional.pad(original[name], (0, width - original[name].shape[1]))
    model = SD3Transformer2DModel(
        sample_size=SIDE // 8,
        num_layers=_DEPTH,
        num_attention_heads=_HEADS,
        joint_attention_dim=_CONTEXT,
        caption_projection_dim=_WIDTH,
        pooled_projection_dim=_POOLED,
        pos_embed_max_size=_PATCHES,
        qk_norm="rms_norm",
    )
    known = {name.removesuffix(".weight") for name in model.state_dict() if name.endswith(".weight")}
    named = dict(_renamed(original, known))
    named["pos_embed.pos_embed"] = _positions()
    model.load_state_dict(named)
    model.half()
    # In half precision, sines and cosines would be others than ComfyUI's: pictures would differ by a mean of 2e-5.
    model.pos_embed.pos_embed = named["pos_embed.pos_embed"]
    return model


def _renamed(original: Mapping[str, Tensor], known: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The transformer's tensors by diffusers' names. known: those of the layers that it has."""
    layers = sd3_layers(known)
    # Here diffusers has the scale first, then the shift.
    turned = ("final_layer.adaLN_modulation.1", f"joint_blocks.{_DEPTH - 1}.context_block.adaLN_modulation.1")
    for name, tensor in original.items():
        layer, _, kind = name.rpartition(".")
        parts = layers[layer]
        pieces = (torch.cat(tensor.chunk(2)[::-1]),) if layer in turned else tensor.chunk(len(parts))
        for part, piece in zip(parts, pieces, strict=True):
            yield f"{part}.{kind}", piece


def _positions() -> Tensor:
    """Sines and cosines of the places from 0 to 15 on either side, as ComfyUI makes them for a model without a table of its own.

    [1, places, width]: first those of the place from the left, then from above.
    """
    places = torch.linspace(0, 15, _PATCHES)
    rates = 1 / 10_000 ** (torch.arange(_WIDTH // 4) / (_WIDTH / 4))
    above, left = torch.meshgrid(places, places, indexing="ij")
    angles = (side.reshape(-1, 1) * rates for side in (left, above))
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)[None]


def _autoencoder(weights: Mapping[str, Tensor]) -> AutoencoderTiny:
    prefix = "first_stage_model."
    scale, shift = (float(weights[f"{prefix}vae_{name}"]) for name in ("scale", "shift"))
    model = AutoencoderTiny(
        latent_channels=16,
        # The autoencoder has a scale and a shift of its own behind those of all Stable Diffusion 3.
        scaling_factor=_LATENT_SCALE / scale,
        shift_factor=(_LATENT_SHIFT - shift) * scale,
    )
    named = {}
    for name, tensor in weights.items():
        side, _, rest = name.removeprefix(f"{prefix}taesd_").partition(".")
        if name.startswith(f"{prefix}taesd_"):
            number, _, rest = rest.partition(".")
            # The original's decoder begins with a layer that limits values, which diffusers does outside of its list.
            named[f"{side}.layers.{int(number) - (side == 'decoder')}.{rest}"] = tensor
    model.load_state_dict(named)
    return model.half()


def _text_encoder() -> CLIPTextModelWithProjection:
    """The text encoder, in which nothing was trained: the tables are a hash, and the last layer averages the words.

    `build_checkpoint.py` makes the same for ComfyUI. All its layers but the last are zeros and pass everything on: here they are
    left out.
    """
    config = CLIPTextConfig(
        hidden_size=_CLIP_L, intermediate_size=4 * _CLIP_L, num_hidden_layers=1, num_attention_heads=12, projection_dim=_CLIP_L
    )
    model = CLIPTextModelWithProjection(config)
    made = {
        "token_embedding.weight": lambda: _hashed(_VOCABULARY + _BYTES, 1, 1.0),
        "position_embedding.weight": lambda: _hashed(config.max_position_embeddings, 2, 0.5),
        "v_proj.weight": lambda: torch.eye(_CLIP_L),
        "out_proj.weight": lambda: _GAIN * torch.eye(_CLIP_L),
        "text_projection.weight": lambda: torch.eye(_CLIP_L),
    }
    for name, tensor in model.state_dict().items():
        ending = ".".join(name.split(".")[-2:])
        if ending in made:
            tensor.copy_(made[ending]())
        elif tensor.is_floating_point():
            tensor.fill_(float("norm" in name and name.endswith("weight")))
    return model.half()


def _hashed(rows: int, salt: int, most: float) -> Tensor:
    """A table of pseudorandom numbers, [rows, 768] in [-most, most): splitmix64 of their places (Steele et al. 2014)."""
    return torch.cat([_hashed_part(range(first, min(first + 4096, rows)), salt, most) for first in range(0, rows, 4096)])


def _hashed_part(rows: range, salt: int, most: float) -> Tensor:
    places = torch.arange(rows.start * _CLIP_L, rows.stop * _CLIP_L, dtype=torch.int64) + salt * 1_000_003_000
    mixed = places * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ _shifted(mixed, shift)) * factor
    mixed ^= _shifted(mixed, 31)
    return ((((mixed >> 20) & 1023) - 512).float() / 512 * most).view(len(rows), _CLIP_L)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """To the right, as if they had no sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer from the table of merges that open_clip brings along."""
    table = Path(open_clip.tokenizer.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    with gzip.open(table, "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : _VOCABULARY - _BYTES - 2 + 1]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}), encoding="utf-8")
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=77)
