"""A LoRA's card: whatever is known or not, and whatever names hold, it is one picture in which everything has its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from carlos_core.database.database import MetricsDatabase
from carlos_core.drawing import theme
from carlos_core.drawing.canvas import Canvas
from carlos_core.drawing.card import WIDTH, Shown, card, empty_card
from carlos_core.drawing.pair import Pair
from carlos_core.records import NO_EFFECT, CurvePoint, LoraMetadata, LoraRecord, LoraVector, TopicEffect
from carlos_core.search.portrait import Portrait, portrait
from tests.support.pictures import noise, plain
from tests.support.rows import a_row

ONE = np.array([1, 0, 0, 0], np.float32)
WEIGHTS = (0.25, 0.5, 0.75, 1.0, 1.25)
ENVIRONMENT = {"host": "ComfyUI 0.33.0", "device": "a device", "weights": "bfloat16"}
PROTOCOL = {"preset": "standard", "steps": 25, "cfg": 5.0, "sampler": "euler", "scheduler": "normal", "lora_weight": 1.0}


def a_full_row() -> LoraRecord:
    """A row of which everything is known."""
    return LoraRecord(
        lora_id="1",
        direction=ONE,
        strength=5.0,
        consistency=0.2,
        metadata=LoraMetadata(5, 6, "Snowfall", "SDXL 1.0", ("snwfll", "heavy snow"), 1, 100, "https://example.org/a.png"),
        file_name="styles/snow.safetensors",
        sha256="ab" * 32,
        n_images=132,
        n_prompts=118,
        alignment=0.97,
        strength_se=0.2,
        consistency_se=0.01,
        topics=tuple(TopicEffect(f"topic {k}", 10, LoraVector(ONE, 1.0 + k, 0.1)) for k in range(16)),
        strength_curve=tuple(CurvePoint(weight, 5 * weight, 0.9) for weight in WEIGHTS),
        suggested_weight=1.1,
        protocol_id="p",
        model_key="SDXL-2048",
        encoder_id="some encoder",
        measured_on=json.dumps(ENVIRONMENT),
        noise_floor=0.03,
        indexed_at="2026-11-29T19:20:11+00:00",
        notes=("the first note", "the second note"),
        described_as="snow falling",
        described_by="{}",
        extra={"folder_name": "snow"},
    )


def a_portrait(row: LoraRecord) -> Portrait:
    """Of a LoRA among some others."""
    database = MetricsDatabase.empty("some encoder", 4)
    for k in range(8):
        others = {"strength": 3.0 + k / 2, "alignment": 0.9 + k / 100, "model_name": f"LoRA {k}"}
        database.upsert(a_row(f"other {k}", [1, k / 4, 0, 0], **others))
    database.upsert(row, PROTOCOL)
    return portrait(database, row)


SHOWN = [Shown(Pair(f"a prompt {k}", k, plain((200, 0, 0)), plain((0, 0, 200))), "typical") for k in range(4)]


def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of cards that are drawn from now on."""
    said: list[str] = []
    write, write_right, write_lines = Canvas.write, Canvas.write_right, Canvas.write_lines

    def noted(function: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(self: Canvas, *arguments: Any, **further: Any) -> Any:
            said.append(arguments[place])
            return function(self, *arguments, **further)

        return call

    for name, function in (("write", write), ("write_right", write_right), ("write_lines", write_lines)):
        monkeypatch.setattr(Canvas, name, noted(function, 1))
    return said


def test_all_that_is_known_is_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    said = written(monkeypatch)
    picture = card(a_portrait(a_full_row()), SHOWN, "Of 16 pairs.")
    assert picture.width == WIDTH
    for words in (
        *("Snowfall", "snow falling", "styles/snow.safetensors", "SDXL (SDXL 1.0)", "snwfll, heavy snow", "version 5, model 6"),
        *("5.00 ± 0.20", "0.200 ± 0.010", "0.970", "LoRA 0", "topic 15", "16.00", "and 6 weaker topics", "Among 9 LoRAs"),
        *("2026-11-29 19:20", "132 pairs of 118 prompts", "standard, 25 steps, cfg 5, euler, normal, weight 1 (p)"),
        *("SDXL-2048", "some encoder", "a device, bfloat16, ComfyUI 0.33.0", "strength 0.030 by noise alone"),
        *("the first note", "the second note", "a prompt 3", "typical", "Of 16 pairs.", "Suggested weight: 1.10", "0.75", "0.90"),
    ):
        assert words in said, words


def test_the_pictures_stand_above_each_other() -> None:
    pixels = np.asarray(card(a_portrait(a_full_row()), SHOWN))
    columns = [np.flatnonzero((pixels == colour).all(axis=2).sum(axis=0) > 100) for colour in ((200, 0, 0), (0, 0, 200))]
    assert np.array_equal(columns[0], columns[1])
    assert len(columns[0]) > 800
    rows = [np.flatnonzero((pixels == colour).all(axis=2).sum(axis=1) > 800) for colour in ((200, 0, 0), (0, 0, 200))]
    assert rows[0].max() < rows[1].min()


OPTIONAL: dict[str, Any] = {
    **{name: None for name in ("file_name", "sha256", "n_images", "n_prompts", "alignment", "strength_se", "consistency_se")},
    **{name: None for name in ("suggested_weight", "protocol_id", "model_key", "encoder_id", "measured_on", "noise_floor")},
    **{name: None for name in ("indexed_at", "described_as", "described_by", "consistency")},
    **{"topics": (), "strength_curve": (), "notes": (), "extra": {}, "metadata": LoraMetadata()},
}
LABELS = {
    "file_name": "file",
    "alignment": "alignment",
    "consistency": "consistency",
    "topics": "Strength by topic",
    "strength_curve": "Strength by weight",
    "indexed_at": "when",
    "n_images": "pictures",
    "encoder_id": "seen by",
    "measured_on": "on",
    "noise_floor": "noise",
    "notes": "notes",
    "metadata": "made for",
}


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_is_not_known_is_left_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = written(monkeypatch)
    whole = card(a_portrait(a_full_row()), SHOWN)
    before = list(said)
    said.clear()
    row: LoraRecord = replace(a_full_row(), **{name: OPTIONAL[name]})
    less = card(a_portrait(row), SHOWN)
    assert less.height <= whole.height
    if name in LABELS:
        assert LABELS[name] in before
        assert LABELS[name] not in said
    assert "None" not in " ".join(said)
    assert "nan" not in " ".join(said)


def test_of_a_row_that_knows_nothing_there_is_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    said = written(monkeypatch)
    row = LoraRecord(lora_id="a", direction=np.zeros(4, np.float32), strength=0.0, consistency=None)
    picture = card(Portrait(row, 0, {}, (), {}))
    assert picture.size[0] == WIDTH
    assert set(said) == {"a", "Changes nothing that could be told from chance.", "What was measured", "strength", "0.00"}


def test_every_field_of_a_row_was_thought_of() -> None:
    shown_always = {"lora_id", "direction", "strength"}
    assert {field.name for field in fields(LoraRecord)} == {*OPTIONAL, *shown_always}


@pytest.mark.parametrize("name", ["雪景 LoRA", "سقوط الثلج", "❄️👩‍👩‍👧", "a" * 10_000, "w " * 5000, "\x00\n\u202e\ud800", "", " "])
def test_whatever_names_hold_the_card_has_its_size(name: str) -> None:
    row = replace(
        a_full_row(),
        file_name=name,
        described_as=name,
        notes=(name,) * 50,
        metadata=LoraMetadata(model_name=name, base_model=name, trigger_words=(name,) * 20),
        topics=(TopicEffect(name, 1, LoraVector(ONE, 1.0, None)),) * 50,
        model_key=name,
        measured_on=json.dumps({"device": name}),
    )
    shown = [Shown(Pair(name, 0, noise(0, 64), noise(1, 64)), name) for _ in range(6)]
    database = MetricsDatabase.empty("some encoder", 4)
    database.upsert(a_row("other", model_name="b" * 10_000))
    picture = card(replace(portrait(database, row), protocol=dict.fromkeys(PROTOCOL, name)), shown, name)
    assert picture.width == WIDTH
    assert picture.height < 4000


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -5.0, 0.0, 1e300, None])
def test_numbers_that_make_no_sense_are_no_error(odd: Any) -> None:
    row = replace(
        a_full_row(),
        consistency=odd,
        alignment=odd,
        strength_se=odd,
        suggested_weight=odd,
        noise_floor=odd,
        topics=(TopicEffect("a", 1, LoraVector(ONE, odd, None)), TopicEffect("b", 1, LoraVector(ONE, 2.0, None))),
        strength_curve=(
            CurvePoint(0.5, 1.0, odd),
            CurvePoint(1.0, odd, odd),
            CurvePoint(odd, 3.0, odd),
            CurvePoint(2.0, 3.0, odd),
        ),
    )
    found = a_portrait(a_full_row())
    assert card(replace(found, record=row, protocol={**PROTOCOL, "lora_weight": odd, "cfg": odd, "steps": odd})).width == WIDTH


@pytest.mark.parametrize("strength", [-1.0, 0.0, 5e-324, 1.7e308])
def test_a_curve_of_a_scale_that_makes_no_sense_is_no_error(strength: float) -> None:
    curve = (CurvePoint(0.5, strength, None), CurvePoint(1.0, strength, None))
    found = a_portrait(a_full_row())
    # The row's own point would have a scale.
    assert card(replace(found, record=replace(a_full_row(), strength_curve=curve), protocol={})).width == WIDTH


@pytest.mark.parametrize("said", ["", "[", "[1]", "[" * 100_000, '{"device": 5}', '{"device": null}'])
def test_an_environment_that_is_none_is_silence(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = written(monkeypatch)
    card(a_portrait(replace(a_full_row(), measured_on=said)))
    assert "on" not in words


def test_pictures_of_any_shape_have_room() -> None:
    for size in ((1, 512), (512, 1), (300, 200)):
        picture = card(a_portrait(a_full_row()), [Shown(Pair("a", 0, plain((9, 9, 9)).resize(size), noise(0).resize(size)), "x")])
        assert picture.height < 4000


def test_a_prompt_of_usual_length_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = "blue background, a black robot on the left on a metal floor"
    shown = [SHOWN[0], Shown(replace(SHOWN[1].pair, prompt=prompt), "typical")]
    texts = written(monkeypatch)
    card(a_portrait(a_full_row()), shown)
    # Its last line, whole.
    assert "on a metal floor" in texts


def test_a_lora_without_effect_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said = written(monkeypatch)
    card(a_portrait(replace(a_full_row(), notes=(NO_EFFECT,))))
    assert "Changes nothing that could be told from chance." in said
    assert NO_EFFECT not in said


def test_a_card_is_the_same_each_time() -> None:
    first, again = (card(a_portrait(a_full_row()), SHOWN).tobytes() for _ in range(2))
    assert first == again


def test_where_there_is_no_lora_the_reason_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    said = written(monkeypatch)
    picture = empty_card("Nothing fits 'x'.", "Index some LoRAs.")
    assert set(said) == {"Nothing fits 'x'.", "Index some LoRAs."}
    assert picture.width == WIDTH
    assert picture.getpixel((0, 0)) == tuple(bytes.fromhex(theme.GROUND[1:]))
