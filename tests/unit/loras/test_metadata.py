"""What other tools wrote beside a LoRA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from carlos_core.loras.lora_file import read_lora_file
from carlos_core.loras.metadata import read_sidecar
from carlos_core.records import LoraMetadata
from tests.support import miniworld

CIVITAI = {
    "id": 2588340,
    "modelId": 2300298,
    "name": "v1.0",
    "baseModel": "Pony",
    "trainedWords": ["snw style", " cold, breath, ", "", "snw style"],
    "nsfwLevel": 4,
    "stats": {"downloadCount": 1234, "thumbsUpCount": 5},
    "model": {"name": "Snow & Ice", "type": "LORA", "nsfw": False},
}
FROM_CIVITAI = LoraMetadata(
    version_id=2588340,
    model_id=2300298,
    model_name="Snow & Ice",
    base_model="Pony",
    trigger_words=("snw style", "cold, breath"),
    nsfw_level=4,
    download_count=1234,
)
LORA_MANAGER = {"file_name": "a", "model_name": "My snow", "base_model": "Illustrious", "civitai": CIVITAI}
WEBUI = {"description": "mine", "sd version": "SDXL", "activation text": " snw style, cold breath ,", "preferred weight": 0.8}


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A file with a trigger phrase of its own, and a dot in its name."""
    path = tmp_path / "my.snow.v1.safetensors"
    shutil.copy(miniworld.MINIWORLD / "loras" / "pink_hearts.safetensors", path)
    return path


def beside(lora: Path, suffix: str, content: object) -> Path:
    path = lora.with_name(f"my.snow.v1{suffix}")
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_without_a_sidecar_nothing_is_known(lora: Path) -> None:
    assert read_sidecar(lora) == LoraMetadata()


def test_civitais_own_form_is_read(lora: Path) -> None:
    beside(lora, ".civitai.info", CIVITAI)
    assert read_sidecar(lora) == FROM_CIVITAI


def test_lora_managers_form_is_read_and_its_own_facts_win(lora: Path) -> None:
    beside(lora, ".metadata.json", LORA_MANAGER)
    found = read_sidecar(lora)
    assert (found.model_name, found.base_model) == ("My snow", "Illustrious")
    assert (found.version_id, found.model_id, found.trigger_words) == (2588340, 2300298, ("snw style", "cold, breath"))
    assert (found.nsfw_level, found.download_count) == (4, 1234)
    beside(lora, ".metadata.json", {"model_name": "", "base_model": None, "civitai": CIVITAI})
    assert read_sidecar(lora) == FROM_CIVITAI
    beside(lora, ".metadata.json", {"model_name": "Mine", "civitai": None})
    assert read_sidecar(lora) == LoraMetadata(model_name="Mine")


def test_the_web_uis_form_is_read(lora: Path) -> None:
    beside(lora, ".json", WEBUI)
    assert read_sidecar(lora) == LoraMetadata(base_model="SDXL", trigger_words=("snw style", "cold breath"))


def test_the_forms_are_looked_for_in_their_order(lora: Path) -> None:
    beside(lora, ".json", WEBUI)
    beside(lora, ".metadata.json", LORA_MANAGER)
    assert read_sidecar(lora).model_name == "My snow"
    beside(lora, ".civitai.info", CIVITAI)
    assert read_sidecar(lora).model_name == "Snow & Ice"


def test_each_fact_is_that_of_the_first_sidecar_that_has_it(lora: Path) -> None:
    beside(lora, ".civitai.info", {})
    beside(lora, ".json", WEBUI)
    assert read_sidecar(lora) == LoraMetadata(base_model="SDXL", trigger_words=("snw style", "cold breath"))
    beside(lora, ".civitai.info", {"id": 7, "baseModel": "Other", "trainedWords": [], "nsfwLevel": 0})
    found = read_sidecar(lora)
    assert (found.version_id, found.base_model, found.trigger_words) == (7, "SDXL", ("snw style", "cold breath"))
    assert found.nsfw_level == 0
    # What is broken leaves the rest.
    beside(lora, ".metadata.json", "{")
    assert read_sidecar(lora) == found


def test_ids_that_are_none_are_left_out(lora: Path) -> None:
    beside(lora, ".civitai.info", {"id": 0, "modelId": -1})
    beside(lora, ".cm-info.json", {"VersionId": 7})
    assert read_sidecar(lora) == LoraMetadata(version_id=7)


def test_that_there_are_no_words_is_known_if_no_sidecar_has_any(lora: Path) -> None:
    beside(lora, ".civitai.info", {"id": 7, "trainedWords": []})
    beside(lora, ".json", {"activation text": " , "})
    assert read_sidecar(lora).trigger_words == ()


STABILITY_MATRIX = {
    "ModelId": 2300298,
    "ModelName": "Snow & Ice",
    "VersionId": 2588340,
    "BaseModel": "Pony",
    "TrainedWords": ["snw style", " cold, breath, "],
    "Hashes": {"SHA256": "AB" * 32},
    "Stats": {"DownloadCount": 1234},
    "ThumbnailImageUrl": "/home/me/snow.png",
    "UserTitle": None,
}
RGTHREE = {
    "file": "my.snow.v1.safetensors",
    "name": "Snow & Ice",
    "baseModel": "Pony",
    "links": ["https://example.org/snow", "https://civitai.com/models/2300298/snow?modelVersionId=2588340"],
    "trainedWords": [
        {"word": "snw style", "civitai": True, "count": 40},
        {"word": "1girl", "count": 80, "metadata": True},
        {"word": "icy", "user": True},
        "odd",
    ],
}


def test_stability_matrixs_form_is_read(lora: Path) -> None:
    beside(lora, ".cm-info.json", STABILITY_MATRIX)
    expected = LoraMetadata(2588340, 2300298, "Snow & Ice", "Pony", ("snw style", "cold, breath"), download_count=1234)
    assert read_sidecar(lora) == expected
    shown = {"UserTitle": "Mine", "ThumbnailImageUrl": "https://image.example/1.jpg"}
    beside(lora, ".cm-info.json", STABILITY_MATRIX | shown)
    found = read_sidecar(lora)
    assert (found.model_name, found.preview_url) == ("Mine", "https://image.example/1.jpg")


def test_rgthrees_form_is_read_without_the_tags_of_the_training(lora: Path) -> None:
    beside(lora, ".safetensors.rgthree-info.json", RGTHREE)
    found = read_sidecar(lora)
    assert (found.version_id, found.model_id) == (2588340, 2300298)
    assert (found.model_name, found.base_model) == ("Snow & Ice", "Pony")
    assert found.trigger_words == ("snw style", "icy")
    beside(lora, ".safetensors.rgthree-info.json", {"raw": {"civitai": CIVITAI}, "trainedWords": []})
    assert read_sidecar(lora) == FROM_CIVITAI


def test_swarms_form_is_read(lora: Path) -> None:
    facts = {"architecture": "stable-diffusion-xl-v1-base/lora", "title": "Snow", "trigger_phrase": "snw style, icy"}
    beside(lora, ".swarm.json", {f"modelspec.{key}": value for key, value in facts.items()})
    assert read_sidecar(lora) == LoraMetadata(model_name="Snow", base_model="SDXL", trigger_words=("snw style", "icy"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_sidecars_are_read_in_any_unicode_encoding(lora: Path, encoding: str) -> None:
    text = json.dumps({"activation text": "снег, 雪"}, ensure_ascii=False)
    lora.with_name("my.snow.v1.json").write_bytes(text.encode(encoding))
    assert read_sidecar(lora).trigger_words == ("снег", "雪")


@pytest.mark.parametrize("content", ["", "{", "no json", '{"id": 7'])
def test_a_broken_sidecar_is_left_out_with_a_line_in_the_log(lora: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    beside(lora, ".civitai.info", content)
    beside(lora, ".json", WEBUI)
    assert read_sidecar(lora).trigger_words == ("snw style", "cold breath")
    assert "my.snow.v1.civitai.info" in caplog.text


def test_a_sidecar_that_is_no_text_is_left_out(lora: Path) -> None:
    beside(lora, ".json", "").write_bytes(b"\xff\xfe\x00\x01")
    assert read_sidecar(lora) == LoraMetadata()


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"id": "x", "modelId": None, "model": [], "stats": 3, "trainedWords": "snow", "baseModel": 1, "nsfwLevel": True},
        {"trainedWords": [None, {}, 3], "model": {"name": 5}},
        '{"id": NaN, "nsfwLevel": Infinity, "stats": {"downloadCount": 1e999}}',
    ],
)
def test_facts_of_the_wrong_kind_are_no_facts(lora: Path, content: object) -> None:
    beside(lora, ".civitai.info", content)
    found = read_sidecar(lora)
    assert (found.version_id, found.model_id, found.model_name, found.base_model) == (None, None, None, None)
    assert (found.nsfw_level, found.download_count) == (None, None)
    assert "snow" not in (found.trigger_words or ())


def test_a_sidecars_words_family_and_id_count_more_than_the_files_own(lora: Path) -> None:
    own = read_lora_file(lora)
    assert (own.trigger_words, own.metadata.base_model) == (("vantuq",), "SD 3")
    beside(lora, ".civitai.info", CIVITAI)
    read = read_lora_file(lora)
    assert (read.trigger_words, read.metadata.base_model, read.lora_id) == (("snw style", "cold, breath"), "Pony", "2588340")
    assert read.sha256 == own.sha256


def test_a_sidecar_that_is_silent_leaves_the_files_own_facts(lora: Path) -> None:
    beside(lora, ".civitai.info", {"id": 7, "trainedWords": [], "baseModel": "Other"})
    read = read_lora_file(lora)
    assert (read.trigger_words, read.metadata.base_model, read.lora_id) == (("vantuq",), "SD 3", "7")


def test_what_a_tool_leaves_empty_is_nothing_odd(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    skeleton = {"id": "", "modelId": "", "name": "", "trainedWords": [], "baseModel": "SD 1.5", "model": {}, "images": ""}
    (tmp_path / "a.civitai.info").write_text(json.dumps(skeleton))
    problems: list[str] = []
    assert (read_sidecar(tmp_path / "a.safetensors", problems).base_model, problems) == ("SD 1.5", [])
