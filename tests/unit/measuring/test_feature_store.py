"""The journal of finished pictures: what was kept stays kept, whatever happens at its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from carlos_core.errors import IndexingError
from carlos_core.measuring.feature_store import FeatureStore, mean_features

IDENTITY = {"generator": "model-1", "encoder": "clip", "weight": 0.75}
DIMENSION = 5
KEPT = [(f"a prompt, {k}", k % 2, np.linspace(k, k + 1, DIMENSION, dtype=np.float32), 10 + k) for k in range(4)]

FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from carlos_core.errors import IndexingError
from carlos_core.measuring.feature_store import FeatureStore

def keep(journal, k):
    journal.append([(f"picture {k}", 0, np.full(1000, k, np.float32), 1)])

for name in ("given up", "made room"):
    journal = FeatureStore(Path(sys.argv[1]) / name, {"a": 1}, 1000)
    keep(journal, 0)
    keep(journal, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    try:
        keep(journal, 2)
    except IndexingError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert journal.get("picture 2", 0) is None
    if name == "made room":
        keep(journal, 3)
"""


def opened(folder: Path) -> FeatureStore:
    return FeatureStore(folder, IDENTITY, DIMENSION)


def mean(folder: Path) -> np.ndarray:
    found = mean_features(folder, "clip")
    assert found is not None
    return found


def filled(folder: Path) -> FeatureStore:
    journal = opened(folder)
    for picture in KEPT:
        journal.append([picture])
    return journal


def assert_holds(journal: FeatureStore, pictures: list[tuple[str, int, np.ndarray, int]]) -> None:
    """Exactly these pictures, with their features to the bit."""
    assert len(journal) == len(pictures)
    for text, seed, features, evaluations in pictures:
        entry = journal.get(text, seed)
        assert entry is not None
        np.testing.assert_array_equal(entry.features, features)
        assert entry.features.dtype == np.float32
        assert entry.evaluations == evaluations


def test_pictures_are_there_when_the_journal_is_opened_again(tmp_path: Path) -> None:
    assert_holds(filled(tmp_path / "deep" / "folder"), KEPT)
    assert_holds(opened(tmp_path / "deep" / "folder"), KEPT)


def test_one_append_of_many_is_many_appends_of_one(tmp_path: Path) -> None:
    at_once = opened(tmp_path / "at once")
    at_once.append(KEPT)
    assert at_once.path.read_bytes() == filled(tmp_path / "one by one").path.read_bytes()


def test_text_and_seed_together_name_a_picture(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.append([("1", 11, np.zeros(DIMENSION, np.float32), 1), ("11", 1, np.ones(DIMENSION, np.float32), 2)])
    assert journal.get("1", 11).evaluations == 1  # type: ignore[union-attr]
    assert journal.get("11", 1).evaluations == 2  # type: ignore[union-attr]
    assert journal.get("1", 1) is None


def test_a_picture_is_kept_once_as_it_was_first(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    size = journal.path.stat().st_size
    text, seed, features, evaluations = KEPT[0]
    journal.append([(text, seed, features + 1, evaluations)])
    assert journal.path.stat().st_size == size
    assert_holds(opened(tmp_path), KEPT)


def test_journals_of_different_identities_do_not_meet(tmp_path: Path) -> None:
    filled(tmp_path)
    for other in (IDENTITY | {"generator": "model-2"}, IDENTITY | {"weight": 0.5}, {"generator": "model-1"}):
        assert len(FeatureStore(tmp_path, other, DIMENSION)) == 0
    assert len(FeatureStore(tmp_path, IDENTITY, DIMENSION + 1)) == 0
    assert len(FeatureStore(tmp_path, dict(reversed(IDENTITY.items())), DIMENSION)) == len(KEPT)


def test_a_record_cut_off_at_any_byte_costs_only_itself(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    whole = journal.path.read_bytes()
    start = len(whole) - (16 + 4 + 4 * DIMENSION + 4)
    for end in range(start, len(whole)):
        journal.path.write_bytes(whole[:end])
        torn = opened(tmp_path)
        assert_holds(torn, KEPT[:3])
        torn.append([KEPT[3]])
        assert_holds(opened(tmp_path), KEPT)
        assert journal.path.read_bytes() == whole


def test_a_flipped_byte_costs_its_own_picture_and_never_gives_wrong_features(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    whole = journal.path.read_bytes()
    record = 16 + 4 + 4 * DIMENSION + 4
    first = len(whole) - 4 * record
    for place in range(first, len(whole)):
        damaged = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        journal.path.write_bytes(damaged)
        lost = (place - first) // record
        again = opened(tmp_path)
        assert_holds(again, KEPT[:lost] + KEPT[lost + 1 :])
        assert journal.path.read_bytes() == damaged
        again.append(KEPT)
        assert_holds(opened(tmp_path), KEPT)
        assert journal.path.read_bytes() == damaged + whole[first + lost * record :][:record]


def test_of_a_journal_of_thousands_one_flipped_bit_costs_one_picture(tmp_path: Path) -> None:
    pictures = [("a prompt", k, np.full(DIMENSION, k, np.float32), 1) for k in range(4480)]
    opened(tmp_path).append(pictures)
    path = opened(tmp_path).path
    content = bytearray(path.read_bytes())
    content[len(content) // 40] ^= 1
    path.write_bytes(bytes(content))
    assert len(opened(tmp_path)) == 4479
    np.testing.assert_allclose(mean(tmp_path), np.full(DIMENSION, 4479 / 2), rtol=1e-3)


def test_a_journal_that_was_cut_off_while_it_was_created_is_created_anew(tmp_path: Path) -> None:
    opened(tmp_path).begin()
    header = opened(tmp_path).path.read_bytes()
    for end in range(len(header) + 1):
        opened(tmp_path).path.write_bytes(header[:end])
        opened(tmp_path).append(KEPT)
        assert_holds(opened(tmp_path), KEPT)


def test_a_file_of_another_identity_at_its_place_is_refused(tmp_path: Path) -> None:
    other = FeatureStore(tmp_path, {"generator": "model-2"}, DIMENSION)
    other.begin()
    place = opened(tmp_path).path
    place.write_bytes(other.path.read_bytes())
    with pytest.raises(IndexingError, match="not a journal of this version") as caught:
        opened(tmp_path)
    assert str(place) in caught.value.what
    assert "Delete it" in caught.value.hint
    assert place.read_bytes() == other.path.read_bytes()


def test_a_damaged_header_is_refused_and_the_file_left_alone(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    whole = journal.path.read_bytes()
    for place in (0, 7, 8, 20):
        damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        journal.path.write_bytes(damaged)
        with pytest.raises(IndexingError, match="not a journal of this version"):
            opened(tmp_path)
        assert journal.path.read_bytes() == damaged


def test_a_cleared_journal_is_empty_and_takes_pictures_again(tmp_path: Path) -> None:
    journal = filled(tmp_path)
    journal.clear()
    assert_holds(journal, [])
    assert_holds(opened(tmp_path), [])
    journal.append(KEPT[2:])
    assert_holds(journal, KEPT[2:])
    assert_holds(opened(tmp_path), KEPT[2:])


def test_who_only_looks_writes_nothing(tmp_path: Path) -> None:
    assert len(opened(tmp_path / "no such folder")) == 0
    assert not list(tmp_path.iterdir())
    path = filled(tmp_path).path
    with path.open("ab") as file:
        file.write(b"the first bytes of a picture that is just being kept")
    before = {entry: entry.read_bytes() for entry in tmp_path.iterdir()}
    looking = opened(tmp_path)
    assert_holds(looking, KEPT)
    assert looking.get("another", 0) is None
    assert not looking.is_complete
    assert {entry: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_a_journal_that_cannot_be_written_is_known_before_there_is_a_picture(tmp_path: Path) -> None:
    journal = opened(tmp_path / "later a file")
    (tmp_path / "later a file").write_text("in the way")
    with pytest.raises(IndexingError, match="cannot be used"):
        journal.begin()


APPENDING = """
import sys
from pathlib import Path
import numpy as np
from carlos_core.measuring.feature_store import FeatureStore
folder, name = Path(sys.argv[1]), sys.argv[2]
journal = FeatureStore(folder, {"a": 1}, 300)
sys.stdin.readline()
for k in range(150):
    # Every third picture is one that both make.
    journal.append([("both" if k % 3 == 0 else name, k, np.full(300, k, np.float32), 1)])
    assert FeatureStore(folder, {"a": 1}, 300).get("both", 0) is not None
print(len(journal))
"""


def test_two_processes_that_append_at_once_lose_nothing_and_keep_nothing_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-c", APPENDING, str(tmp_path)]
    both = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in ("one", "other")
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert max(map(int, outputs)) == 250
    journal = FeatureStore(tmp_path, {"a": 1}, 300)
    for k in range(150):
        for text in ("both",) if k % 3 == 0 else ("one", "other"):
            entry = journal.get(text, k)
            assert entry is not None
            assert (entry.features == k).all()
    record = 16 + 4 + 4 * 300 + 4
    header = len(journal.path.read_bytes()) - 250 * record
    assert 0 < header < record


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two journals whose disk was full at the third picture; room was made for a fourth in one. Their folder, and the errors."""
    pytest.importorskip("resource", reason="only Unix can limit the size of files")
    folder = tmp_path_factory.mktemp("full disk")
    process = subprocess.run([sys.executable, "-c", FULL_DISK, folder], capture_output=True, text=True, timeout=60, check=True)
    return folder, process.stdout


def kept_in(folder: Path) -> list[int]:
    journal = FeatureStore(folder, {"a": 1}, 1000)
    return [k for k in range(4) if (entry := journal.get(f"picture {k}", 0)) and (entry.features == k).all()]


def test_a_full_disk_costs_only_what_did_not_fit(full_disk: tuple[Path, str]) -> None:
    folder, errors = full_disk
    assert errors.count("Finished pictures cannot be kept") == 2
    assert errors.count("Free some disk space and run again") == 2
    assert kept_in(folder / "given up") == [0, 1]


def test_what_is_kept_after_room_was_made_on_a_full_disk_stays(full_disk: tuple[Path, str]) -> None:
    assert kept_in(full_disk[0] / "made room") == [0, 1, 3]


def test_a_folder_that_cannot_be_made_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IndexingError, match="cannot be used") as caught:
        opened(tmp_path / "file" / "base")
    assert "permissions" in caught.value.hint


def test_the_mean_feature_is_that_of_all_pictures_of_an_encoder_whatever_made_them(tmp_path: Path) -> None:
    assert mean_features(tmp_path, "clip") is None
    filled(tmp_path)
    other_model = FeatureStore(tmp_path, {**IDENTITY, "generator": "model-2"}, DIMENSION)
    other_model.append([("a prompt", 0, np.full(DIMENSION, 10, np.float32), 1)])
    FeatureStore(tmp_path, {**IDENTITY, "encoder": "another"}, 3).append([("a prompt", 0, np.ones(3, np.float32), 1)])
    for k, identity in enumerate([b"", b"[]", b'{"encoder": "clip"}', b'{"encoder": "clip", "dimension": "x"}', b"[" * 50_000]):
        (tmp_path / f"foreign {k}.journal").write_bytes(b"CARLOSJ1" + len(identity).to_bytes(4, "little") + identity)
    (tmp_path / "cut off.journal").write_bytes(b"CARLOSJ1")
    with other_model.path.open("ab") as file:
        file.write(b"torn")
    (tmp_path / "cannot be read.journal").mkdir()
    size = other_model.path.stat().st_size
    # Means of the four kept: 1.5 .. 2.5; together with the one of tens: (4 * that + 10) / 5.
    np.testing.assert_allclose(mean(tmp_path), (4 * np.linspace(1.5, 2.5, DIMENSION) + 10) / 5, rtol=1e-6)
    assert other_model.path.stat().st_size == size
    assert mean_features(tmp_path, "unknown") is None


FULL_IN_A_BATCH = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from carlos_core.errors import IndexingError
from carlos_core.measuring.feature_store import FeatureStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = FeatureStore(Path(sys.argv[1]), {"a": 1}, 64)
journal.append([("first", 0, np.zeros(64, np.float32), 1)])
before = journal.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (before + 700, resource.RLIM_INFINITY))
try:
    journal.append([(f"picture {k}", k, np.ones(64, np.float32), 1) for k in range(4)])
except IndexingError:
    print(journal.path.stat().st_size - before)
"""


def test_nothing_of_a_batch_that_did_not_fit_is_left_behind(tmp_path: Path) -> None:
    """The disk is full after two of four pictures and a half."""
    pytest.importorskip("resource", reason="only Unix can limit the size of files")
    command = [sys.executable, "-c", FULL_IN_A_BATCH, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "0\n"
