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


@pytest.fixture(scope="session")
def host(comfyui: Path, base: Path) -> Iterator[hosts.Host]:
    with hosts.running(comfyui, base) as running:
        yield running
