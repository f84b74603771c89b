"""Which file is a row's: by content, by CivitAI's ids, by name; and what is said where that is not certain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carlos_core.database.database import MetricsDatabase
from carlos_core.database.published import load_bundled_database
from carlos_core.loras.library import LibraryEntry, LoraLibrary, scan
from carlos_core.loras.matching import Resolved
from carlos_core.records import LoraIdentity, LoraMetadata
from tests.support.lora_files import listed, lora, sidecar
from tests.support.rows import a_row


def library_of(*names: str, **more: dict[str, Any]) -> LoraLibrary:
    """Files of these names, unhashed and without sidecars; `more`: entries with further facts, by a name without suffix."""
    plain = [LibraryEntry(name, Path(name), 1, 1) for name in names]
    known = []
    for stem, facts in more.items():
        ids = LoraMetadata(version_id=facts.get("version"), model_id=facts.get("model"))  # type: ignore[arg-type]
        path = Path(f"{stem}.safetensors")
        known.append(LibraryEntry(path.name, path, 1, 1, facts.get("sha256"), metadata=ids))  # type: ignore[arg-type]
    return LoraLibrary((*plain, *known))


def found(library: LoraLibrary, **facts: Any) -> Resolved | None:
    return library.resolve([LoraIdentity("row", **facts)]).get("row")  # type: ignore[arg-type]


def named(library: LoraLibrary, file_name: str | None) -> str | None:
    result = found(library, file_name=file_name)
    return None if result is None else result.name


def test_a_file_is_found_where_it_was_indexed() -> None:
    library = library_of("fog.safetensors", "old/fog.safetensors", "styles/snow.safetensors")
    assert named(library, "styles/snow.safetensors") == "styles/snow.safetensors"
    assert named(library, "fog.safetensors") == "fog.safetensors"
    assert found(library, file_name="gone.safetensors") is None


def test_a_file_moved_to_another_folder_is_found_by_its_name() -> None:
    library = library_of("new/place/snow.safetensors")
    for file_name in ("styles/snow.safetensors", "snow.safetensors"):
        assert found(library, file_name=file_name) == Resolved("new/place/snow.safetensors", "file name")


def test_between_two_files_of_a_mere_name_nothing_is_chosen_and_that_is_said() -> None:
    library = library_of("a/snow.safetensors", "b/snow.safetensors")
    result = found(library, file_name="styles/snow.safetensors")
    assert result is not None
    assert (result.name, result.others) == (None, ("a/snow.safetensors", "b/snow.safetensors"))
    assert "a/snow.safetensors, b/snow.safetensors" in result.note
    assert found(library, file_name="b/snow.safetensors") == Resolved("b/snow.safetensors", "file name")


def test_windows_names_are_found_and_given_back_as_they_are_listed() -> None:
    library = library_of("styles\\dark\\snow.safetensors", "new\\fog.safetensors")
    assert named(library, "styles/dark/snow.safetensors") == "styles\\dark\\snow.safetensors"
    assert named(library, "old/fog.safetensors") == "new\\fog.safetensors"
    # A row that another tool wrote on Windows.
    assert named(library_of("styles/snow.safetensors"), "styles\\snow.safetensors") == "styles/snow.safetensors"


def test_a_part_of_a_name_is_not_the_name() -> None:
    assert found(library_of("deepsnow.safetensors", "snow.safetensors.bak"), file_name="snow.safetensors") is None


def test_rows_that_know_nothing_are_not_installed() -> None:
    library = library_of("snow.safetensors", "")
    assert found(library) is None
    assert found(library, file_name="") is None


def test_content_counts_more_than_ids_and_ids_more_than_names() -> None:
    library = library_of(content={"sha256": "aa"}, version={"version": 1}, name={})
    row = {"sha256": "aa", "version_id": 1, "file_name": "name.safetensors"}
    assert found(library, **row) == Resolved("content.safetensors", "hash")
    assert found(library, **(row | {"sha256": None})) == Resolved("version.safetensors", "version id")
    assert found(library, file_name="name.safetensors") == Resolved("name.safetensors", "file name")


def test_of_copies_the_rows_own_is_taken_else_the_one_with_the_shortest_name_and_the_others_are_named() -> None:
    same = {"sha256": "aa"}
    library = library_of(snow_copy=same, snow=same, fog2=same, fog1=same)
    result = found(library, sha256="aa")
    assert result is not None
    assert (result.name, result.by) == ("fog1.safetensors", "hash")
    assert result.others == ("fog2.safetensors", "snow.safetensors", "snow_copy.safetensors")
    assert "fog2.safetensors, snow.safetensors, snow_copy.safetensors" in result.note
    own = found(library, sha256="aa", file_name="snow_copy.safetensors")
    assert own is not None
    assert (own.name, own.others[0]) == ("snow_copy.safetensors", "fog1.safetensors")


def test_two_files_of_one_version_are_said() -> None:
    library = library_of(full={"version": 7}, pruned={"version": 7})
    result = found(library, version_id=7)
    assert result is not None
    assert (result.name, result.by, result.others) == ("full.safetensors", "version id", ("pruned.safetensors",))
    assert "CivitAI version 7" in result.note


def test_a_file_of_the_rows_version_with_another_content_is_not_the_rows() -> None:
    row = {"sha256": "aa", "version_id": 7}
    result = found(library_of(high={"version": 7, "sha256": "bb"}), **row)
    assert result is not None
    assert (result.name, result.others) == (None, ("high.safetensors",))
    assert result.note == "high.safetensors names CivitAI version 7, but is another file than the row's"
    assert found(library_of(high={"version": 0, "sha256": "bb"}), sha256="aa") is None
    # One whose content is not known may be it.
    both = library_of(high={"version": 7, "sha256": "bb"}, low={"version": 7})
    assert found(both, **row) == Resolved("low.safetensors", "version id")
    assert found(both, version_id=7) is not None


def test_two_rows_of_one_version_get_the_file_of_their_own_content() -> None:
    library = library_of(high={"version": 7, "sha256": "bb"}, low={"version": 7, "sha256": "aa"})
    assert found(library, sha256="aa", version_id=7) == Resolved("low.safetensors", "hash")
    assert found(library, sha256="bb".upper(), version_id=7) == Resolved("high.safetensors", "hash")


def test_a_model_id_tells_only_if_nothing_better_is_known_and_one_file_has_it() -> None:
    one, two = library_of(v1={"model": 5}), library_of(v1={"model": 5, "version": 1}, v2={"model": 5, "version": 2})
    assert found(one, model_id=5) == Resolved("v1.safetensors", "model id")
    assert found(two, model_id=5) is None
    assert found(one, model_id=5, version_id=3) is None
    assert found(one, model_id=5, sha256="bb") is None


@pytest.mark.parametrize("facts", [{"sha256": "bb"}, {"version": 2}])
def test_a_file_that_was_replaced_is_no_match_and_that_is_said(facts: dict[str, Any]) -> None:
    row = {"sha256": "aa", "version_id": 1, "file_name": "snow.safetensors"}
    result = found(library_of(snow=facts), **row)
    assert result is not None
    assert result.name is None
    assert result.note == "snow.safetensors has its name but is another LoRA now"
    # The row's own file may have made room for it.
    moved = found(library_of("old/snow.safetensors", snow=facts), **row)
    assert moved == Resolved("old/snow.safetensors", "file name")


def test_files_with_a_problem_are_not_installed(tmp_path: Path) -> None:
    (tmp_path / "snow.safetensors").write_bytes(b"no safetensors")
    assert found(scan(listed(tmp_path), tmp_path / "index"), file_name="snow.safetensors") is None


def test_published_rows_are_installed_through_the_version_in_a_sidecar_never_through_a_folders_name(tmp_path: Path) -> None:
    published = load_bundled_database()
    version_id, folder_name = published.column("version_id")[3], published.column("folder_name")[4]
    sidecar(lora(tmp_path / "loras" / "anything.safetensors", 1), id=version_id)
    lora(tmp_path / "loras" / f"{Path(folder_name).name}.safetensors", 2)
    library = scan(listed(tmp_path / "loras"), tmp_path / "index", hash_files=False)
    assert library.resolve(published.identities) == {str(version_id): Resolved("anything.safetensors", "version id")}


def test_a_database_tells_what_its_rows_know_and_notices_changes() -> None:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    database.upsert(a_row("a", sha256="aa", version_id=1, model_id=2, file_name="a.safetensors"))
    assert database.identities == [LoraIdentity("a", "aa", 1, 2, "a.safetensors")]
    database.upsert(a_row("b"))
    database.set_value("a", "file_name", "c.safetensors")
    assert database.identities == [LoraIdentity("a", "aa", 1, 2, "c.safetensors"), LoraIdentity("b")]
