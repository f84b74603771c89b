"""Pictures that share a sampler call are those that ComfyUI's sampler makes of each text alone, in models of every kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import comfyui_host as hosts

SHARING = {"SD15", "SDXL", "SD3", "Flux", "Flux2", "Anima", "WAN21_T2V"}
"""Families whose models get inputs of one shape for texts of any length."""


@pytest.fixture(scope="module")
def found(comfyui: Path) -> Iterator[dict[str, dict[str, Any]]]:
    ran = hosts.run_script(comfyui, Path(__file__).with_name("batch_run.py"))
    facts: dict[str, dict[str, Any]] = {}
    for line in ran.stdout.splitlines():
        if line.startswith("{"):
            facts |= json.loads(line)
    yield facts


def test_a_picture_is_the_one_that_comfyui_makes_of_its_text_alone(found: dict[str, dict[str, Any]]) -> None:
    assert {"SD15", "SDXL", "SD3", "Flux", "Lumina2"} <= found.keys()
    for family, facts in found.items():
        assert facts["difference"] < 1e-4 * facts["spread"], family
        # Texts make a difference there, and each picture got its own.
        assert facts["between_texts"] > 0.1 * facts["spread"], family


def test_texts_of_other_lengths_share_a_call_where_the_model_takes_them_alike(found: dict[str, dict[str, Any]]) -> None:
    for family, facts in found.items():
        # Two of the five texts have the same number of words.
        assert facts["calls"] == ([5] if family in SHARING else [2, 1, 1, 1]), family


def test_the_same_pictures_share_a_call_once_the_model_is_known(found: dict[str, dict[str, Any]]) -> None:
    for family, facts in found.items():
        assert facts["calls_again"] == facts["calls"], family
        assert facts["difference_again"] == 0, family
