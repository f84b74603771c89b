"""The nodes in another language: its words are shown, and what a workflow saves and runs stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from scripts.locales import english, read
from tests.browser.test_example_workflows import errors_of, open_and_adapt, run, saved_picture
from tests.support.frontend import NODES_2, open_frontend

if TYPE_CHECKING:
    from playwright.sync_api import Playwright

    from tests.support.comfyui_host import Host
    from tests.support.frontend import Frontend

pytestmark = [pytest.mark.comfyui, pytest.mark.browser]

_SHOWN = """type => {
    const node = app.graph.nodes.find(node => node.type === type);
    return {
        title: node.title,
        inputs: Object.fromEntries(node.inputs.map(slot => [slot.name, slot.label ?? slot.localized_name ?? slot.name])),
        widgets: Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.label ?? widget.name])),
        outputs: node.outputs.map(slot => slot.label ?? slot.localized_name ?? slot.name),
    };
}"""


@pytest.fixture(scope="module")
def browser(host: Host, playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    """A browser of its own: the frontend reads its language when it starts."""
    host.set_setting("Comfy.Locale", "zh")
    host.set_setting(NODES_2, False)
    with open_frontend(playwright, host.url, tmp_path_factory.mktemp("chinese"), "CarlosLoraRetriever") as opened:
        yield opened
    host.set_setting("Comfy.Locale", "en")


def test_english_is_what_the_nodes_say(host: Host) -> None:
    assert english(host.object_info()) == read("en")


def test_a_workflow_opens_in_chinese_and_runs_as_before(frontend: Frontend, host: Host) -> None:
    graph = open_and_adapt(frontend, host, "2_ask")
    texts = read("zh")["CarlosAutoLora"]
    shown: dict[str, Any] = frontend.page.evaluate(_SHOWN, "CarlosAutoLora")
    assert shown["title"] == texts["display_name"]
    names = {name: slot["name"] for name, slot in texts["inputs"].items()}
    assert {**shown["inputs"], **shown["widgets"]} == names
    assert shown["outputs"] == [slot["name"] for slot in texts["outputs"].values()]
    assert saved_picture(run(frontend, host), graph, host).size == (128, 128)
    assert errors_of(frontend) == []
