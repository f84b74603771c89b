"""Auto LoRA's choice in the metadata of pictures, also of those made when the node itself does not run.

A node can write into the metadata of the pictures of its own run. With a new seed only the sampler runs, and the node's result
comes from ComfyUI's cache. Then what it chose is added when the prompt arrives, if nothing that it depends on has changed. A
prompt that waits in the queue while the node runs for another one gets what was chosen there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from ..host import server as prompt_server

logger = logging.getLogger(__name__)

NODE_ID = "CarlosAutoLora"
KEY = "carlos"
"""Name of the entry in a picture's metadata: node id -> {"query", "choice"}."""

_MOST = 512


class _InPictures(dict[str, Any]):
    """The entry for the pictures of one prompt. keys_of: node id -> key of each Auto LoRA node, see `_keys`."""

    def __init__(self, keys_of: dict[str, str]) -> None:
        super().__init__({node_id: _choices[key] for node_id, key in keys_of.items() if key in _choices})
        self.keys_of = keys_of


_choices: OrderedDict[str, dict[str, Any]] = OrderedDict()
_open: weakref.WeakValueDictionary[int, _InPictures] = weakref.WeakValueDictionary()
"""The entries of the prompts that ComfyUI still holds: waiting or running."""


def keep(hidden: Any, query: str, choice: list[dict[str, Any]]) -> None:
    """Write what a node chose into the pictures of this run, and remember it for later ones."""
    if hidden.unique_id is None:
        return
    entry = {"query": query.strip(), "choice": choice}
    if isinstance(hidden.extra_pnginfo, dict):
        hidden.extra_pnginfo.setdefault(KEY, {})[hidden.unique_id] = entry
    if isinstance(hidden.prompt, dict) and hidden.unique_id in hidden.prompt:
        key = _keys(hidden.prompt, [hidden.unique_id]).get(hidden.unique_id)
        if key is None:
            return
        _choices[key] = entry
        for reference in _open.valuerefs():
            in_pictures = reference()
            if in_pictures is not None and in_pictures.keys_of.get(hidden.unique_id) == key:
                in_pictures[hidden.unique_id] = entry
        while len(_choices) > _MOST:
            _choices.popitem(last=False)


def add_known(request: dict[str, Any]) -> dict[str, Any]:
    """Handler for each prompt that reaches the server: puts what the Auto LoRA nodes chose before into the metadata."""
    try:
        prompt: dict[str, Any] = request["prompt"] if isinstance(request.get("prompt"), dict) else {}
        keys = _keys(prompt, [node_id for node_id, node in prompt.items() if _is_ours(node)])
        if keys:
            extra = request.setdefault("extra_data", {}).setdefault("extra_pnginfo", {})
            extra[KEY] = in_pictures = _InPictures(keys)
            _open[id(in_pictures)] = in_pictures
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        logger.warning("carlos: the choice of LoRAs cannot be added to the picture's metadata: %s", error)
    return request


def register() -> None:
    """Have `add_known` called with each prompt, if there is a server."""
    server = prompt_server.running()
    if server is not None and add_known not in server.on_prompt_handlers:
        server.add_on_prompt_handler(add_known)


def _is_ours(node: Any) -> bool:
    return isinstance(node, dict) and node.get("class_type") == NODE_ID


def _keys(prompt: dict[str, Any], node_ids: Iterable[str]) -> dict[str, str]:
    """For each node its id with a hash of it and of all that it depends on.

    Every node is visited once, however many nodes depend on it. Nodes that cannot be described are left out: those that depend on
    themselves, and those with values of endless depth.
    """
    nodes = {node_id: node for node_id, node in prompt.items() if isinstance(node, dict)}
    found: dict[str, str | None] = {}
    sources: dict[str, set[str]] = {}
    wanted = [node_id for node_id in node_ids if node_id in nodes]
    open_ids = list(wanted)
    while open_ids:
        current = open_ids[-1]
        if current in found:
            open_ids.pop()
        elif current in sources:
            found[current] = _description(nodes[current], sources[current], found)
        else:
            sources[current] = {value[0] for value in _inputs(nodes[current]).values() if _is_link(value) and value[0] in nodes}
            # A source that was begun and is not found yet depends on this node: a circle, which has no description.
            open_ids += sources[current] - sources.keys()
    described = ((node_id, found[node_id]) for node_id in wanted)
    return {node_id: f"{node_id} {description}" for node_id, description in described if description is not None}


def _description(node: dict[str, Any], sources: set[str], found: Mapping[str, str | None]) -> str | None:
    """Hash of a node, with the descriptions of its sources in place of the links to them. None if it cannot be described."""
    if any(found.get(source) is None for source in sources):
        return None
    inputs = {
        name: {"output": value[1], "of": found[value[0]]} if _is_link(value) and value[0] in sources else value
        for name, value in _inputs(node).items()
    }
    try:
        canonical = json.dumps([node.get("class_type"), _plain(inputs)], sort_keys=True, default=str)
    except (RecursionError, TypeError, ValueError):
        return None
    return hashlib.sha256(canonical.encode()).hexdigest()


def _inputs(node: dict[str, Any]) -> dict[str, Any]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _plain(value: Any) -> Any:
    """2.0 as 2: that is what a browser sends, and ComfyUI makes it 2.0 between the prompt's arrival and the node's run."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
