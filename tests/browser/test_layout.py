"""The example workflows in both of the frontend's renderers: nothing covers anything."""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.test_example_workflows import NAMES, open_and_adapt, run, saved

if TYPE_CHECKING:
    from tests.support.comfyui_host import Host
    from tests.support.frontend import Frontend

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]

_PLACES = """() => app.graph.nodes.map(node => {
    const [x, y, width, height] = Array.from(node.boundingRect ?? node.getBounding());
    const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    const scale = app.canvas.ds.scale;
    return [node.type, x, y, drawn ? drawn.width / scale : width, drawn ? drawn.height / scale : height];
})"""


_ROOM = 60
"""Pixels by which a node of ours grows when it says how far it is."""


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "Nodes 2.0"])
def is_new(request: pytest.FixtureRequest) -> bool:
    return request.param


def test_no_node_of_an_example_covers_another(frontend: Frontend, host: Host, is_new: bool) -> None:
    folding = {name for name, info in host.object_info().items() if '"advanced": true' in json.dumps(info["input"])}
    for name in NAMES:
        types = [node["type"] for node in saved(name)["nodes"]]
        frontend.load(saved(name))
        assert _covering(frontend, len(types), room=_ROOM) == [], name
        # Nor once the inputs are shown that Nodes 2.0 fold away.
        assert frontend.unfold_inputs() == (sum(type_ in folding for type_ in types) if is_new else 0)
        assert _covering(frontend, len(types)) == [], f"{name} with all inputs"


@pytest.mark.parametrize("name", NAMES)
def test_no_node_covers_another_once_all_show_their_pictures(frontend: Frontend, host: Host, name: str) -> None:
    graph = open_and_adapt(frontend, host, name)
    run(frontend, host)
    assert _covering(frontend, len(graph["nodes"])) == []


def _covering(frontend: Frontend, n_nodes: int, room: int = 0) -> list[str]:
    """Pairs of nodes of which one covers the other, or would if ours were so much higher."""
    # Nodes 2.0 are measured when they are drawn.
    frontend.page.wait_for_timeout(1000)
    places = frontend.page.evaluate(_PLACES)
    assert len(places) == n_nodes
    places = [[*place[:4], place[4] + (room if place[0].startswith("Carlos") else 0)] for place in places]
    return [f"{a[0]} and {b[0]}" for a, b in combinations(places, 2) if _cover(a, b)]


def _cover(a: list[Any], b: list[Any]) -> bool:
    (_, ax, ay, aw, ah), (_, bx, by, bw, bh) = a, b
    return ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah


def test_the_check_sees_what_is_covered() -> None:
    assert _cover(["a", 0, 0, 10, 10], ["b", 9, 9, 5, 5])
    assert not _cover(["a", 0, 0, 10, 10], ["b", 10, 0, 5, 5])
