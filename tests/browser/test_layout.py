"""The example workflows in both of the frontend's renderers: nothing covers anything."""

from __future__ import annotations

import re
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.test_example_workflows import NAMES, saved

if TYPE_CHECKING:
    from tests.support.frontend import Frontend

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]

_PLACES = """() => app.graph.nodes.map(node => {
    const [x, y, width, height] = Array.from(node.boundingRect ?? node.getBounding());
    const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    const scale = app.canvas.ds.scale;
    return [node.title, x, y, drawn ? drawn.width / scale : width, drawn ? drawn.height / scale : height];
})"""
_VERSION = "() => String(window.__COMFYUI_FRONTEND_VERSION__ ?? '')"
FIRST_WITH_NODES_2 = [1, 33]


@pytest.mark.parametrize("is_new", [False, True], ids=["canvas", "Nodes 2.0"])
def test_no_node_of_an_example_covers_another(frontend: Frontend, is_new: bool) -> None:
    version = frontend.page.evaluate(_VERSION)
    if is_new and [int(part) for part in re.findall(r"\d+", version)[:2]] < FIRST_WITH_NODES_2:
        pytest.skip(f"the frontend {version} has no Nodes 2.0, or unfinished ones")
    frontend.set_renderer(is_new=is_new)
    for name in NAMES:
        frontend.load(saved(name))
        # Nodes 2.0 are measured when they are drawn.
        frontend.page.wait_for_timeout(1500)
        places = frontend.page.evaluate(_PLACES)
        assert len(places) == len(saved(name)["nodes"])
        assert [f"{name}: {a[0]} and {b[0]}" for a, b in combinations(places, 2) if _cover(a, b)] == []


def _cover(a: list[Any], b: list[Any]) -> bool:
    (_, ax, ay, aw, ah), (_, bx, by, bw, bh) = a, b
    return ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah


def test_the_check_sees_what_is_covered() -> None:
    assert _cover(["a", 0, 0, 10, 10], ["b", 9, 9, 5, 5])
    assert not _cover(["a", 0, 0, 10, 10], ["b", 10, 0, 5, 5])
