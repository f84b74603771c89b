"""What the tests on a GPU share: a ComfyUI whose code they run, and models for it.

They are left out without CUDA. CARLOS_GPU_TESTS=cpu runs them on the CPU with small models: a look whether they work, which
says nothing about a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_HERE = Path(__file__).resolve().parent

from tests.gpu.gpu_models import HAS_GPU, Model, Run
from tests.support import comfyui_host as hosts
from tests.support.miniworld import MINIWORLD

IS_SMOKE = os.environ.get("CARLOS_GPU_TESTS") == "cpu"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    left_out = pytest.mark.skip(reason="needs a GPU (CUDA); CARLOS_GPU_TESTS=cpu tries the tests themselves on the CPU")
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not (HAS_GPU or IS_SMOKE):
                item.add_marker(left_out)


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a script of this folder with ComfyUI's Python: (script, *arguments) -> what it printed."""
    comfyui = hosts.comfyui_folder()
    if comfyui is None:
        pytest.skip("No ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI.")

    def run_script(script: str, *arguments: object) -> str:
        return hosts.run_script(comfyui, _HERE / script, *arguments, timeout_s=900).stdout

    return run_script


@pytest.fixture(scope="session", params=["miniworld", *(["sdxl", "zimage"] if HAS_GPU else [])])
def model(request: pytest.FixtureRequest, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The mini-world, which has meaning; and layouts with random weights, which a GPU can carry.

    These are SDXL's at full size, and Z-Image's, whose texts have any number of tokens, at full width.
    """
    folder = tmp_path_factory.mktemp("model")
    if request.param == "miniworld":
        lora = MINIWORLD / "loras" / "pencil_sketch.safetensors"
        return Model(hosts.build_checkpoint(folder / "miniworld.safetensors"), lora, 128, has_meaning=True)
    made = Model(folder / "random.safetensors", folder / "lora.safetensors", 512, has_meaning=False)
    run("random_checkpoint.py", request.param, made.checkpoint, made.lora)
    return made
