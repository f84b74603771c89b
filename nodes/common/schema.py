"""Options of nodes and inputs that newer versions of ComfyUI know. An older one would refuse a node that names them.

usage: `io.Int.Input("batch_size", default=0, **advanced())`, `io.Schema(..., **search_aliases("find lora"))`
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from comfy_api.latest import io

_WIDGETS = (io.Boolean.Input, io.Combo.Input, io.Float.Input, io.Int.Input, io.String.Input)


def advanced() -> dict[str, Any]:
    """For a widget that few people change: Nodes 2.0 show it only on demand."""
    return _where_known({"advanced": True}, *_WIDGETS)


def search_aliases(*words: str) -> dict[str, Any]:
    """For a node: words that it is found by in the node search, besides its name."""
    return _where_known({"search_aliases": list(words)}, io.Schema)


def keeps_report() -> dict[str, Any]:
    """For a node that shows a report and is no output node.

    A run in which the node's results were still known then has the report, too, as it always has in older versions.
    """
    return _where_known({"has_intermediate_output": True}, io.Schema)


def _where_known(options: dict[str, Any], *takers: Callable[..., Any]) -> dict[str, Any]:
    """The options if all takers have parameters of these names, else none."""
    return options if all(signature(taker).parameters.keys() >= options.keys() for taker in takers) else {}
