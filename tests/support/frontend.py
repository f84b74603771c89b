"""ComfyUI's own frontend in a real browser, for the tests."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from playwright.sync_api import Page, Playwright

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_TIMEOUT_MS = 120_000
_LOOKS = 30

NODES_2 = "Comfy.VueNodes.Enabled"
"""The setting that says which of its two renderers the frontend uses."""

_READY = "() => Boolean(window.app?.graph && window.app.extensionManager && window.LiteGraph?.registered_node_types.{node})"
_LOAD = "graph => app.loadGraphData(graph).then(() => null)"
_SET = """([id, values]) => {
    const node = app.graph.getNodeById(id);
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find(widget => widget.name === name);
        if (!widget) throw new Error(`${node.type} has no widget ${name}`);
        widget.value = value;
        widget.callback?.(value);
    }
}"""
_VERSION = "() => String(window.__COMFYUI_FRONTEND_VERSION__ ?? '')"
_FIRST_WITH_NODES_2 = [1, 33]
_BROKEN = """() => app.graph.nodes
    .filter(node => node.has_errors || !LiteGraph.registered_node_types[node.type])
    .map(node => `${node.id} ${node.type}`)"""
_ADD = """type => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    const { ds, canvas } = app.canvas;
    ds.scale = 1;
    node.pos = [canvas.clientWidth / 2 - ds.offset[0], canvas.clientHeight / 3 - ds.offset[1]];
    app.canvas.setDirty(true, true);
    const place = canvas.getBoundingClientRect();
    return [place.x + node.pos[0] + ds.offset[0] + 60, place.y + node.pos[1] + ds.offset[1] - 15];
}"""
_UNFOLD = """() => {
    const buttons = [...document.querySelectorAll("[data-node-id] [data-testid=advanced-inputs-button]")];
    buttons.forEach(button => button.click());
    return buttons.length;
}"""
_PLACES = """() => app.graph.nodes.map(node => {
    const [x, y, width, height] = Array.from(node.boundingRect ?? node.getBounding());
    const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    const scale = app.canvas.ds.scale;
    return [node.type, x, y, drawn ? drawn.width / scale : width, drawn ? drawn.height / scale : height];
})"""
_DRAWN = "count => document.querySelectorAll('[data-node-id]').length === count"
_FRAME = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"
_SHOWS_PICTURE = """([id, name]) => {
    const drawn = document.querySelector(`[data-node-id="${id}"] img`);
    const address = drawn?.src ?? app.graph.getNodeById(id).imgs?.[0]?.src ?? "";
    return address.includes(name) && !(id in (app.nodePreviewImages ?? {}));
}"""
_SHOWN = "([id, text]) => app.graph.getNodeById(id).widgets.some(widget => String(widget.value).includes(text))"


def browser_path() -> str | None:
    """A Chromium on this machine: the program that CHROMIUM names, else one on the path."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, _BROWSERS)), None)


class Place(NamedTuple):
    """Where a node is drawn, pixels of the canvas."""

    type: str
    x: float
    y: float
    width: float
    height: float

    def covers(self, other: Place) -> bool:
        """Whether any of it lies where the other is."""
        beside = self.x + self.width <= other.x or other.x + other.width <= self.x
        return not (beside or self.y + self.height <= other.y or other.y + other.height <= self.y)


class Frontend:
    """A page with ComfyUI's frontend in it. `errors` are the console's errors and uncaught ones since it was ready."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []

    def listen(self) -> None:
        self.page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack or ''}"))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def load(self, graph: dict[str, Any]) -> None:
        self.page.evaluate(_LOAD, graph)

    def clear(self) -> None:
        """Close the workflow, and forget errors."""
        self.load({"nodes": [], "links": [], "version": 0.4})
        self.errors.clear()

    @property
    def version(self) -> str:
        return self.page.evaluate(_VERSION)

    @property
    def has_nodes_2(self) -> bool:
        """Whether this version of the frontend has finished Nodes 2.0."""
        return [int(part) for part in re.findall(r"\d+", self.version)[:2]] >= _FIRST_WITH_NODES_2

    def graph(self) -> dict[str, Any]:
        """The open workflow as the frontend would save it."""
        return json.loads(self.page.evaluate("() => JSON.stringify(app.graph.serialize())"))

    def wait_for_drawn(self, count: int) -> None:
        """Wait until Nodes 2.0 have drawn so many nodes, and a frame more."""
        self.page.wait_for_function(_DRAWN, arg=count)
        self.page.evaluate(_FRAME)

    def unfold_inputs(self) -> int:
        """Show the advanced inputs of all nodes, as their buttons do. Returns how many nodes have such a button."""
        return self.page.evaluate(_UNFOLD)

    def broken_nodes(self) -> list[str]:
        """Nodes that are missing or marked as faulty."""
        return self.page.evaluate(_BROKEN)

    def set_widgets(self, node_id: int, **values: Any) -> None:
        self.page.evaluate(_SET, [node_id, values])

    def wait_for_text(self, node_id: int, text: str) -> None:
        """Wait until a widget of a node shows a text."""
        self.page.wait_for_function(_SHOWN, arg=[node_id, text], timeout=_TIMEOUT_MS)

    def wait_for_picture(self, node_id: int, name: str) -> None:
        """Wait until a node shows the picture of a name, and none of a run's progress, which is a "blob:"."""
        self.page.wait_for_function(_SHOWS_PICTURE, arg=[node_id, name], timeout=_TIMEOUT_MS)

    def covering(self, room: int = 0) -> list[str]:
        """Pairs of nodes of which one covers the other, or would if ours were so much higher. room: pixels."""
        places = [Place(*place) for place in self._settled_places()]
        places = [place._replace(height=place.height + room * place.type.startswith("Carlos")) for place in places]
        return [f"{a.type} and {b.type}" for a, b in combinations(places, 2) if a.covers(b)]

    def _settled_places(self) -> list[list[Any]]:
        """Where nodes are once they move no more: Nodes 2.0 are measured when they are drawn."""
        places: list[list[Any]] = []
        for _ in range(_LOOKS):
            before, places = places, self.page.evaluate(_PLACES)
            if places == before:
                return places
            self.page.wait_for_timeout(1000)
            self.page.evaluate(_FRAME)
        raise AssertionError("nodes go on moving")

    def add_and_select(self, node_type: str) -> None:
        """Put a node in the middle and click its title."""
        x, y = self.page.evaluate(_ADD, node_type)
        self.page.evaluate(_FRAME)
        self.page.wait_for_timeout(300)
        self.page.mouse.click(x, y)

    def place_by_name(self, name: str) -> None:
        """Look a node up as users do, by a double click on the empty canvas, and put the first one found there."""
        count = len(self.graph()["nodes"])
        for patience in (1, 4, 16):
            self.page.mouse.dblclick(1000, 600)
            self.page.wait_for_timeout(1000 * patience)
            self.page.keyboard.type(name)
            # What is found comes a while after the last letter.
            self.page.wait_for_timeout(1000 * patience)
            self.page.keyboard.press("Enter")
            self.page.wait_for_timeout(500 * patience)
            # Newer versions let it hang at the pointer until a click.
            self.page.mouse.click(1000, 600)
            self.page.wait_for_timeout(1000 * patience)
            if len(self.graph()["nodes"]) > count:
                return
            self.page.keyboard.press("Escape")
        raise AssertionError(f"nothing called {name} could be placed")

    def queue(self) -> str:
        """Run the open workflow as the button does. Returns the prompt id, fails with ComfyUI's reasons if it is refused."""
        with self.page.expect_response(
            lambda response: response.url.endswith("/prompt") and response.request.method == "POST"
        ) as sent:
            self.page.evaluate("() => app.queuePrompt(0, 1).then(() => null)")
        answer = sent.value.json()
        assert sent.value.ok, answer
        return answer["prompt_id"]


@contextmanager
def open_frontend(playwright: Playwright, url: str, profile: Path, node: str) -> Iterator[Frontend]:
    """The frontend of the ComfyUI at `url`, ready and knowing the node type `node`. profile: a fresh folder."""
    context = playwright.chromium.launch_persistent_context(
        str(profile), executable_path=browser_path(), args=list(_OPTIONS), viewport={"width": 1760, "height": 1000}
    )
    try:
        frontend = Frontend(context.pages[0])
        frontend.page.goto(url, timeout=_TIMEOUT_MS)
        frontend.page.wait_for_function(_READY.replace("{node}", node), timeout=_TIMEOUT_MS)
        frontend.page.wait_for_load_state("networkidle", timeout=_TIMEOUT_MS)
        frontend.listen()
        yield frontend
    finally:
        context.close()
