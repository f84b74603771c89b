"""What is read in a query before it is searched: wishes, what is forbidden, and what weighs nothing."""

from __future__ import annotations

import json

import pytest

from carlos_core.search.emphasis import weighed
from carlos_core.search.reading import MAX_CHARACTERS, Reading, read
from tests.support.miniworld import MINIWORLD


def wishes(reading: Reading) -> list[str]:
    return ["|".join(phrase.text for phrase in wish.options) for wish in reading.wishes]


def forbidden(reading: Reading) -> list[str]:
    return [phrase.text for phrase in reading.forbidden]


@pytest.mark.parametrize(
    ("query", "weight"),
    [
        ("(wet ink:1.3)", 1.3),
        ("(wet ink)", 1.1),
        ("((wet ink))", 1.21),
        ("((wet ink:1.5))", 1.65),
        ("(wet ink:0.7)", 0.7),
        ("[wet ink]", 0.9091),
        ("(wet ink", 1.0),
    ],
)
def test_emphasis_is_weight_and_not_text(query: str, weight: float) -> None:
    [wish] = read(query).wishes
    assert wish.options[0].text == "wet ink"
    assert wish.options[0].weight(0, 2) == pytest.approx(weight, abs=1e-3)


def test_a_pasted_picture_is_read_as_wishes_what_is_forbidden_and_settings() -> None:
    pasted = (
        "old paper, (dust:1.1)\nNegative prompt: worst quality, (bad hands:1.4), scratches, embedding:bad\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: dust_v2"
    )
    reading = read(pasted)
    assert (wishes(reading), forbidden(reading)) == (["old paper", "dust"], ["scratches"])
    assert {"worst quality", "bad hands", "embedding:bad"} <= set(reading.ignored)
    assert any(text.startswith("Steps: 20") for text in reading.ignored)


def test_faults_of_pictures_are_not_worth_forbidding_but_may_be_asked_for() -> None:
    reading = read("mutated hands, no watermark, no bad_anatomy, no dust")
    assert (wishes(reading), forbidden(reading)) == (["mutated hands"], ["dust"])


def test_no_number_of_brackets_makes_a_weight_without_measure() -> None:
    weights = weighed("(" * 40 + "dust" + ":999999999999)" * 40).weights
    assert max(weights) <= 100
    assert read("(dust:99999999999999999999)").wishes[0].options[0].weight(0, 1) <= 100


def test_escaped_brackets_are_text_and_groups_side_by_side_are_two_things() -> None:
    assert weighed(r"a \(b\)").text == "a (b)"
    assert wishes(read("(dust:1.2) (scratches:0.9)")) == ["dust", "scratches"]


def test_braces_without_a_choice_are_no_wildcard() -> None:
    assert wishes(read("{dust}, {{scratches}}")) == ["dust", "scratches"]


def test_tags_of_prompts_are_out() -> None:
    reading = read("dust BREAK scratches, <lora:old_film:0.8>, embedding:bad_hands, __weather__, {day|night}")
    assert wishes(reading) == ["dust", "scratches"]
    assert set(reading.ignored) >= {"<lora:old_film:0.8>", "embedding:bad_hands", "__weather__", "{day|night}"}


@pytest.mark.parametrize(
    ("query", "wanted", "unwanted"),
    [
        ("no dust", [], ["dust"]),
        ("dust, no scratches", ["dust"], ["scratches"]),
        ("dust but not scratches", ["dust"], ["scratches"]),
        ("dust without any scratches, please", ["dust"], ["scratches"]),
        ("dust instead of scratches", ["dust"], ["scratches"]),
        ("dust w/o scratches", ["dust"], ["scratches"]),
        ("I don't want scratches but dust", ["dust"], ["scratches"]),
        ("I want dust but I don’t want any scratches in the picture", ["dust"], ["scratches"]),
        ("no dust, scratches or stains", [], ["dust", "scratches or stains"]),
        ("neither dust nor scratches", [], ["dust", "scratches"]),
        ("dust, but please nothing scratched and stained", ["dust"], ["scratched and stained"]),
        ("zero two, dust", ["zero two", "dust"], []),
        ("dust, and steer clear of scratches", ["dust"], ["scratches"]),
        ("nothing but dust", ["dust"], []),
        ("dust and nothing else", ["dust"], []),
        ("not only dust but also scratches", ["dust but also scratches"], []),
        ("no dust and make it old", ["old"], ["dust"]),
        ("scratches are not wanted", [], ["scratches"]),
        ("old paper, dust isn't wanted, please", ["old paper"], ["dust"]),
        ("dust is not allowed and make it old", ["old"], ["dust"]),
        ("(dust:-0.5) old paper", ["old paper"], ["dust"]),
        ("(dust:0) old paper", ["old paper"], []),
    ],
)
def test_what_follows_a_negation_is_forbidden(query: str, wanted: list[str], unwanted: list[str]) -> None:
    reading = read(query)
    assert (wishes(reading), forbidden(reading)) == (wanted, unwanted)


@pytest.mark.parametrize(
    "query",
    [
        "can you give this picture wet ink?",
        "I would like it to look as if it were wet ink, please",
        "Hello! Could you please add some wet ink to my photo, thanks",
        "make it look like wet ink",
        "something with wet ink",
        "please make everything look like wet ink",
        "masterpiece, best quality, wet ink, 8k, score_9, score_8_up",
        "masterpiece best_quality wet ink",
        '"wet ink".',
    ],
)
def test_requests_and_praise_weigh_nothing(query: str) -> None:
    assert wishes(read(query)) == ["wet ink"]


@pytest.mark.parametrize("praise", ["very good composition", "incredibly detailed faces", "state of the art", "well drawn"])
def test_what_is_made_of_words_of_praise_is_a_quality_tag(praise: str) -> None:
    assert wishes(read(f"wet ink, {praise}")) == ["wet ink"]


@pytest.mark.parametrize("effect", ["high contrast", "detailed line art", "drawn with a pen", "very dark background"])
def test_praise_beside_other_words_is_no_quality_tag(effect: str) -> None:
    assert wishes(read(effect)) == [effect]


def test_a_noun_that_only_seems_to_be_asked_about_stays() -> None:
    assert wishes(read("turn it into a photo negative")) == ["photo negative"]


@pytest.mark.parametrize(
    "query", [".", "???", "a", "the", "lora", "style", "please", "8k uhd, raw photo", "<lora:x:1>", "🌧", "(("]
)
def test_nothing_is_read_in_words_and_marks_that_say_nothing(query: str) -> None:
    assert read(query).wishes == ()


@pytest.mark.parametrize("separator", [", ", "; ", " / ", " | ", " + ", "\n", ". ", " - "])
def test_separators_part_wishes(separator: str) -> None:
    assert wishes(read(f"dust{separator}scratches")) == ["dust", "scratches"]


@pytest.mark.parametrize("join", [" and ", " with ", " & ", " together with ", " and on top of it "])
def test_joins_part_pieces_of_one_phrase(join: str) -> None:
    [wish] = read(f"dust{join}scratches").wishes
    [phrase] = wish.options
    assert [phrase.part(start, end) for start, end in phrase.pieces] == ["dust", "scratches"]


def test_of_alternatives_one_is_enough() -> None:
    assert wishes(read("either dust or scratches, old paper")) == ["dust|scratches", "old paper"]


def test_a_bare_phrase_is_taken_as_it_is() -> None:
    queries = json.loads((MINIWORLD / "queries.json").read_text(encoding="utf-8"))
    for entry in [entry for entries in queries.values() for entry in entries]:
        reading = read(entry["query"])
        assert reading.is_plain, reading
        assert reading.text == entry["query"]


@pytest.mark.parametrize(
    "unit", ["(", "(a", "no ", "with ", "a and ", "{", "__", "<", "and on top of it ", "i want ", "\\", ":1.1)"]
)
def test_any_text_is_read_and_only_its_beginning(unit: str) -> None:
    reading = read(unit * 20_000)
    assert sum(len(phrase.text) for wish in reading.wishes for phrase in wish.options) <= MAX_CHARACTERS
    assert read(unit * 20_000) == reading
