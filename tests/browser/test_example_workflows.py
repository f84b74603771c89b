"""The example workflows as a user meets them: opened in ComfyUI's frontend, adapted, and run there, in both of its renderers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from PIL import Image

if TYPE_CHECKING:
    from tests.support.comfyui_host import Host
    from tests.support.frontend import Frontend

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]

BOTH_RENDERERS = True

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "example_workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))

FEW_PICTURES: dict[str, Any] = {
    "preset": "custom",
    "prompts": "miniworld-short",
    "max_prompts": 2,
    "steps": 4,
    "cfg": 3.0,
    "scheduler": "simple",
    "width": 128,
    "height": 128,
    "overwrite": True,
}
"""What both nodes that measure are set to. A LoRA is measured again in the second renderer."""

MINIWORLD: dict[str, dict[str, Any]] = {
    "CheckpointLoaderSimple": {"ckpt_name": "miniworld.safetensors"},
    "CarlosMetricsDBLoader": {"database": "empty", "encoder": "mini_clip"},
    "CarlosLoraRetriever": {"query": "painted in oil on canvas", "base_model": "any", "prompts": "miniworld-signature"},
    "CarlosIndexLibrary": {
        "name_filter": "pencil",
        **FEW_PICTURES,
    },
    "CarlosRaceLoras": {
        "query": "painted in oil on canvas",
        "prompts": "miniworld-signature",
        "index_prompts": "miniworld-index",
        "name_filter": "mystery_0[5-7]*",
        "top_k": 1,
        "width": 128,
        "height": 128,
    },
    "CarlosSimilarLoras": {"lora_name": "red_balloons.safetensors", "min_consistency": -1.0},
    "First LoRA": {"lora_name": "mystery_06.safetensors"},
    "Second LoRA": {"lora_name": "red_balloons.safetensors"},
    "CarlosAutoLora": {"query": "painted in oil on canvas", "prompts": "miniworld-signature"},
    "CarlosLoraIndexer": {
        "lora_name": "pencil_sketch.safetensors",
        **FEW_PICTURES,
    },
    "EmptyLatentImage": {"width": 128, "height": 128},
    "KSampler": {"steps": 4, "cfg": 3.0, "scheduler": "simple"},
}
"""What a user of the mini-world changes, by the node's title or type."""


def saved(name: str) -> dict[str, Any]:
    """An example. It names no file: newer frontends mark nodes whose file is not there, and take the first one for none."""
    graph: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert ".safetensors" not in json.dumps(
        [node.get("widgets_values") for node in graph["nodes"] if node["type"] != "MarkdownNote"]
    )
    return graph


def node_of(graph: dict[str, Any], type_: str, title: str | None = None) -> int:
    (node_id,) = [node["id"] for node in graph["nodes"] if node["type"] == type_ and node.get("title") == title]
    return node_id


def needs_types_of(graph: dict[str, Any], host: Host) -> None:
    """Skip the test if this ComfyUI lacks a node of its own: the oldest has no Compare Images."""
    known = host.object_info()
    missing = {node["type"] for node in graph["nodes"]} - {*known, "MarkdownNote"}
    assert missing <= {"ImageCompare"}
    if missing:
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")


def open_and_adapt(frontend: Frontend, host: Host, name: str) -> dict[str, Any]:
    graph = saved(name)
    needs_types_of(graph, host)
    frontend.load(graph)
    for node in graph["nodes"]:
        frontend.set_widgets(node["id"], **MINIWORLD.get(node.get("title", ""), MINIWORLD.get(node["type"], {})))
    return graph


def run(frontend: Frontend, host: Host) -> dict[str, Any]:
    """Outputs by node id of the open workflow, run from the frontend. What nodes show then covers no other node."""
    entry = host.wait(frontend.queue(), timeout_s=400)
    assert entry["status"]["status_str"] == "success", entry["status"]
    assert frontend.broken_nodes() == []
    assert frontend.covering() == []
    return entry["outputs"]


def saved_picture(outputs: dict[str, Any], graph: dict[str, Any], host: Host) -> Image.Image:
    (image,) = outputs[str(node_of(graph, "SaveImage"))]["images"]
    return Image.open(host.output_file(image))


def facts_shown(outputs: dict[str, Any], graph: dict[str, Any]) -> dict[str, Any]:
    """The facts at the end of the report that Preview Any shows."""
    (text,) = outputs[str(node_of(graph, "PreviewAny", "Report"))]["text"]
    return json.loads(text.splitlines()[-1])


def errors_of(frontend: Frontend) -> list[str]:
    """Errors but for those of the frontend itself: files that a fresh user has not made yet, routes that an older core lacks."""
    own = ("Failed to load resource", "JobsApiError")
    return [error for error in frontend.errors if not any(mark in error for mark in own)]


def test_there_is_an_example_for_each_story() -> None:
    main_job = ["0_first_run", "1_index_my_loras", "2_ask", "3_find_more_like_this"]
    others = ["compare_two_loras", "index_a_lora", "retrieve_and_render", "retriever_into_load_lora", "sentence_in_picture_out"]
    assert [*main_job, *others] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_example_opens_as_it_was_saved(frontend: Frontend, host: Host, is_new: bool, name: str) -> None:
    graph = saved(name)
    needs_types_of(graph, host)
    frontend.load(graph)
    frontend.wait_for_drawn(len(graph["nodes"]) if is_new else 0)
    opened = frontend.graph()
    assert frontend.broken_nodes() == []
    assert errors_of(frontend) == []
    assert sorted(opened["links"]) == sorted(graph["links"])
    values = {node["id"]: node.get("widgets_values") or [] for node in opened["nodes"]}
    for node in graph["nodes"]:
        # A later version may add inputs at the end; the ones that were saved must not move.
        opened_with = values[node["id"]][: len(node["widgets_values"])]
        pairs = zip(opened_with, node["widgets_values"], strict=True)
        # The first choice there is, where the example names none.
        assert all(there == kept or (kept is None and there) for there, kept in pairs), node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_offered_with_a_picture(host: Host, name: str) -> None:
    templates = requests.get(f"{host.url}/api/workflow_templates", timeout=60).json()
    (pack,) = [pack for pack, names in templates.items() if name in names]
    picture = requests.get(f"{host.url}/api/workflow_templates/{pack}/{name}.jpg", timeout=60)
    picture.raise_for_status()
    assert Image.open(io.BytesIO(picture.content)).format == "JPEG"


def test_retrieve_and_render(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "retrieve_and_render")
    outputs = run(frontend, host)
    assert saved_picture(outputs, graph, host).size == (128, 128)
    matches = facts_shown(outputs, graph)["matches"]
    assert (matches[0]["file"], matches[0]["installed"]) == ("mystery_06.safetensors", True)
    # zorvex is the trigger word in that file's metadata.
    (prompt,) = outputs[str(node_of(graph, "PreviewAny", "Final prompt"))]["text"]
    assert prompt == "a wooden cabin at the edge of a forest, zorvex"
    frontend.wait_for_text(node_of(graph, "PreviewAny", "Report"), "mystery_06.safetensors")
    assert errors_of(frontend) == []


def test_first_run(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "0_first_run")
    outputs = run(frontend, host)
    facts = facts_shown(outputs, graph)
    assert [each["file"] for each in facts["choice"]] == ["mystery_06.safetensors"]
    assert facts["candidates"] == 3
    # In place of the pictures that it showed while it ran.
    race = node_of(graph, "CarlosRaceLoras")
    (shown,) = outputs[str(race)]["images"]
    frontend.wait_for_picture(race, shown["filename"])
    assert saved_picture(outputs, graph, host).size == (128, 128)
    (prompt,) = outputs[str(node_of(graph, "PreviewAny", "Final prompt"))]["text"]
    assert prompt == "a wooden cabin at the edge of a forest, zorvex"
    frontend.wait_for_text(node_of(graph, "PreviewAny", "Report"), "mystery_06.safetensors")
    assert errors_of(frontend) == []


def test_index_my_loras(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "1_index_my_loras")
    outputs = run(frontend, host)
    facts = facts_shown(outputs, graph)
    assert [(each["file"], each["n_images"]) for each in facts["indexed"]] == [("pencil_sketch.safetensors", 2)]
    (said,) = outputs[str(node_of(graph, "PreviewAny", "What each does"))]["text"]
    described = {each["file"]: each["described_as"] for each in json.loads(said.splitlines()[-1])["loras"]}
    # What the first run has raced is in the database, too.
    assert set(described) >= {"mystery_06.safetensors", "pencil_sketch.safetensors", "red_balloons.safetensors"}
    assert facts["described_as"] == {"pencil_sketch.safetensors": described["pencil_sketch.safetensors"]}
    assert outputs[str(node_of(graph, "PreviewImage", "Contact sheets"))]["images"]
    frontend.wait_for_text(node_of(graph, "PreviewAny", "What each does"), described["pencil_sketch.safetensors"])
    assert errors_of(frontend) == []


def test_find_more_like_this(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "3_find_more_like_this")
    outputs = run(frontend, host)
    assert saved_picture(outputs, graph, host).size == (128, 128)
    (found,) = [match for match in facts_shown(outputs, graph)["matches"] if match["file"] == "mystery_06.safetensors"]
    # What is this unlike is listed and not applied: its trigger words are not in the prompt.
    assert (found["score"] < 0.5, found["sure_enough"]) == (True, False)
    assert outputs[str(node_of(graph, "PreviewAny", "Final prompt"))]["text"] == ["a wooden cabin at the edge of a forest"]
    frontend.wait_for_text(node_of(graph, "PreviewAny", "Report"), "No LoRA is passed on. No LoRA is much like it")
    assert errors_of(frontend) == []


def test_ask(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "2_ask")
    outputs = run(frontend, host)
    picture = saved_picture(outputs, graph, host)
    assert picture.size == (128, 128)
    (chosen,) = facts_shown(outputs, graph)["choice"]
    assert (chosen["file"], chosen["weight"]) == ("mystery_06.safetensors", 1.0)
    # The frontend's own request must lead to the entry too, with the node's id as the workflow has it.
    entry = json.loads(picture.info["carlos"])[str(node_of(graph, "CarlosAutoLora"))]
    assert entry == {"query": "painted in oil on canvas", "choice": [chosen]}
    (prompt,) = outputs[str(node_of(graph, "PreviewAny", "Final prompt"))]["text"]
    assert prompt == "a wooden cabin at the edge of a forest, zorvex"
    frontend.wait_for_text(node_of(graph, "PreviewAny", "Report"), "mystery_06.safetensors")
    # Pasted back, the choice gives the same picture.
    frontend.set_widgets(node_of(graph, "CarlosAutoLora"), choice=json.dumps([chosen]), query="")
    again = saved_picture(run(frontend, host), graph, host)
    assert again.tobytes() == picture.tobytes()
    assert errors_of(frontend) == []


def test_retrieved_name_goes_straight_into_load_lora(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "retriever_into_load_lora")
    outputs = run(frontend, host)
    assert saved_picture(outputs, graph, host).size == (128, 128)
    assert facts_shown(outputs, graph)["matches"][0]["file"] == "mystery_06.safetensors"
    assert errors_of(frontend) == []


def test_index_a_lora(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "index_a_lora")
    outputs = run(frontend, host)
    facts = facts_shown(outputs, graph)
    assert (facts["file"], facts["status"], facts["n_images"]) == ("pencil_sketch.safetensors", "indexed", 2)
    (sheet,) = outputs[str(node_of(graph, "PreviewImage", "Contact sheet"))]["images"]
    width, height = Image.open(host.output_file(sheet)).size
    assert width >= 2 * 128
    assert height >= 2 * 128
    frontend.wait_for_text(node_of(graph, "PreviewAny", "Report"), "pencil_sketch.safetensors: indexed")
    assert errors_of(frontend) == []


def test_sentence_in_picture_out(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "sentence_in_picture_out")
    outputs = run(frontend, host)
    assert saved_picture(outputs, graph, host).size == (128, 128)
    # Where there is an App mode, it asks for these and shows those.
    app = graph["extra"]["linearData"]
    nodes = {node["id"]: node for node in graph["nodes"]}
    asked = {(nodes[node_id]["type"], widget) for node_id, widget in app["inputs"]}
    assert asked >= {("CarlosAutoLora", "query"), ("CarlosPromptWithTriggers", "prompt")}
    assert all(outputs[str(node_id)]["images"] for node_id in app["outputs"])
    assert {nodes[node_id].get("title") for node_id in app["outputs"]} >= {"The choice"}
    assert errors_of(frontend) == []


def test_compare_two_loras(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "compare_two_loras")
    outputs = run(frontend, host)
    for title in ("First", "Second"):
        shown = outputs[str(node_of(graph, "ImageCompare", f"{title}: without and with it"))]
        assert len(shown["a_images"]) == len(shown["b_images"]) > 0
    cards = [
        json.loads(outputs[str(node_of(graph, "CarlosLoraCard", f"{title} LoRA"))]["text"][0].splitlines()[-1])
        for title in ("First", "Second")
    ]
    assert [card["file"] for card in cards] == ["mystery_06.safetensors", "red_balloons.safetensors"]
    assert errors_of(frontend) == []
