"""One file under several names: links, links to folders, and folders in a circle. It is read once, and is one LoRA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from carlos_core.loras.library import scan, survey
from carlos_core.loras.matching import Resolved
from carlos_core.loras.same_file import by_file, listed_shortly
from carlos_core.records import LoraIdentity
from tests.support.lora_files import listed, lora, opened_loras, sidecar


def groups(folder: Path) -> list[list[str]]:
    return [[state.name for state in names] for names in by_file(survey(listed(folder)))]


def test_links_and_hard_links_are_names_of_one_file_and_copies_are_files(tmp_path: Path) -> None:
    path = lora(tmp_path / "b.safetensors", 1)
    (tmp_path / "a.safetensors").symlink_to(path)
    os.link(path, tmp_path / "bb.safetensors")
    (tmp_path / "c.safetensors").write_bytes(path.read_bytes())
    assert groups(tmp_path) == [["b.safetensors", "bb.safetensors", "a.safetensors"], ["c.safetensors"]]


def test_a_folder_in_a_circle_lists_its_files_many_times_and_they_are_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    for name in ("x", "y"):
        sidecar(lora(folder / "styles" / f"{name}.safetensors", ord(name)), modelId=ord(name))
    (folder / "styles" / "again").symlink_to(folder / "styles", target_is_directory=True)
    files = listed(folder)
    # As many links as the system follows: 40 on Linux.
    assert len(files) > 20
    assert [names[0] for names in groups(folder)] == ["styles/x.safetensors", "styles/y.safetensors"]
    with opened_loras() as opened:
        found = scan(files, tmp_path / "index")
    assert opened.count("x.safetensors") == 3  # Its header's length, its header and its content.
    assert [(entry.name, entry.path) for entry in found.entries] == files
    assert {entry.sha256 for entry in found.entries if entry.path.name == "x.safetensors"} == {found.entries[0].sha256}
    with opened_loras() as opened:
        assert scan(files, tmp_path / "index").entries == found.entries
    assert opened == []
    # A row that knows only a name has one file here, not twenty between which nothing could be chosen.
    by_name = found.resolve([LoraIdentity("row", file_name="old/x.safetensors")])
    assert by_name == {"row": Resolved("styles/x.safetensors", "file name")}
    by_content = found.resolve([LoraIdentity("row", sha256=found.entries[0].sha256)])["row"]
    assert (by_content.name, by_content.by, by_content.note) == ("styles/x.safetensors", "hash", "")
    # A row that was written under a name through the link keeps it: workflows and choices have it.
    linked = "styles/again/x.safetensors"
    assert linked in by_content.others
    by_content = found.resolve([LoraIdentity("row", sha256=found.entries[0].sha256, file_name=linked)])["row"]
    assert (by_content.name, by_content.note) == (linked, "")
    assert "styles/x.safetensors" in by_content.others
    by_model = found.resolve([LoraIdentity("row", model_id=ord("x"))])
    assert by_model == {"row": Resolved("styles/x.safetensors", "model id")}


def test_a_link_of_another_name_or_with_a_sidecar_of_its_own_is_still_found_by_them(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    elsewhere = lora(tmp_path / "drive" / "x.safetensors", 1)
    (folder / "styles").mkdir(parents=True)
    (folder / "drive").symlink_to(tmp_path / "drive", target_is_directory=True)
    (folder / "styles" / "x.safetensors").symlink_to(elsewhere)
    (folder / "styles" / "mine.safetensors").symlink_to(elsewhere)
    sidecar(folder / "styles" / "x.safetensors", id=7)
    found = scan(listed(folder), tmp_path / "index", hash_files=False)
    assert found.resolve([LoraIdentity("7", version_id=7)])["7"].name == "styles/x.safetensors"
    assert found.resolve([LoraIdentity("row", file_name="old/mine.safetensors")])["row"].name == "styles/mine.safetensors"


def test_a_link_has_the_facts_of_its_own_sidecars(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    elsewhere = lora(tmp_path / "drive" / "x.safetensors", 1)
    folder.mkdir()
    for place in ("a", "b"):
        (folder / place).mkdir()
        (folder / place / "x.safetensors").symlink_to(elsewhere)
    sidecar(folder / "b" / "x.safetensors", id=7)
    entries = scan(listed(folder), tmp_path / "index").entries
    assert [entry.metadata.version_id for entry in entries] == [None, 7]
    assert len({entry.sha256 for entry in entries}) == 1


@pytest.mark.parametrize(
    ("names", "text"), [(["a"], "a"), (["a\\b", "c", "d"], "a/b, c, d"), (list("abcde"), "a, b, c and 2 more")]
)
def test_many_names_are_told_shortly(names: list[str], text: str) -> None:
    assert listed_shortly(names) == text
