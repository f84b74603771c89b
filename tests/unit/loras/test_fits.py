"""Fits of LoRA files: looked at once for each layout and model, and kept; what an older version has hashed is not lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from carlos_core.errors import LoraError
from carlos_core.loras.fits import fits_of
from carlos_core.loras.header import read_header
from carlos_core.loras.library import LibraryEntry, scan
from carlos_core.records import LayerFit
from tests.support.lora_files import listed, lora, sidecar


class Looks:
    """Looks at files, and remembers at which."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, path: Path) -> LayerFit:
        self.names.append(path.name)
        if path.name.startswith("odd"):
            raise LoraError("It makes no sense.")
        return LayerFit(1, 1) if read_header(path).shapes and "wide" not in path.name else LayerFit(0, 1, 1)


@pytest.fixture
def entries(tmp_path: Path) -> tuple[LibraryEntry, ...]:
    folder = tmp_path / "loras"
    for place in range(5):
        lora(folder / f"a{place}.safetensors", place)
        lora(folder / f"wide{place}.safetensors", place, width=4096)
    lora(folder / "odd.safetensors", width=1)
    (folder / "broken.safetensors").write_bytes(b"nothing")
    return scan(listed(folder), tmp_path / "loras.sqlite").entries


def test_one_file_of_each_layout_is_looked_at_once_for_a_model(entries: tuple[LibraryEntry, ...], tmp_path: Path) -> None:
    looks, again = Looks(), Looks()
    found = fits_of(entries, tmp_path / "loras.sqlite", "a model", looks)
    assert len(looks.names) == 3
    assert {name for name, fit in found.items() if fit.fits} == {f"a{place}.safetensors" for place in range(5)}
    assert found["wide3.safetensors"] == LayerFit(0, 1, 1)
    assert found["odd.safetensors"] == LayerFit(0, 0)
    assert "broken.safetensors" not in found
    assert fits_of(entries, tmp_path / "loras.sqlite", "a model", again) == found
    assert again.names == []
    fits_of(entries, tmp_path / "loras.sqlite", "another model", again)
    assert len(again.names) == 3


def test_what_was_found_before_a_cancel_is_kept(entries: tuple[LibraryEntry, ...], tmp_path: Path) -> None:
    def cancel(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fits_of(entries, tmp_path / "loras.sqlite", "a model", Looks(), cancel)
    looks = Looks()
    fits_of(entries, tmp_path / "loras.sqlite", "a model", looks)
    assert len(looks.names) == 2


def test_a_file_that_is_gone_or_another_when_it_is_looked_at_says_nothing_of_those_like_it(
    entries: tuple[LibraryEntry, ...], tmp_path: Path
) -> None:
    by_name = {entry.name: entry.path for entry in entries}
    for place in range(5):
        by_name[f"wide{place}.safetensors"].unlink()
    by_name["a0.safetensors"].unlink()
    lora(by_name["a1.safetensors"], width=5)
    looks = Looks()
    found = fits_of(entries, tmp_path / "loras.sqlite", "a model", looks)
    assert found["a3.safetensors"] == LayerFit(1, 1)
    assert "a2.safetensors" in looks.names
    assert not [name for name in found if name.startswith("wide")]
    lora(by_name["wide0.safetensors"], width=4096)
    assert fits_of(entries, tmp_path / "loras.sqlite", "a model", looks)["wide0.safetensors"] == LayerFit(0, 1, 1)


@pytest.mark.parametrize(("layers", "of", "fits"), [(0, 0, False), (0, 3, False), (1, 3, False), (2, 4, True), (4, 4, True)])
def test_a_lora_fits_if_half_of_its_layers_do(layers: int, of: int, fits: bool) -> None:
    assert LayerFit(layers, of).fits == fits


def test_an_index_of_the_first_version_keeps_its_hashes_and_is_read_again(tmp_path: Path) -> None:
    path = lora(tmp_path / "loras" / "a.safetensors", 1)
    sidecar(path, id=5)
    index = tmp_path / "loras.sqlite"
    (before,) = scan(listed(path.parent), index).entries
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute("DROP TABLE fits")
        connection.execute("""UPDATE files SET facts = json_set(json_remove(facts, '$.layout'), '$.base_model', 'Flux')""")
        connection.execute("PRAGMA user_version = 1")
    (after,) = scan(listed(path.parent), index, hash_files=False).entries
    assert after == before
    assert after.sha256 is not None
