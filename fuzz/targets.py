"""What is fuzzed: for each kind of foreign bytes, all that this package does with them before it believes them.

Each target takes bytes and an empty folder. It raises nothing but CarlosError, and AssertionError for an answer that no caller
expects.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from carlos_core.civitai import archive
from carlos_core.civitai.answers import hashes_in, model_of, version_of
from carlos_core.clip.weights import local_encoders
from carlos_core.comfy import workflow
from carlos_core.database.database import load_database
from carlos_core.errors import CarlosError
from carlos_core.foreign import printable
from carlos_core.loras.library_index import KnownFile, LibraryIndex
from carlos_core.loras.lora_file import read_facts
from carlos_core.loras.metadata import read_sidecar, sidecar_names
from carlos_core.measuring.feature_store import FeatureStore, mean_features
from carlos_core.measuring.gallery import read_sheet
from carlos_core.measuring.kept_facts import KeptFacts
from carlos_core.prompts.prompt_set import load_prompt_set
from carlos_core.records import LayerFit, LoraMetadata
from carlos_core.search.choice_text import entries_of
from carlos_core.search.phrase_file import read_phrases

Target = Callable[[bytes, Path], None]

DIMENSION = 8
IDENTITY = {"generator": "g", "encoder": "e"}


def headers(content: bytes, folder: Path) -> None:
    """A LoRA file without sidecars: its header, and what is told from it."""
    path = folder / "lora.safetensors"
    path.write_bytes(content)
    _check_metadata(read_facts(path).metadata)


def sidecars(content: bytes, folder: Path) -> None:
    """A sidecar; the content's length decides of which form. Reading one never fails."""
    names = sidecar_names("lora.safetensors")
    path = folder / names[len(content) % len(names)]
    path.write_bytes(content)
    try:
        problems: list[str] = []
        _check_metadata(read_sidecar(folder / "lora.safetensors", problems))
        assert all(problem.encode() for problem in problems)
    except CarlosError as error:
        raise AssertionError("A sidecar is no reason to refuse its LoRA.") from error
    finally:
        path.unlink()


def answers(content: bytes, folder: Path) -> None:
    """An answer of CivitAI."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        # The client says so; it reads JSON with requests.
        return
    assert all(len(sha256) == 64 for sha256 in hashes_in(said))
    for read in (version_of, model_of):
        try:
            read(said)
        except CarlosError:
            continue


def prompt_sets(content: bytes, folder: Path) -> None:
    """A prompt set of the user's, or one from a stranger."""
    path = folder / "prompts.json"
    path.write_bytes(content)
    found = load_prompt_set(path)
    assert len(found.stratified()) == len(found) > 0
    assert found.content_hash


def phrases(content: bytes, folder: Path) -> None:
    """A file of phrases for describing LoRAs."""
    path = folder / "phrases.txt"
    path.write_bytes(content)
    found = read_phrases(path)
    assert len(found) <= 1000
    assert all(phrase and printable(phrase) == phrase and len(phrase) <= 200 for phrase in found)


def features(content: bytes, folder: Path) -> None:
    """A journal of pictures' features."""
    place = FeatureStore(folder, IDENTITY, DIMENSION)
    place.path.write_bytes(content)
    try:
        mean_features(folder, "e")
        store = FeatureStore(folder, IDENTITY, DIMENSION)
        before = len(store)
        store.append([("a new picture", 1, np.ones(DIMENSION, np.float32), 2)])
        again = FeatureStore(folder, IDENTITY, DIMENSION)
        assert len(again) >= before
        entry = again.get("a new picture", 1)
        assert entry is not None
        assert np.isfinite(entry.features).all() or before
    finally:
        place.path.unlink()


def library_index(content: bytes, folder: Path) -> None:
    """The index of LoRA files. It only saves time: nothing in it is an error."""
    path = folder / "loras.sqlite"
    path.write_bytes(content)
    try:
        index = LibraryIndex(path)
        for file in index.known(["/loras/a.safetensors", "/loras/b.safetensors"]).values():
            _check_metadata(file.metadata)
        index.hashed()
        index.fits("model")
        index.save([KnownFile("/loras/c.safetensors", 5, 6, "", "0" * 64, LoraMetadata())])
        index.save_fits("model", {"layout": LayerFit(1, 2)})
    except CarlosError as error:
        raise AssertionError("The index is no reason to stop.") from error
    finally:
        for left in folder.glob("loras.sqlite*"):
            left.unlink()


def databases(content: bytes, folder: Path) -> None:
    """A metrics database from a stranger: read, ranked, shown, saved."""
    path = folder / "rows.parquet"
    path.write_bytes(content)
    database = load_database(path)
    assert len(database.ranking_arrays.rows) == len(database) == len(database.identities) == len(database.measured)
    for place in range(min(len(database), 20)):
        record = database.row_at(place)
        assert record.lora_id in database
        assert record.name is not None
    database.to_dataframe()
    if database.encoder_id is not None:
        copy = database.copy()
        copy.save_parquet(folder / "saved.parquet")
        assert len(load_database(folder / "saved.parquet")) == len(database)


def choices(content: bytes, folder: Path) -> None:
    """The text of a choice, as a workflow may hold it."""
    for entry in entries_of(content.decode("utf-8", "surrogateescape" if len(content) % 2 else "replace")):
        assert entry.lora_id or entry.file
        assert -100 <= entry.weight <= 100


def prompts(content: bytes, folder: Path) -> None:
    """A prompt as any client can post it to the server, before ComfyUI has looked at it."""
    try:
        request = json.loads(content)
    except (ValueError, RecursionError):
        return
    if not isinstance(request, dict):
        return
    prompt = request.get("prompt")
    for node_id in (*(list(prompt)[:20] if isinstance(prompt, dict) else ()), "1", None):
        assert all(isinstance(name, str) for name in workflow.checkpoints_of(prompt, node_id))
        assert all(isinstance(scale, float) for scale in workflow.guidances_of(prompt, node_id))
    assert _choice_in_pictures().add_known(request) is request


def archives(content: bytes, folder: Path) -> None:
    """A ZIP from CivitAI."""
    path = folder / "lora.zip"
    path.write_bytes(content)
    entry = archive.lora_in(path)
    archive.unpack(path, entry, folder / "inside.safetensors")


def encoders(content: bytes, folder: Path) -> None:
    """The config of a local encoder."""
    (folder / "mini.json").write_bytes(content)
    (folder / "mini.safetensors").write_bytes(b"")
    for encoder in local_encoders([folder]).values():
        assert encoder.dimension > 0


def kept_facts(content: bytes, folder: Path) -> None:
    """What earlier runs have noted. It only saves time: nothing in it is an error."""
    path = folder / "facts.json"
    path.write_bytes(content)
    try:
        facts = KeptFacts(path)
        facts.get("a")
        facts.keep("a", 1)
        assert facts.get("a") == 1
    except CarlosError as error:
        raise AssertionError("Notes are no reason to stop.") from error


def galleries(content: bytes, folder: Path) -> None:
    """Pictures that were kept of a LoRA."""
    path = folder / "snow-abababababab.jpg"
    path.write_bytes(content)
    sheet = read_sheet(path)
    assert 1 <= len(sheet.shown) <= 4 <= 4 * sheet.chosen_among
    assert len({picture.size for pair in sheet.pairs for picture in (pair.without, pair.with_lora)}) == 1
    assert all(len(pair.prompt) <= 1000 for pair in sheet.pairs)


TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        *(headers, sidecars, answers, prompt_sets, features, library_index, databases, choices, prompts, archives),
        *(encoders, kept_facts, phrases, galleries),
    )
}


def _check_metadata(metadata: LoraMetadata) -> None:
    """Whatever was read can be kept in a database and shown."""
    for number, bits in (
        (metadata.version_id, 64),
        (metadata.model_id, 64),
        (metadata.nsfw_level, 32),
        (metadata.download_count, 64),
    ):
        assert number is None or -(2 ** (bits - 1)) <= number < 2 ** (bits - 1)
    texts = (metadata.model_name, metadata.base_model, metadata.preview_url, *(metadata.trigger_words or ()))
    assert all(text is None or text.encode() is not None for text in texts)


def _choice_in_pictures() -> Any:
    """The module of that name as part of a package of its own: without ComfyUI the pack itself cannot be imported."""
    name = "carlos_nodes_alone"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(Path(__file__).resolve().parents[1] / "nodes")]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.common.choice_in_pictures")
