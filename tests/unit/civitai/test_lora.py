"""From ids to a measured LoRA: which version, which file, what lies beside it, and what is not fetched at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import carlos_core as carlos
from carlos_core.civitai.lora import CivitaiLora, lora_file_of
from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.errors import CivitaiError, CivitaiNotFound, EncoderError, GenerationError, IndexingError
from carlos_core.loras.lora_file import read_lora_file
from carlos_core.loras.metadata import read_sidecar
from carlos_core.records import LoraMetadata
from tests.support import miniworld
from tests.support.bench import PROMPTS
from tests.support.civitai_server import KEY, CivitaiServer, client_of
from tests.support.drawing_generator import DrawingGenerator, lora_file
from tests.support.rows import a_row


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return lora_file(tmp_path / "made.safetensors").read_bytes()


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    folder = tmp_path / "loras"
    folder.mkdir()
    return folder


@pytest.fixture
def configured(civitai: CivitaiServer, monkeypatch: pytest.MonkeyPatch) -> CivitaiServer:
    """The imitation in place of CivitAI, as the environment says."""
    monkeypatch.setenv("CARLOS_CIVITAI_URL", civitai.url)
    monkeypatch.setenv("CIVITAI_API_KEY", KEY)
    return civitai


@pytest.fixture
def empty_database() -> carlos.MetricsDatabase:
    return carlos.MetricsDatabase.empty(miniworld.encoder_id(), dimension=64)


def wanted(civitai: CivitaiServer, model_id: str | int | None = None, version_id: str | int | None = None) -> CivitaiLora:
    return CivitaiLora(model_id, version_id, lambda: client_of(civitai))


def test_a_fetched_lora_has_civitais_facts_beside_it(civitai: CivitaiServer, content: bytes, loras: Path) -> None:
    civitai.add(5, content)
    path = wanted(civitai, version_id=" 5 ").fetch(loras)
    assert sorted(file.name for file in loras.iterdir()) == ["snow.civitai.info", "snow.safetensors"]
    assert json.loads((loras / "snow.civitai.info").read_text(encoding="utf-8")) == civitai.versions[5]
    assert read_sidecar(path) == LoraMetadata(
        version_id=5,
        model_id=7,
        model_name="Snow & Ice",
        base_model="SDXL 1.0",
        trigger_words=("snw style", "cold breath"),
        nsfw_level=3,
        download_count=215627,
        preview_url=f"{civitai.url}/images/5.jpeg",
    )
    assert read_lora_file(path).lora_id == "5"


def test_a_model_stands_for_its_newest_version_with_a_lora_file(civitai: CivitaiServer, content: bytes) -> None:
    civitai.add(11, content, publishedAt="2025-03-01T00:00:00.000Z")
    civitai.add(12, content, publishedAt="2025-01-01T00:00:00.000Z")
    civitai.add(13, {"new.ckpt": content}, publishedAt="2025-05-01T00:00:00.000Z")
    civitai.add(14, content, publishedAt="2025-06-01T00:00:00.000Z", usageControl="InternalGeneration")
    assert wanted(civitai, model_id="7").version_id == 11
    assert wanted(civitai, model_id=7, version_id=12).version_id == 12
    civitai.add(21, content, model_id=8)
    with pytest.raises(CivitaiError, match="Version 21 belongs to model 8, not to 7"):
        _ = wanted(civitai, 7, 21).version


def test_ids_that_are_missing_or_no_numbers_are_refused_without_a_request(civitai: CivitaiServer) -> None:
    for nothing in (None, "", "  "):
        with pytest.raises(CivitaiError, match="not said which LoRA") as caught:
            wanted(civitai, nothing, nothing)
        assert "a model id, a version id, or both" in caught.value.hint
    for text in ("snow", "-5", "5.0", "1e3", "../7", "٣", "9" * 19):
        with pytest.raises(CivitaiError, match="is not a version id"):
            wanted(civitai, None, text)
        with pytest.raises(CivitaiError, match="is not a model id"):
            wanted(civitai, text, 5)
    assert civitai.requests == []


def test_a_model_without_a_version_to_take_says_why(civitai: CivitaiServer, content: bytes) -> None:
    civitai.add(13, {"new.ckpt": content})
    with pytest.raises(CivitaiError, match=r"Version 13 has no safetensors file, only 'new\.ckpt'"):
        _ = wanted(civitai, model_id=7).version_id
    civitai.models[7]["modelVersions"] = []
    with pytest.raises(CivitaiError, match="has no published version"):
        _ = wanted(civitai, model_id=7).version_id


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"model": {"name": "Big", "type": "Checkpoint"}}, "is a Checkpoint, not a LoRA"),
        ({"model": {"type": "LORA", "mode": "TakenDown"}, "files": []}, "was taken off CivitAI"),
        ({"model": {"type": "LORA", "mode": "Archived"}, "files": []}, "was taken off CivitAI"),
        ({"usageControl": "Generation"}, "on the site only"),
        ({"files": []}, "has no safetensors file"),
    ],
)
def test_what_cannot_be_taken_has_a_reason(civitai: CivitaiServer, content: bytes, facts: dict[str, Any], what: str) -> None:
    civitai.add(5, content, **facts)
    with pytest.raises(CivitaiError, match=what) as caught:
        lora_file_of(client_of(civitai).version(5))
    assert isinstance(caught.value, CivitaiNotFound) == ("taken off" in what)


def test_of_several_files_the_primary_safetensors_one_is_taken_or_the_one_that_is_asked_for(
    civitai: CivitaiServer, content: bytes
) -> None:
    # The first file is the primary one.
    civitai.add(1, {"a.ckpt": content, "b.zip": content, "c.safetensors": content, "d.safetensors": content})
    civitai.add(2, {"c.safetensors": content, "d.safetensors": content})
    civitai.add(3, {"a.ckpt": content, "b.zip": content})
    civitai.add(4, {"train.safetensors": content, "real.safetensors": content})
    civitai.versions[4]["files"][0]["type"] = "Training Data"
    client = client_of(civitai)
    chosen = [lora_file_of(client.version(k)).name for k in (1, 2, 3, 4)]
    assert chosen == ["c.safetensors", "c.safetensors", "b.zip", "real.safetensors"]
    for which in ("21", "d", "D.safetensors"):
        assert lora_file_of(client.version(2), which).name == "d.safetensors"
    with pytest.raises(CivitaiError, match="Version 2 has no file '99'") as caught:
        lora_file_of(client.version(2), "99")
    assert "'c.safetensors' (20), 'd.safetensors' (21)" in caught.value.hint
    with pytest.raises(CivitaiError, match="Version 2 has several files 'safetensors'"):
        lora_file_of(client.version(2), "safetensors")
    with pytest.raises(CivitaiError, match="Version 1 has no file 'a.ckpt'"):
        lora_file_of(client.version(1), "a.ckpt")


def test_a_file_is_also_known_by_its_sha256_which_of_one_in_a_zip_is_not_known(civitai: CivitaiServer, content: bytes) -> None:
    other = content[:-1] + b"\0"
    civitai.add(5, {"high.safetensors": content, "low.safetensors": other})
    civitai.add(6, {"a.zip": b"packed", "b.ckpt": content})
    client = client_of(civitai)
    assert lora_file_of(client.version(5), hashlib.sha256(other).hexdigest()).name == "low.safetensors"
    assert lora_file_of(client.version(6), hashlib.sha256(content).hexdigest()).name == "a.zip"
    with pytest.raises(CivitaiNotFound, match="has other files now than the one that was measured"):
        lora_file_of(client.version(5), "0" * 64)


def test_a_file_that_is_at_hand_under_another_name_is_used(civitai: CivitaiServer, content: bytes, loras: Path) -> None:
    civitai.add(5, content)
    mine = loras / "styles" / "my snow.safetensors"
    mine.parent.mkdir()
    mine.write_bytes(content)
    (loras / "other.safetensors").write_bytes(content[:-1] + b"\0")
    assert wanted(civitai, version_id=5).fetch(loras, at_hand=[loras / "other.safetensors", loras / "gone", mine]) == mine
    assert civitai.of("storage") == []
    assert read_sidecar(mine).version_id == 5
    assert not (loras / "other.civitai.info").exists()


def test_a_zip_that_was_unpacked_before_is_known_by_its_sidecar(
    civitai: CivitaiServer, content: bytes, loras: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "snow.zip", "w") as archive:
        archive.writestr("inside.safetensors", content)
    civitai.add(5, {"snow.zip": (tmp_path / "snow.zip").read_bytes()})
    path = wanted(civitai, version_id=5).fetch(loras)
    assert path == loras / "inside.safetensors"
    fetched = len(civitai.of("storage"))
    assert wanted(civitai, version_id=5).fetch(loras, at_hand=[path]) == path
    assert len(civitai.of("storage")) == fetched


def packed(folder: Path, name: str, content: bytes) -> bytes:
    """A ZIP with one LoRA in it."""
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.writestr(name, content)
    return (folder / "packed.zip").read_bytes()


def test_of_several_files_in_zips_none_is_taken_for_another_one(
    civitai: CivitaiServer, content: bytes, loras: Path, tmp_path: Path
) -> None:
    other = content[:-1] + b"\0"
    zips = {f"{name}.zip": packed(tmp_path, f"{name}.safetensors", data) for name, data in (("high", content), ("low", other))}
    civitai.add(5, zips)
    civitai.add(6, {"high.safetensors": content, "low.zip": zips["low.zip"]})
    for version in (5, 6):
        high = CivitaiLora(None, version, lambda: client_of(civitai), file="high").fetch(loras)
        low = CivitaiLora(None, version, lambda: client_of(civitai), file="low").fetch(loras, at_hand=[high])
        assert [path.name for path in (high, low)] == ["high.safetensors", "low.safetensors"]
        assert low.read_bytes() == other
    # By its hash the one that was measured is known, whatever it came in.
    n = len(civitai.of("storage"))
    of_row = CivitaiLora(None, 5, lambda: client_of(civitai), file=hashlib.sha256(other).hexdigest())
    assert (of_row.fetch(loras, at_hand=[high, low]), len(civitai.of("storage"))) == (low, n)


def test_a_file_in_a_zip_is_not_known_by_the_row_of_the_main_file(
    configured: CivitaiServer, content: bytes, empty_database: carlos.MetricsDatabase, encoder: OpenClipEncoder, tmp_path: Path
) -> None:
    other = content[:-1] + b"\0"
    configured.add(5, {"main.safetensors": content, "second.zip": packed(tmp_path, "second.safetensors", other)})
    options: dict[str, Any] = {"encoder": encoder, "prompts": PROMPTS, "max_prompts": 3, "working_directory": tmp_path / "work"}
    options |= {"lora_source": "civitai", "generator": DrawingGenerator(), "download_directory": tmp_path / "mine"}
    carlos.index_lora(empty_database, version_id=5, **options)
    second = carlos.index_lora(empty_database, version_id=5, civitai_file="second", **options)
    assert (second.is_new, second.record.sha256) == (True, hashlib.sha256(other).hexdigest())
    assert len(empty_database) == 2


def test_the_published_row_of_a_version_is_not_that_of_the_file_that_is_named(
    configured: CivitaiServer, content: bytes, empty_database: carlos.MetricsDatabase, encoder: OpenClipEncoder
) -> None:
    empty_database.upsert(a_row("5", np.ones(64), version_id=5))
    configured.add(5, {"high.safetensors": content, "low.safetensors": content[:-1] + b"\0"})
    assert carlos.index_lora(empty_database, lora_source="civitai", version_id=5).lora_id == "5"
    with pytest.raises(GenerationError, match="stable-diffusion-xl-base-1.0 is not here and could not be fetched"):
        carlos.index_lora(empty_database, lora_source="civitai", version_id=5, civitai_file="low", encoder=encoder)


def test_a_users_own_sidecar_is_kept_and_one_that_was_left_behind_is_not(
    civitai: CivitaiServer, content: bytes, loras: Path
) -> None:
    civitai.add(5, content)
    path = loras / "snow.safetensors"
    sidecar = loras / "snow.civitai.info"
    path.write_bytes(content)
    sidecar.write_text('{"id": 99, "trainedWords": ["mine"]}')
    wanted(civitai, version_id=5).fetch(loras, at_hand=[path])
    assert read_sidecar(path).trigger_words == ("mine",)
    path.unlink()
    wanted(civitai, version_id=5).fetch(loras)
    assert read_sidecar(path).version_id == 5


def test_index_lora_fetches_measures_and_writes_the_row(
    configured: CivitaiServer, content: bytes, empty_database: carlos.MetricsDatabase, encoder: OpenClipEncoder, tmp_path: Path
) -> None:
    configured.add(5, content)
    generator = DrawingGenerator()
    options: dict[str, Any] = {"encoder": encoder, "prompts": PROMPTS, "max_prompts": 3, "working_directory": tmp_path / "work"}
    options |= {"lora_source": "civitai", "generator": generator, "download_directory": tmp_path / "mine"}
    result = carlos.index_lora(empty_database, model_id="7", version_id="5", **options)
    assert (result.is_new, result.lora_id) == (True, "5")
    row = result.row
    assert (row["version_id"], row["model_id"], row["model_name"]) == (5, 7, "Snow & Ice")
    assert (row["base_model"], row["trigger_words"]) == ("SDXL", ["snw style", "cold breath"])
    assert (row["sha256"], row["file_name"]) == (hashlib.sha256(content).hexdigest(), "snow.safetensors")
    assert (row["nsfw_level"], row["download_count"]) == (3, 215627)
    assert row["preview_url"] == f"{configured.url}/images/5.jpeg"
    assert generator.lora_jobs[0].triggers == ("snw style", "cold breath")
    plain = lora_file(tmp_path / "plain.safetensors", trigger="snw style, cold breath")
    expected = carlos.index_lora(
        carlos.MetricsDatabase.empty(miniworld.encoder_id(), 64),
        **{**options, "lora_source": plain, "generator": DrawingGenerator()},
    )
    assert result.vector.direction.tobytes() == expected.vector.direction.tobytes()

    asked = len(configured.requests)
    again = carlos.index_lora(empty_database, version_id=5, **options)
    assert (again.is_new, again.lora_id, len(configured.requests)) == (False, "5", asked)
    by_model = carlos.index_lora(empty_database, model_id=7, **options)
    assert (by_model.is_new, len(configured.of("storage"))) == (False, 1)
    renewed = carlos.index_lora(empty_database, version_id=5, **{**options, "overwrite": True})
    assert (renewed.is_new, len(empty_database), len(configured.of("storage"))) == (True, 1, 1)


def test_a_row_that_got_its_version_later_is_known_by_it(
    configured: CivitaiServer, empty_database: carlos.MetricsDatabase
) -> None:
    empty_database.upsert(a_row("sha256:0123456789abcdef", np.ones(64), version_id=5))
    result = carlos.index_lora(empty_database, lora_source="civitai", version_id=5)
    assert (result.is_new, result.lora_id, configured.requests) == (False, "sha256:0123456789abcdef", [])


def test_both_files_of_a_version_get_a_row(
    configured: CivitaiServer, content: bytes, empty_database: carlos.MetricsDatabase, encoder: OpenClipEncoder, tmp_path: Path
) -> None:
    other = content[:-1] + b"\0"
    configured.add(5, {"high.safetensors": content, "low.safetensors": other})
    options: dict[str, Any] = {"encoder": encoder, "prompts": PROMPTS, "max_prompts": 3, "working_directory": tmp_path / "work"}
    options |= {"lora_source": "civitai", "generator": DrawingGenerator(), "download_directory": tmp_path / "mine"}
    high = carlos.index_lora(empty_database, version_id=5, **options)
    low = carlos.index_lora(empty_database, version_id=5, civitai_file="low", **options)
    assert [(result.is_new, result.record.file_name) for result in (high, low)] == [
        (True, "high.safetensors"),
        (True, "low.safetensors"),
    ]
    assert (high.lora_id, low.lora_id) == ("5", f"sha256:{hashlib.sha256(other).hexdigest()[:16]}")
    assert [row["version_id"] for row in (high.row, low.row)] == [5, 5]
    for which, found in (("", high), ("high", high), ("51", low), ("low.safetensors", low)):
        again = carlos.index_lora(empty_database, version_id=5, civitai_file=which, **options)
        assert (again.is_new, again.lora_id) == (False, found.lora_id)
    assert len(configured.of("storage")) == 2


def test_nothing_is_fetched_for_a_run_that_cannot_be_made(
    configured: CivitaiServer, content: bytes, empty_database: carlos.MetricsDatabase, encoder: OpenClipEncoder, home: Path
) -> None:
    configured.add(5, content)
    with pytest.raises(IndexingError, match="read-only"):
        carlos.index_lora(carlos.load_bundled_database(), lora_source="civitai", version_id=5, generator=DrawingGenerator())
    with pytest.raises(EncoderError, match="mini_clip.* is not installed"):
        carlos.index_lora(empty_database, lora_source="civitai", version_id=5)
    with pytest.raises(GenerationError, match="stable-diffusion-xl-base-1.0 is not here and could not be fetched"):
        carlos.index_lora(empty_database, lora_source="civitai", version_id=5, encoder=encoder)
    assert configured.requests == []
    assert not home.exists()


def test_downloads_go_to_the_home_folder_unless_told_otherwise(
    configured: CivitaiServer, content: bytes, empty_database: carlos.MetricsDatabase, encoder: OpenClipEncoder, home: Path
) -> None:
    configured.add(5, content)
    carlos.index_lora(
        empty_database,
        lora_source="civitai",
        version_id=5,
        generator=DrawingGenerator(),
        encoder=encoder,
        prompts=PROMPTS,
        max_prompts=2,
    )
    assert sorted(path.name for path in (home / "loras").iterdir()) == ["snow.civitai.info", "snow.safetensors"]
    shutil.rmtree(home)


def test_facts_behind_a_link_are_written_where_they_are(civitai: CivitaiServer, content: bytes, loras: Path) -> None:
    civitai.add(5, content, trainedWords=["half \ud83d"])
    (loras / "elsewhere").mkdir()
    (loras / "snow.civitai.info").symlink_to("elsewhere/facts")
    wanted(civitai, version_id=5).fetch(loras)
    assert (loras / "snow.civitai.info").is_symlink()
    facts = json.loads((loras / "elsewhere" / "facts").read_text(encoding="utf-8"))
    assert facts == {**civitai.versions[5], "trainedWords": ["half "]}
