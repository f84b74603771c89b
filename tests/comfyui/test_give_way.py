"""Indexing a library in the background of other work."""

from __future__ import annotations

from tests.support import workflows
from tests.support.comfyui_host import Host, facts_of

FEW = {"preset": "custom", "max_prompts": 2, "steps": 2}


def other(text: str) -> workflows.Workflow:
    """A workflow that makes nothing."""
    return {"text": workflows.node("PrimitiveString", value=text), "shown": workflows.node("PreviewAny", source=["text", 0])}


def test_a_library_run_gives_way_after_the_lora_that_was_used_last_and_goes_on_later(host: Host) -> None:
    host.run(other("a street <lora:pixel_art:0.8>"))
    index = workflows.index_library("p*", "gives-way", **FEW, give_way=True)
    first = host.submit(index)
    waiting = host.submit(other("something else"))
    outputs = host.outputs_of(host.wait(first))
    facts = facts_of(outputs, "index")
    assert [each["file"] for each in facts["indexed"]] == ["pixel_art.safetensors"]
    assert len(facts["left"]) >= 1
    assert f"{len(facts['left'])} LoRA" in outputs["index"]["text"][0]
    assert "Another workflow waits" in outputs["index"]["text"][0]
    host.outputs_of(host.wait(waiting))

    again = facts_of(host.run(index), "index")
    assert again["skipped"] == ["pixel_art.safetensors"]
    assert {each["file"] for each in again["indexed"]} == set(facts["left"])
    assert again["left"] == []
