"""One real ComfyUI for all tests of this folder, with the mini-world in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import comfyui_host as hosts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.comfyui)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI to test against, with our requirements installed."""
    folder = hosts.comfyui_folder()
    if folder is None:
        pytest.skip("No ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI: install one (comfy-cli: `comfy install`) and run again.")
    hosts.install_requirements(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hosts.build_checkpoint(tmp_path_factory.mktemp("checkpoint") / "miniworld.safetensors")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """ComfyUI's base folder, with a space and a hyphen in its name."""
    folder = hosts.make_base_folder(tmp_path_factory.mktemp("a base-folder"))
    (folder / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    return folder


@pytest.fixture(autouse=True, scope="module")
def loras_as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """A file of tests leaves the shared folder of LoRAs as it found it: those after it count what is there."""
    here = (item for item in request.session.items if item.path == request.path)
    is_shared = not hasattr(request.module, "base")
    if not (is_shared and any(isinstance(item, pytest.Function) and "base" in item.fixturenames for item in here)):
        yield
        return
    loras: Path = request.getfixturevalue("base") / "models" / "loras"
    before = {str(path.relative_to(loras)) for path in loras.rglob("*")}
    yield
    assert {str(path.relative_to(loras)) for path in loras.rglob("*")} == before


@pytest.fixture(scope="session")
def host(comfyui: Path, base: Path) -> Iterator[hosts.Host]:
    with hosts.running(comfyui, base) as running:
        yield running
