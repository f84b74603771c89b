"""LoRAs in ZIPs: the one file that is needed comes out, and nothing else, whatever the archive wants."""

from __future__ import annotations

import io
import pickle
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from carlos_core.errors import CivitaiError
from tests.support.civitai_server import CivitaiServer, client_of

LORA = save({"noise": np.random.default_rng(6).integers(0, 256, 50_000, dtype=np.uint8)})
PICKLE = pickle.dumps({"weights": [1.0, 2.0]})


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    return tmp_path / "models" / "loras"


def zip_of(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def fetch(civitai: CivitaiServer, loras: Path, content: bytes) -> Path:
    civitai.add(5, {"snow.zip": content})
    client = client_of(civitai)
    return client.download(client.version(5).files[0], loras)


def all_files(loras: Path) -> list[str]:
    """Every file beside or below the models folder."""
    root = loras.parent.parent
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_the_lora_comes_out_under_its_own_name_and_the_rest_stays_in(
    civitai: CivitaiServer, loras: Path, compression: int
) -> None:
    entries = (
        ("read me.txt", b"hello"),
        ("v1/SDXL/Frost v1.safetensors", LORA),
        ("preview.png", b"png"),
        ("old.ckpt", PICKLE),
    )
    path = fetch(civitai, loras, zip_of(*entries, compression=compression))
    assert path == loras / "Frost v1.safetensors"
    assert path.read_bytes() == LORA
    assert all_files(loras) == ["models/loras/Frost v1.safetensors"]


def test_the_shadows_that_macs_add_are_no_second_lora(civitai: CivitaiServer, loras: Path) -> None:
    content = zip_of(("a.safetensors", LORA), ("__MACOSX/._a.safetensors", b"shadow"), ("._a.safetensors", b"shadow"))
    assert fetch(civitai, loras, content).read_bytes() == LORA


def test_an_entry_without_a_name_and_a_folder_are_no_second_lora(civitai: CivitaiServer, loras: Path) -> None:
    """The first was found by fuzzing."""
    content = zip_of(("name", b""), ("a.safetensors", LORA), ("b.safetensors/", b""))
    place = content.index(b"PK\x01\x02")
    # Lengths of name, extra field and comment: the name is the comment now.
    nameless = content[: place + 28] + struct.pack("<HHH", 0, 0, 4) + content[place + 34 :]
    assert fetch(civitai, loras, nameless).read_bytes() == LORA


def test_a_broken_connection_is_taken_up_for_a_zip_too(civitai: CivitaiServer, loras: Path) -> None:
    civitai.cuts = [10_000, 30_000]
    content = zip_of(("a.safetensors", LORA), compression=zipfile.ZIP_STORED)
    assert fetch(civitai, loras, content).read_bytes() == LORA


def test_the_same_lora_unpacked_before_is_used_and_another_of_its_name_is_kept(civitai: CivitaiServer, loras: Path) -> None:
    content = zip_of(("a.safetensors", LORA))
    assert fetch(civitai, loras, content) == fetch(civitai, loras, content) == loras / "a.safetensors"
    (loras / "a.safetensors").write_bytes(b"mine")
    assert fetch(civitai, loras, content) == loras / "a.5.safetensors"
    assert (loras / "a.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.safetensors",
        "../../../evil.safetensors",
        "a/../../evil.safetensors",
        "/tmp/evil.safetensors",
        "C:/evil.safetensors",
        "C:evil.safetensors",
        "..\\..\\evil.safetensors",
        "\\\\server\\share\\evil.safetensors",
        "evil.safetensors\0/../../x",
    ],
)
@pytest.mark.parametrize("is_the_lora", [True, False])
def test_a_path_that_leads_out_of_the_folder_is_refused(
    civitai: CivitaiServer, loras: Path, name: str, is_the_lora: bool
) -> None:
    placeholder = "x" * len(name)
    other = () if is_the_lora else (("good.safetensors", LORA),)
    # zipfile itself would mend such a name, so it is put in afterwards; in the list of contents and before the content.
    content = zip_of((placeholder, LORA), *other).replace(placeholder.encode(), name.encode())
    with pytest.raises(CivitaiError, match="wants to write outside of its folder"):
        fetch(civitai, loras, content)
    assert all_files(loras) == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_a_device_is_refused(civitai: CivitaiServer, loras: Path, kind: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("a.safetensors")
        link.create_system = 3
        link.external_attr = (kind | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CivitaiError, match="a link or a device"):
        fetch(civitai, loras, buffer.getvalue())
    assert all_files(loras) == []


def test_a_bomb_that_says_how_large_it_is_is_refused(civitai: CivitaiServer, loras: Path) -> None:
    content = zip_of(("a.safetensors", bytes(40_000_000)))
    assert len(content) < 100_000
    with pytest.raises(CivitaiError, match="40,000,000 bytes packed into"):
        fetch(civitai, loras, content)
    assert all_files(loras) == []


def test_a_bomb_that_hides_its_size_is_stopped(civitai: CivitaiServer, loras: Path) -> None:
    content = bytearray(zip_of(("a.safetensors", bytes(40_000_000))))
    # The size in the list of contents and before the content (APPNOTE.TXT, 4.3.7 and 4.3.12).
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(mark) + offset, 1000)
    with pytest.raises(CivitaiError, match="damaged or packed in an unknown way"):
        fetch(civitai, loras, bytes(content))
    assert all_files(loras) == []


def test_a_size_that_no_lora_has_is_refused(civitai: CivitaiServer, loras: Path) -> None:
    content = bytearray(zip_of(("a.safetensors", LORA)))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(mark) + offset, 0xFFFFFFF0)
    with pytest.raises(CivitaiError, match="4,294,967,280 bytes packed into"):
        fetch(civitai, loras, bytes(content))
    assert all_files(loras) == []


def test_two_loras_are_not_chosen_between(civitai: CivitaiServer, loras: Path) -> None:
    with pytest.raises(CivitaiError, match=r"holds 2 LoRAs \('a\.safetensors', 'b/a\.safetensors'\)") as caught:
        fetch(civitai, loras, zip_of(("a.safetensors", LORA), ("b/a.safetensors", LORA)))
    assert "unpack the one you want" in caught.value.hint
    assert all_files(loras) == []


@pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.bin", "a.safetensors.pkl"])
def test_a_zip_without_a_safetensors_file_is_refused(civitai: CivitaiServer, loras: Path, name: str) -> None:
    with pytest.raises(CivitaiError, match="holds no safetensors file") as caught:
        fetch(civitai, loras, zip_of((name, PICKLE)))
    assert "can run code" in caught.value.hint
    assert all_files(loras) == []


def test_a_pickle_that_calls_itself_safetensors_is_refused(civitai: CivitaiServer, loras: Path) -> None:
    with pytest.raises(CivitaiError, match=r"a\.safetensors is not a safetensors file"):
        fetch(civitai, loras, zip_of(("a.safetensors", PICKLE)))
    assert all_files(loras) == []


def test_damaged_encrypted_and_false_zips_are_refused(civitai: CivitaiServer, loras: Path) -> None:
    good = zip_of(("a.safetensors", LORA))
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    encrypted = bytearray(good)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark) + offset] |= 1
    for content, what in (
        (bytes(damaged), "damaged"),
        (bytes(encrypted), "encrypted"),
        (LORA, "not one"),
        (good[:-30], "not one"),
    ):
        with pytest.raises(CivitaiError, match=what) as caught:
            fetch(civitai, loras, content)
        assert caught.value.hint
        assert all_files(loras) == []
