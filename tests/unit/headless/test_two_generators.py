"""Rows of two generators in one database: never of one protocol, kept by the other, counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from carlos_core.measuring.outcome import ALREADY_INDEXED, INDEXED
from carlos_core.measuring.run_facts import facts_of
from tests.support.bench import Bench, indexer_of
from tests.support.drawing_generator import DrawingGenerator

_KEY = "SDXL-d1d54041"


class _Headless(DrawingGenerator):
    """The same pictures, as another program would make them."""

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "generator": "diffusers"}


def test_a_row_of_the_other_generator_stays_is_told_and_is_measured_again_only_if_told_to(bench: Bench) -> None:
    lora = bench.lora()
    first = indexer_of(bench, DrawingGenerator(model="comfy", model_key=_KEY)).index(lora)
    other = indexer_of(bench, _Headless(model="other", model_key=_KEY), work="other")
    kept = other.index(lora)
    assert (first.status, kept.status) == (INDEXED, ALREADY_INDEXED)
    assert kept.row.protocol_id == first.row.protocol_id != other.protocol.protocol_id
    assert kept.other_program == facts_of(kept, None)["measured_with"] == "ComfyUI"
    assert f"with ComfyUI on a model of the same shape ({_KEY})" in kept.notes[0]
    again = replace(other, overwrite=True).index(lora)
    assert (again.status, again.row.protocol_id) == (INDEXED, other.protocol.protocol_id)
    back = indexer_of(bench, DrawingGenerator(model="comfy", model_key=_KEY), work="third").index(lora)
    assert (back.status, back.other_program) == (ALREADY_INDEXED, "diffusers")


def test_a_row_of_the_other_generator_on_another_shape_does_not_count(bench: Bench) -> None:
    lora = bench.lora()
    indexer_of(bench, DrawingGenerator(model="comfy", model_key="SD15-14bcb654")).index(lora)
    other = indexer_of(bench, _Headless(model="other", model_key=_KEY), work="other")
    assert other.index(lora).status == INDEXED
