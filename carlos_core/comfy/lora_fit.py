"""Which of a LoRA's tensors fit a model: by name and by shape, as ComfyUI itself would apply them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from torch import Tensor

from ..errors import LoraError


class _ReadKeys(dict[str, Tensor]):
    """A LoRA's tensors that remembers which of them were taken: ComfyUI only logs those that do not fit."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.taken.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key in self:
            self.taken.add(key)
        return super().get(key, default)


class FittingPatches:
    """What of a LoRA ComfyUI can add to a model's weights.

    key_map: ComfyUI's names of layers -> keys of weights. weights: the model's own, by key; only their shapes count.
    patches: key -> patch, those that fit. matched, of_other_shape, total: tensors of the file that fit, that have the name of a
    layer but not its shape, and that there are.
    Raises LoraError, naming the file, for tensors that make no sense together.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], file_name: str, key_map: Mapping[str, Any], weights: Mapping[str, Tensor]
    ) -> None:
        self.patches: dict[Any, Any] = {}
        fitting: set[str] = set()
        named: set[str] = set()
        layer = ""
        try:
            read = _ReadKeys(comfy.lora_convert.convert_lora(dict(tensors)))
            with _shapes_only():
                for layer, target in key_map.items():
                    read.taken = set()
                    # One layer at a time, so that it is known which tensors are whose.
                    loaded = comfy.lora.load_lora(read, {layer: target}, log_missing=False)
                    patches = {key: patch for key, patch in loaded.items() if _weight_key(key) in weights}
                    if not patches:
                        continue
                    named |= read.taken
                    good = {key: patch for key, patch in patches.items() if _fits(patch, key, weights[_weight_key(key)])}
                    self.patches.update(good)
                    bad = {id(tensor) for key, patch in patches.items() if key not in good for tensor in _tensors(patch)}
                    if good:
                        fitting |= {key for key in read.taken if id(dict.__getitem__(read, key)) not in bad}
        except KeyError as error:
            raise LoraError(f"{file_name} is incomplete: it has no {error.args[0]}.", "Download it again.") from error
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise LoraError(f"The tensors of {file_name} make no sense ({layer}: {reason}).", "Download it again.") from error
        self.matched, self.of_other_shape, self.total = len(fitting), len(named - fitting), len(read)


def _fits(patch: Any, target: Any, weight: Tensor) -> bool:
    """Whether ComfyUI's own code changes a weight when it applies a patch to it. Computes shapes only; within `_shapes_only`."""
    before = torch.empty(tuple(weight.shape), device="meta")
    offset, function = (*target[1:], None)[:2] if isinstance(target, tuple) else (None, None)
    try:
        after = comfy.lora.calculate_weight([(1.0, _shape_of(patch), 1.0, offset, function)], before, "")
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    # A patch that enlarges the weight writes the old values into a new one first.
    return bool(after._version > (0 if after is before else 1))


def _shape_of(patch: Any) -> Any:
    """A patch with its tensors' shapes alone. Scalars (alpha) are 0: what depends on their values is not looked at."""
    if isinstance(patch, Tensor):
        return torch.empty(tuple(patch.shape), device="meta")
    if isinstance(patch, float):
        return 0.0
    if isinstance(patch, tuple):
        return tuple(map(_shape_of, patch))
    if hasattr(patch, "weights"):
        return type(patch)(set(), _shape_of(tuple(patch.weights)))
    return patch


def _tensors(patch: Any) -> Iterator[Tensor]:
    if isinstance(patch, Tensor):
        yield patch
    elif isinstance(patch, tuple) or hasattr(patch, "weights"):
        for part in getattr(patch, "weights", patch):
            yield from _tensors(part)


def _weight_key(target: Any) -> str:
    """Key of the weight that a patch is for: ComfyUI's key map also has parts of weights, (key, (dim, start, length))."""
    return target if isinstance(target, str) else target[0]


@contextmanager
def _shapes_only() -> Iterator[None]:
    """Makes torch count how often a tensor is written to, as it does not in inference mode; and keeps ComfyUI from logging a line
    for each layer of another shape, which the counts say in one sentence."""
    thread = threading.get_ident()
    root = logging.getLogger()

    def from_other_threads(record: logging.LogRecord) -> bool:
        return record.thread != thread

    root.addFilter(from_other_threads)
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        root.removeFilter(from_other_threads)
