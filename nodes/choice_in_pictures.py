"""Auto LoRA's choice in the metadata of pictures, also of those made when the node itself does not run.

A node can write into the metadata of the pictures of its own run. With a new seed only the sampler runs and the node is served
from ComfyUI's cache; then what it chose is added when the prompt arrives, if nothing that it depends on has changed. A prompt
that waits in the queue while the node runs for another one gets what was chosen there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import weakref
from collections import OrderedDict
from typing import Any

from . import prompt_server

logger = logging.getLogger(__name__)

NODE_ID = "CarlosAutoLora"
KEY = "carlos"
"""Name of the entry in a picture's metadata: node id -> {"query", "choice"}."""

_MOST = 512


class _InPictures(dict[str, Any]):
    """The entry for the pictures of one prompt. keys_of: node id -> `_key` of each Auto LoRA node."""

    def __init__(self, keys_of: dict[str, str]) -> None:
        super().__init__({node_id: _choices[key] for node_id, key in keys_of.items() if key in _choices})
        self.keys_of = keys_of


_choices: OrderedDict[str, dict[str, Any]] = OrderedDict()
_open: weakref.WeakValueDictionary[int, _InPictures] = weakref.WeakValueDictionary()
"""Those of the prompts that ComfyUI still holds: waiting or running."""


def keep(hidden: Any, query: str, choice: list[dict[str, Any]]) -> None:
    """Write what a node chose into the pictures of this run, and remember it for later ones."""
    if hidden.unique_id is None:
        return
    entry = {"query": query.strip(), "choice": choice}
    if isinstance(hidden.extra_pnginfo, dict):
        hidden.extra_pnginfo.setdefault(KEY, {})[hidden.unique_id] = entry
    if isinstance(hidden.prompt, dict) and hidden.unique_id in hidden.prompt:
        key = _key(hidden.prompt, hidden.unique_id)
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
        nodes = [node_id for node_id, node in prompt.items() if _is_ours(node)]
        if nodes:
            extra = request.setdefault("extra_data", {}).setdefault("extra_pnginfo", {})
            extra[KEY] = in_pictures = _InPictures({node_id: _key(prompt, node_id) for node_id in nodes})
            _open[id(in_pictures)] = in_pictures
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        logger.warning("carlos: the choice of LoRAs cannot be added to the picture's metadata: %s", error)
    return request


def register() -> None:
    """Hear of each prompt, where there is a server."""
    server = prompt_server.running()
    if server is not None and add_known not in server.on_prompt_handlers:
        server.add_on_prompt_handler(add_known)


def _is_ours(node: Any) -> bool:
    return isinstance(node, dict) and node.get("class_type") == NODE_ID


def _key(prompt: dict[str, Any], node_id: str) -> str:
    """Hash of a node with all that it depends on."""
    parts: dict[str, Any] = {}
    open_ids = [node_id]
    while open_ids:
        current = open_ids.pop()
        node = prompt.get(current)
        if current in parts or not isinstance(node, dict):
            continue
        inputs = node.get("inputs", {})
        parts[current] = [node.get("class_type"), inputs]
        open_ids += [value[0] for value in inputs.values() if isinstance(value, list) and len(value) == 2 and value[0] in prompt]
    canonical = json.dumps([node_id, _plain(parts)], sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """2.0 as 2: that is what a browser sends, and ComfyUI makes it 2.0 between the prompt's arrival and the node's run."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
