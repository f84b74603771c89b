"""The nodes' texts in other languages: all of them, of nodes that exist, with the words in them that must stay."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from scripts.locales import LOCALES, flat, read
from tests.support.comfyui_host import ROOT

GOLDEN = ROOT / "tests" / "comfyui" / "golden.json"
TRANSLATED = ["ja", "zh", "zh-TW"]
_SUFFIX = " (CARLoS)"
_LITERALS = re.compile(
    r'"[^"]*"'  # what to type
    r"|https?://\S+"
    r"|\w+(?:/\w+)+|\w*_\w+|(?<!\w)\.[a-z]\w*"  # folders, inputs, endings of files
    r"|\d+(?:[.,]\d+)*"
    r"|\b[A-Za-z]*[A-Z][A-Za-z]*[A-Z]\w*"  # CLIP, CivitAI, KSampler
)


@pytest.fixture(scope="module")
def nodes() -> dict[str, Any]:
    """Every node as ComfyUI knows it, without the words for people."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))["nodes"]


def _inputs(node: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: value for group, of in node["input"].items() if group != "hidden" for name, value in of.items()}


def literals(text: str, node: dict[str, Any], titles: list[str]) -> Iterator[str]:
    """What of an English text stays in every language."""
    for found in _LITERALS.findall(text):
        yield found.removesuffix("s") if found == "LoRAs" else found
    yield from (title for title in titles if title in text)
    for name, (kind, settings) in _inputs(node).items():
        choices = settings.get("options", kind if isinstance(kind, list) else [])
        yield from (str(choice) for choice in choices if f"{choice}: " in text or f"{name} = {choice}" in text)


def test_languages_are_those_that_are_tested() -> None:
    assert sorted(path.name for path in LOCALES.iterdir()) == ["en", *TRANSLATED]


def test_english_names_every_node_input_and_output(nodes: dict[str, Any]) -> None:
    texts = read("en")
    assert set(texts) == set(nodes)
    for node_id, node in nodes.items():
        assert texts[node_id]["display_name"] == node["display_name"]
        assert texts[node_id]["description"]
        assert set(texts[node_id]["inputs"]) == set(_inputs(node)), node_id
        assert [output["name"] for output in texts[node_id]["outputs"].values()] == node["output_name"], node_id


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_language_has_all_texts_and_no_others(language: str) -> None:
    ours, theirs = dict(flat(read("en"))), dict(flat(read(language)))
    assert sorted(set(ours) - set(theirs)) == []
    assert sorted(set(theirs) - set(ours)) == []
    assert set(read(language, "main")["nodeCategories"]) == set(read("en", "main")["nodeCategories"])
    assert [key for key, text in theirs.items() if not text.strip()] == []
    # A sentence as it is in English was forgotten.
    assert [key for key, text in theirs.items() if " " in ours[key] and text == ours[key]] == []


@pytest.mark.parametrize("language", ["en", *TRANSLATED])
def test_no_text_has_what_the_frontend_takes_for_its_own_marks(language: str) -> None:
    assert [key for key, text in flat(read(language)) if set(text) & set("{}@|")] == []


@pytest.mark.parametrize("language", TRANSLATED)
def test_english_names_stay_beside_the_translated_ones(language: str) -> None:
    ours, theirs = dict(flat(read("en"))), dict(flat(read(language)))
    for key, text in theirs.items():
        if key.endswith(".display_name"):
            assert text.endswith(f" · {ours[key]}"), key
            assert text.endswith(_SUFFIX), key
        elif key.endswith(".name"):
            assert text.endswith(f" ({ours[key]})") or text.casefold() == ours[key].casefold(), key


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_keeps_what_must_stay(language: str, nodes: dict[str, Any]) -> None:
    ours, theirs = dict(flat(read("en"))), dict(flat(read(language)))
    titles = [node["display_name"].removesuffix(_SUFFIX) for node in nodes.values()]
    lost = [
        f"{key} lost {literal}"
        for key, text in ours.items()
        for literal in literals(text, nodes[key.split(".")[0]], titles)
        if literal not in theirs[key]
    ]
    assert lost == []


def test_the_rule_knows_what_must_stay() -> None:
    settings: dict[str, Any] = {"options": ["best one", "composed"]}
    node = {"input": {"required": {"mode": ["COMBO", settings]}}}
    text = 'composed: 0.5 of create_as in models/carlos, by CLIP of "red sky". See LoRA Card and mode = best one.'
    kept = {"composed", "best one", "0.5", "create_as", "models/carlos", "CLIP", '"red sky"', "LoRA", "LoRA Card"}
    assert set(literals(text, node, ["LoRA Card", "LoRA Map"])) == kept
