"""LoRAs in the weights of a model, and out of them again, to the bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..generator import LoraFit
from .families import Family
from .lora_files import LoraTensors
from .quiet import quiet

_ADAPTER = "carlos"

_Layers = dict[str, dict[str, Any]]
"""Name of a component -> name of a layer -> peft's layer around it."""


class LoadedLora:
    """A LoRA as diffusers' loader and peft make it: a layer of theirs for each of the model's that it changes.

    The layers are taken out of the model again. They still know the model's own, and add themselves to these when they are asked.
    """

    def __init__(self, tensors: LoraTensors, pipe: Any, family: Family, weight: float) -> None:
        """weight: for the diffusion model and the text encoders alike."""
        self.fit: LoraFit = tensors.fit
        names = [
            name for name in (family.part, "text_encoder", "text_encoder_2") if isinstance(getattr(pipe, name, None), nn.Module)
        ]
        with ExitStack() as stack:
            stack.callback(pipe.unload_lora_weights)
            stack.enter_context(quiet())
            pipe.load_lora_weights(dict(tensors.taken), adapter_name=_ADAPTER)
            self.layers: _Layers = {name: dict(_lora_layers(getattr(pipe, name))) for name in names}
        for layer in self._all:
            # Alpha is in the matrices already. peft's own scale would count it by the text encoders' most frequent rank.
            layer.scaling[_ADAPTER] = weight
            # In half precision the product of two matrices would be rounded before it is added.
            for factor in (layer.lora_A, layer.lora_B):
                factor.float()

    @property
    def _all(self) -> Iterator[Any]:
        return (layer for layers in self.layers.values() for layer in layers.values())

    @property
    def changes_texts(self) -> bool:
        return any(layers for name, layers in self.layers.items() if name.startswith("text_encoder"))

    def add(self) -> None:
        """Add the LoRA to the model's weights."""
        for layer in self._all:
            device = layer.get_base_layer().weight.device
            for factor in (layer.lora_A, layer.lora_B):
                factor.to(device)
            layer.merge()
            layer.merged_adapters.clear()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The model's weights that the LoRA changes, each with its name."""
        for name, layers in self.layers.items():
            for place, layer in layers.items():
                yield f"{name}.{place}", layer.get_base_layer().weight


class MergedWeights:
    """Which LoRAs are in a model's weights. What they change is kept as it was, in the computer's memory."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._changed: dict[str, Tensor] = {}
        self._now: tuple[LoadedLora, ...] | None = ()
        """None where it was interrupted: then a part of a LoRA may be in them."""

    def set(self, loras: Iterable[LoadedLora]) -> None:
        """Have just these LoRAs in the weights, added in this order."""
        wanted = tuple(loras)
        if wanted == self._now:
            return
        self.clear()
        self._now = None
        # Whatever happens on the way, `clear` knows what may be changed.
        with torch.no_grad():
            for lora in wanted:
                for name, weight in lora.weights():
                    if name not in self._kept:
                        self._kept[name] = weight.detach().to("cpu", copy=True)
                    self._changed[name] = weight
                lora.add()
        self._now = wanted

    def clear(self) -> None:
        """Have the model's own weights again."""
        self._now = None
        with torch.no_grad():
            for name, weight in self._changed.items():
                weight.data.copy_(self._kept[name])
        self._changed, self._now = {}, ()


def _lora_layers(component: nn.Module) -> Iterator[tuple[str, Any]]:
    return (
        (name, module) for name, module in component.named_modules() if hasattr(module, "lora_A") and hasattr(module, "merge")
    )
