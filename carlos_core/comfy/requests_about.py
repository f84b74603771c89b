"""The request "about": what ComfyUI runs on."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import as_library, requests_list

if TYPE_CHECKING:
    from .service import Channel


def answer(channel: Channel, request: Mapping[str, Any]) -> dict[str, Any]:
    """What "list" says, and the device that models are loaded on."""
    listed = requests_list.answer(channel, request)
    as_library.prepare_memory()
    management: Any = import_module("comfy.model_management")
    device = management.get_torch_device()
    return {
        **listed,
        "torch": str(import_module("torch").__version__),
        "device": management.get_torch_device_name(device),
        "is_cpu": device.type == "cpu",
        "memory_bytes": int(management.get_total_memory(device)),
        "missing": [name for name in ("open_clip", "pyarrow", "pandas", "scipy", "filelock", "requests") if _is_missing(name)],
    }


def _is_missing(name: str) -> bool:
    find: Any = import_module("importlib.util").find_spec
    return find(name) is None
