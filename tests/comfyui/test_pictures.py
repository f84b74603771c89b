"""Lists of LoRAs as pictures, by the API and without a browser."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from carlos_core.database.database import MetricsDatabase
from carlos_core.drawing.listing import WIDTH
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Host, facts_of

DATABASE = "pictures.parquet"

NAMES = {
    "pencil_sketch.safetensors": "水墨画风格 ink wash",
    "mystery_12.safetensors": "アニメ塗り",
    "pixel_art.safetensors": "ثلج خفيف",
    "mystery_01.safetensors": "a name that is much too long " * 300,
    "mystery_06.safetensors": "emoji 🧊\nand\x00 what no one types",
}


@pytest.fixture(scope="module")
def rows(base: Path) -> MetricsDatabase:
    """The mini-world's reference metrics, with names in several scripts."""
    database = miniworld.reference_rows(base / "models" / "carlos" / DATABASE)
    for lora_id, file in zip(database.column("lora_id"), database.column("file_name"), strict=True):
        if file in NAMES:
            database.set_value(lora_id, "model_name", NAMES[file])
    database.save_parquet(base / "models" / "carlos" / DATABASE)
    return database


def shown(host: Host, outputs: dict[str, Any], node: str) -> Image.Image:
    """The picture that a node shows, as a client without a browser gets it."""
    (image,) = outputs[node]["images"]
    answer = requests.get(f"{host.url}/view", params=image, timeout=60)
    answer.raise_for_status()
    return Image.open(io.BytesIO(answer.content)).convert("RGB")


def find(node_id: str, output: int, **inputs: Any) -> workflows.Workflow:
    """A node that lists LoRAs, with its output `picture` saved and its report kept."""
    return {
        "db": workflows.loader(DATABASE),
        "first": workflows.node("CarlosLorasByName", database=["db", 0], name="mystery", top_k=3),
        "image": workflows.node("EmptyImage", width=64, height=64, batch_size=1, color=0x804020),
        "find": workflows.node(node_id, database=["db", 0], **inputs),
        "saved": workflows.node("SaveImage", images=["find", output], filename_prefix="listing"),
    }


SENTENCE = workflows.retrieve("drawn in pencil")["find"]["inputs"]
SEARCHES: dict[str, tuple[int, dict[str, Any]]] = {
    "CarlosLoraRetriever": (5, {key: value for key, value in SENTENCE.items() if key != "database"}),
    "CarlosSimilarLoras": (5, {"lora_id": "", "lora_name": "pixel_art.safetensors", "top_k": 5}),
    "CarlosLorasLikeImage": (5, {"image": ["image", 0], "top_k": 5}),
    "CarlosLorasByName": (5, {"name": "mystery", "top_k": 5}),
    "CarlosCombineSearches": (5, {"matches_1": ["first", 0], "top_k": 5}),
    "CarlosDuplicateLoras": (2, {"min_cosine": 0.9}),
    "CarlosDescribeLoras": (3, {"names": "mystery", "keep": False}),
}


@pytest.mark.parametrize("node_id", SEARCHES)
def test_every_list_is_shown_as_a_picture_and_given_as_an_image(host: Host, rows: MetricsDatabase, node_id: str) -> None:
    output, inputs = SEARCHES[node_id]
    outputs = host.run(find(node_id, output, **inputs))
    picture, saved = shown(host, outputs, "find"), shown(host, outputs, "saved")
    assert picture.width == WIDTH
    assert picture.height > 200
    assert saved.tobytes() == picture.tobytes()
    # The report is there as it was.
    assert facts_of(outputs, "find")


def test_the_choice_of_auto_lora_and_its_weights_are_shown(host: Host, rows: MetricsDatabase) -> None:
    workflow = workflows.auto_lora("pixel art, burning flames", DATABASE)
    workflow["saved"] = workflows.node("PreviewImage", images=["auto", 7])
    outputs = host.run(workflow)
    two = shown(host, outputs, "auto")
    assert shown(host, outputs, "saved").tobytes() == two.tobytes()
    choice = facts_of(outputs, "report")["choice"]
    assert len(choice) == 2
    # The same LoRAs at other weights make another picture of the same size; one LoRA makes a lower one.
    again = [{**lora, "weight": 0.5} for lora in choice]
    seen = [
        shown(host, host.run(workflows.auto_lora("", DATABASE, choice=json.dumps(chosen))), "auto") for chosen in (choice, again)
    ]
    assert seen[0].size == seen[1].size
    assert seen[0].tobytes() != seen[1].tobytes()
    one = shown(host, host.run(workflows.auto_lora("", DATABASE, choice=json.dumps(choice[:1]))), "auto")
    assert one.height < seen[0].height


def test_that_nothing_fits_is_shown_with_its_reason(host: Host, rows: MetricsDatabase) -> None:
    listed = shown(host, host.run(workflows.retrieve("drawn in pencil", DATABASE)), "find")
    nothing = shown(host, host.run(workflows.retrieve("drawn in pencil", DATABASE, max_strength=0.0)), "find")
    another = shown(host, host.run(workflows.retrieve("drawn in pencil", DATABASE, min_consistency=0.9)), "find")
    none = shown(host, host.run(workflows.auto_lora("a herd of elephants", DATABASE)), "auto")
    assert max(nothing.height, none.height) < listed.height
    assert len({picture.tobytes() for picture in (nothing, another, none)}) == 3
    assert all(np.asarray(picture).std() > 5 for picture in (nothing, another, none))


def test_a_run_in_which_nothing_is_done_again_still_has_the_picture(host: Host, rows: MetricsDatabase) -> None:
    workflow = workflows.retrieve("snow falling", DATABASE)
    first, again = host.run(workflow), host.run(workflow)
    assert shown(host, again, "find").tobytes() == shown(host, first, "find").tobytes()


def test_where_no_picture_can_be_kept_the_search_goes_on(host: Host, rows: MetricsDatabase) -> None:
    temp, aside = host.base / "temp", host.base / "temp-aside"
    host.run(workflows.retrieve("snow falling", DATABASE))
    temp.rename(aside)
    try:
        temp.write_text("no folder")
        outputs = host.run(workflows.retrieve("burning flames", DATABASE))
    finally:
        temp.unlink()
        aside.rename(temp)
    assert len(facts_of(outputs, "report")["matches"]) == 5
    assert "images" not in outputs["find"]
    assert "the picture cannot be shown on the node" in host.log.read_text(errors="replace")
