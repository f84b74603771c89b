"""Looking things up: what the documented answers become, and what every refusal is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest

import carlos_core
from carlos_core.civitai.versions import VersionFile
from carlos_core.errors import CarlosError, CivitaiError, CivitaiNotFound
from tests.support import civitai_server
from tests.support.civitai_server import CivitaiServer, Fault, client_of

CONTENT = b"the content of a LoRA"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def red() -> Iterator[CivitaiServer]:
    """The imitation of the second site."""
    with civitai_server.serving() as server:
        yield server


def test_a_version_is_what_the_documented_answer_says(civitai: CivitaiServer) -> None:
    civitai.add(5, CONTENT)
    version = client_of(civitai).version(5)
    assert (version.version_id, version.metadata.model_id, version.name, version.metadata.model_name) == (
        5,
        7,
        "v1.0",
        "Snow & Ice",
    )
    assert (version.model_type, version.metadata.base_model, version.metadata.trigger_words) == (
        "LORA",
        "SDXL 1.0",
        ("snw style", "cold breath"),
    )
    assert (version.metadata.nsfw_level, version.metadata.download_count) == (3, 215627)
    # The first picture is a film.
    assert version.metadata.preview_url == f"{civitai.url}/images/5.jpeg"
    assert version.early_access_until is None
    assert version.files == (
        VersionFile(
            version_id=5,
            file_id=50,
            name="snow.safetensors",
            download_url=f"{civitai.url}/api/download/models/5",
            type="Model",
            format="SafeTensor",
            size=len(CONTENT),
            sha256=SHA256,
            is_primary=True,
        ),
    )
    assert version.raw == civitai.versions[5]


def test_what_is_missing_in_an_answer_is_none(civitai: CivitaiServer) -> None:
    civitai.versions[5] = {"id": 5, "files": [{"name": "a.safetensors"}], "images": [], "model": None, "stats": None}
    version = client_of(civitai).version(5)
    nothing = (
        version.metadata.model_id,
        version.name,
        version.metadata.model_name,
        version.metadata.base_model,
        version.metadata.trigger_words,
        version.metadata.nsfw_level,
    )
    assert nothing == (None,) * 6
    assert (version.metadata.download_count, version.metadata.preview_url, version.published_at, version.early_access_until) == (
        None,
    ) * 4
    file = version.files[0]
    assert (file.file_id, file.size, file.sha256, file.type, file.format) == (None,) * 5
    assert not file.is_primary
    civitai.versions[5] = {"id": 5}
    assert client_of(civitai).version(5).files == ()


def test_a_model_has_its_versions(civitai: CivitaiServer) -> None:
    civitai.add(5, CONTENT)
    civitai.add(6, CONTENT)
    model = client_of(civitai).model(7)
    assert (model.model_id, model.name, model.type, model.mode) == (7, "Snow & Ice", "LORA", None)
    assert [version.version_id for version in model.versions] == [6, 5]
    for version in model.versions:
        assert (version.metadata.model_id, version.metadata.model_name, version.model_type) == (7, "Snow & Ice", "LORA")


def test_a_version_is_found_by_its_hash_and_an_unknown_hash_is_none(civitai: CivitaiServer, red: CivitaiServer) -> None:
    civitai.add(5, CONTENT)
    red.add(6, b"hidden")
    client = client_of(civitai, red)
    found = [client.version_by_hash(sha256) for sha256 in (SHA256, SHA256.upper(), hashlib.sha256(b"hidden").hexdigest())]
    assert [version and version.version_id for version in found] == [5, 5, 6]
    assert client.version_by_hash("0" * 64) is None
    with pytest.raises(CivitaiError, match="not a sha256"):
        client.version_by_hash("../models/7")


def test_many_hashes_take_one_request_for_each_hundred(civitai: CivitaiServer, red: CivitaiServer) -> None:
    contents = [f"LoRA {k}".encode() for k in range(250)]
    hashes = [hashlib.sha256(content).hexdigest() for content in contents]
    for k, content in enumerate(contents[:240]):
        civitai.add(k + 1, content)
    red.add(241, contents[240])
    found = client_of(civitai, red).versions_by_hashes([*hashes, hashes[0].upper()])
    assert {sha256: version.version_id for sha256, version in found.items()} == {hashes[k]: k + 1 for k in range(241)}
    assert [len(json.loads(request.body)) for request in civitai.requests] == [100, 100, 50]
    # Only what the first site does not know is asked of the second.
    assert [len(json.loads(request.body)) for request in red.requests] == [10]
    assert {request.page for request in civitai.requests + red.requests} == {"/api/v1/model-versions/by-hash"}


def test_a_version_without_public_files_in_a_list_is_left_out(civitai: CivitaiServer) -> None:
    civitai.faults.append(Fault("by-hash", 200, body=b"[null]"))
    assert client_of(civitai).versions_by_hashes([SHA256]) == {}


def test_every_request_names_the_project_and_nothing_is_asked_with_head(civitai: CivitaiServer) -> None:
    civitai.add(5, CONTENT)
    client_of(civitai).version(5)
    assert [request.headers["user-agent"] for request in civitai.requests] == [f"carlos-loras/{carlos_core.__version__}"]
    assert {request.method for request in civitai.requests} == {"GET"}


def test_what_the_first_site_does_not_have_is_asked_of_the_second(civitai: CivitaiServer, red: CivitaiServer) -> None:
    red.add(5, CONTENT)
    client = client_of(civitai, red)
    assert client.version(5).version_id == 5
    assert client.model(7).model_id == 7
    assert [len(server.requests) for server in (civitai, red)] == [2, 2]


def test_only_what_neither_site_has_is_called_deleted(civitai: CivitaiServer, red: CivitaiServer) -> None:
    client = client_of(civitai, red, attempts=1)
    with pytest.raises(CivitaiNotFound, match="has no version 5: it was deleted or unpublished"):
        client.version(5)
    red.faults.append(Fault("model-versions/5", 503))
    with pytest.raises(CivitaiError, match="trouble of its own") as caught:
        client.version(5)
    assert not isinstance(caught.value, CivitaiNotFound)


@pytest.mark.parametrize(
    ("status", "key", "what", "hint"),
    [
        (401, None, "gives version 5 only to those who log in", "CIVITAI_API_KEY"),
        (401, civitai_server.KEY, "does not accept your key", "CIVITAI_API_KEY"),
        (403, None, "refuses version 5 to those who are not logged in", "CIVITAI_API_KEY"),
        (403, civitai_server.KEY, "refuses version 5 to your account", "on the site"),
        (404, None, "deleted or unpublished", "Check the id"),
        (410, None, "deleted or unpublished", "Check the id"),
        (451, None, "to your country", "elsewhere"),
        (400, None, "HTTP 400", "Check the id"),
    ],
)
def test_every_refusal_has_words_of_its_own(civitai: CivitaiServer, status: int, key: str | None, what: str, hint: str) -> None:
    civitai.faults.append(Fault("model-versions/5", status))
    with pytest.raises(CivitaiError, match=what) as caught:
        client_of(civitai, key=key).version(5)
    assert isinstance(caught.value, CarlosError)
    assert hint in caught.value.hint
    assert len(civitai.requests) == 1


def test_being_sent_to_the_login_page_is_a_wish_for_a_key(civitai: CivitaiServer) -> None:
    civitai.faults.append(Fault("model-versions/5", 307, {"Location": "/login?returnUrl=/"}))
    with pytest.raises(CivitaiError, match="only to those who log in"):
        client_of(civitai, key=None).version(5)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Please log in to the hotel's network.</html>",
        b"",
        b'{"id": 5',
        b"[" * 100_000,
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"id": "five"}',
        b'{"id": 5, "files": {}}',
        b'{"id": 5, "files": ["a.safetensors"]}',
        b'{"id": 5, "files": [{"name": 1}]}',
        b'{"id": 5, "files": [{"name": "a", "sizeKB": "12"}]}',
        b'{"id": 5, "files": [{"name": "a", "sizeKB": NaN}]}',
        b'{"id": 5, "files": [{"name": "a", "hashes": []}]}',
        b'{"id": 5, "trainedWords": "snow"}',
        b'{"id": 5, "stats": [1]}',
        b'{"id": 5, "model": "Snow"}',
        b'{"id": 5, "images": [null]}',
        b'{"id": 5, "baseModel": 15}',
        b'{"id": true}',
    ],
)
def test_an_answer_of_another_shape_is_a_clear_error(civitai: CivitaiServer, body: bytes) -> None:
    civitai.faults.append(Fault("model-versions/5", 200, body=body))
    with pytest.raises(CivitaiError, match="not JSON|another shape than documented") as caught:
        client_of(civitai).version(5)
    assert caught.value.hint


def test_a_model_or_a_list_of_another_shape_is_a_clear_error(civitai: CivitaiServer) -> None:
    civitai.faults += [Fault("models/7", 200, body=b'{"id": 7, "modelVersions": [5]}'), Fault("by-hash", 200, body=b'{"5": 5}')]
    with pytest.raises(CivitaiError, match="another shape"):
        client_of(civitai).model(7)
    with pytest.raises(CivitaiError, match="is not a list"):
        client_of(civitai).versions_by_hashes([SHA256])


def test_early_access_is_known_from_either_field_until_it_is_over(civitai: CivitaiServer) -> None:
    now = datetime.now(timezone.utc)
    later, earlier = ((now + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.000Z") for days in (3, -3))
    civitai.add(1, CONTENT, availability="EarlyAccess", earlyAccessEndsAt=later)
    civitai.add(2, CONTENT, earlyAccessEndsAt=later)
    civitai.add(3, CONTENT, earlyAccessEndsAt=earlier)
    civitai.add(4, CONTENT, availability="EarlyAccess")
    civitai.add(5, CONTENT, earlyAccessEndsAt="soon")
    client = client_of(civitai)
    assert [client.version(k).early_access_until for k in range(1, 6)] == [later, later, None, "", None]
