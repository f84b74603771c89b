"""Options of nodes and inputs that newer versions of ComfyUI know. An older one would refuse a node that names them.

usage: `io.Int.Input("batch_size", default=0, **advanced())`, `io.Schema(..., **search_aliases("find lora"))`
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

from comfy_api.latest import io

_WIDGETS = (io.Boolean.Input, io.Combo.Input, io.Float.Input, io.Int.Input, io.String.Input)


def advanced() -> dict[str, Any]:
    """For a widget that few people change: Nodes 2.0 show it only on demand."""
    return {"advanced": True} if _is_known("advanced", *_WIDGETS) else {}


def search_aliases(*words: str) -> dict[str, Any]:
    """For a node: words that it is found by in the node search, besides its name."""
    return {"search_aliases": list(words)} if _is_known("search_aliases", io.Schema) else {}


def keeps_report() -> dict[str, Any]:
    """For a node that shows text or pictures on itself and is no output node.

    A run in which the node's results were still known then has the report, too, as it always has in older versions.
    """
    return {"has_intermediate_output": True} if _is_known("has_intermediate_output", io.Schema) else {}


@cache
def _is_known(option: str, *takers: Callable[..., Any]) -> bool:
    """Whether all takers have a parameter of this name. ComfyUI asks for a node's schema whenever it looks at a workflow."""
    return all(option in signature(taker).parameters for taker in takers)
