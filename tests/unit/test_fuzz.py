"""The fuzzers themselves, shortly: nothing that strangers can send is an error of another kind than ours. Longer: `make fuzz`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from carlos_core.errors import CarlosError
from fuzz.__main__ import Run, Tally, fuzz, run_one, seeds_of
from fuzz.mutations import changed
from fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_strangers_send_is_answered_or_refused(name: str, tmp_path: Path) -> None:
    # A machine that does other things, too, is no hang.
    tally = fuzz(name, executions=300, seconds=600, seed=20260101, found=tmp_path, slow_s=60)
    assert (dict(tally.found), tally.executions) == ({}, 300)
    assert tally.answered


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    def target(content: bytes, folder: Path) -> None:
        if content == b"refused":
            raise CarlosError("No.")
        if content == b"wrong":
            raise KeyError("id")

    tally = Tally()
    assert [run_one(target, content, tmp_path, tally) for content in (b"", b"refused", b"wrong")] == ["", "", "KeyError"]
    assert (tally.executions, tally.answered) == (3, 1)


def test_an_input_on_which_something_is_wrong_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def target(content: bytes, folder: Path) -> None:
        if content:
            raise KeyError("id")

    monkeypatch.setitem(TARGETS, "phrases", target)
    run = Run("phrases", tmp_path, tmp_path / "found")
    assert [run.execute(content) for content in (b"", b"wrong", b"wrong")] == [True, False, False]
    assert run.tally.found == {"KeyError": 2}
    assert [path.read_bytes() for path in (tmp_path / "found" / "phrases").iterdir()] == [b"wrong"]


@pytest.mark.parametrize("name", TARGETS)
def test_changes_are_many_and_can_be_made_again(name: str) -> None:
    seeds = seeds_of(name)
    made = [[changed(seeds[0], seeds, chance) for _ in range(50)] for chance in (random.Random(1), random.Random(1))]
    assert made[0] == made[1]
    assert len(set(made[0])) > 30
