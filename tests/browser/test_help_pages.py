"""The help pages of the nodes, as the frontend shows them beside a node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.support.comfyui_host import Host
    from tests.support.frontend import Frontend

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]

FOLDER = Path(__file__).resolve().parents[2] / "web" / "docs"


@pytest.fixture
def nodes(host: Host) -> dict[str, dict[str, Any]]:
    """What ComfyUI knows of the nodes that have a help page."""
    return {page.stem: host.object_info()[page.stem] for page in sorted(FOLDER.glob("*.md"))}


def test_help_pages_name_every_input_and_output(nodes: dict[str, dict[str, Any]]) -> None:
    assert nodes
    for node_id, info in nodes.items():
        text = (FOLDER / f"{node_id}.md").read_text(encoding="utf-8")
        cells = {name.strip() for line in text.splitlines() if line.startswith("| ") for name in line.split("|")[1].split(",")}
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        names = {*inputs, *info["output_name"]}
        assert names <= cells, f"{node_id}.md lacks {sorted(names - cells)}"


def test_help_page_is_shown_beside_the_node_with_its_pictures(frontend: Frontend, nodes: dict[str, dict[str, Any]]) -> None:
    n_pictures = 0
    for node_id in nodes:
        text = (FOLDER / f"{node_id}.md").read_text(encoding="utf-8")
        frontend.load({"nodes": [], "links": [], "version": 0.4})
        frontend.add_and_select(node_id)
        frontend.page.get_by_test_id("info-button").click()
        frontend.page.get_by_text(text.split(".")[0]).first.wait_for()
        for picture in re.findall(r"!\[.+?\]\((.+?)\)", text):
            shown = frontend.page.locator(f'img[src$="{picture}"]').first
            shown.wait_for()
            frontend.page.wait_for_function("picture => picture.naturalWidth > 0", arg=shown.element_handle())
            assert shown.evaluate("picture => picture.naturalWidth") == Image.open(FOLDER / picture).width
            n_pictures += 1
    assert n_pictures
