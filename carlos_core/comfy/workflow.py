"""What a workflow says about the model that a node gets: the names of the files that it comes from, and how it is sampled.

A loaded MODEL does not know its file's name. The prompt that ComfyUI runs does: it holds every node with its inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_WEIGHTS = (".safetensors", ".sft", ".ckpt", ".gguf", ".pt", ".pth", ".bin")
_OF_A_MODEL = ("model", "ckpt", "checkpoint", "unet", "diffusion_model", "dit")
"""Beginnings of inputs' names: of those that take a MODEL ("model", "model1"), and of those by which loaders name its file."""

_OF_A_NAME = ("name", "path", "file")
"""Ends of the latter: what is linked to them is text."""

_OF_GUIDANCE = ("cfg", "cfg_conds")
"""Inputs of samplers and guiders that say the scale of guidance."""

_WITHOUT_GUIDANCE = ("BasicGuider",)
"""Classes of guiders that have no such input: they do without guidance."""

_OWN = "Carlos"
"""Beginning of our own nodes' classes: their cfg is a setting of `custom`, not how the model is used. Some pass the MODEL on."""

_FEW_STEP_LORA = re.compile(
    r"lightning|turbo|schnell|distill|causvid|lightx2v|hypersd|flash[ _-]?(sd|flux|\d)"
    r"|(?<![a-z])(lcm|dmd2?|tcd|pcm|hyper)(?![a-z])"
    r"|(?<!\d)[1-9]\d?[ _-]?steps?(?![a-z])",
    re.IGNORECASE,
)
"""In names of LoRAs after which a model wants few steps, and did not before. Numbers of training steps are larger."""

_LORA_IN_TEXT = re.compile(r"<lora:([^:>]{1,300})")

_MOST_STACKED = 32
_LONGEST_NAME = 300
_MOST_TEXT = 20_000


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


def guidances_of(prompt: Any, node_id: str | None, name: str = "model") -> tuple[float, ...]:
    """The scales of guidance of all samplers that get the MODEL at an input of a node, as it is or with LoRAs and patches on it.

    Those behind a LoRA for few steps do not count, since the MODEL itself does without that LoRA. Each node is visited once.

    Args:
        prompt: node id -> {"class_type", "inputs"}, as ComfyUI gives it to nodes.
        node_id: the node that asks.
        name: of the input.
    """
    origin = _origin(prompt, _links(_inputs(prompt, node_id)).get(name))
    if origin is None:
        return ()
    users: dict[str, list[tuple[str, str, int]]] = {}
    for user in prompt:
        for key, (source, slot) in _links(_inputs(prompt, user)).items():
            users.setdefault(source, []).append((user, key, slot))
    found: dict[str, float] = {}
    seen: set[str] = set()
    # Only one of the first node's outputs is this MODEL.
    open_uses = [(user, key) for user, key, slot in users.get(origin[0], ()) if slot == origin[1]]
    while open_uses:
        user, key = open_uses.pop()
        inputs = _inputs(prompt, user)
        is_one_of_several = any(_is_of_model(other) for other in _links(inputs)) and not _is_of_model(key)
        if is_one_of_several or user in seen:
            continue
        seen.add(user)
        scale = None if _class(prompt, user).startswith(_OWN) else _guidance(prompt, user)
        if scale is not None:
            found[user] = scale
        elif not any(_FEW_STEP_LORA.search(name) for name in _lora_names(prompt, user)):
            open_uses += [(further, key) for further, key, _slot in users.get(user, ())]
    return tuple(found[user] for user in sorted(found))


def _origin(prompt: Any, link: tuple[str, int] | None) -> tuple[str, int] | None:
    """Where a link comes from, before nodes that only pass it on."""
    seen: set[str] = set()
    while link is not None and link[0] not in seen:
        seen.add(link[0])
        inputs = _inputs(prompt, link[0])
        links = _links(inputs)
        if len(inputs) != 1 or len(links) != 1:
            break
        link = next(iter(links.values()))
    return link


def _lora_names(prompt: Any, node_id: str) -> Iterator[str]:
    """The LoRAs that a node names: in its inputs, in lists and tables of them, in texts, and in stacks that it gets."""
    open_ids, seen = [node_id], {node_id}
    while open_ids and len(seen) <= _MOST_STACKED:
        inputs = _inputs(prompt, open_ids.pop())
        for key, value in inputs.items():
            if isinstance(value, Mapping):
                # A row of a table of LoRAs, which may be switched off.
                yield from (name for name in value.values() if _is_name(name) and value.get("on", True))
            elif _is_name(value) and (_is_file(value) or "lora" in key.lower()):
                yield value
            elif isinstance(value, str):
                yield from _LORA_IN_TEXT.findall(value[:_MOST_TEXT])
        for key, source in _sources(inputs).items():
            if ("lora" in key.lower() or "stack" in key.lower()) and source not in seen:
                seen.add(source)
                open_ids.append(source)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _guidance(prompt: Any, node_id: str) -> float | None:
    """The scale of guidance that a sampler or a guider says; None for other nodes, and where it is computed."""
    if _class(prompt, node_id) in _WITHOUT_GUIDANCE:
        return 1.0
    inputs = _inputs(prompt, node_id)
    key = next((key for key in _OF_GUIDANCE if key in inputs), "")
    value, source = inputs.get(key), _sources(inputs).get(key)
    if source is not None:
        numbers = [each for each in _inputs(prompt, source).values() if _number(each) is not None]
        value = numbers[0] if len(numbers) == 1 else None
    return _number(value)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _class(prompt: Any, node_id: str) -> str:
    return str(prompt[node_id].get("class_type", ""))


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
    return {key: source for key, (source, _slot) in _links(inputs).items()}


def _links(inputs: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Input -> the node that it is linked to, and which of that node's outputs."""
    links = ((key, value) for key, value in inputs.items() if isinstance(value, list) and len(value) == 2)
    return {key: (value[0], value[1]) for key, value in links if isinstance(value[0], str) and isinstance(value[1], int)}


def _inputs(prompt: Any, node_id: Any) -> Mapping[str, Any]:
    node = prompt.get(node_id) if isinstance(prompt, Mapping) else None
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}
