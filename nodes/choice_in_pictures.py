"""Auto LoRA's choice in the metadata of pictures, also of those made when the node itself does not run.

A node can write into the metadata of the pictures of its own run. With a new seed only the sampler runs and the node is served
from ComfyUI's cache; then what it chose is added when the prompt arrives, if nothing that it depends on has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from typing import Any

logger = logging.getLogger(__name__)

NODE_ID = "CarlosAutoLora"
KEY = "carlos"
"""Name of the entry in a picture's metadata: node id -> {"query", "choice"}."""

_MOST = 512
_choices: OrderedDict[str, dict[str, Any]] = OrderedDict()


def keep(hidden: Any, query: str, choice: list[dict[str, Any]]) -> None:
    """Write what a node chose into the pictures of this run, and remember it for later ones."""
    if hidden.unique_id is None:
        return
    entry = {"query": query.strip(), "choice": choice}
    if isinstance(hidden.extra_pnginfo, dict):
        hidden.extra_pnginfo.setdefault(KEY, {})[hidden.unique_id] = entry
    if isinstance(hidden.prompt, dict) and hidden.unique_id in hidden.prompt:
        _choices[_key(hidden.prompt, hidden.unique_id)] = entry
        while len(_choices) > _MOST:
            _choices.popitem(last=False)


def add_known(request: dict[str, Any]) -> dict[str, Any]:
    """Handler for each prompt that reaches the server: puts what the Auto LoRA nodes chose before into the metadata."""
    try:
        prompt: dict[str, Any] = request["prompt"] if isinstance(request.get("prompt"), dict) else {}
        nodes = [node_id for node_id, node in prompt.items() if _is_ours(node)]
        if nodes:
            extra = request.setdefault("extra_data", {}).setdefault("extra_pnginfo", {})
            known = {node_id: _choices.get(_key(prompt, node_id)) for node_id in nodes}
            extra[KEY] = {node_id: entry for node_id, entry in known.items() if entry is not None}
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        logger.warning("carlos: the choice of LoRAs cannot be added to the picture's metadata: %s", error)
    return request


def register() -> None:
    """Hear of each prompt, where there is a server."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
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
    canonical = json.dumps([node_id, parts], sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
