"""Prompt sets: the two that come with the package, and files of the user's own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from carlos_core.errors import PromptSetError
from carlos_core.prompts.prompt_set import (
    PromptSet,
    default_effect_bank,
    default_index_prompts,
    default_signature_prompts,
    load_prompt_set,
)

NESTED = {"name": "mine", "prompts": {"a": {"x": ["ax1", "ax2", "ax3"], "y": ["ay1"]}, "b": {"x": ["bx1", "bx2"]}}}


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("prompts", [default_index_prompts(), default_signature_prompts()], ids=["index", "signature"])
def test_a_default_set_has_ten_topics_and_35_sub_categories_of_eight(prompts: PromptSet) -> None:
    assert len(prompts) == 280
    assert len({prompt.topic for prompt in prompts.prompts}) == 10
    sub_categories = Counter((prompt.topic, prompt.sub_category) for prompt in prompts.prompts)
    assert len(sub_categories) == 35
    assert set(sub_categories.values()) == {8}
    assert len({text.lower() for text in prompts.texts}) == 280


def test_the_default_sets_cover_the_same_sub_categories_with_other_prompts() -> None:
    index, signature = default_index_prompts(), default_signature_prompts()
    assert not {text.lower() for text in index.texts} & {text.lower() for text in signature.texts}
    assert {(p.topic, p.sub_category) for p in index.prompts} == {(p.topic, p.sub_category) for p in signature.prompts}
    assert index.content_hash != signature.content_hash


def test_the_bank_of_effects_is_large_varied_and_says_nothing_twice() -> None:
    bank = default_effect_bank()
    assert len({" ".join(sorted(text.lower().split())) for text in bank.texts}) == len(bank) >= 300
    sizes = Counter((prompt.topic, prompt.sub_category) for prompt in bank.prompts)
    assert len(sizes) >= 30
    assert max(sizes.values()) <= len(bank) / 10
    assert all(len(text.split()) <= 8 for text in bank.texts)


def test_the_bank_of_effects_is_the_one_that_results_were_measured_with() -> None:
    assert default_effect_bank().content_hash == "bd99ae87618b131e"


@pytest.mark.parametrize("prompts", [default_index_prompts(), default_signature_prompts()], ids=["index", "signature"])
def test_each_round_of_the_stratified_order_covers_every_sub_category_once(prompts: PromptSet) -> None:
    order = prompts.stratified()
    for start in range(0, 280, 35):
        assert len({(prompt.topic, prompt.sub_category) for prompt in order[start : start + 35]}) == 35
    assert sorted(prompt.text for prompt in order) == sorted(prompts.texts)


def test_uneven_sub_categories_run_out_one_by_one(tmp_path: Path) -> None:
    prompts = load_prompt_set(written(tmp_path / "a.json", NESTED))
    assert [prompt.text for prompt in prompts.stratified()] == ["ax1", "ay1", "bx1", "ax2", "bx2", "ax3"]


def test_a_file_keeps_its_order_topics_and_name(tmp_path: Path) -> None:
    prompts = load_prompt_set(written(tmp_path / "a.json", NESTED))
    assert prompts.name == "mine"
    assert prompts.texts == ("ax1", "ax2", "ax3", "ay1", "bx1", "bx2")
    assert [(prompt.topic, prompt.sub_category) for prompt in prompts.prompts] == [
        *[("a", "x")] * 3, ("a", "y"), *[("b", "x")] * 2,
    ]  # fmt: skip


def test_a_flat_list_is_a_prompt_set_named_after_its_file(tmp_path: Path) -> None:
    prompts = load_prompt_set(written(tmp_path / "my list.json", ["eine Straße", "  a cat ", "雪"]))
    assert (prompts.name, prompts.texts) == ("my list", ("eine Straße", "a cat", "雪"))
    assert prompts.stratified() == prompts.prompts


def test_the_hash_depends_on_the_content_and_not_on_the_name(tmp_path: Path) -> None:
    original = load_prompt_set(written(tmp_path / "a.json", NESTED))
    renamed = load_prompt_set(written(tmp_path / "b.json", NESTED | {"name": "another"}))
    assert renamed.content_hash == original.content_hash
    changed_prompts = [
        {"a": {"x": ["ax1", "ax2", "ax3!"], "y": ["ay1"]}, "b": {"x": ["bx1", "bx2"]}},
        {"a": {"x": ["ax2", "ax1", "ax3"], "y": ["ay1"]}, "b": {"x": ["bx1", "bx2"]}},
        {"a": {"x": ["ax1", "ax2", "ax3"], "y": ["ay1"]}, "b": {"x": ["bx1"]}},
        {"a": {"x": ["ax1", "ax2", "ax3"], "z": ["ay1"]}, "b": {"x": ["bx1", "bx2"]}},
        {"a": {"x": ["ax1", "ax2", "ax3"], "y": ["ay1"]}, "c": {"x": ["bx1", "bx2"]}},
    ]
    hashes = {
        load_prompt_set(written(tmp_path / "c.json", {"name": "mine", "prompts": prompts})).content_hash
        for prompts in changed_prompts
    }
    assert len(hashes | {original.content_hash}) == 6


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        "a prompt",
        7,
        None,
        [1, 2],
        [["a"]],
        ["a", ""],
        ["a", "  "],
        ["a", None],
        ["a", "b", "a"],
        ["a", " a "],
        {"prompts": ["a"]},
        {"prompts": {}},
        {"prompts": {"t": ["a"]}},
        {"prompts": {"t": {"s": []}}},
        {"prompts": {"t": {"s": "abc"}}},
        {"prompts": {"t": {"s": {"abc": "def"}}}},
        {"prompts": {"t": {"s": 3}}},
        {"prompts": {"t": {"s": ["a"], "r": ["a"]}}},
    ],
    ids=json.dumps,
)
def test_a_file_of_the_wrong_form_is_refused_by_name(tmp_path: Path, content: object) -> None:
    with pytest.raises(PromptSetError, match=r"mine\.json") as caught:
        load_prompt_set(written(tmp_path / "mine.json", content))
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'["a", "b\xe9"]'])
def test_a_file_that_is_no_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.json").write_bytes(content)
    with pytest.raises(PromptSetError, match=r"mine\.json is not valid JSON"):
        load_prompt_set(tmp_path / "mine.json")


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PromptSetError, match=r"Cannot read the prompt set mine\.json"):
        load_prompt_set(tmp_path / "mine.json")
    with pytest.raises(PromptSetError, match="Cannot read"):
        load_prompt_set(tmp_path)


def test_a_set_of_a_hundred_thousand_prompts_is_read_and_its_copies_are_found(tmp_path: Path) -> None:
    # Counting each prompt among all the others would take an hour.
    texts = [f"prompt {k}" for k in range(100_000)]
    (tmp_path / "many.json").write_text(json.dumps(texts))
    assert len(load_prompt_set(tmp_path / "many.json")) == 100_000
    (tmp_path / "many.json").write_text(json.dumps([*texts, " prompt 7 "]))
    with pytest.raises(PromptSetError, match="holds 'prompt 7' more than once"):
        load_prompt_set(tmp_path / "many.json")


def test_a_prompt_with_half_an_emoji_is_refused_before_anything_is_made_with_it(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(json.dumps(["a house", "half \ud83d an emoji"]))
    with pytest.raises(PromptSetError, match=r"odd\.json has the wrong form .*ud83d"):
        load_prompt_set(tmp_path / "odd.json")
    (tmp_path / "odd.json").write_text(json.dumps({"prompts": {"topic \udcff": {"\ud83d": ["a house"]}}}))
    (prompt,) = load_prompt_set(tmp_path / "odd.json").prompts
    assert (prompt.topic, prompt.sub_category) == ("topic ", "")
