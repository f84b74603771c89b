"""Trigger words as a person would type them, and which of them go into a prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from carlos_core.loras.lora_file import read_lora_file
from carlos_core.loras.trigger_words import cleaned, escape_emphasis, has_weight, listed, split, used, with_words
from tests.support.lora_files import lora, sidecar


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (r"mirelle \(tales of fern\)", "mirelle (tales of fern)"),
        (r"mirelle \\(tales of fern\\)", "mirelle (tales of fern)"),
        ("mirelle (tales of fern)", "mirelle (tales of fern)"),
        ("<lora:snowy:0.8>, snwx", "snwx"),
        ("snwx <lora:snowy_v2.1-final:1> <lyco:ice:0.5:0.3>", "snwx"),
        ("<lora:snowy:0.8>", ""),
        ("BREAK", ""),
        ("snwx, BREAK, ,icy,", "snwx, icy"),
        ("BREAK the ice", "BREAK the ice"),
        ("in the style of <s0><s1>", "in the style of <s0><s1>"),
        ("a <3 b", "a <3 b"),
        ("(snwx:1.2)", "(snwx:1.2)"),
        ("   ", ""),
        ("<lora:" * 2000, ", ".join(["<lora:" * 2000])),
    ],
)
def test_entries_are_cleaned_of_other_programs_markup(entry: str, word: str) -> None:
    assert cleaned([entry]) == ((word,) if word else ())


def test_texts_are_split_at_commas_and_lists_in_json_are_lists() -> None:
    assert split(" snwx,, icy breath , snwx") == ("snwx", "icy breath")
    assert split(None) == ()
    assert listed('["snwx, red coat", "icy", 3, "icy"]') == ("snwx, red coat", "icy")
    assert listed("snwx, icy") == ("snwx", "icy")
    assert listed("[" * 100_000) == ("[" * 100_000,)
    assert listed(r'["\ud800snwx", "ok"]') == ("snwx", "ok")
    assert listed('"snwx, icy"') == ("snwx", "icy")
    assert [listed(text) for text in ('""', "null", '{"a": 1}', "", None)] == [()] * 5


def test_a_long_run_of_backslashes_takes_no_time() -> None:
    """Each would be tried as a beginning otherwise: a minute for these."""
    entry = "\\" * 1_000_000
    assert cleaned([entry]) == (entry,)


def test_of_alternatives_the_first_is_used_and_of_single_words_all() -> None:
    assert used(["snwx", "red coat, hat", "blue coat, scarf", "icy"]) == ("snwx", "red coat, hat", "icy")
    assert used(["snwx", "icy"]) == ("snwx", "icy")
    assert used([]) == ()


def test_words_without_end_do_not_go_into_a_prompt(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    entries = ["snwx", "a description " * 200, "icy", *(f"word {k:04}" for k in range(400))]
    sidecar(path, trainedWords=entries)
    found = read_lora_file(path)
    assert found.trigger_words == ("snwx", "icy", *entries[3:224])
    assert len(", ".join(found.trigger_words)) < 2500
    assert found.metadata.trigger_words == tuple(entry.strip() for entry in entries)
    assert found.problem == "a.safetensors: its trigger words are too long for a prompt, 180 of them are not used."


def test_a_file_gives_all_its_entries_and_the_used_ones(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    sidecar(path, trainedWords=["snwx, red coat", "snwx, blue coat"])
    found = read_lora_file(path)
    assert found.metadata.trigger_words == ("snwx, red coat", "snwx, blue coat")
    assert found.trigger_words == ("snwx, red coat",)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("(snwx:1.2)", "(snwx:1.2)"),
        ("(snwx: .5 )", "(snwx: .5 )"),
        ("(saber (fate):1.1)", r"(saber \(fate\):1.1)"),
        ("((snwx))", r"\(\(snwx\)\)"),
        ("(12:30)", "(12:30)"),
        ("(re: zero)", r"\(re: zero\)"),
        (":1.2)", r":1.2\)"),
        ("(a", r"\(a"),
        ("(" * 5000, r"\(" * 5000),
    ],
)
def test_a_weight_in_a_trigger_word_is_meant_and_other_brackets_are_not(word: str, text: str) -> None:
    assert escape_emphasis(word) == text


def test_words_with_a_weight_are_told_apart_from_words_with_brackets() -> None:
    """Their pictures are kept apart: earlier versions took such words literally."""
    assert has_weight("icy, (snwx:1.2)")
    assert not any(map(has_weight, ("mirelle (tales of fern)", "((snwx))", "snwx", ":1.2)")))


@pytest.mark.parametrize(
    ("prompt", "words", "joined"),
    [
        ("a house", "zorvex", "a house, zorvex"),
        ("a house", "", "a house"),
        ("a house, ", "zorvex, tarnok", "a house, zorvex, tarnok"),
        ("a house,\n", "", "a house,\n"),
        ("", "zorvex", "zorvex"),
        (" , ", "zorvex", "zorvex"),
        ("", "", ""),
    ],
)
def test_trigger_words_come_behind_a_prompt_and_no_comma_is_left_over(prompt: str, words: str, joined: str) -> None:
    assert with_words(prompt, words) == joined
