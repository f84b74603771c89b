"""The example workflows in both of the frontend's renderers: nothing covers anything."""

from __future__ import annotations

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
_DRAWN = "() => document.querySelectorAll('[data-node-id]').length"


@pytest.mark.parametrize("is_new", [False, True], ids=["canvas", "Nodes 2.0"])
def test_no_node_of_an_example_covers_another(frontend: Frontend, is_new: bool) -> None:
    frontend.set_renderer(is_new=is_new)
    for name in NAMES:
        frontend.load(saved(name))
        # Nodes 2.0 are measured when they are drawn.
        frontend.page.wait_for_timeout(1500)
        if is_new and not frontend.page.evaluate(_DRAWN):
            pytest.skip("this frontend has no Nodes 2.0")
        places = frontend.page.evaluate(_PLACES)
        assert len(places) == len(saved(name)["nodes"])
        assert [f"{name}: {a[0]} and {b[0]}" for a, b in combinations(places, 2) if _cover(a, b)] == []


def _cover(a: list[Any], b: list[Any]) -> bool:
    (_, ax, ay, aw, ah), (_, bx, by, bw, bh) = a, b
    return ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah


def test_the_check_sees_what_is_covered() -> None:
    assert _cover(["a", 0, 0, 10, 10], ["b", 9, 9, 5, 5])
    assert not _cover(["a", 0, 0, 10, 10], ["b", 10, 0, 5, 5])
