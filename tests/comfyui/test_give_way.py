"""Indexing a library in the background of other work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import workflows
from tests.support.comfyui_host import Host, facts_of

FEW = {"preset": "custom", "max_prompts": 2, "steps": 2}
LORAS = ("pale_pastel_colours", "pencil_sketch", "pixel_art")
FOLDER = "gives way"


@pytest.fixture
def in_order_of_name(base: Path) -> Iterator[list[str]]:
    """Copies of LoRAs that no other workflow names: what was used most comes first."""
    folder = base / "models" / "loras" / FOLDER
    folder.mkdir()
    for lora in LORAS:
        shutil.copy(folder.parent / f"{lora}.safetensors", folder)
    yield [f"{FOLDER}/{lora}.safetensors" for lora in LORAS]
    shutil.rmtree(folder)


def other(text: str) -> workflows.Workflow:
    """A workflow that makes nothing."""
    return {"text": workflows.node("PrimitiveString", value=text), "shown": workflows.node("PreviewAny", source=["text", 0])}


def test_a_library_run_gives_way_after_the_lora_that_was_used_and_goes_on_later(host: Host, in_order_of_name: list[str]) -> None:
    *others, used = in_order_of_name
    host.run(other(f"a street <lora:{used.removesuffix('.safetensors')}:0.8>"))
    index = workflows.index_library(f"{FOLDER}/*", "gives-way", **FEW, give_way=True)
    first = host.submit(index)
    waiting = host.submit(other("something else"))
    outputs = host.outputs_of(host.wait(first))
    facts = facts_of(outputs, "index")
    assert [each["file"] for each in facts["indexed"]] == [used]
    assert set(facts["left"]) == set(others)
    assert f"{len(others)} LoRA" in outputs["index"]["text"][0]
    assert "Another workflow waits" in outputs["index"]["text"][0]
    host.outputs_of(host.wait(waiting))

    again = facts_of(host.run(index), "index")
    assert again["skipped"] == [used]
    assert {each["file"] for each in again["indexed"]} == set(others)
    assert again["left"] == []
