"""Texts and conditionings for ComfyUI: literal trigger words, and what tells them apart."""

from __future__ import annotations

import pytest
import torch

from carlos_core.comfy.conditioning import escape_emphasis, form_of, text_of, zeroed
from carlos_core.generator import Job


def test_trigger_words_are_appended_literally_and_prompts_are_left_alone() -> None:
    job = Job("a (cat:1.2) on a mat", 1, (), ("saber (fate)", "1girl"))
    assert text_of(job) == r"a (cat:1.2) on a mat, saber \(fate\), 1girl"


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


def test_conditionings_of_other_lengths_or_settings_have_other_forms() -> None:
    plain = (torch.zeros(1, 77, 4), {"pooled_output": torch.zeros(1, 8)})
    longer = (torch.zeros(1, 154, 4), {"pooled_output": torch.zeros(1, 8)})
    guided = (torch.zeros(1, 77, 4), {"pooled_output": torch.zeros(1, 8), "guidance": 3.5})
    masked = (torch.zeros(1, 77, 4), {"pooled_output": torch.zeros(1, 8), "attention_mask": torch.ones(1, 77)})
    assert len({form_of(conditioning) for conditioning in (plain, longer, guided, masked)}) == 4


def test_a_zeroed_negative_is_zero_in_both_parts() -> None:
    tensor, extras = zeroed((torch.ones(1, 77, 4), {"pooled_output": torch.ones(1, 8)}))
    assert not tensor.any()
    assert not extras["pooled_output"].any()
