"""Texts and conditionings for ComfyUI: literal trigger words, and what tells them apart."""

from __future__ import annotations

import torch

from carlos_core.comfy.conditioning import form_of, text_of, zeroed
from carlos_core.generator import Job


def test_trigger_words_are_appended_literally_and_prompts_are_left_alone() -> None:
    job = Job("a (cat:1.2) on a mat", 1, (), ("saber (fate)", "1girl"))
    assert text_of(job) == r"a (cat:1.2) on a mat, saber \(fate\), 1girl"


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
