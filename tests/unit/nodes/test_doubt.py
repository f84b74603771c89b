"""What a report says above a list of matches that may not fit."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from carlos_core.search.calibration import word_for
from carlos_core.search.matches import Confidence, Match, Matches
from carlos_core.search.reading import read
from carlos_core.search.understanding import Effect, Understanding
from tests.support.rows import a_row

PART = Understanding(read("snow, q"), (Effect("snow", 1.0, "1"),))
WHOLE = Understanding(read("q"), (Effect("q", 1.0, "1"),))


@pytest.fixture(scope="module")
def doubt() -> Any:
    """The module as part of a package of its own: without ComfyUI the pack itself cannot be imported."""
    package = types.ModuleType("carlos_nodes_alone")
    package.__path__ = [str(Path(__file__).resolve().parents[3] / "nodes")]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{package.__name__}.common.doubt")


def matches(*p_values: float, sure: frozenset[int] | None = None, **facts: Any) -> Matches:
    """Installed LoRAs with these p-values, in this order, of which some are sure enough; sure: None if that was not asked."""
    items = []
    for place, p in enumerate(p_values):
        confidence, is_sure = Confidence(1.0, p, word_for(p)), sure is None or place in sure
        items.append(Match(place + 1, 0.5, a_row(str(place)), "x.safetensors", confidence, is_sure=is_sure))
    return Matches("q", "e", tuple(items), is_judged=sure is not None, **facts)


def test_the_surest_match_decides_whether_the_list_is_doubted_wherever_it_is(doubt: Any) -> None:
    # By cosine, a surer one may come later.
    assert doubt.lines(matches(0.9, 0.01), None) == []
    (said,) = doubt.lines(matches(0.9, 0.3), None)
    assert said.endswith("for an effect that none of these LoRAs has, the best would look this good 30% of the time.")
    assert "see Effects" in doubt.lines(matches(0.9, 0.3), PART)[0]
    assert doubt.lines(Matches("q", "e", (Match(1, 0.5, a_row("1")),)), None) == []


def test_nothing_is_said_to_fit_badly_while_a_lora_is_passed_on(doubt: Any) -> None:
    said = "The confidence is that of the whole query. A LoRA that fits one of its effects surely enough is passed on, too."
    for sure in (frozenset({1}), frozenset({0, 1})):
        assert doubt.lines(matches(0.9, 0.3, sure=sure), PART) == [said]
        # It is what min_confidence = weak asks for.
        assert doubt.lines(matches(0.9, 0.15, sure=sure), WHOLE) == []
    assert doubt.lines(matches(0.01, 0.01, sure=frozenset({1})), PART) == []


def test_why_nothing_is_passed_on_is_all_that_is_said(doubt: Any) -> None:
    assert doubt.lines(matches(0.9, sure=frozenset(), doubt="Nothing fits."), None) == ["No LoRA is passed on. Nothing fits."]
