"""What a workflow says about the model that a node gets: the names of the files that it comes from.

A loaded MODEL does not know its file's name. The prompt that ComfyUI runs does: it holds every node with its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_WEIGHTS = (".safetensors", ".sft", ".ckpt", ".gguf", ".pt", ".pth", ".bin")
_OF_A_MODEL = ("model", "ckpt", "checkpoint", "unet", "diffusion_model", "dit")
"""Beginnings of inputs' names: of those that take a MODEL ("model", "model1"), and of those by which loaders name its file."""

_OF_A_NAME = ("name", "path", "file")
"""Ends of the latter: what is linked to them is text."""


def checkpoints_of(prompt: Any, node_id: str | None, name: str = "model") -> tuple[str, ...]:
    """The files that the MODEL at an input of a node comes from, as its loaders name them; several if models were merged.

    Empty if that cannot be told: a loader that names no file, or a prompt of another kind. Each node is visited once.

    Args:
        prompt: node id -> {"class_type", "inputs"}, as ComfyUI gives it to nodes.
        node_id: the node that asks.
        name: of the input.
    """
    found: dict[str, None] = {}
    seen: set[str] = set()
    open_ids = [source for key, source in _sources(_inputs(prompt, node_id)).items() if key == name]
    while open_ids:
        current = open_ids.pop()
        if current in seen:
            continue
        seen.add(current)
        inputs = _inputs(prompt, current)
        sources = _sources(inputs)
        models = [source for key, source in sources.items() if _is_of_model(key) and not key.endswith(_OF_A_NAME)]
        named = [] if models else list(_named(prompt, inputs))
        found |= dict.fromkeys(named)
        if not named:
            # Of a switch or a pipe, whatever it gets: only loaders name files.
            open_ids += reversed(models or list(sources.values()))
    return tuple(found)


def _named(prompt: Any, inputs: Mapping[str, Any]) -> Iterator[str]:
    """The files that a loader names, by itself or by a node that gives it one name."""
    for key, value in inputs.items():
        if _is_of_model(key):
            source = _sources(inputs).get(key) if key.endswith(_OF_A_NAME) else None
            values = [value] if source is None else _inputs(prompt, source).values()
            files = [each for each in values if _is_file(each)]
            if len(files) == 1:
                yield files[0]


def _is_of_model(key: str) -> bool:
    return key.lower().startswith(_OF_A_MODEL)


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(_WEIGHTS)


def _sources(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Input -> the node that it is linked to."""
    links = ((key, value) for key, value in inputs.items() if isinstance(value, list) and len(value) == 2)
    return {key: value[0] for key, value in links if isinstance(value[0], str)}


def _inputs(prompt: Any, node_id: Any) -> Mapping[str, Any]:
    node = prompt.get(node_id) if isinstance(prompt, Mapping) else None
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}
