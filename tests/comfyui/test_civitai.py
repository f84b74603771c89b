"""A LoRA of CivitAI in a real ComfyUI: fetched and measured; and the key is nowhere. CivitAI is imitated on this machine."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from carlos_core.database.database import load_database
from tests.support import civitai_server, workflows
from tests.support import comfyui_host as hosts
from tests.support.civitai_server import KEY, CivitaiServer, Fault
from tests.support.comfyui_host import Failed, Host, facts_of
from tests.support.miniworld import MINIWORLD

NAME = "mystery_12.safetensors"
CONTENT = (MINIWORLD / "loras" / NAME).read_bytes()
SETTINGS: dict[str, Any] = {"create_as": "civitai", "max_prompts": 2, "steps": 2}


@pytest.fixture(scope="module")
def civitai() -> Iterator[CivitaiServer]:
    with civitai_server.serving() as server:
        server.wants_key = True
        server.add(5, CONTENT, name="Snow fall", trainedWords=["snw"], model={"name": "Snow", "type": "LORA"})
        yield server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A base folder without the LoRA that is to be fetched."""
    folder = hosts.make_base_folder(tmp_path_factory.mktemp("civitai-folder"))
    (folder / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    (folder / "models" / "loras" / NAME).unlink()
    return folder


@pytest.fixture(scope="module")
def host(comfyui: Path, base: Path, civitai: CivitaiServer) -> Iterator[Host]:
    environment = {"CARLOS_CIVITAI_URL": civitai.url, "CIVITAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1,localhost"}
    with hosts.running(comfyui, base, environment=environment) as running:
        yield running


def index(**settings: Any) -> workflows.Workflow:
    return workflows.index("CivitAI", **{**SETTINGS, **settings})


def refresh(**settings: Any) -> workflows.Workflow:
    inputs = {"only_missing": True, "max_rows": 0, **settings}
    return {
        "db": workflows.loader(create_as="civitai"),
        "refresh": workflows.node("CarlosRefreshMetadata", database=["db", 0], **inputs),
    }


@pytest.fixture(scope="module")
def indexed(host: Host) -> dict[str, Any]:
    """Facts of the indexer's report on version 5, with its contact sheet saved as a picture."""
    workflow = index(civitai_version_id="5")
    workflow["save"] = workflows.node("SaveImage", images=["index", 2], filename_prefix="sheet")
    return facts_of(host.run(workflow), "index")


def test_the_indexer_fetches_measures_and_writes_the_row(
    host: Host, base: Path, civitai: CivitaiServer, indexed: dict[str, Any]
) -> None:
    assert (indexed["status"], indexed["lora_id"], indexed["file"]) == ("indexed", "5", "Snow fall.safetensors")
    loras = base / "models" / "loras"
    assert (loras / "Snow fall.safetensors").read_bytes() == CONTENT
    assert json.loads((loras / "Snow fall.civitai.info").read_text()) == civitai.versions[5]
    left = [path.name for path in loras.iterdir() if path.suffix != ".safetensors"]
    assert left == ["Snow fall.civitai.info"]
    row = load_database(base / "models" / "carlos" / "civitai.parquet").cells("5")
    assert (row["version_id"], row["model_id"], row["model_name"]) == (5, 7, "Snow")
    assert (row["file_name"], row["sha256"]) == ("Snow fall.safetensors", hashlib.sha256(CONTENT).hexdigest())
    assert (row["base_model"], row["trigger_words"], row["nsfw_level"]) == ("SDXL", ["snw"], 3)
    assert (row["n_images"], row["n_prompts"]) == (2, 2)
    assert row["strength"] > 0
    assert row["preview_url"] == f"{civitai.url}/images/5.jpeg"


def test_the_fetched_lora_is_in_comfyuis_list(host: Host, indexed: dict[str, Any]) -> None:
    names = host.object_info()["LoraLoader"]["input"]["required"]["lora_name"][0]
    assert "Snow fall.safetensors" in names


def test_what_the_database_has_is_not_fetched_again_even_if_the_file_is_gone(
    host: Host, base: Path, civitai: CivitaiServer, indexed: dict[str, Any]
) -> None:
    asked = len(civitai.requests)
    file = base / "models" / "loras" / "Snow fall.safetensors"
    file.rename(base / "moved")
    try:
        again = facts_of(host.run(index(civitai_version_id=" 5")), "index")
        assert (again["status"], again["model_evaluations"], len(civitai.requests)) == ("already indexed", 0, asked)
        by_model = facts_of(host.run(index(civitai_model_id="7")), "index")
        assert (by_model["status"], by_model["lora_id"]) == ("already indexed", "5")
    finally:
        (base / "moved").rename(file)
    assert not any("download" in request.page for request in civitai.requests[asked:])


def test_a_file_that_is_there_under_another_name_is_used(host: Host, base: Path, civitai: CivitaiServer) -> None:
    content = (MINIWORLD / "loras" / "pixel_art.safetensors").read_bytes()
    civitai.add(6, content, name="Pixels", model_id=8)
    facts = facts_of(host.run(index(civitai_model_id="8")), "index")
    assert (facts["lora_id"], facts["file"]) == ("6", "pixel_art.safetensors")
    assert not any(request.page.startswith("/6/") for request in civitai.of("storage"))
    assert (base / "models" / "loras" / "pixel_art.civitai.info").is_file()


def test_the_second_file_of_a_version_can_be_chosen(host: Host, base: Path, civitai: CivitaiServer) -> None:
    loras = [MINIWORLD / "loras" / name for name in ("sepia_toned.safetensors", "dark_vignette.safetensors")]
    high, low = (lora.read_bytes() for lora in loras)
    civitai.add(16, {"wan_high_noise.safetensors": high, "wan_low_noise.safetensors": low}, model_id=18)
    facts = [
        facts_of(host.run(index(civitai_version_id="16", **which)), "index") for which in ({}, {"civitai_file": "low_noise"}) * 2
    ]
    assert [(each["file"], each["status"]) for each in facts] == [
        ("sepia_toned.safetensors", "indexed"),
        ("dark_vignette.safetensors", "indexed"),
        ("sepia_toned.safetensors", "already indexed"),
        ("dark_vignette.safetensors", "already indexed"),
    ]
    assert [each["lora_id"] for each in facts[:2]] == ["16", f"sha256:{hashlib.sha256(low).hexdigest()[:16]}"]
    assert not any(request.page.startswith("/16/") for request in civitai.of("storage"))
    with pytest.raises(Failed, match="several files 'noise'.*wan_high_noise.*wan_low_noise"):
        host.run(index(civitai_version_id="16", civitai_file="noise"))


def test_ids_that_lead_nowhere_are_clear_errors(host: Host) -> None:
    for settings, words in (
        ({}, "lora_name is CivitAI, and no id is given"),
        ({"civitai_version_id": "404"}, "deleted or unpublished"),
        ({"civitai_version_id": "five"}, "is not a version id"),
        ({"civitai_version_id": "5", "civitai_model_id": "8", "overwrite": True}, "belongs to model 7"),
    ):
        with pytest.raises(Failed, match=words):
            host.run(index(**settings))


def test_a_wait_for_the_rate_limit_ends_when_the_user_cancels(host: Host, civitai: CivitaiServer) -> None:
    civitai.faults.append(Fault("model-versions/9", 429, {"Retry-After": "100"}))
    prompt_id = host.submit(index(civitai_version_id="9"))
    end = time.monotonic() + 60
    while not any(request.page.endswith("/9") for request in civitai.requests) and time.monotonic() < end:
        time.sleep(0.05)
    host.interrupt()
    entry = host.wait(prompt_id, timeout_s=30)
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]


def test_metadata_are_refreshed_in_the_users_database(
    host: Host, base: Path, civitai: CivitaiServer, indexed: dict[str, Any]
) -> None:
    path = base / "models" / "carlos" / "civitai.parquet"
    database = load_database(path)
    for column in ("trigger_words", "sha256", "preview_url"):
        database.set_value("5", column, None)
    database.save_parquet(path)
    facts = facts_of(host.run(refresh()), "refresh")
    rows = {row["lora_id"]: row for row in facts["rows"]}
    assert (rows["5"]["status"], set(rows["5"]["columns"])) == ("refreshed", {"trigger_words", "sha256", "preview_url"})
    row = load_database(path).cells("5")
    assert (row["trigger_words"], row["sha256"]) == (["snw"], hashlib.sha256(CONTENT).hexdigest())
    workflow = refresh()
    workflow["db"] = workflows.loader("bundled")
    with pytest.raises(Failed, match="bundled database is read-only"):
        host.run(workflow)


def test_the_key_is_in_no_file_log_history_or_picture(
    host: Host, base: Path, civitai: CivitaiServer, indexed: dict[str, Any]
) -> None:
    with pytest.raises(Failed):
        host.run(index(civitai_version_id="404"))
    assert any(request.headers.get("authorization") == f"Bearer {KEY}" for request in civitai.of("api"))
    assert all("authorization" not in request.headers for request in civitai.of("storage"))
    assert KEY not in requests.get(f"{host.url}/history", timeout=60).text
    assert KEY not in json.dumps(host.object_info())
    pictures = list((base / "output").rglob("sheet*.png"))
    assert pictures
    for picture in pictures:
        metadata = Image.open(picture).info
        assert "prompt" in metadata
        assert KEY not in str(metadata)
    # The log is among the files; the pack and the checkpoint are links to what was there before.
    files = [path for path in base.rglob("*") if path.is_file() and not path.is_symlink()]
    assert host.log in files
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
