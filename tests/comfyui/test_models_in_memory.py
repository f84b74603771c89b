"""What indexing leaves behind in ComfyUI's memory management."""

from __future__ import annotations

from tests.support import workflows
from tests.support.comfyui_host import Host


def test_comfyui_keeps_track_of_the_models_that_were_indexed_with(host: Host) -> None:
    """Otherwise it collects garbage at every load, which makes a bank of 561 phrases take minutes."""
    before = len(host.log.read_text(errors="replace"))
    for lora in ("pencil_sketch.safetensors", "red_balloons.safetensors"):
        host.run(workflows.index(lora, create_as="memory", max_prompts=2, steps=4))
    host.run(workflows.retrieve("drawn in pencil", "memory"))
    assert "memory leak" not in host.log.read_text(errors="replace")[before:]
