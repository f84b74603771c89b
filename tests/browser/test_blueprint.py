"""The subgraph blueprint as a user meets it: found by its name, put on the canvas, wired and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from tests.support.workflows import CHECKPOINT

if TYPE_CHECKING:
    from tests.support.comfyui_host import Host
    from tests.support.frontend import Frontend

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]

BOTH_RENDERERS = True

(BLUEPRINT,) = (Path(__file__).resolve().parents[2] / "subgraphs").glob("*.json")

_PLACED = "() => app.graph.nodes.some(node => node.isSubgraphNode?.())"
_WIRE = """([checkpoint, query, settings]) => {
    const placed = app.graph.nodes.find(node => node.isSubgraphNode?.());
    const add = type => { const node = LiteGraph.createNode(type); app.graph.add(node); return node; };
    const loader = add("CheckpointLoaderSimple"), picture = add("PreviewImage"), words = add("PrimitiveStringMultiline");
    const prompt = add("PreviewAny");
    loader.widgets[0].value = checkpoint;
    words.widgets[0].value = "a wooden cabin";
    const input = name => placed.inputs.findIndex(slot => slot.name === name);
    const output = name => placed.outputs.findIndex(slot => slot.name === name);
    loader.connect(0, placed, input("model"));
    loader.connect(1, placed, input("clip"));
    words.connect(0, placed, input("prompt"));
    placed.connect(output("picture"), picture, 0);
    placed.connect(output("prompt"), prompt, 0);
    placed.widgets.find(widget => widget.name === "query").value = query;
    for (const node of placed.subgraph.nodes)
        for (const widget of node.widgets ?? [])
            if (widget.name in settings) widget.value = settings[widget.name];
    return [picture.id, prompt.id];
}"""
_SETTINGS = {"database": "empty", "create_as": "my_loras", "encoder": "mini_clip", "prompts": "miniworld-signature"}


def test_blueprint_is_placed_and_runs(frontend: Frontend, host: Host) -> None:
    if requests.get(f"{host.url}/api/global_subgraphs", timeout=60).status_code == 404:
        pytest.skip("this ComfyUI has no blueprints")
    frontend.place_by_name(BLUEPRINT.stem)
    frontend.page.wait_for_function(_PLACED)
    picture, prompt = frontend.page.evaluate(_WIRE, [CHECKPOINT, "painted in oil on canvas", _SETTINGS])
    entry = host.wait(frontend.queue(), timeout_s=400)
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert frontend.broken_nodes() == []
    outputs = entry["outputs"]
    assert len(outputs[str(picture)]["images"]) == 1
    # zorvex is the trigger word of the LoRA that paints in oil.
    assert outputs[str(prompt)]["text"] == ["a wooden cabin, zorvex"]


def test_blueprint_names_what_it_holds() -> None:
    graph = json.loads(BLUEPRINT.read_text(encoding="utf-8"))
    (node,) = graph["nodes"]
    (subgraph,) = graph["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"]
    assert node["title"] == subgraph["name"] == BLUEPRINT.stem
    for side in ("inputs", "outputs"):
        assert [slot["name"] for slot in node[side]] == [slot["name"] for slot in subgraph[side]]
