"""The calibrated ranking in a real ComfyUI: a word for every match, and the published ranking as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from carlos_core.search.matches import CONFIDENCE_WORDS
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Failed, Host, facts_of


@pytest.fixture(scope="module")
def reference(host: Host, base: Path) -> str:
    """A database with the reference metrics of all files of the mini-world; its name."""
    miniworld.reference_rows(base / "models" / "carlos" / "reference.parquet")
    return "reference"


def test_matches_say_how_sure_they_are(host: Host, reference: str) -> None:
    outputs = host.run(workflows.retrieve("drawn in pencil", reference, ranking="calibrated"))
    matches = facts_of(outputs, "report")["matches"]
    assert (matches[0]["file"], matches[0]["confidence"]) == ("pencil_sketch.safetensors", "clear")
    p_values = [match["p_value"] for match in matches]
    assert p_values == sorted(p_values)
    assert 0 <= p_values[0] <= 0.001
    assert all(match["confidence"] in CONFIDENCE_WORDS for match in matches)
    text = "".join(outputs["report"]["text"])
    assert "confidence" in text.splitlines()[1]
    assert "Probably nothing fits" not in text


def test_an_effect_that_no_lora_has_is_doubted_in_words(host: Host, reference: str) -> None:
    outputs = host.run(workflows.retrieve("a herd of elephants", reference, ranking="calibrated"))
    assert {match["confidence"] for match in facts_of(outputs, "report")["matches"]} <= {"weak", "none"}
    assert "Probably nothing fits" in "".join(outputs["report"]["text"])


def test_workflows_without_the_input_get_the_published_ranking(host: Host, reference: str) -> None:
    old, new = (
        facts_of(host.run(workflows.retrieve("snow falling", reference, **inputs)), "report")["matches"]
        for inputs in ({}, {"ranking": "published"})
    )
    assert old == new
    assert set(old[0]) == {"rank", "lora_id", "file", "score", "strength", "consistency", "installed", "found_by", "described_as"}


def test_a_ranking_that_is_not_offered_is_refused(host: Host, reference: str) -> None:
    with pytest.raises(Failed, match="ranking"):
        host.run(workflows.retrieve("snow falling", reference, ranking="best"))
