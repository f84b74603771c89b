"""Every operation that writes, with each of its calls to the system failing in turn: real calls, in a process of its own.

`faults.c` is put before the C library. For n = 1, 2, ... the n-th call that concerns the folder fails, until the operation goes
through without a failure. After each, the content is the old or the new one, whole; what was said to be done is done; no handle
and no lock is left, and after the next good run the folder holds the same files as if nothing had happened.

Called as `python -m tests.support.faults FOLDER KINDS OPERATIONS` (names with commas between them) in the `environment` below;
writes a line of JSON for each operation and kind.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow as pa
import safetensors.numpy
import torch

from carlos_core import storage
from carlos_core.civitai.client import CivitaiClient
from carlos_core.database.database import MetricsDatabase, create_database, load_database, upsert_into_file
from carlos_core.database.published import copy_bundled_database
from carlos_core.errors import CarlosError
from carlos_core.loras.library_index import KnownFile, LibraryIndex
from carlos_core.measuring.contact_sheet import keep_thumbnail
from carlos_core.measuring.feature_store import FeatureStore
from carlos_core.measuring.gallery import Gallery
from carlos_core.measuring.kept_facts import KeptFacts
from carlos_core.records import LoraMetadata
from tests.support.civitai_server import client_of, serving
from tests.support.pictures import candidate
from tests.support.rows import a_row, old_file

FULL = "full disk"
KINDS = (FULL, "ENOSPC", "EIO", "EACCES", "EINTR")
"""What goes wrong: the disk is full from the n-th call on, or only that call fails, with this error."""

Act = Callable[[], object]
_MOST_CALLS = 2000
_ENCODER = "ViT-B-32-quickgelu/openai"


@dataclass(frozen=True)
class Operation:
    """Something that writes into a folder."""

    prepare: Callable[[Path], Act]
    """Puts something into the empty folder. What it returns is the operation, which may be tried again."""
    content: Callable[[Path], Any]
    """What a reader finds."""
    is_cache: bool = False
    """It is never an error, and nothing is promised to be kept."""


def compiled(folder: Path) -> Path | None:
    """faults.c as a library; None where it cannot be made."""
    library = folder / "faults.so"
    source = Path(__file__).with_suffix(".c")
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        return None
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", os.fspath(library), os.fspath(source), "-ldl"]
    return None if subprocess.run(command, check=False).returncode else library


def environment(library: Path) -> dict[str, str]:
    """The variables of a process whose calls can be made to fail."""
    return {**os.environ, "LD_PRELOAD": os.fspath(library), "CARLOS_FAULTS": os.fspath(library), "OMP_NUM_THREADS": "1"}


def _rows(folder: Path) -> Any:
    path = folder / "a.parquet"
    if not path.exists():
        return None
    database = load_database(path)
    return database.table.to_pylist(), database.protocols, oct(path.stat().st_mode), path.is_symlink()


def _put(folder: Path) -> Path:
    """The path of a database with one row that only some may read."""
    old_file(folder / "a.parquet")
    (folder / "a.parquet").chmod(0o640)
    return folder / "a.parquet"


def _put_behind_a_link(folder: Path) -> Path:
    (folder / "drive").mkdir()
    old_file(folder / "drive" / "real.parquet")
    (folder / "a.parquet").symlink_to("drive/real.parquet")
    return folder / "a.parquet"


def _put_in_reference_layout(folder: Path) -> Path:
    database = MetricsDatabase.empty(_ENCODER, 4)
    for version_id in (1, 2):
        database.upsert(a_row(str(version_id), version_id=version_id))
    database.save_parquet(folder / "a.parquet", layout="reference")
    return folder / "a.parquet"


def _upsert(path: Path) -> Act:
    return lambda: upsert_into_file(path, a_row("ours", protocol_id="p"), {"preset": "quick"})


def _save(path: Path) -> Act:
    """Save what was loaded and changed, while another program has saved in between."""
    database = load_database(path, encoder_id=_ENCODER)
    database.upsert(a_row("ours", protocol_id="p"), {"preset": "quick"})
    upsert_into_file(path, a_row("theirs"), {})
    return lambda: database.save_parquet(path)


def _save_new(path: Path) -> Act:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    database.upsert(a_row("ours"))
    return lambda: database.save_parquet(path)


def _migrate(path: Path) -> Act:
    """Load the reference package's file and save it in our layout for the first time."""
    return lambda: load_database(path, encoder_id=_ENCODER).save_parquet(path)


def _create(path: Path) -> Act:
    def act() -> None:
        try:
            create_database(MetricsDatabase.empty("some encoder", dimension=4), path)
        except CarlosError as error:
            if "exists already" not in str(error):
                raise

    return act


def _copy(path: Path) -> Act:
    return lambda: copy_bundled_database(path)


def _journal(folder: Path) -> FeatureStore:
    return FeatureStore(folder, {"a": 1}, 8)


def _pictures(first: int, end: int) -> list[tuple[str, int, np.ndarray, int]]:
    return [(f"picture {k}", k, np.full(8, k, np.float32), k) for k in range(first, end)]


def _put_pictures(folder: Path) -> FeatureStore:
    """A journal of two pictures, with the beginning of a third that a crash has left."""
    journal = _journal(folder)
    journal.append(_pictures(0, 2))
    with journal.path.open("ab") as file:
        file.write(b"torn")
    return journal


def _put_all_pictures(folder: Path) -> FeatureStore:
    journal = _put_pictures(folder)
    journal.mark_complete()
    return journal


def _append(journal: FeatureStore) -> Act:
    return lambda: journal.append(_pictures(1, 4))


def _merge(folder: Path) -> Act:
    journal, other = _put_pictures(folder), _journal(folder / "others")
    other.append(_pictures(1, 5))
    return lambda: journal.merge(other)


def _kept_pictures(folder: Path) -> Any:
    journal = _journal(folder)
    found = {k: journal.get(f"picture {k}", k) for k in range(8)}
    return {k: (entry.features.tolist(), entry.evaluations) for k, entry in found.items() if entry}


def _is_complete(folder: Path) -> Any:
    return _kept_pictures(folder), _journal(folder).is_complete


def _known(name: str, sha256: str) -> KnownFile:
    return KnownFile(f"/loras/{name}", 10, 20, "", sha256, LoraMetadata(trigger_words=("snow",)))


def _index(folder: Path) -> Act:
    index = LibraryIndex(folder / "index.sqlite")
    index.save([_known("a", "11"), _known("b", "22")])
    return lambda: index.save([_known("b", "33"), _known("c", "44")])


def _indexed(folder: Path) -> Any:
    return LibraryIndex(folder / "index.sqlite").known([f"/loras/{name}" for name in "abc"])


def _fact(folder: Path) -> Act:
    facts = KeptFacts(folder / "facts.json")
    facts.keep("old", [1])
    return lambda: facts.keep("new", {"two": 2})


def _facts(folder: Path) -> Any:
    return json.loads((folder / "facts.json").read_text())


def _thumbnail(folder: Path) -> Act:
    journal = _journal(folder)
    keep_thumbnail(journal, "other", 0, torch.ones(8, 8, 3))
    return lambda: keep_thumbnail(journal, "text", 0, torch.zeros(8, 8, 3))


def _pictures_of_a_lora(folder: Path) -> Act:
    gallery, row = Gallery(folder), a_row("1", file_name="snow", sha256="ab" * 32)
    gallery.keep(row, [candidate(10)], 1.0)
    return lambda: gallery.keep(row, [candidate(200)], 1.0)


def _files(folder: Path, suffix: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob(f"*{suffix}")}


def _download(client: CivitaiClient) -> Callable[[Path], Act]:
    file = client.version(5).files[0]

    def prepare(folder: Path) -> Act:
        (folder / "snow.safetensors").write_bytes(b"the user's own")
        return lambda: client.download(file, folder)

    return prepare


@contextmanager
def _operations() -> Iterator[dict[str, Operation]]:
    with serving() as server:
        server.add(5, safetensors.numpy.save({"noise": np.zeros(200_000, np.uint8)}))
        yield {
            "upsert": Operation(lambda folder: _upsert(_put(folder)), _rows),
            "upsert behind a link": Operation(lambda folder: _upsert(_put_behind_a_link(folder)), _rows),
            "save": Operation(lambda folder: _save(_put(folder)), _rows),
            "save behind a link": Operation(lambda folder: _save(_put_behind_a_link(folder)), _rows),
            "save new": Operation(lambda folder: _save_new(folder / "a.parquet"), _rows),
            "save into a new folder": Operation(
                lambda folder: _save_new(folder / "deep" / "a.parquet"), lambda folder: _rows(folder / "deep")
            ),
            "migrate": Operation(lambda folder: _migrate(_put_in_reference_layout(folder)), _rows),
            "create": Operation(lambda folder: _create(folder / "a.parquet"), _rows),
            "create over": Operation(lambda folder: _create(_put(folder)), _rows),
            "copy": Operation(lambda folder: _copy(folder / "a.parquet"), _rows),
            "copy over": Operation(lambda folder: _copy(_put(folder)), _rows),
            "begin": Operation(lambda folder: _journal(folder / "new").begin, _kept_pictures),
            "append": Operation(lambda folder: _append(_put_pictures(folder)), _kept_pictures),
            "append first": Operation(lambda folder: _append(_journal(folder)), _kept_pictures),
            "clear": Operation(lambda folder: _put_all_pictures(folder).clear, _kept_pictures),
            "merge": Operation(_merge, _kept_pictures),
            "mark complete": Operation(lambda folder: _put_pictures(folder).mark_complete, _is_complete),
            "index": Operation(_index, _indexed, is_cache=True),
            "facts": Operation(_fact, _facts, is_cache=True),
            "thumbnail": Operation(_thumbnail, lambda folder: _files(folder, ".png"), is_cache=True),
            "gallery": Operation(_pictures_of_a_lora, lambda folder: _files(folder, ".jpg"), is_cache=True),
            "download": Operation(_download(client_of(server)), lambda folder: _files(folder, ".safetensors")),
        }


def _faults() -> Any:
    library = ctypes.CDLL(os.environ["CARLOS_FAULTS"])
    library.faults_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    library.faults_disarm.restype = ctypes.c_long
    return library


def _open_handles() -> dict[int, str]:
    found = {}
    for handle in os.listdir("/proc/self/fd"):
        try:
            found[int(handle)] = os.readlink(f"/proc/self/fd/{handle}")
        except FileNotFoundError:  # that of the list itself
            continue
    return {handle: path for handle, path in found.items() if not path.startswith(("socket:", "anon_inode:"))}


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _prepared(folder: Path, operation: Operation) -> Act:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    act = operation.prepare(folder)
    # As in a process that has just been started.
    storage._TIDY.clear()
    return act


def _check_locks(folder: Path) -> None:
    for path in folder.rglob("*lock"):
        with filelock.FileLock(path, timeout=0):
            pass


def run(name: str, operation: Operation, kind: str, folder: Path) -> dict[str, Any]:
    """Let each call of an operation fail in turn. Returns how often that ended in what. Raises AssertionError."""
    faults = _faults()
    act = _prepared(folder, operation)
    old = operation.content(folder)
    act()
    new = operation.content(folder)
    act()
    names = _names(folder)
    ends: Counter[str] = Counter()
    for nth in range(1, _MOST_CALLS):
        where = f"{name}, {kind} at call {nth}"
        act = _prepared(folder, operation)
        handles = _open_handles()
        faults.faults_arm(os.fsencode(folder), nth, errno.ENOSPC if kind == FULL else getattr(errno, kind), kind == FULL)
        end, is_right = "went through", True
        try:
            act()
        except CarlosError as error:
            end, is_right = type(error).__name__, bool(error.hint) and not operation.is_cache
        finally:
            calls = int(faults.faults_disarm())
        assert is_right, f"{where}: {end}"
        found = operation.content(folder)
        assert found in (old, new), f"{where}: {end}, and a reader finds {found}"
        assert end != "went through" or operation.is_cache or found == new, f"{where}: said to be done, but is not"
        if _open_handles() != handles:
            gc.collect()
            assert _open_handles() == handles, f"{where}: {_open_handles()}, before: {handles}"
        _check_locks(folder)
        act()
        assert operation.content(folder) == new, f"{where}: the next run does not do it"
        assert _names(folder) == names, f"{where}: {_names(folder) ^ names} is left over or missing"
        if calls <= 0:
            return {"operation": name, "kind": kind, "calls": -calls, **ends}
        ends[end] += 1
    raise AssertionError(f"{name} does not come to an end.")


def main(folder: Path, kinds: list[str], names: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    # One thread, so that the n-th call is the same one in each run.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    torch.set_num_threads(1)
    with _operations() as operations:
        for name in names or operations:
            for kind in kinds:
                sys.stdout.write(json.dumps(run(name, operations[name], kind, folder / "work")) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2].split(","), [name for name in sys.argv[3].split(",") if name])
