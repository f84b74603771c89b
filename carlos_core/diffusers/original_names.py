"""The layers of diffusers' models by the names that they have in the checkpoints of the models' makers, which ComfyUI uses, too.

Some layers of theirs are several of diffusers': queries, keys and values in one matrix, one below the other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count

Layers = dict[str, tuple[str, ...]]
"""A layer's original name -> diffusers' names of its parts, from the top."""

_TIMES = "time_text_embed.timestep_embedder.linear_"
_POOLED = "time_text_embed.text_embedder.linear_"
_GUIDANCE = "time_text_embed.guidance_embedder.linear_"


def _qkv(place: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{place}.{name}" for name in names or ("to_q", "to_k", "to_v"))


_SD3: Layers = {
    "context_embedder": ("context_embedder",),
    "x_embedder.proj": ("pos_embed.proj",),
    **{f"t_embedder.mlp.{2 * k}": (f"{_TIMES}{k + 1}",) for k in (0, 1)},
    **{f"y_embedder.mlp.{2 * k}": (f"{_POOLED}{k + 1}",) for k in (0, 1)},
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
_SD3_BLOCK: Layers = {
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "x_block.attn.qkv": _qkv("attn"),
    "x_block.attn.ln_q": ("attn.norm_q",),
    "x_block.attn.ln_k": ("attn.norm_k",),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": _qkv("attn2"),
    "x_block.attn2.ln_q": ("attn2.norm_q",),
    "x_block.attn2.ln_k": ("attn2.norm_k",),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
    "context_block.attn.qkv": _qkv("attn", "add_q_proj", "add_k_proj", "add_v_proj"),
    "context_block.attn.ln_q": ("attn.norm_added_q",),
    "context_block.attn.ln_k": ("attn.norm_added_k",),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
}

_FLUX: Layers = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": (f"{_TIMES}1",),
    "time_in.out_layer": (f"{_TIMES}2",),
    "vector_in.in_layer": (f"{_POOLED}1",),
    "vector_in.out_layer": (f"{_POOLED}2",),
    "guidance_in.in_layer": (f"{_GUIDANCE}1",),
    "guidance_in.out_layer": (f"{_GUIDANCE}2",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
_FLUX_DOUBLE: Layers = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": _qkv("attn"),
    "txt_attn.qkv": _qkv("attn", "add_q_proj", "add_k_proj", "add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_FLUX_SINGLE: Layers = {
    "modulation.lin": ("norm.linear",),
    "linear1": (*_qkv("attn"), "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}

_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def sd3_layers(known: Collection[str]) -> Layers:
    """Of a transformer of Stable Diffusion 3. known: diffusers' names of the layers that it has."""
    return _known([_SD3, _numbered("joint_blocks", "transformer_blocks", _SD3_BLOCK, known)], known)


def flux_layers(known: Collection[str]) -> Layers:
    """Of a transformer of Flux.1. known: diffusers' names of the layers that it has."""
    double = _numbered("double_blocks", "transformer_blocks", _FLUX_DOUBLE, known)
    return _known([_FLUX, double, _numbered("single_blocks", "single_transformer_blocks", _FLUX_SINGLE, known)], known)


def z_image_layers(known: Collection[str]) -> Layers:
    """Of a transformer of Z-Image. known: diffusers' names of the layers that it has."""
    found: Layers = {}
    renamed = {".attention.norm_q": ".attention.q_norm", ".attention.norm_k": ".attention.k_norm"}
    for name in known:
        place, _, last = name.rpartition(".")
        if last == "to_q":
            found[f"{place}.qkv"] = _qkv(place)
        elif last not in ("to_k", "to_v"):
            original = re.sub(r"^all_(\w+)\.2-1", r"\1", name).replace(".attention.to_out.0", ".attention.out")
            for ours, theirs in renamed.items():
                original = original.replace(ours, theirs)
            found[original] = (name,)
    return found


def unet_layers(known: Collection[str]) -> Layers:
    """Of the U-Net of Stable Diffusion 1, 2 and XL. known: diffusers' names of the layers that it has.

    Empty for one with other layers, such as those of LCM.
    """
    per_block = 1 + max((int(found[4]) for name in known if (found := _UNET_BLOCK.match(name)) and found[1] == "down"), default=0)
    with_attention = {found[2] for name in known if (found := _UNET_BLOCK.match(name)) and found[1] == "up" and "att" in found[3]}
    try:
        return {_of_unet(name, per_block, with_attention): (name,) for name in known}
    except KeyError:
        return {}


def _of_unet(name: str, per_block: int, with_attention: Collection[str | None]) -> str:
    """A layer's original name.

    per_block: resnets in a block on the way down. with_attention: blocks on the way up that have it.
    """
    found = _UNET_BLOCK.match(name)
    if found is None:
        return _UNET[name]
    way, block, kind, place, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    inner = _RESNET[rest] if kind == "resnets" else rest
    if way == "mid":
        return f"middle_block.{2 * place if kind == 'resnets' else 1}.{inner}"
    if way == "down":
        first = 1 + (per_block + 1) * block
        if kind == "downsamplers":
            return f"input_blocks.{first + per_block}.0.op"
        return f"input_blocks.{first + place}.{int(kind == 'attentions')}.{inner}"
    first = (per_block + 1) * block
    if kind == "upsamplers":
        return f"output_blocks.{first + per_block}.{1 + (found[2] in with_attention)}.conv"
    return f"output_blocks.{first + place}.{int(kind == 'attentions')}.{inner}"


def original_shapes(layers: Mapping[str, tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes of weights by the layers' original names. shapes: by diffusers' names."""
    return {name: (sum(shapes[part][0] for part in parts), *shapes[parts[0]][1:]) for name, parts in layers.items()}


def _numbered(original: str, ours: str, block: Layers, known: Collection[str]) -> Layers:
    found: Layers = {}
    for number in count():
        if not any(name.startswith(f"{ours}.{number}.") for name in known):
            break
        for name, parts in block.items():
            found[f"{original}.{number}.{name}"] = tuple(f"{ours}.{number}.{part}" for part in parts)
    return found


def _known(tables: Iterable[Layers], known: Collection[str]) -> Layers:
    return dict(_of_model(tables, known))


def _of_model(tables: Iterable[Layers], known: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for table in tables:
        yield from ((name, parts) for name, parts in table.items() if all(part in known for part in parts))
