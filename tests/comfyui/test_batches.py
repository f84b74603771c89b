"""Pictures that share a sampler call are those that ComfyUI's sampler makes of each text alone, in models of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import comfyui_host as hosts

SHARING = {"SD15", "SDXL", "SD3", "Flux", "Flux2", "Anima", "WAN21_T2V"}
"""Families whose models get inputs of one shape for texts of any length."""


@pytest.fixture(scope="module")
def found(comfyui: Path) -> dict[str, dict[str, Any]]:
    ran = hosts.run_script(comfyui, Path(__file__).with_name("batch_run.py"))
    facts: dict[str, dict[str, Any]] = {}
    for line in ran.stdout.splitlines():
        if line.startswith("{"):
            facts |= json.loads(line)
    return facts


@pytest.fixture
def chosen(found: dict[str, dict[str, Any]]) -> dict[str, list[int]]:
    return found["chosen"]


@pytest.fixture
def families(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {family: facts for family, facts in found.items() if family not in ("chosen", "seen")}


def test_a_picture_is_the_one_that_comfyui_makes_of_its_text_alone(families: dict[str, dict[str, Any]]) -> None:
    assert {"SD15", "SDXL", "SD3", "Flux", "Lumina2"} <= families.keys()
    for family, facts in families.items():
        assert facts["difference"] < 1e-4 * facts["spread"], family
        # Texts make a difference there, and each picture got its own.
        assert facts["between_texts"] > 0.1 * facts["spread"], family


def test_texts_of_other_lengths_share_a_call_where_the_model_takes_them_alike(families: dict[str, dict[str, Any]]) -> None:
    for family, facts in families.items():
        # Two of the five texts have the same number of words. HunyuanImage gets four texts of one length, two with a quotation.
        calls = [2, 2] if family == "HunyuanImage21" else [2, 1, 1, 1]
        assert facts["calls"] == ([5] if family in SHARING else calls), family


def test_the_same_pictures_share_a_call_once_the_model_is_known(families: dict[str, dict[str, Any]]) -> None:
    for family, facts in families.items():
        assert facts["calls_again"] == facts["calls"], family
        assert facts["difference_again"] == 0, family


def test_no_fact_of_one_picture_is_told_of_another(found: dict[str, Any]) -> None:
    """HunyuanImage has a further fact for texts with a quotation only; others count the tokens that a mask leaves."""
    *told, groups = found["seen"]
    assert told == [["glyphs", 3], [None, 2]]
    assert groups == [[0], [1]]


def test_a_model_that_need_not_be_resident_gets_larger_batches(chosen: dict[str, list[int]]) -> None:
    static, dynamic = chosen["static"], chosen["dynamic"]
    assert static == sorted(static)
    assert static[0] == 1
    assert static[-1] == dynamic[-1] == 16
    for resident, moved in zip(static[1:-1], dynamic[1:-1], strict=True):
        assert resident < 16
        assert moved >= 2 * resident
