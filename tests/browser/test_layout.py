"""The example workflows in both of the frontend's renderers: nothing covers anything, before a run and with all inputs shown.

That nothing does after a run either is looked at where the examples are run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.browser.test_example_workflows import NAMES, saved
from tests.support.frontend import Place

if TYPE_CHECKING:
    from tests.support.comfyui_host import Host
    from tests.support.frontend import Frontend

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]

BOTH_RENDERERS = True

_ROOM = 60
"""Pixels by which a node of ours grows when it says how far it is."""


def test_no_node_of_an_example_covers_another(frontend: Frontend, host: Host, is_new: bool) -> None:
    folding = {name for name, info in host.object_info().items() if '"advanced": true' in json.dumps(info["input"])}
    for name in NAMES:
        types = [node["type"] for node in saved(name)["nodes"]]
        frontend.load(saved(name))
        assert frontend.covering(room=_ROOM) == [], name
        assert len(frontend.graph()["nodes"]) == len(types)
        # Nor once the inputs are shown that Nodes 2.0 fold away.
        assert frontend.unfold_inputs() == (sum(type_ in folding for type_ in types) if is_new else 0)
        assert frontend.covering() == [], f"{name} with all inputs"


def test_the_check_sees_what_is_covered() -> None:
    assert Place("a", 0, 0, 10, 10).covers(Place("b", 9, 9, 5, 5))
    assert not Place("a", 0, 0, 10, 10).covers(Place("b", 10, 0, 5, 5))
