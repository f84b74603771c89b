"""One ComfyUI with the mini-world for all browser tests, and one browser for each renderer.

ComfyUI serves the frontend that it came with, or the one in the folder COMFYUI_FRONT_END (the `static` folder of the package
comfyui-frontend-package, of any version).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Playwright

    from tests.support.comfyui_host import Host
    from tests.support.frontend import Frontend

INDEXED = ("mystery_06.safetensors", "red_balloons.safetensors")
DATABASE = "my_loras"


def _missing() -> str | None:
    """What the tests lack on this machine and how to get it."""
    for module, package in (("playwright", "playwright"), ("websocket", "websocket-client"), ("requests", "requests")):
        if importlib.util.find_spec(module) is None:
            return f"needs the Python package {package}: pip install {package}"
    from tests.support.comfyui_host import comfyui_folder
    from tests.support.frontend import browser_path

    if browser_path() is None:
        return "needs Chromium: apt-get install chromium, or name one in CHROMIUM"
    if comfyui_folder() is None:
        return "needs ComfyUI: pip install comfy-cli && comfy install, or name its folder in COMFYUI_DIR"
    return None


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A running ComfyUI with the mini-world and a small database, my_loras."""
    reason = _missing()
    if reason is not None:
        pytest.skip(reason)
    from tests.support.comfyui_host import build_checkpoint, comfyui_folder, install_requirements, make_base_folder, running
    from tests.support.workflows import CHECKPOINT, index

    folder = comfyui_folder()
    assert folder is not None, "looked for by _missing"
    install_requirements(folder)
    base = make_base_folder(tmp_path_factory.mktemp("comfyui"))
    build_checkpoint(base / "models" / "checkpoints" / CHECKPOINT)
    # Newer frontends greet a new user with a dialogue over everything.
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('{"Comfy.TutorialCompleted": true}', encoding="utf-8")
    other = os.environ.get("COMFYUI_FRONT_END")
    with pytest.MonkeyPatch.context() as patch:
        # A browser beside it: threads of torch that wait actively would take its time.
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        with running(folder, base, *(["--front-end-root", other] if other else [])) as started:
            for lora in INDEXED:
                started.run(index(lora, create_as=DATABASE, max_prompts=2, steps=4))
            yield started


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Modules that say `BOTH_RENDERERS` are run in both, one after the other: a browser takes long to open."""
    if "is_new" in metafunc.fixturenames:
        renderers = (
            {"canvas": False, "Nodes 2.0": True} if getattr(metafunc.module, "BOTH_RENDERERS", False) else {"canvas": False}
        )
        metafunc.parametrize("is_new", list(renderers.values()), ids=list(renderers), indirect=True, scope="session")


@pytest.fixture(scope="session")
def is_new(request: pytest.FixtureRequest) -> bool:
    """Whether nodes are drawn as Nodes 2.0."""
    return request.param


@pytest.fixture(scope="module", autouse=True)
def _forgotten(host: Host) -> None:
    """Nothing is left of what other modules ran."""
    host.forget()


@pytest.fixture(scope="session")
def playwright(host: Host) -> Iterator[Playwright]:
    """What drives browsers. There can be one in a process."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def browser(host: Host, playwright: Playwright, is_new: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    """ComfyUI's frontend in one browser for a renderer."""
    from tests.support.frontend import NODES_2, open_frontend

    host.set_setting(NODES_2, is_new)
    with open_frontend(playwright, host.url, tmp_path_factory.mktemp("browser"), "CarlosLoraRetriever") as opened:
        if is_new and not opened.has_nodes_2:
            pytest.skip(f"the frontend {opened.version} has no Nodes 2.0, or unfinished ones")
        yield opened
    host.set_setting(NODES_2, False)


@pytest.fixture
def frontend(browser: Frontend) -> Frontend:
    """ComfyUI's frontend with no workflow in it and no errors yet."""
    browser.clear()
    return browser
