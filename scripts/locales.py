"""The English texts of all nodes, for translators: locales/en, from what a running ComfyUI says of the nodes.

usage: curl -o object_info.json http://127.0.0.1:8188/object_info
       python scripts/locales.py object_info.json

Writes `locales/en`, and logs what the other languages lack and what they have too much: those are written by people.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LOCALES = Path(__file__).resolve().parents[1] / "locales"
PREFIX = "Carlos"
"""How the ids of our nodes begin."""


def english(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of our nodes in the form of a nodeDefs.json. object_info: ComfyUI's answer, of all nodes."""
    return {name: _of_node(info) for name, info in sorted(object_info.items()) if name.startswith(PREFIX)}


def flat(texts: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Keys as the frontend joins them, such as `CarlosAutoLora.inputs.query.name`, with their texts."""
    for key, value in texts.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def read(language: str, name: str = "nodeDefs") -> dict[str, Any]:
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def _of_node(info: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    tooltips = info.get("output_tooltips") or [None] * len(info["output_name"])
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: _of_slot(name, (settings or [{}])[0].get("tooltip")) for name, (_, *settings) in inputs.items()},
        "outputs": {
            str(index): _of_slot(name, tooltip)
            for index, (name, tooltip) in enumerate(zip(info["output_name"], tooltips, strict=True))
        },
    }


def _of_slot(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}


def _categories(object_info: Mapping[str, Any]) -> dict[str, str]:
    ours = {info["category"] for name, info in object_info.items() if name.startswith(PREFIX)}
    return {part: part for category in sorted(ours) for part in category.split("/")}


def _write(name: str, texts: Mapping[str, Any]) -> None:
    target = LOCALES / "en" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(texts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("object_info", type=Path, help="ComfyUI's answer at /object_info, saved")
    info = json.loads(parser.parse_args().object_info.read_text(encoding="utf-8"))
    texts = english(info)
    if not texts:
        sys.exit("No node of CARLoS in this file. Save /object_info of a ComfyUI that has loaded the pack.")
    _write("nodeDefs", texts)
    _write("main", {"nodeCategories": _categories(info)})
    ours = dict(flat(texts))
    for folder in sorted(LOCALES.iterdir()):
        theirs = dict(flat(read(folder.name)))
        for key in sorted({*ours, *theirs}):
            if key not in theirs:
                logger.warning("%s lacks %s: %s", folder.name, key, ours[key])
            elif key not in ours:
                logger.warning("%s has %s, which no node has", folder.name, key)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
