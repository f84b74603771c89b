"""The keys by which a node's choice is known again when its prompt comes back, on prompts of all kinds."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest

AUTO = "CarlosAutoLora"
Prompt = dict[str, Any]


@pytest.fixture(scope="module")
def pictures() -> Any:
    """The module as part of a package of its own: without ComfyUI the pack itself cannot be imported."""
    package = types.ModuleType("carlos_nodes_alone")
    package.__path__ = [str(Path(__file__).resolve().parents[3] / "nodes")]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.common.choice_in_pictures")


def auto(model: Any, **inputs: Any) -> Prompt:
    return {"class_type": AUTO, "inputs": {"model": model, "query": "snow", **inputs}}


LOADER: Prompt = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}}


def chain(n: int) -> Prompt:
    return {"0": LOADER, **{str(k): auto([str(k - 1), 0], clip=[str(k - 1), 1]) for k in range(1, n + 1)}}


def keys(pictures: Any, prompt: Prompt) -> dict[str, str]:
    return pictures._keys(prompt, [node_id for node_id, node in prompt.items() if node.get("class_type") == AUTO])


def test_a_node_of_a_long_chain_depends_on_all_before_it_and_none_behind(pictures: Any) -> None:
    before = keys(pictures, chain(50))
    changed = chain(50)
    changed["20"]["inputs"]["query"] = "rain"
    after = keys(pictures, changed)
    assert len(set(before.values())) == 50
    assert [before[str(k)] == after[str(k)] for k in range(1, 51)] == [k < 20 for k in range(1, 51)]


def test_each_node_of_a_prompt_is_described_once_however_many_depend_on_it(
    pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[Any] = []
    inner = pictures._description

    def description(*arguments: Any) -> Any:
        described.append(arguments[0])
        return inner(*arguments)

    monkeypatch.setattr(pictures, "_description", description)
    assert len(keys(pictures, chain(4000))) == 4000
    assert len(described) == 4001
    # Layers in which each node takes from all of the layer before: two to the 40th ways through them.
    wide: Prompt = {f"0 {k}": LOADER for k in range(2)}
    for layer in range(1, 41):
        wide |= {f"{layer} {k}": auto([f"{layer - 1} 0", 0], clip=[f"{layer - 1} 1", 0]) for k in range(2)}
    described.clear()
    assert len(keys(pictures, wide)) == 80
    assert len(described) == 82


def test_what_the_browser_writes_as_a_whole_number_is_the_same_as_what_comfyui_makes_of_it(pictures: Any) -> None:
    whole, broken = (keys(pictures, {"0": LOADER, "1": auto(["0", 0], strength_budget=value)}) for value in (2, 2.0))
    assert whole == broken
    assert keys(pictures, {"0": LOADER, "1": auto(["0", 0], strength_budget=2.5)}) != whole
    # Another output of the same node is another thing.
    assert keys(pictures, {"0": LOADER, "1": auto(["0", 1], strength_budget=2)}) != whole


def test_one_node_that_cannot_be_described_does_not_take_the_others_with_it(pictures: Any) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    prompt = {
        "0": LOADER,
        "good": auto(["0", 0]),
        "itself": auto(["itself", 0]),
        "one": auto(["other", 0]),
        "other": auto(["one", 0]),
        "behind": auto(["one", 0]),
        "deep": auto(["0", 0], query=deep),
        "behind the deep": auto(["deep", 0]),
        "no inputs": {"class_type": AUTO, "inputs": None},
        "a link to nothing": auto(["gone", 0]),
        "odd links": auto([["a", "list"], 0], clip=[{}, 0], more=[1, 2, 3]),
    }
    assert set(keys(pictures, prompt)) == {"good", "no inputs", "a link to nothing", "odd links"}


@pytest.mark.parametrize("prompt", [None, [], {"1": None}, {"1": 5}, {"1": {"class_type": AUTO}}, {"1": {"inputs": {}}}])
def test_a_request_without_a_proper_prompt_passes(pictures: Any, prompt: Any) -> None:
    request = {"prompt": prompt}
    assert pictures.add_known(request) is request
