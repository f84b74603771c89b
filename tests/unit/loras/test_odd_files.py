"""Odd LoRA files, sidecars and places among good ones: each is named, and the rest is as if they were not there."""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from carlos_core.database.columns import check_storable
from carlos_core.errors import LoraError
from carlos_core.foreign import ForeignFacts, printable, whole_text
from carlos_core.loras.library import scan
from carlos_core.loras.lora_file import LoraFile, read_lora_file
from carlos_core.loras.metadata import read_sidecar
from carlos_core.measuring.failures import Failure
from carlos_core.measuring.indexer import AnyFolder
from carlos_core.measuring.outcome import Outcome
from carlos_core.records import LoraMetadata, LoraRecord
from tests.support import miniworld
from tests.support.bench import Bench, indexer_of
from tests.support.drawing_generator import DrawingGenerator, lora_file
from tests.support.lora_files import listed, lora, opened_loras, sidecar

ENDLESS = json.dumps({"1_a": {"snw": 5}}).replace("5", "1e999")
DEEP = "[" * 100_000 + "]" * 100_000


def with_metadata(path: Path, **metadata: str) -> Path:
    save_file({"x": np.ones((2, 3), np.float32)}, path, metadata)
    return path


def facts_of(path: Path) -> dict[str, Any]:
    entry = scan([(path.name, path)], path.parent / "index.sqlite").entries[0]
    return {"problem": entry.problem, "is_usable": entry.is_usable, "trigger_words": entry.metadata.trigger_words or ()}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"ss_tag_frequency": ENDLESS}, ()),
        ({"ss_tag_frequency": json.dumps({"1_a": {"snw": 1}}).replace("1}", "NaN}")}, ()),
        ({"ss_tag_frequency": DEEP}, ()),
        ({"ss_tag_frequency": "{"}, ()),
        ({"ss_tag_frequency": '{"1_a": {"snw": 10}}', "ss_dataset_dirs": '{"a": {"img_count": 1e999}}'}, ()),
        ({"ss_tag_frequency": '{"1_a": {"snw": 10}}', "ss_dataset_dirs": DEEP}, ()),
    ],
)
def test_counts_of_tags_that_cannot_be_read_cost_the_words_and_name_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, metadata: dict[str, str], words: tuple[str, ...]
) -> None:
    odd, good = with_metadata(tmp_path / "odd.safetensors", **metadata), lora(tmp_path / "good.safetensors", 1, "snw")
    assert read_lora_file(odd).trigger_words == words
    found = scan([("odd", odd), ("good", good)], tmp_path / "index.sqlite")
    assert "odd.safetensors" in found.entries[0].problem
    assert "counts of tags" in found.entries[0].problem
    assert (found.entries[0].is_usable, found.entries[1].problem, found.entries[1].metadata.trigger_words) == (True, "", ("snw",))
    assert "odd.safetensors" in caplog.text
    # Also when it comes from the index, and nothing is read again.
    assert scan([("odd", odd), ("good", good)], tmp_path / "index.sqlite").entries == found.entries


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-8"])
def test_a_sidecar_is_read_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    path = lora(tmp_path / "a.safetensors")
    (tmp_path / "a.civitai.info").write_bytes(
        json.dumps({"id": 7, "trainedWords": ["schnée ☃"]}, ensure_ascii=False).encode(encoding)
    )
    assert read_sidecar(path) == LoraMetadata(version_id=7, trigger_words=("schnée ☃",))


def test_a_sidecar_of_blanks_without_end_is_read_in_no_time(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    # A pattern that looks for a comma behind each blank would take an hour.
    (tmp_path / "a.json").write_text(json.dumps({"activation text": "snw" + " " * 1_000_000 + "style , cold"}))
    assert read_sidecar(path).trigger_words == ("snw" + " " * 1_000_000 + "style", "cold")


def test_tensor_names_of_any_length_tell_the_family_in_no_time(tmp_path: Path) -> None:
    name = "attn2_" + "to_k_" * 200_000
    assert read_lora_file(with_tensors(tmp_path / "a.safetensors", {name: (4, 768)})).metadata.base_model is None


def with_tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    save_file({name: np.ones(shape, np.int8) for name, shape in shapes.items()}, path)
    return path


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"id": 2**63}, LoraMetadata()),
        ({"id": 10**5000}, LoraMetadata()),
        ({"id": 1e300, "modelId": 5}, LoraMetadata(model_id=5)),
        ({"nsfwLevel": 2**31, "id": 5}, LoraMetadata(version_id=5)),
        ({"stats": {"downloadCount": -(2**70)}, "baseModel": "Pony"}, LoraMetadata(base_model="Pony")),
        ({"trainedWords": ["a", None, {"b": 1}, ["c"], 7, "\ud83d", "d\udcff"]}, LoraMetadata(trigger_words=("a", "7", "d"))),
        ({"model": {"name": "half \ud83d an emoji"}}, LoraMetadata(model_name="half  an emoji")),
        ({"images": [{"url": 5}, "x", {"url": "u"}], "baseModel": ["SDXL"]}, LoraMetadata(preview_url="u")),
        pytest.param(
            {"baseModel": "x" * (1 << 21), "trainedWords": ["a", "é" * (1 << 20)]},
            LoraMetadata(trigger_words=("a",)),
            id="endless",
        ),
    ],
)
def test_a_field_that_nobody_can_keep_is_silence_and_the_others_are_read(
    tmp_path: Path, facts: dict[str, Any], expected: LoraMetadata
) -> None:
    path = lora(tmp_path / "a.safetensors")
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        text = json.dumps(facts)
    finally:
        sys.set_int_max_str_digits(limit)
    (tmp_path / "a.civitai.info").write_text(text)
    assert read_sidecar(path) == expected


def test_a_number_that_makes_no_sense_is_named_with_its_file_and_field(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    sidecar(path, id=2**63, nsfwLevel=-(2**40), modelId=3)
    facts = facts_of(path)
    assert facts["is_usable"]
    assert all(
        part in facts["problem"] for part in ("a.safetensors", "a.civitai.info", "id is a number", "nsfwLevel is a number")
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("id", "modelId", "model", "name", "baseModel", "trainedWords", "nsfwLevel", "stats", "downloadCount", "images", "url")
SIDECAR = st.dictionaries(st.sampled_from((*FIELDS, "civitai", "activation text", "sd version", "model_name")), JSON, max_size=6)
TENSOR = st.dictionaries(st.sampled_from(("dtype", "shape", "data_offsets")), JSON, max_size=3)
HEADER = st.dictionaries(
    st.sampled_from(("__metadata__", "x", "lora_unet_attn2_to_k.lora_down.weight")),
    TENSOR
    | st.dictionaries(
        st.sampled_from(("ss_tag_frequency", "ss_dataset_dirs", "modelspec.trigger_phrase")), JSON | JSON.map(json.dumps)
    ),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(HEADER | JSON, SIDECAR | JSON, st.sampled_from((".civitai.info", ".metadata.json", ".json")))
def test_whatever_a_file_and_its_sidecar_hold_the_others_are_read_and_its_facts_can_be_kept(
    header: Any, beside: Any, suffix: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = json.dumps(header).encode()
        odd = folder / "odd.safetensors"
        odd.write_bytes(struct.pack("<Q", len(content)) + content + b"\0" * 64)
        (folder / f"odd{suffix}").write_text(json.dumps(beside))
        good = lora(folder / "good.safetensors", 3, "snw")
        files = [("odd.safetensors", odd), ("good.safetensors", good)]
        first = scan(files, folder / "index.sqlite")
        assert scan(files, folder / "index.sqlite").entries == first.entries
        assert (first.entries[1].metadata.trigger_words, first.entries[1].problem) == (("snw",), "")
        entry = first.entries[0]
        if not entry.is_usable:
            assert entry.problem
            with pytest.raises(LoraError):
                read_lora_file(odd)
            return
        lora_id = entry.as_lora_file().lora_id
        direction = np.zeros(4, np.float32)
        check_storable(LoraRecord(lora_id=lora_id, metadata=entry.metadata, direction=direction, strength=0.0, consistency=None))
        assert whole_text(entry.problem) == entry.problem


@given(JSON)
def test_facts_of_any_json_are_of_their_types(content: Any) -> None:
    facts = ForeignFacts({"a": content, "b": {"a": content}})
    for part in (facts, facts.part("b"), facts.part("a"), *facts.parts("a")):
        number, text, words = part.number("a", 32), part.text("a"), part.texts("a")
        assert number is None or -(2**31) <= number < 2**31
        assert text is None or text.encode()
        assert all(word.encode().decode() == word for word in words or ())


def places(folder: Path) -> dict[str, str]:
    """Things in a LoRA folder that are not LoRAs, and what is to be said of each."""
    (folder / "dangling.safetensors").symlink_to(folder / "gone" / "x.safetensors")
    (folder / "circle.safetensors").symlink_to(folder / "circle.safetensors")
    (folder / "folder.safetensors").mkdir()
    said = {
        "dangling.safetensors": "is a link to a file that is not there",
        "circle.safetensors": "is a link to a file that is not there",
        "folder.safetensors": "is a folder",
        "vanished.safetensors": "is not there",
    }
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.safetensors")
        said["pipe.safetensors"] = "is not an ordinary file"
    return said


def test_what_is_no_file_is_said_as_what_it_is_and_the_rest_is_known(tmp_path: Path) -> None:
    said = places(tmp_path)
    files = [*((name, tmp_path / name) for name in said), ("good", lora(tmp_path / "good.safetensors"))]
    found = scan(files, tmp_path / "index.sqlite")
    assert {entry.name: entry.is_usable for entry in found.entries} == {**dict.fromkeys(said, False), "good": True}
    for name, words in said.items():
        entry = found.entry(name)
        assert entry is not None
        assert f"{name} {words}" in entry.problem


NOT_UTF8 = "sn\udcffw.safetensors"


def test_a_library_run_goes_on_over_everything_that_is_no_lora(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    said = places(folder)
    names = [*said, "good.safetensors"]
    if sys.platform == "linux":
        lora_file(folder / NOT_UTF8)
        names.append(NOT_UTF8)
        said["sn\\udcffw.safetensors"] = "is not valid text (UTF-8). Rename the file."
    lora_file(folder / "good.safetensors", tint=(0, 1, 0))
    generator = DrawingGenerator()

    class Scanned(AnyFolder):
        """As the nodes read a LoRA."""

        def read(self, path: Path, name: str) -> LoraFile:
            return scan([(name, path)], tmp_path / "index.sqlite").entries[0].as_lora_file()

    indexer = indexer_of(bench, generator, folder=Scanned())
    results = list(indexer.index_all([(name, folder / name) for name in names], lambda name: None))
    failed = {result.file: result.reason for result in results if isinstance(result, Failure)}
    assert failed.keys() == said.keys()
    for name, words in said.items():
        assert words in failed[name]
    assert [result.lora.name for result in results if isinstance(result, Outcome)] == ["good.safetensors"]
    assert indexer.target.read().column("file_name") == ["good.safetensors"]
    # Nothing was made for the file whose row could not have been saved.
    assert {job.loras[0].path.name for job in generator.lora_jobs} == {"good.safetensors"}


@pytest.mark.skipif(sys.platform != "linux", reason="Names are text here.")
def test_a_known_lora_that_got_a_name_that_is_no_text_keeps_its_row(bench: Bench) -> None:
    indexer = indexer_of(bench, DrawingGenerator())
    lora = bench.lora()
    indexer.index(lora)
    moved = lora.path.rename(lora.path.with_name(NOT_UTF8))
    (result,) = indexer.index_all([(NOT_UTF8, moved)], lambda name: None)
    assert isinstance(result, Failure)
    assert result.reason == "The file name sn\\udcffw.safetensors is not valid text (UTF-8). Rename the file."
    assert indexer.target.read().column("file_name") == ["red.safetensors"]


@pytest.mark.parametrize(
    "facts",
    [
        *({"version_id": 2**63}, {"nsfw_level": 2**31}, {"model_name": "half \ud83d"}, {"trigger_words": ("\udcff",)}),
        pytest.param({"trigger_words": ("a", "b" * (1 << 21))}, id="endless word"),
    ],
)
def test_what_could_not_be_saved_is_found_before_the_first_picture(bench: Bench, facts: dict[str, Any]) -> None:
    generator = DrawingGenerator()
    read = bench.lora(tint=(0, 1, 0))
    odd = replace(read, metadata=replace(read.metadata, **facts))
    with pytest.raises(LoraError, match=r"red\.safetensors: The facts of this LoRA cannot be saved"):
        indexer_of(bench, generator).index(odd)
    assert generator.jobs == []


def test_the_mini_worlds_files_have_no_problems(tmp_path: Path) -> None:
    found = scan(listed(miniworld.MINIWORLD / "loras"), tmp_path / "index.sqlite")
    assert [entry.problem for entry in found.entries] == [""] * 23


@pytest.mark.parametrize("end", [".aria2", ".part", ".crdownload"])
def test_a_file_that_is_still_being_downloaded_is_no_lora_until_it_is_whole(tmp_path: Path, end: str) -> None:
    """The program has given it its full length and a whole header already."""
    path = lora(tmp_path / "loras" / "snow.v1.safetensors")
    marker = path.with_name(path.name + end)
    marker.write_bytes(b"")
    library = scan(listed(path.parent), tmp_path / "index")
    (entry,) = library.entries
    assert not entry.is_usable
    assert entry.problem.startswith(f"snow.v1.safetensors is not downloaded completely: {marker.name} is beside it.")
    with pytest.raises(LoraError, match="not downloaded completely"):
        read_lora_file(path)
    marker.unlink()
    (entry,) = scan(listed(path.parent), tmp_path / "index").entries
    assert entry.is_usable
    assert entry.problem == ""


def test_a_name_of_255_bytes_leaves_no_room_for_sidecars_and_is_fine(tmp_path: Path) -> None:
    name = "é" * 121 + "a" + ".safetensors"
    assert len(name.encode()) == 255
    path = lora(tmp_path / "loras" / name, trigger="snwx")
    (entry,) = scan(listed(path.parent), tmp_path / "index").entries
    assert (entry.problem, entry.metadata.trigger_words) == ("", ("snwx",))
    assert read_sidecar(path) == LoraMetadata()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", " but empty"),
        (b"<!DOCTYPE html><title>Sign in</title>" * 9, " but a web page"),
        (b'{"error":"Unauthorized"}', " but a text in JSON"),
        (b"PK\x03\x04" + bytes(200), " but a ZIP archive or a file of PyTorch"),
        (b"\x80\x02}q\x00.", " but a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", " but a pointer of Git LFS to one"),
        # A length that looks like the beginning of a page, and a header that is cut.
        (struct.pack("<Q", ord("<")) + b'{"x": ', ", or a part of it is missing"),
    ],
)
def test_what_is_often_found_in_place_of_a_lora_is_called_by_its_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert f"a.safetensors is not a safetensors file{says}" in facts_of(path)["problem"]


def big_header(entries: int) -> bytes:
    nothing = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"lora_{place:032}": nothing for place in range(entries)}).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize(
    ("entries", "says"),
    [(380_000, r"has a header of \d\d MB: it is not a LoRA"), (60_000, "has 60,000 tensors: it is not a LoRA")],
)
def test_a_header_without_end_is_refused_before_its_tensors_are_looked_at(tmp_path: Path, entries: int, says: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(big_header(entries))
    with pytest.raises(LoraError, match=says):
        read_lora_file(path)


@pytest.mark.parametrize(("dtype", "size"), [("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6)])
def test_numbers_that_share_bytes_are_refused(tmp_path: Path, dtype: str, size: int) -> None:
    """Older versions of safetensors do not know them at all."""
    path = tmp_path / "a.safetensors"
    header = json.dumps({"x": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    with pytest.raises(LoraError, match="holds numbers of less than eight bits|is not a safetensors file"):
        read_lora_file(path)


def test_a_sidecar_without_end_is_not_read(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", trigger="own")
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(60 << 20)
    with opened_loras() as opened:
        facts = facts_of(path)
    assert "the sidecar a.json is not read: it has 60 MB" in facts["problem"]
    assert (facts["is_usable"], facts["trigger_words"], "a.json" in opened) == (True, ("own",), False)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1, 2]", "holds no facts, but list"),
        ("null", "holds no facts, but NoneType"),
        ('"text"', "holds no facts, but str"),
        ('{"id": "7"}', "id is str"),
        ('{"id": true}', "id is bool"),
        ('{"id": 7.5}', "id is not a whole number (7.5)"),
        ('{"trainedWords": "snow"}', "trainedWords is str"),
        ('{"images": ["a", "b", {}]}', "images holds str"),
        pytest.param(f'{{"baseModel": "{"x" * (1 << 21)}"}}', "baseModel has 2,097,152 characters", id="endless"),
        pytest.param(f'{{"trainedWords": ["{"x" * (1 << 21)}"]}}', "trainedWords holds a text of 2,097,152", id="endless word"),
    ],
)
def test_what_is_of_another_kind_in_a_sidecar_is_said(tmp_path: Path, content: str, says: str) -> None:
    path = lora(tmp_path / "a.safetensors")
    (tmp_path / "a.civitai.info").write_text(content)
    facts = facts_of(path)
    assert facts["is_usable"]
    assert f"the sidecar a.civitai.info {says}" in facts["problem"]
    assert read_sidecar(path).version_id is None


@pytest.mark.parametrize(
    "content", ["{}", '{"id": 0, "modelId": -1}', '{"id": null, "model": null, "trainedWords": null}', '{"id": 7.0}']
)
def test_a_sidecar_that_says_little_is_not_odd(tmp_path: Path, content: str) -> None:
    path = lora(tmp_path / "a.safetensors")
    (tmp_path / "a.civitai.info").write_text(content)
    assert facts_of(path)["problem"] == ""


def test_of_many_odd_things_in_a_sidecar_a_few_are_said(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    sidecar(path, id="x", modelId=[], baseModel=1, nsfwLevel="low", trainedWords={}, stats=5)
    problem = facts_of(path)["problem"]
    assert problem.count("in the sidecar") == 4
    assert "there is more that is odd" in problem


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="No pipes here.")
def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    """Opening one waits for a writer, for ever."""
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    with pytest.raises(LoraError, match=r"pipe\.safetensors cannot be read: it is not an ordinary file"):
        read_lora_file(path)
    beside = lora(tmp_path / "a.safetensors", trigger="own")
    os.mkfifo(tmp_path / "a.civitai.info")
    assert read_lora_file(beside).trigger_words == ("own",)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("a\tb\x1b[31m", "a\\tb\\x1b[31m"),
        ("a\u2028b", "a\\u2028b"),
        ("\u202egpj.a", "\\u202egpj.a"),
        ("a\udcff", "a\\udcff"),
        ("שלג 🧜🏽‍♀️ é", "שלג 🧜🏽‍♀️ é"),
    ],
)
def test_names_are_shown_in_one_line(name: str, shown: str) -> None:
    assert printable(name) == shown
