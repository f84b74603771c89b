"""Quantised models in a real ComfyUI: they index, and what was measured on one is not measured again.

For GGUF there must be city96's pack (COMFYUI_GGUF_DIR, else ~/comfy/ComfyUI-GGUF) and, for ComfyUI's Python, the package gguf.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import comfyui_host as hosts
from tests.support import workflows

LORAS = ("pencil_sketch.safetensors", "pink_hearts.safetensors", "pixel_art.safetensors")
# Forward passes of a side: 2 pictures of 3 steps, with the prompt and without.
EVALUATIONS = 2 * 3 * 2
MODELS = {"Q8_0": ("a", "changed", "smaller"), "comfy_quant": ("a", "changed"), "scaled_fp8": ("a", "changed")}
"""Form -> models in it: the mini-world's, one with other weights in one layer, and one that is packed otherwise."""


@dataclass(frozen=True)
class World:
    """A base folder in which models of one form lie, and the ComfyUI to run on it."""

    comfyui: Path
    base: Path
    form: str

    def index(
        self, host: hosts.Host, lora_name: str, database: str = "mini", model: str = "a", bypass: str = "", **settings: Any
    ) -> dict[str, Any]:
        """Facts of a LoRA indexed on one of the models, with another LoRA in bypass mode if its name is given."""
        workflow = workflows.index(lora_name, database, max_prompts=2, steps=3, width=64, height=64, **settings)
        if self.form.startswith("Q"):
            workflow["quantised"] = workflows.node("UnetLoaderGGUF", unet_name=f"{model}.gguf")
            workflow["index"]["inputs"]["model"] = ["quantised", 0]
        else:
            workflow["checkpoint"]["inputs"]["ckpt_name"] = f"{model}.safetensors"
        if bypass:
            strengths = {"strength_model": 0.8, "strength_clip": 0.8}
            inputs = workflow["index"]["inputs"]
            loaded = {"model": inputs["model"], "clip": inputs["clip"]}
            workflow["bypass"] = workflows.node("LoraLoaderBypass", lora_name=bypass, **loaded, **strengths)
            inputs |= {"model": ["bypass", 0], "clip": ["bypass", 1]}
        return hosts.facts_of(host.run(workflow), "index")


def gguf_pack(comfyui: Path) -> Path:
    """City96's pack. Skips the test if it is not there, or cannot be used."""
    named = os.environ.get("COMFYUI_GGUF_DIR")
    pack = Path(named) if named else Path.home() / "comfy" / "ComfyUI-GGUF"
    if not (pack / "nodes.py").is_file():
        pytest.skip(f"GGUF: no ComfyUI-GGUF in COMFYUI_GGUF_DIR or {pack}: clone github.com/city96/ComfyUI-GGUF and run again.")
    python = hosts.comfyui_python(comfyui)
    if subprocess.run([python, "-c", "import gguf"], capture_output=True, check=False).returncode:
        pytest.skip(f"GGUF: {python} has no package gguf: install it there, or put it on PYTHONPATH, and run again.")
    return pack


@pytest.fixture(scope="module", params=MODELS)
def world(request: pytest.FixtureRequest, comfyui: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    form = request.param
    base = hosts.make_base_folder(tmp_path_factory.mktemp(f"quantised-{form}"))
    if form.startswith("Q"):
        (base / "custom_nodes" / "ComfyUI-GGUF").symlink_to(gguf_pack(comfyui))
        (base / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
        folder, suffix, script = base / "models" / "diffusion_models", "gguf", "write_gguf.py"
    else:
        if form == "comfy_quant" and not (comfyui / "comfy" / "quant_ops.py").is_file():
            pytest.skip("This ComfyUI does not know comfy_quant yet.")
        folder, suffix, script = base / "models" / "checkpoints", "safetensors", "write_scaled_fp8.py"
    folder.mkdir(exist_ok=True)
    for name in MODELS[form]:
        arguments = ["Q4_0"] if name == "smaller" else [form, "0.01"] if name == "changed" else [form]
        hosts.run_script(comfyui, Path(__file__).with_name(script), checkpoint, folder / f"{name}.{suffix}", *arguments)
    return World(comfyui, base, form)


@pytest.fixture(scope="module")
def runs(world: World) -> dict[str, dict[str, Any]]:
    """Facts of several runs in one process, and in the next one."""
    sketch, hearts, pixels = LORAS
    found = {}
    with hosts.running(world.comfyui, world.base) as host:
        found["first"] = world.index(host, sketch)
        found["again"] = world.index(host, sketch)
        found["another LoRA"] = world.index(host, hearts)
        found["again, after another LoRA"] = world.index(host, sketch)
        found["another database"] = world.index(host, sketch, "other")
        for model in MODELS[world.form][1:]:
            found[f"model {model}"] = world.index(host, sketch, "third", model, checkpoint="this one")
        has_bypass = "LoraLoaderBypass" in host.object_info()
        if has_bypass:
            found["bypass"] = world.index(host, sketch, "bypass", bypass=pixels)
            found["again, after a bypass LoRA"] = world.index(host, sketch)
    with hosts.running(world.comfyui, world.base) as host:
        if has_bypass:
            found["bypass after a restart"] = world.index(host, sketch, "bypass", bypass=pixels)
        found["after a restart"] = world.index(host, sketch)
        found["a new LoRA after a restart"] = world.index(host, pixels)
    return found


def test_a_lora_is_indexed_on_a_quantised_model(runs: dict[str, dict[str, Any]]) -> None:
    first = runs["first"]
    assert (first["status"], first["n_images"], first["base_model_evaluations"]) == ("indexed", 2, EVALUATIONS)
    assert first["strength"] > 0.5
    assert first["notes"] == []


def test_a_second_run_on_a_quantised_model_makes_no_picture(runs: dict[str, dict[str, Any]]) -> None:
    for name, facts in runs.items():
        if not name.startswith(("again", "after")):
            continue
        assert facts["protocol_id"] == runs["first"]["protocol_id"]
        assert (facts["status"], facts["model_evaluations"], facts["base_model_evaluations"]) == ("already indexed", 0, 0), name
    assert runs["another database"]["base_model_evaluations"] == 0


def test_the_next_loras_on_a_quantised_model_share_its_pictures(runs: dict[str, dict[str, Any]]) -> None:
    for name in ("another LoRA", "a new LoRA after a restart"):
        assert (runs[name]["status"], runs[name]["base_model_evaluations"]) == ("indexed", 0), name
        assert runs[name]["protocol_id"] == runs["first"]["protocol_id"]


def test_other_weights_or_another_packing_are_another_model(runs: dict[str, dict[str, Any]]) -> None:
    others = [facts for name, facts in runs.items() if name.startswith("model ")]
    assert len({facts["protocol_id"] for facts in (runs["first"], *others)}) == 1 + len(others) >= 2
    assert [facts["base_model_evaluations"] for facts in others] == [EVALUATIONS] * len(others)


def test_a_bypass_lora_on_a_quantised_model_is_another_model_and_the_same_one_again(runs: dict[str, dict[str, Any]]) -> None:
    if "bypass" not in runs:
        pytest.skip("This ComfyUI has no LoRAs in bypass mode yet.")
    first, again = runs["bypass"], runs["bypass after a restart"]
    assert first["protocol_id"] == again["protocol_id"] != runs["first"]["protocol_id"]
    assert (first["status"], first["base_model_evaluations"]) == ("indexed", EVALUATIONS)
    assert (again["status"], again["model_evaluations"], again["base_model_evaluations"]) == ("already indexed", 0, 0)
