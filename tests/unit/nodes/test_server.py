"""What is read of ComfyUI's queue."""

from __future__ import annotations

import importlib
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def server() -> Any:
    """The module as part of a package of its own: without ComfyUI the pack itself cannot be imported."""
    package = types.ModuleType("carlos_host_alone")
    package.__path__ = [str(Path(__file__).resolve().parents[3] / "nodes" / "host")]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{package.__name__}.server")


def test_what_others_put_into_the_history_is_passed_over(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"1": {"class_type": "KSampler"}}
    ran = {"a": {"prompt": (0, "a", nodes)}, "b": {"outputs": {}}, "c": {"prompt": ()}}
    queue = types.SimpleNamespace(mutex=threading.Lock(), history=ran, currently_running={}, queue=[])
    instance = types.SimpleNamespace(prompt_queue=queue)
    module = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=instance))
    monkeypatch.setitem(sys.modules, "server", module)
    assert server.prompts() == [nodes]


def test_a_node_is_told_to_have_begun_again_by_a_state_without_it(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[Any, ...]] = []
    instance = types.SimpleNamespace(client_id="", send_sync=lambda *message: sent.append(message))
    utils = types.SimpleNamespace(get_executing_context=lambda: types.SimpleNamespace(prompt_id="a"))
    monkeypatch.setitem(sys.modules, "server", types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=instance)))
    monkeypatch.setitem(sys.modules, "comfy_execution.utils", utils)
    assert not server.is_watched()
    instance.client_id = "browser"
    assert server.is_watched()
    server.forget_progress()
    assert sent == [("progress_state", {"prompt_id": "a", "nodes": {}}, "browser")]
