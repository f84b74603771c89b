"""LoRA files for diffusers' loader: which of their tensors a model takes, by name and by shape.

diffusers renames and cuts a file's tensors as it loads them, and stops at one that it does not know or that has another shape.
What comes of each tensor is followed through its conversion here, so that the loader gets only what fits, and all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import LoraError
from ..foreign import printable
from ..generator import LoraFit
from ..loras.header import check_ordinary
from .families import Family
from .original_names import sd3_layers

_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_HALVES = (("lora_down.weight", "lora_up.weight"), ("lora.down.weight", "lora.up.weight"), ("lora_A.weight", "lora_B.weight"))
_SECOND = tuple(pair[1] for pair in _HALVES)
_ODD = (KeyError, RuntimeError, ValueError, TypeError, IndexError, AttributeError)


class _Traced(Tensor):
    """A tensor that knows which tensors of the file it is made of."""

    sources: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tensor: Tensor, name: str) -> _Traced:
        traced: _Traced = tensor.as_subclass(cls)
        traced.sources = frozenset((name,))
        return traced

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_function__(func, types, args, kwargs or {})
        sources = frozenset().union(*(each.sources for each in _traced([*args, *(kwargs or {}).values()])))
        for each in _traced([made]):
            each.sources = sources
        return made


class LoraTensors:
    """A LoRA file's tensors in memory, and what a pipeline takes of them.

    taken: those that fit, by the names that diffusers' loader reads. fit: the counts.
    """

    def __init__(self, path: Path, pipe: Any, family: Family) -> None:
        """Raises LoraError for a file that cannot be read, makes no sense, fits nowhere, or holds broken values."""
        tensors = _read(path)
        parts = {family.part: getattr(pipe, family.part), **{name: getattr(pipe, name, None) for name in _TEXT_ENCODERS}}
        try:
            known: dict[str, Tensor] = {
                name: _Traced.of(tensor, name) for name, tensor in _with_alpha_counted_in(_of_loras(tensors)).items()
            }
            renamed = _renamed_for_sd3(known, parts[family.part]) if type(pipe).__name__ == "StableDiffusion3Pipeline" else known
            fitting, named = _looked_at(_converted(renamed, pipe, family), parts)
        except KeyError as error:
            raise LoraError(f"{path.name} is incomplete: it has no {error.args[0]}.", "Download it again.") from error
        except _ODD as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise LoraError(
                f"The tensors of {path.name} make no sense ({printable(reason)[:200]}).", "Download it again."
            ) from error
        stems = {_stem(name) for name in fitting}
        # diffusers leaves "dora_scale" out: it does not count as taken.
        fitting |= {name for name in tensors if name.endswith(".alpha") and _stem(name) in stems}
        self.fit = LoraFit(len(fitting), len(tensors), family.class_name(pipe), len(named - fitting))
        self.fit.check(path.name, sum(not bool(torch.isfinite(tensors[name].float()).all()) for name in fitting))
        self.taken = {
            name: tensor.as_subclass(Tensor)
            for name, tensor in renamed.items()
            if isinstance(tensor, _Traced) and tensor.sources <= fitting
        }


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file in memory: one that is written over meanwhile changes nothing. Raises LoraError."""
    check_ordinary(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        what = printable(f"The LoRA {path.name} cannot be loaded ({error}).")
        raise LoraError(what, "Check that the file is whole.") from error


def _of_loras(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of layers that are LoRAs. diffusers' loader stops at other kinds (LoHa, LoKr, whole differences)."""
    stems = {
        _stem(name) for name in tensors if name.endswith(tuple(half for pair in _HALVES for half in pair)) or "_lora." in name
    }
    return {name: tensor for name, tensor in tensors.items() if _stem(name) in stems}


def _with_alpha_counted_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same LoRAs with alpha in the second matrices and the rank as alpha: not all of diffusers' conversions heed it."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        alpha = f"{_stem(name)}.alpha"
        if alpha in tensors and name.endswith(_SECOND) and tensor.ndim > 1:
            rank = tensor.shape[1]
            if not rank or tensors[alpha].numel() != 1:
                raise ValueError(f"a rank of {rank} and {tensors[alpha].numel()} values of alpha at {name}")
            # A small alpha over a large rank would be lost in half precision.
            found[name] = tensor.float() * (tensors[alpha].item() / rank)
            found[alpha] = torch.tensor(float(rank))
    return found


def _stem(name: str) -> str:
    """A tensor's name without what says which part of its layer it is."""
    for end in (*(half for pair in _HALVES for half in pair), "lora_magnitude_vector", "dora_scale", "alpha"):
        if name.endswith(f".{end}"):
            return name.removesuffix(f".{end}")
    return name.rpartition("_lora.")[0] or name.rpartition(".")[0]


def _renamed_for_sd3(tensors: Mapping[str, Tensor], transformer: nn.Module) -> dict[str, Tensor]:
    """Tensors with the names of kohya's scripts and of the original checkpoint, as diffusers names them: its loader does not.

    Where the original has scale and shift the other way round, they are exchanged.
    """
    known = {name.removesuffix(".weight") for name in transformer.state_dict() if name.endswith(".weight")}
    layers = {name.replace(".", "_"): parts for name, parts in sd3_layers(known).items()}
    last = max((int(name.split(".")[1]) for name in known if name.startswith("transformer_blocks.")), default=0)
    swapped = ("norm_out.linear", f"transformer_blocks.{last}.norm1_context.linear")
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem = _stem(name)
        end = name.removeprefix(f"{stem}.")
        if end == "alpha":
            continue
        half = next((number for pair in _HALVES for number, part in enumerate(pair) if part == end), None)
        if half is None:
            found[name] = tensor
            continue
        kohya = stem.removeprefix("lora_unet_").replace(".", "_").removeprefix("transformer_").removeprefix("diffusion_model_")
        parts = layers.get(kohya, ())
        if not parts:
            found[f"{_of_text_encoder(stem) or stem}.{'lora_A' if half == 0 else 'lora_B'}.weight"] = tensor
            continue
        pieces = [tensor] * len(parts) if half == 0 else list(tensor.chunk(len(parts)))
        for part, piece in zip(parts, pieces, strict=False):
            turned = torch.cat(piece.chunk(2)[::-1]) if part in swapped and half == 1 else piece
            found[f"transformer.{part}.{'lora_A' if half == 0 else 'lora_B'}.weight"] = turned
    return found


def _of_text_encoder(stem: str) -> str:
    """diffusers' name of a layer of a text encoder that kohya's scripts call lora_te1_...; empty for another layer."""
    for beginning, place in (("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2"), ("lora_te_", "text_encoder")):
        if stem.startswith(beginning):
            inner = stem.removeprefix(beginning)
            for joined, parted in (
                ("text_model_", "text_model."),
                ("encoder_layers_", "encoder.layers."),
                ("_self_attn_", ".self_attn."),
                ("_mlp_", ".mlp."),
            ):
                inner = inner.replace(joined, parted)
            return f"{place}.{inner}"
    return ""


def _converted(tensors: Mapping[str, Tensor], pipe: Any, family: Family) -> dict[str, Tensor]:
    """Tensors as diffusers' loader names and cuts them, each kind of names brought to that of peft."""
    further = {"unet_config": pipe.unet.config} if family.part == "unet" else {}
    made = type(pipe).lora_state_dict(dict(tensors), **further) if tensors else {}
    converted = made[0] if isinstance(made, tuple) else made
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in converted.items():
        part, _, inner = name.partition(".")
        parts.setdefault(part, {})[inner] = tensor
    found: dict[str, Tensor] = {}
    for part, inner_tensors in parts.items():
        if part in _TEXT_ENCODERS:
            try:
                peft = convert_state_dict_to_peft(convert_state_dict_to_diffusers(inner_tensors))
            except ValueError:
                # A few layers only, by which it does not know whose names these are.
                continue
        else:
            peft = (
                inner_tensors
                if any("lora_A" in name for name in inner_tensors)
                else convert_unet_state_dict_to_peft(inner_tensors)
            )
        found |= {f"{part}.{inner}": tensor for inner, tensor in peft.items()}
    return found


def _looked_at(converted: Mapping[str, Tensor], parts: Mapping[str, nn.Module | None]) -> tuple[set[str], set[str]]:
    """Tensors of the file, by name, that fit, in every layer that they are for; and those that have the name of a layer."""
    fitting: set[str] = set()
    named: set[str] = set()
    unfit: set[str] = set()
    for layer in dict.fromkeys(name.rpartition(".lora_")[0] for name in converted if ".lora_" in name):
        part, _, inner = layer.partition(".")
        down, up = (converted.get(f"{layer}.lora_{half}.weight") for half in "AB")
        weight = _weight_of(parts.get(part), inner)
        further = [tensor for name, tensor in converted.items() if name.startswith(f"{layer}.lora_magnitude_vector")]
        if weight is None:
            continue
        sources = frozenset().union(*(each.sources for each in _traced([down, up, *further])))
        named |= sources
        if down is None or up is None:
            raise KeyError(f"{layer}.lora_{'A' if down is None else 'B'}.weight")
        is_fit = (up.shape[0], *down.shape[1:]) == tuple(weight.shape) and up.shape[1] == down.shape[0]
        (fitting if is_fit else unfit).update(sources)
    return fitting - unfit, named


def _weight_of(part: nn.Module | None, layer: str) -> Tensor | None:
    """The weight of a layer; None if there is no such layer."""
    # Newer versions of transformers leave "text_model" out.
    for name in (layer, layer.removeprefix("text_model.")):
        try:
            found = getattr(part.get_submodule(name), "weight", None) if part is not None else None
        except AttributeError:
            continue
        if found is not None:
            return found
    return None


def _traced(values: list[Any]) -> Iterator[_Traced]:
    for value in values:
        if isinstance(value, _Traced):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _traced(list(value))
