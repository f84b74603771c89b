"""The generator on ComfyUI's own code: nothing is loaded or encoded twice, and encoding ahead changes no picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import comfyui_host as hosts

ENCODED, LOADED, MADE_READY = "texts encoded", "files loaded", "text encoder loaded"


@pytest.fixture(scope="module")
def found(comfyui: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("generator")
    hosts.run_script(comfyui, Path(__file__).with_name("generator_run.py"), checkpoint, work)
    return json.loads((work / "found.json").read_text())


def test_each_text_is_encoded_once_with_the_negative(found: dict[str, Any]) -> None:
    # Two different texts and the empty negative.
    assert found["base side"] == {ENCODED: 3, MADE_READY: 3}
    assert found["base side again"] == {}


def test_a_lora_that_leaves_the_text_encoder_alone_shares_the_base_sides_texts(found: dict[str, Any]) -> None:
    assert ENCODED not in found["a LoRA that leaves the text encoder alone"]


def test_a_lora_with_a_part_for_the_text_encoder_has_texts_of_its_own(found: dict[str, Any]) -> None:
    assert found["a LoRA with a part for the text encoder"][ENCODED] == 3
    assert found["pictures differ"] == [True, True]


def test_checking_a_lora_and_generating_with_it_load_its_file_once(found: dict[str, Any]) -> None:
    for name in ("a LoRA that leaves the text encoder alone", "a LoRA with a part for the text encoder"):
        assert found[name][LOADED] == 1


def test_a_file_that_changes_is_taken_anew_when_it_is_checked_and_not_before(found: dict[str, Any]) -> None:
    # A row is of the content that was hashed: it is hashed again after the check.
    assert found["a file that changes"] == [True, True]


def test_pictures_are_the_same_whether_texts_were_encoded_ahead_or_not(found: dict[str, Any]) -> None:
    assert found["same pictures"] == [True, True, True]
    # Two texts and the empty negative, under two text encoders.
    assert [found[f"prepared, {side}"].get(ENCODED, 0) for side in range(3)] == [3, 0, 3]
    assert [found[f"generated, {side}"].get(ENCODED, 0) for side in range(3)] == [0, 0, 0]


def test_texts_that_are_encoded_ahead_have_the_text_encoder_loaded_once(found: dict[str, Any]) -> None:
    assert [found[f"prepared, {side}"].get(MADE_READY, 0) for side in range(3)] == [1, 0, 1]
    assert [found[f"generated, {side}"].get(MADE_READY, 0) for side in range(3)] == [0, 0, 0]


def test_a_generator_that_is_done_is_freed_at_once(found: dict[str, Any]) -> None:
    # ComfyUI takes models that only the garbage collector frees for a leak, and collects garbage at every load then.
    assert found["freed without the garbage collector"]
