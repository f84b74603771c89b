"""Databases brought together: of one LoRA the better row stays, whatever it is called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carlos_core.database.database import MetricsDatabase, create_database, load_database
from carlos_core.database.target import DatabaseFile
from carlos_core.errors import DatabaseError
from carlos_core.measuring.merging import Merged, merge_into
from tests.support.rows import a_row

QUICK, STANDARD, CUSTOM = ({"preset": name} for name in ("quick", "standard", "custom"))


def row(name: str, content: str, protocol: dict[str, Any], strength: float, **facts: Any) -> Any:
    made = a_row(name, np.array([1, 2, 3, 4], dtype=np.float32), strength=strength, sha256=content * 64)
    return replace(made, protocol_id=protocol["preset"], **facts)


def database(*rows: tuple[Any, dict[str, Any]]) -> MetricsDatabase:
    made = MetricsDatabase.empty("mini@0", 4)
    for record, protocol in rows:
        made.upsert(record, protocol)
    return made


def merged(folder: Path, first: MetricsDatabase, *sources: MetricsDatabase) -> tuple[Merged, MetricsDatabase]:
    target = folder / "target.parquet"
    create_database(first, target)
    return merge_into(DatabaseFile(target), sources), load_database(target)


def strengths(of: MetricsDatabase) -> dict[str, float]:
    return dict(zip(of.column("sha256"), of.column("strength"), strict=True))


def test_the_fuller_preset_stays_whichever_comes_first(tmp_path: Path) -> None:
    quick, full = (row("a", "a", QUICK, 1.0), QUICK), (row("a", "a", STANDARD, 2.0), STANDARD)
    for place, (there, comes) in enumerate(((quick, full), (full, quick))):
        folder = tmp_path / str(place)
        done, found = merged(folder, database(there), database(comes))
        assert strengths(found) == {"a" * 64: 2.0}
        assert (done.added, len(done.replaced), len(done.kept)) == ([], 1 - place, place)
        assert found.protocols["standard"] == STANDARD


def test_beside_custom_more_pictures_are_better_and_equal_ones_leave_the_newer(tmp_path: Path) -> None:
    few, many = row("a", "a", CUSTOM, 1.0, n_images=8), row("a", "a", QUICK, 2.0, n_images=64)
    assert strengths(merged(tmp_path / "1", database((few, CUSTOM)), database((many, QUICK)))[1]) == {"a" * 64: 2.0}
    old = row("a", "a", QUICK, 3.0, indexed_at="2026-01-01T00:00:00Z")
    new = row("a", "a", QUICK, 4.0, indexed_at="2026-02-01T00:00:00Z")
    for place, (there, comes) in enumerate(((old, new), (new, old))):
        found = merged(tmp_path / f"2{place}", database((there, QUICK)), database((comes, QUICK)))[1]
        assert strengths(found) == {"a" * 64: 4.0}


def test_rows_that_are_new_come_whole_and_the_same_content_is_one_lora(tmp_path: Path) -> None:
    first = database((row("a", "a", QUICK, 1.0), QUICK))
    one = database((row("b", "b", QUICK, 2.0), QUICK), (row("a", "c", QUICK, 3.0), QUICK))
    two = database((row("other name", "b", QUICK, 2.0), QUICK))
    done, found = merged(tmp_path, first, one, two)
    assert (len(done.added), len(done.kept)) == (2, 1)
    assert strengths(found) == {"a" * 64: 1.0, "b" * 64: 2.0, "c" * 64: 3.0}
    of_b = found.row("b")
    ours = one.row("b")
    assert of_b is not None
    assert ours is not None
    assert of_b.direction.tobytes() == ours.direction.tobytes()


def test_rows_of_another_encoder_change_nothing(tmp_path: Path) -> None:
    other = MetricsDatabase.empty("other@0", 4)
    with pytest.raises(DatabaseError, match="other@0"):
        merged(tmp_path, database((row("a", "a", QUICK, 1.0), QUICK)), other)
    assert len(load_database(tmp_path / "target.parquet")) == 1
