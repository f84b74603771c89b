"""What is kept to save time is shown and cleared, kind by kind, and never what a measurement needs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import carlos_core as carlos
from carlos_core.clip.signature_file import SignatureFile
from carlos_core.errors import CarlosError
from carlos_core.loras.lora_file import read_lora_file
from carlos_core.measuring.caches import CLEARABLE, KINDS, CachePart
from carlos_core.measuring.kept_facts import KeptFacts
from tests.support.bench import Bench, assert_same_bits
from tests.support.drawing_generator import EVALUATIONS, DrawingGenerator

RED, BLUE = (1.0, 0.2, 0.1), (0.1, 0.2, 1.0)


@pytest.fixture
def cache(bench: Bench) -> Path:
    """A cache with the pictures of two LoRAs, three signatures, and facts; nothing of it is in use."""
    for name, tint in (("red", RED), ("blue", BLUE)):
        bench.measure(bench.lora(f"{name}.safetensors", tint=tint), DrawingGenerator())
    folder = bench.folder / "work"
    SignatureFile(folder / "signatures").write({f"{k:032x}": np.arange(64.0) for k in range(3)})
    return folder


def counts(cache: Path) -> dict[str, int]:
    return {part.kind: part.count for part in carlos.cache_usage(cache).parts}


def by_kind(parts: tuple[CachePart, ...]) -> dict[str, int]:
    assert tuple(part.kind for part in parts) == KINDS
    return {part.kind: part.count for part in parts if part.count}


def test_the_usage_says_how_much_of_each_kind_there_is(cache: Path) -> None:
    usage = carlos.cache_usage(cache)
    # 18 pictures a side, the first 8 of them as thumbnails.
    assert counts(cache) == {"base": 18, "loras": 36, "trials": 0, "thumbnails": 24, "signatures": 3, "facts": 1}
    files = {path: path.stat().st_size for path in cache.rglob("*") if path.is_file()}
    for kind, endings in {
        "loras": (".journal", ".complete"),
        "thumbnails": (".png",),
        "signatures": (".sqlite",),
        "facts": (".json",),
    }.items():
        of_kind = [size for path, size in files.items() if path.suffix in endings and "base" not in path.parts[-2]]
        if kind == "thumbnails":
            of_kind = [size for path, size in files.items() if path.suffix == ".png"]
        assert usage.part(kind).size == sum(of_kind), kind
    assert [part.in_use for part in usage.parts] == [0] * len(KINDS)
    assert (usage.folder, usage.limit, usage.most_signatures) == (cache, 10e9, 50_000)


def test_of_a_folder_that_is_not_there_nothing_is_said_and_nothing_is_made(home: Path) -> None:
    usage = carlos.cache_usage()
    assert usage.folder == home / "cache"
    assert {(part.count, part.size, part.in_use) for part in usage.parts} == {(0, 0, 0)}
    assert by_kind(carlos.clear_cache()) == {}
    assert not home.exists()


@pytest.mark.parametrize(
    ("what", "gone"),
    [
        ("thumbnails", {"thumbnails": 24}),
        ("pictures", {"base": 18, "loras": 36, "thumbnails": 24}),
        ("signatures", {"signatures": 3}),
        ("everything", {"base": 18, "loras": 36, "thumbnails": 24, "signatures": 3, "facts": 1}),
    ],
)
def test_what_is_cleared_is_gone_and_the_rest_is_there(cache: Path, what: str, gone: dict[str, int]) -> None:
    before = counts(cache)
    assert by_kind(carlos.clear_cache(what, cache)) == gone
    assert counts(cache) == {kind: count - gone.get(kind, 0) for kind, count in before.items()}


def test_a_lora_that_is_measured_after_all_was_cleared_has_the_same_row(cache: Path, bench: Bench) -> None:
    lora = read_lora_file(bench.folder / "red.safetensors")
    before = bench.measure(lora, DrawingGenerator())
    carlos.clear_cache("everything", cache)
    generator = DrawingGenerator()
    assert_same_bits(bench.measure(lora, generator), before)
    assert len(generator.jobs) == 36


def test_after_thumbnails_were_cleared_what_is_measured_next_has_its_pictures(cache: Path, bench: Bench) -> None:
    carlos.clear_cache("thumbnails", cache)
    lora, generator = bench.lora("green.safetensors", tint=(0.1, 1.0, 0.2)), DrawingGenerator(batch_size=4)
    found = bench.measure(lora, generator)
    # Of the 18 pictures without a LoRA, the first 8 are made once more; what was known of them stays.
    assert (len(generator.base_jobs), len(generator.lora_jobs)) == (8, 18)
    assert found.base_model_evaluations == 8 * EVALUATIONS
    assert found.sheet is not None
    assert_same_bits(found, bench.measure(lora, DrawingGenerator(batch_size=4), work="elsewhere"))
    # Those of a LoRA whose pictures are all known are not.
    red, again = read_lora_file(bench.folder / "red.safetensors"), DrawingGenerator(batch_size=4)
    assert bench.measure(red, again).sheet is None
    assert again.jobs == []
    assert bench.measure(red, again, again=True).sheet is not None
    assert (len(again.base_jobs), len(again.lora_jobs)) == (0, 18)


@pytest.mark.parametrize("what", CLEARABLE)
def test_what_a_measurement_needs_is_never_cleared(cache: Path, bench: Bench, what: str) -> None:
    lora = read_lora_file(bench.folder / "red.safetensors")
    cleared: list[dict[str, int]] = []
    in_use: list[dict[str, int]] = []

    def clear(_progress: object) -> None:
        if not cleared:
            in_use.append({part.kind: part.in_use for part in carlos.cache_usage(cache).parts if part.in_use})
            cleared.append(by_kind(carlos.clear_cache(what, cache)))

    generator = DrawingGenerator()
    bench.measure(lora, generator, on_progress=clear)
    assert generator.jobs == []
    # The other LoRA's can go, and what is in use is the base side's and the LoRA's own.
    assert set(in_use[0]) == {"base", "loras", "thumbnails", "facts"}
    others = {"loras": 18, "thumbnails": 8}
    expected = {
        "thumbnails": {"thumbnails": 8},
        "pictures": others,
        "signatures": {"signatures": 3},
        "everything": {**others, "signatures": 3},
    }
    assert cleared == [expected[what]]


def test_another_word_for_what_to_clear_is_an_error_and_clears_nothing(cache: Path) -> None:
    before = counts(cache)
    with pytest.raises(CarlosError, match="'features' is not a part of the cache") as caught:
        carlos.clear_cache("features", cache)
    assert "thumbnails, pictures, signatures, everything" in caught.value.hint
    assert counts(cache) == before


def test_a_folder_that_cannot_be_read_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "loras").symlink_to("loras")
    with pytest.raises(CarlosError, match="cannot be looked through") as caught:
        carlos.cache_usage(tmp_path)
    assert "permissions" in caught.value.hint


def test_of_many_facts_the_oldest_go(tmp_path: Path) -> None:
    facts = KeptFacts(tmp_path / "speeds.json")
    (tmp_path / "speeds.json").write_text(json.dumps({f"model {k}": k for k in range(600)}))
    facts.keep("model 150", -1)
    facts.keep("new", 0)
    kept = json.loads((tmp_path / "speeds.json").read_text())
    assert len(kept) == 500
    assert list(kept)[-2:] == ["model 150", "new"]
    assert facts.get("model 150") == -1
    assert (facts.get("model 100"), facts.get("model 101")) == (None, 101)
    facts.keep("model 101", 5)
    facts.keep("newer", 0)
    assert (facts.get("model 101"), facts.get("model 102"), facts.get("model 103")) == (5, None, 103)
