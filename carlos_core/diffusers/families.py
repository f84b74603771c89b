"""Kinds of models: what each of diffusers' pipelines wants, and what ComfyUI calls the same model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import GenerationError
from ..storage import short_hash
from .original_names import Layers, flux_layers, original_shapes, sd3_layers, unet_layers, z_image_layers

Encoded = dict[str, Tensor]
"""What a text encoder makes of one text, by the names of the pipeline's arguments, without a dimension for the batch."""

_TOKENS_OF_CLIP = 77
_EMBEDDED_GUIDANCE = 3.5
"""What Flux.1's authors sample with, and ComfyUI where a workflow says nothing else."""


class Family:
    """How the pipeline of a kind of models is used. Its methods are given the pipeline."""

    part: ClassVar[str] = "transformer"
    """Name of the component that takes the noise away."""

    half: ClassVar[torch.dtype] = torch.bfloat16
    """What it computes in on a GPU."""

    is_flow: ClassVar[bool] = True
    """Whether it takes noise and picture for the ends of a straight line."""

    levels: ClassVar[int] = 1000
    """How many levels of noise ComfyUI tells apart."""

    def class_name(self, pipe: Any) -> str:
        """ComfyUI's own name for the kind of model, such as "SDXL"."""
        raise NotImplementedError

    def layers(self, known: Collection[str]) -> Layers:
        """Layers by their original names. known: diffusers' names of those that the model has."""
        return {name: (name,) for name in known}

    def model_key(self, pipe: Any) -> str:
        """What a LoRA must fit: the same as `comfy.layers.model_key`; empty if the model has layers that are not known."""
        weights = getattr(pipe, self.part).state_dict()
        shapes = {
            name.removesuffix(".weight"): tuple(weight.shape) for name, weight in weights.items() if name.endswith(".weight")
        }
        layers = self.layers(shapes)
        if {part for parts in layers.values() for part in parts} != set(shapes):
            return ""
        found = original_shapes(layers, shapes)
        named = sorted((f"diffusion_model.{name}.weight", shape) for name, shape in found.items())
        return f"{self.class_name(pipe)}-{short_hash(repr(named), 8)}"

    def native_size(self, pipe: Any) -> int:
        """Side in pixels of the square pictures that the model was trained on."""
        return 1024

    def has_embedded_guidance(self, pipe: Any) -> bool:
        """Whether the model takes its guidance as an input and needs no CFG."""
        return False

    def encode(self, pipe: Any, texts: Sequence[str], device: torch.device) -> list[Encoded]:
        raise NotImplementedError

    def joined(self, texts: Sequence[Encoded]) -> dict[str, Any]:
        """The pipeline's arguments for a batch. The texts are of one size."""
        return {name: torch.stack([text[name] for text in texts]) for name in texts[0]}

    def guidance(self, pipe: Any, cfg: float) -> dict[str, Any]:
        """The pipeline's arguments for a scale of guidance."""
        return {"guidance_scale": cfg}

    def latent_shape(self, pipe: Any, height: int, width: int) -> tuple[int, ...]:
        """Of one picture, as ComfyUI makes noise for it."""
        channels = int(getattr(pipe, self.part).config.in_channels)
        return channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor

    def multiple(self, pipe: Any) -> int:
        """Pixels that sides of pictures must be multiples of."""
        return 2 * int(pipe.vae_scale_factor)

    def packed(self, pipe: Any, noise: Tensor) -> Tensor:
        """[B, C, h, w] -> what the pipeline begins with."""
        return noise

    def unpacked(self, pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
        """What the pipeline ends with -> [B, C, h, w], or with a dimension for time behind C."""
        return latents

    def unscaled(self, pipe: Any, latents: Tensor) -> Tensor:
        """Latents as the autoencoder takes them."""
        config = pipe.vae.config
        return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)


class _UNet(Family):
    part = "unet"
    half = torch.float16
    is_flow = False

    def layers(self, known: Collection[str]) -> Layers:
        return unet_layers(known)

    def native_size(self, pipe: Any) -> int:
        return int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)

    def multiple(self, pipe: Any) -> int:
        return int(pipe.vae_scale_factor)


class StableDiffusion(_UNet):
    """Stable Diffusion 1 and 2."""

    def class_name(self, pipe: Any) -> str:
        return "SD15" if pipe.unet.config.cross_attention_dim == 768 else "SD20"

    def encode(self, pipe: Any, texts: Sequence[str], device: torch.device) -> list[Encoded]:
        embeds, _ = pipe.encode_prompt(list(texts), device, 1, False)
        return [{"prompt_embeds": embed} for embed in embeds]


class StableDiffusionXL(_UNet):
    def class_name(self, pipe: Any) -> str:
        return "SDXL"

    def encode(self, pipe: Any, texts: Sequence[str], device: torch.device) -> list[Encoded]:
        embeds, _, pooled, _ = pipe.encode_prompt(list(texts), device=device, do_classifier_free_guidance=False)
        return [{"prompt_embeds": embed, "pooled_prompt_embeds": pool} for embed, pool in zip(embeds, pooled, strict=True)]


class StableDiffusion3(Family):
    half = torch.float16

    def layers(self, known: Collection[str]) -> Layers:
        return sd3_layers(known)

    def class_name(self, pipe: Any) -> str:
        return "SD3"

    def native_size(self, pipe: Any) -> int:
        return int(pipe.transformer.config.sample_size) * int(pipe.vae_scale_factor)

    def encode(self, pipe: Any, texts: Sequence[str], device: torch.device) -> list[Encoded]:
        """As ComfyUI does it, a text encoder that is not there gives zeros, and the long one (T5) no tokens."""
        contexts, pools = [], []
        for tokenizer, encoder, width in (
            (pipe.tokenizer, pipe.text_encoder, 768),
            (pipe.tokenizer_2, pipe.text_encoder_2, 1280),
        ):
            if encoder is None:
                contexts.append(torch.zeros(len(texts), _TOKENS_OF_CLIP, width, device=device))
                pools.append(torch.zeros(len(texts), width, device=device))
                continue
            ids = _ids(tokenizer, texts, _TOKENS_OF_CLIP)
            found = encoder(ids.to(device), output_hidden_states=True)
            contexts.append(found.hidden_states[-2])
            pools.append(found[0])
        width = int(pipe.transformer.config.joint_attention_dim)
        context = torch.cat([part.to(contexts[0].dtype) for part in contexts], dim=-1)
        context = torch.nn.functional.pad(context, (0, width - context.shape[-1]))
        if pipe.text_encoder_3 is not None:
            long = pipe.text_encoder_3(_ids(pipe.tokenizer_3, texts, 256).to(device))[0]
            context = torch.cat([context, long.to(context.dtype)], dim=1)
        pooled = torch.cat([part.to(context.dtype) for part in pools], dim=-1)
        return [{"prompt_embeds": text, "pooled_prompt_embeds": pool} for text, pool in zip(context, pooled, strict=True)]


class Flux(Family):
    levels = 10_000

    def layers(self, known: Collection[str]) -> Layers:
        return flux_layers(known)

    def class_name(self, pipe: Any) -> str:
        return "Flux" if self.has_embedded_guidance(pipe) else "FluxSchnell"

    def has_embedded_guidance(self, pipe: Any) -> bool:
        return bool(pipe.transformer.config.guidance_embeds)

    def encode(self, pipe: Any, texts: Sequence[str], device: torch.device) -> list[Encoded]:
        embeds, pooled, _ = pipe.encode_prompt(list(texts), device=device)
        return [{"prompt_embeds": embed, "pooled_prompt_embeds": pool} for embed, pool in zip(embeds, pooled, strict=True)]

    def guidance(self, pipe: Any, cfg: float) -> dict[str, Any]:
        return {"guidance_scale": _EMBEDDED_GUIDANCE, "true_cfg_scale": cfg}

    def latent_shape(self, pipe: Any, height: int, width: int) -> tuple[int, ...]:
        channels = int(pipe.transformer.config.in_channels) // 4
        return channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor

    def packed(self, pipe: Any, noise: Tensor) -> Tensor:
        return pipe._pack_latents(noise, *noise.shape)

    def unpacked(self, pipe: Any, latents: Tensor, height: int, width: int) -> Tensor:
        return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)


class QwenImage(Flux):
    levels = 1000

    def layers(self, known: Collection[str]) -> Layers:
        return Family.layers(self, known)

    def class_name(self, pipe: Any) -> str:
        return "QwenImage"

    def encode(self, pipe: Any, texts: Sequence[str], device: torch.device) -> list[Encoded]:
        # One by one: padded to the longest of several, a text would not be the same as alone.
        found = (pipe.encode_prompt([text], device=device)[0] for text in texts)
        return [{"prompt_embeds": embeds[0]} for embeds in found]

    def guidance(self, pipe: Any, cfg: float) -> dict[str, Any]:
        own = {"guidance_scale": _EMBEDDED_GUIDANCE} if self.has_embedded_guidance(pipe) else {}
        return {"true_cfg_scale": cfg, **own}

    def unscaled(self, pipe: Any, latents: Tensor) -> Tensor:
        config = pipe.vae.config
        mean, deviation = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(latents) for values in (config.latents_mean, config.latents_std)
        )
        return latents * deviation + mean


class ZImage(Family):
    def layers(self, known: Collection[str]) -> Layers:
        return z_image_layers(known)

    def class_name(self, pipe: Any) -> str:
        return "ZImage"

    def encode(self, pipe: Any, texts: Sequence[str], device: torch.device) -> list[Encoded]:
        embeds, _ = pipe.encode_prompt(list(texts), device=device, do_classifier_free_guidance=False)
        return [{"prompt_embeds": embed} for embed in embeds]

    def joined(self, texts: Sequence[Encoded]) -> dict[str, Any]:
        return {"prompt_embeds": [text["prompt_embeds"] for text in texts]}

    def guidance(self, pipe: Any, cfg: float) -> dict[str, Any]:
        # Its scale is what is added to the prediction with the text, and up to 1 it counts as none.
        if 1 < cfg <= 2:
            raise GenerationError(f"diffusers' Z-Image has no guidance of {cfg:g}.", "Choose 1 (none) or more than 2.")
        return {"guidance_scale": cfg - 1}


FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
    "FluxPipeline": Flux(),
    "QwenImagePipeline": QwenImage(),
    "ZImagePipeline": ZImage(),
}
"""diffusers' class of a pipeline -> how it is used."""


def _ids(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    return tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
