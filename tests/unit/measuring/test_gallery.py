"""The pictures that are kept of LoRAs: which, how they come back, and that nothing odd about their files stops anybody."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from carlos_core.database.database import MetricsDatabase
from carlos_core.errors import GalleryError
from carlos_core.measuring.caches import clear_cache
from carlos_core.measuring.contact_sheet import worth_a_thumbnail
from carlos_core.measuring.gallery import MOST_BYTES, Gallery, read_sheet
from carlos_core.measuring.index_lora import IndexSettings, index_lora
from carlos_core.measuring.outcome import ALREADY_INDEXED
from carlos_core.measuring.plan import Shot
from carlos_core.measuring.telling_pairs import STRONGEST, TYPICAL, WEAKEST, candidates, telling
from carlos_core.prompts.prompt_set import default_index_prompts
from carlos_core.records import LoraRecord
from tests.support.bench import PROMPTS, Bench, indexer_of, naive_diffs
from tests.support.drawing_generator import DrawingGenerator
from tests.support.pictures import candidate, colour_of, noise
from tests.support.rows import a_row

SHA = "ab" * 32
FOUND = [
    candidate(effect, topic, seed=place) for place, (effect, topic) in enumerate(zip((10, 250, 90, 100), "abcd", strict=True))
]


def a_lora(**facts: Any) -> LoraRecord:
    said: dict[str, Any] = {"sha256": SHA, "file_name": "styles/snow.safetensors", "protocol_id": "p", **facts}
    return a_row("1", **said)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "pictures")


def only_file(gallery: Gallery) -> Path:
    (path,) = gallery.folder.iterdir()
    return path


def test_what_is_kept_comes_back_with_its_facts(gallery: Gallery) -> None:
    assert gallery.sheet(a_lora()) is None
    assert gallery.keep(a_lora(), FOUND, 0.8)
    assert only_file(gallery).name == "snow-abababababab.jpg"
    sheet = gallery.sheet(a_lora())
    assert sheet is not None
    assert (sheet.protocol_id, sheet.weight, sheet.chosen_among) == ("p", 0.8, 4)
    assert [kind for _pair, kind in sheet.shown] == [TYPICAL, TYPICAL, STRONGEST, WEAKEST]
    pairs = gallery.pairs(a_lora())
    assert [(pair.prompt, pair.seed) for pair in pairs] == [
        ("d 100", 3),
        ("c 90", 2),
        ("b 250", 1),
        ("a 10", 0),
    ]
    assert [colour_of(pair.without) for pair in sheet.pairs] == [(200, 0, 0)] * 4
    assert [colour_of(pair.with_lora)[1] for pair in sheet.pairs] == [100, 90, 250, 10]


def test_any_program_shows_the_file_and_its_facts(gallery: Gallery) -> None:
    gallery.keep(a_lora(), FOUND, 1.0)
    with Image.open(only_file(gallery)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (256, 128))
        facts = json.loads(picture.info["comment"])
    assert (facts["sha256"], facts["lora_id"], facts["protocol_id"]) == (SHA, "1", "p")
    assert len(facts["pairs"]) == 4


def test_a_file_is_small_whatever_the_pictures_are(gallery: Gallery) -> None:
    found = [
        replace(each, pair=replace(each.pair, prompt="雪" * 10_000, without=noise(place), with_lora=noise(place + 9)))
        for place, each in enumerate(FOUND)
    ]
    gallery.keep(a_lora(), found, 1.0)
    assert only_file(gallery).stat().st_size <= MOST_BYTES
    assert [pair.prompt for pair in gallery.pairs(a_lora())] == ["雪" * 1000] * 4


def test_newer_pictures_replace_those_that_were_there_under_whatever_name(gallery: Gallery) -> None:
    gallery.keep(a_lora(), FOUND, 1.0)
    gallery.keep(a_lora(file_name="winter.safetensors", protocol_id="better"), FOUND[:1], 1.0)
    assert only_file(gallery).name == "winter-abababababab.jpg"
    sheet = gallery.sheet(a_lora())
    assert sheet is not None
    assert (sheet.protocol_id, len(sheet.pairs)) == ("better", 1)


def test_a_file_that_is_the_same_under_another_name_is_not_removed(gallery: Gallery) -> None:
    """As where names are equal in other cases, too."""
    assert gallery.keep(a_lora(), FOUND, 1.0)
    path = only_file(gallery)
    other = path.with_name(f"other-{path.name.rpartition('-')[2]}")
    path.rename(other)
    path.symlink_to(other.name)
    assert gallery.keep(a_lora(), FOUND, 1.0)
    assert len(gallery.pairs(a_lora())) == 4


def test_names_of_any_kind_become_names_of_files(gallery: Gallery) -> None:
    for name in ("../../etc/passwd", "con", "雪" * 300, 'a<b>:"|?*\n', "." * 30, " "):
        assert gallery.keep(a_lora(file_name=name), FOUND, 1.0), name
        assert only_file(gallery).parent == gallery.folder
        assert len(gallery.pairs(a_lora())) == 4


def test_without_pictures_or_content_nothing_is_kept(gallery: Gallery) -> None:
    assert not gallery.keep(a_lora(), [], 1.0)
    assert not gallery.keep(a_lora(sha256=None), FOUND, 1.0)
    assert not gallery.folder.exists()
    assert gallery.pairs(a_lora(sha256=None)) == ()


@pytest.mark.parametrize(
    ("effects", "kinds"),
    [
        ([5], [STRONGEST]),
        ([5, 7], [STRONGEST, WEAKEST]),
        ([5, 7, 6], [TYPICAL, STRONGEST, WEAKEST]),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], [TYPICAL, TYPICAL, STRONGEST, WEAKEST]),
    ],
)
def test_fewer_pairs_than_four_are_shown_as_what_they_are(effects: list[int], kinds: list[str]) -> None:
    chosen = telling([candidate(effect) for effect in effects])
    assert [kind for _pair, kind in chosen] == kinds
    shown = {kind: float(pair.prompt.split()[1]) for pair, kind in chosen}
    assert shown[STRONGEST] == max(effects)
    assert shown.get(WEAKEST, min(effects)) == min(effects)


def test_typical_pairs_lie_around_the_median_and_are_of_other_topics() -> None:
    found = [
        candidate(effect, topic) for effect, topic in [(1, "a"), (9, "a"), (5, "a"), (5.1, "a"), (4, "b"), (7, "c"), (5.2, "a")]
    ]
    assert [pair.prompt for pair, _kind in telling(found)] == ["b 4", "c 7", "a 9", "a 1"]


def test_pictures_of_all_topics_are_kept_from_the_first_on() -> None:
    shots = [Shot(prompt, 0) for prompt in default_index_prompts().stratified()]
    taken = worth_a_thumbnail(shots)
    assert taken[:8] == shots[:8]
    assert len(taken) <= 16
    assert {shot.prompt.topic for shot in taken} == {shot.prompt.topic for shot in shots}
    for end in (1, 8, 9, 16, 40):
        assert worth_a_thumbnail(shots[:end]) == [shot for shot in taken if shot in shots[:end]]


def jpeg(size: tuple[int, int], comment: object = None, **options: object) -> bytes:
    file = io.BytesIO()
    said = {} if comment is None else {"comment": comment if isinstance(comment, bytes) else json.dumps(comment).encode()}
    noise(0).resize(size).save(file, "JPEG", **said, **options)
    return file.getvalue()


def large(size: tuple[int, int]) -> bytes:
    """Many pixels in few bytes."""
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "JPEG", quality=1, comment=json.dumps(FACTS).encode())
    return file.getvalue()


FACTS = {"carlos_pictures": 1, "sha256": SHA, "chosen_among": 1, "pairs": [{"prompt": "a", "seed": 1, "kind": "typical"}]}
GOOD = jpeg((64, 128), FACTS)
ODD = {
    "empty": b"",
    "text": b"no picture",
    "cut off": GOOD[: len(GOOD) // 2],
    "no comment": jpeg((64, 128)),
    "a comment that is no JSON": jpeg((64, 128), b"\xff{["),
    "a deep comment": jpeg((64, 128), b"[" * 60_000),
    "another comment": jpeg((64, 128), [1]),
    "a newer version": jpeg((64, 128), {**FACTS, "carlos_pictures": 2}),
    "no pairs": jpeg((64, 128), {**FACTS, "pairs": []}),
    "very many pairs": jpeg((64, 128), {**FACTS, "pairs": [{}] * 1000}),
    "pairs that are none": jpeg((64, 128), {**FACTS, "pairs": [1, "a", None]}),
    "odd sizes": jpeg((65, 127), {**FACTS, "pairs": [{}, {}]}),
    "very large": large((2000, 4000)),
    "very many bytes": GOOD + bytes(2 << 20),
    "very many parts": jpeg((64, 128), FACTS, progressive=True),
    "another content": jpeg((64, 128), {**FACTS, "sha256": "cd" * 32}),
}


def put(gallery: Gallery, content: bytes, name: str = "snow-abababababab.jpg") -> Path:
    gallery.folder.mkdir(exist_ok=True)
    (gallery.folder / name).write_bytes(content)
    return gallery.folder / name


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_as_good_as_none(name: str, gallery: Gallery, caplog: pytest.LogCaptureFixture) -> None:
    put(gallery, ODD[name])
    with caplog.at_level(logging.WARNING):
        assert gallery.pairs(a_lora()) == ()
    assert ("snow-abababababab.jpg cannot be read" in caplog.text) == (name != "another content")
    # Nor does it hide a good one, or keep its place.
    put(gallery, GOOD, "a-abababababab.jpg")
    assert len(gallery.pairs(a_lora())) == 1
    assert gallery.keep(a_lora(), FOUND, 1.0)
    assert len(gallery.pairs(a_lora())) == 4


def test_facts_of_other_kinds_are_silence(gallery: Gallery) -> None:
    column = {"prompt": 5, "seed": "x", "kind": "best", "more": [[]]}
    put(gallery, jpeg((64, 128), {**FACTS, "pairs": [column], "weight": "heavy", "protocol_id": 7, "chosen_among": 1e400}))
    sheet = gallery.sheet(a_lora())
    assert sheet is not None
    assert (sheet.weight, sheet.protocol_id, sheet.chosen_among) == (None, None, 1)
    assert [(pair.prompt, pair.seed, kind) for pair, kind in sheet.shown] == [("", 0, TYPICAL)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders.")
def test_a_pipe_is_not_opened(gallery: Gallery) -> None:
    gallery.folder.mkdir()
    os.mkfifo(gallery.folder / "snow-abababababab.jpg")
    ended = threading.Thread(target=gallery.pairs, args=(a_lora(),), daemon=True)
    ended.start()
    ended.join(10)
    assert not ended.is_alive()
    with pytest.raises(GalleryError, match="no ordinary file"):
        read_sheet(gallery.folder / "snow-abababababab.jpg")


def test_a_folder_that_cannot_be_used_loses_only_the_pictures(
    gallery: Gallery, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    gallery.folder.write_text("in the way")
    with caplog.at_level(logging.WARNING):
        outcome = indexer_of(bench, DrawingGenerator(), gallery=gallery).index(bench.lora())
    assert outcome.is_new
    assert gallery.pairs(outcome.row) == ()
    assert "cannot be kept" in caplog.text


def test_indexing_keeps_pictures_of_what_the_row_says(bench: Bench, gallery: Gallery) -> None:
    indexer = indexer_of(bench, DrawingGenerator(), gallery=gallery)
    outcome = indexer.index(bench.lora(mix=0.5))
    sheet = gallery.sheet(outcome.row)
    assert sheet is not None
    assert (sheet.protocol_id, sheet.weight) == (outcome.row.protocol_id, 1.0)
    shots = worth_a_thumbnail(indexer.plan.shots[: outcome.row.n_images])
    direction = outcome.row.direction / np.linalg.norm(outcome.row.direction)
    effects = dict(
        zip(((s.prompt.text, s.seed) for s in shots), naive_diffs(bench, outcome.lora, shots) @ direction, strict=True)
    )
    assert sheet.chosen_among == len(effects)
    shown = {kind: effects[pair.prompt, pair.seed] for pair, kind in sheet.shown}
    assert (shown[STRONGEST], shown[WEAKEST]) == (max(effects.values()), min(effects.values()))
    # The LoRA's colour is red.
    assert all(colour_of(pair.with_lora)[0] > colour_of(pair.without)[0] + 30 for pair in sheet.pairs)


def test_a_lora_that_was_indexed_before_gets_its_pictures_while_they_are_in_the_cache(bench: Bench, gallery: Gallery) -> None:
    lora = bench.lora()
    row = indexer_of(bench, DrawingGenerator()).index(lora).row
    assert gallery.pairs(row) == ()
    again = indexer_of(bench, DrawingGenerator(), gallery=gallery)
    assert again.index(lora).status == ALREADY_INDEXED
    assert len(gallery.pairs(row)) == 4
    clear_cache("everything", bench.folder / "work")
    assert len(gallery.pairs(row)) == 4
    only_file(gallery).unlink()
    for thumbnail in bench.folder.rglob("*.png"):
        thumbnail.unlink()
    assert again.index(lora).status == ALREADY_INDEXED
    assert gallery.pairs(row) == ()


def test_small_pictures_of_what_was_measured_before_are_read_when_they_are_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = bench.lora()
    new = indexer_of(bench, DrawingGenerator()).index(lora)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_args, **_options: pytest.fail("a picture was read"))
        known = indexer_of(bench, DrawingGenerator()).index(lora)
    assert known.status == ALREADY_INDEXED
    assert torch.equal(known.contact_sheet, new.contact_sheet)


def test_a_damaged_thumbnail_costs_that_picture_alone(bench: Bench, gallery: Gallery) -> None:
    lora, generator = bench.lora(), DrawingGenerator()
    indexer_of(bench, generator).index(lora)
    for thumbnail in sorted(bench.folder.rglob("*.png"))[::2]:
        content = thumbnail.read_bytes()
        # What a power cut leaves: its length, and zeros.
        thumbnail.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert indexer_of(bench, generator, gallery=gallery).index(lora).status == ALREADY_INDEXED
    for thumbnail in bench.folder.rglob("*.png"):
        thumbnail.write_bytes(thumbnail.read_bytes()[:60] + bytes(500))
    again = indexer_of(bench, generator, gallery=gallery, overwrite=True).index(lora)
    assert again.is_new
    assert again.sheet is None


def test_pictures_of_another_measurement_give_way_to_those_of_the_row(bench: Bench, gallery: Gallery) -> None:
    lora = bench.lora()
    row = indexer_of(bench, DrawingGenerator(), gallery=gallery).index(lora).row
    assert gallery.keep(replace(row, protocol_id="another"), FOUND, 1.0)
    assert not gallery.is_of(row)
    indexer_of(bench, DrawingGenerator(), gallery=gallery).index(lora)
    assert gallery.is_of(row)


def test_whose_pictures_they_are_is_known_without_looking_at_them(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery.keep(a_lora(), FOUND, 1.0)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were decoded"))
    monkeypatch.setattr(JpegImageFile, "load", lambda *_: pytest.fail("pixels were decoded"))
    assert gallery.is_of(a_lora())
    assert not gallery.is_of(a_lora(protocol_id="another"))
    assert not gallery.is_of(a_lora(sha256="cd" * 32))


def test_a_folder_is_looked_through_once_and_again_when_something_came_or_went(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "abababababab" + "cd" * 26
    gallery.keep(a_lora(), FOUND, 1.0)
    looks: list[str] = []
    scan = os.scandir

    def look(path: Path) -> object:
        looks.append(path.name)
        return scan(path)

    monkeypatch.setattr(os, "scandir", look)
    # What was changed just now may be changed again at the same time, as its file system counts.
    os.utime(gallery.folder, ns=(1, 1))
    for _ in range(3):
        assert len(gallery.pairs(a_lora())) == 4
        assert gallery.pairs(a_lora(sha256=other)) == ()
    assert len(looks) == 1
    put(gallery, jpeg((64, 128), {**FACTS, "sha256": other}), "a-abababababab.jpg")
    assert len(gallery.pairs(a_lora(sha256=other))) == 1
    put(gallery, b"", "b-cdcdcdcdcdcd.jpg").unlink()
    only = gallery.folder / "snow-abababababab.jpg"
    only.unlink()
    assert gallery.pairs(a_lora()) == ()
    # What this process keeps is known whatever the folder's time says.
    os.utime(gallery.folder, ns=(1, 1))
    assert gallery.pairs(a_lora(sha256="ef" * 32)) == ()
    assert gallery.keep(a_lora(sha256="ef" * 32), FOUND, 1.0)
    os.utime(gallery.folder, ns=(1, 1))
    assert len(gallery.pairs(a_lora(sha256="ef" * 32))) == 4


def test_pictures_of_another_protocol_are_not_put_to_a_row(bench: Bench, gallery: Gallery) -> None:
    lora = bench.lora()
    indexer_of(bench, DrawingGenerator(model="a", model_key="m")).index(lora)
    other = indexer_of(bench, DrawingGenerator(model="b", model_key="m"), gallery=gallery)
    assert other.index(lora).status == ALREADY_INDEXED
    assert not gallery.folder.exists()


def test_a_lora_without_effect_has_pictures_too(bench: Bench, gallery: Gallery) -> None:
    row = indexer_of(bench, DrawingGenerator(), gallery=gallery).index(bench.lora(mix=0.0)).row
    assert len(gallery.pairs(row)) == 4


def test_what_was_never_made_is_no_candidate(bench: Bench) -> None:
    indexer = indexer_of(bench, DrawingGenerator())
    lora = bench.lora()
    sides = indexer.studio.without_lora(), indexer.studio.with_lora(lora, 1.0, ())
    assert candidates(*sides, indexer.plan.shots, np.ones(bench.encoder.dimension, np.float32)) == []


def test_the_library_keeps_pictures_where_a_folder_is_named(bench: Bench, tmp_path: Path) -> None:
    lora = bench.lora()
    settings: IndexSettings = {"encoder": bench.encoder, "prompts": PROMPTS}

    def indexed(settings: IndexSettings) -> LoraRecord:
        database = MetricsDatabase.empty(bench.encoder.encoder_id, bench.encoder.dimension)
        return index_lora(
            database, lora_source=lora.path, working_directory=bench.folder / "work", generator=DrawingGenerator(), **settings
        ).record

    indexed(settings)
    assert list(tmp_path.rglob("*.jpg")) == []
    record = indexed({**settings, "gallery_directory": tmp_path / "mine"})
    assert [path.name for path in tmp_path.rglob("*.jpg")] == [f"red-{lora.sha256[:12]}.jpg"]
    assert len(Gallery(tmp_path / "mine").pairs(record)) == 4
    assert Gallery(tmp_path / "elsewhere", tmp_path / "mine").sheet(record) is not None
