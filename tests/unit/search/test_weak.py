"""Which LoRAs are called far weaker than usual: no published one that a search finds, and the one that is hardly seen."""

from __future__ import annotations

import numpy as np
import pytest

from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.database.published import load_bundled_database
from carlos_core.search.limits import PUBLISHED_LIMITS
from carlos_core.search.weak import faded, median_strength, weakness
from tests.support import miniworld
from tests.support.miniworld import MINIWORLD


@pytest.fixture(scope="module")
def rows() -> MetricsDatabase:
    return load_database(MINIWORLD / "reference_metrics.parquet", encoder_id=miniworld.encoder_id())


def test_the_usual_strength_is_the_median_of_the_loras_with_an_effect(rows: MetricsDatabase) -> None:
    strengths = [strength for strength in rows.column("strength") if strength > 0]
    assert len(strengths) == len(rows) - 2
    assert median_strength(rows) == pytest.approx(np.median(strengths))


def test_only_the_lora_that_is_hardly_visible_is_weak(rows: MetricsDatabase) -> None:
    kinds = {file: facts["kind"] for file, facts in miniworld.labels().items()}
    columns = zip(rows.column("file_name"), rows.column("strength"), strict=True)
    weak = {kinds[file] for file, strength in columns if strength > 0 and weakness(strength, median_strength(rows))}
    assert weak == {"weak"}


def test_no_published_lora_that_a_search_finds_is_called_weak() -> None:
    database = load_bundled_database()
    arrays, usual = database.ranking_arrays, median_strength(database)
    findable = PUBLISHED_LIMITS.within(arrays.strength, arrays.consistency)
    assert not any(weakness(strength, usual) for strength in arrays.strength[findable].tolist())
    assert sum(weakness(strength, usual) is not None for strength in arrays.strength.tolist()) == 12


def test_more_weight_makes_up_for_little_strength_and_less_is_not_held_against_a_lora() -> None:
    assert weakness(1.0, 5.0, weight=3.0) is None
    assert weakness(1.0, 5.0, weight=-3.0) is None
    assert weakness(4.0, 5.0, weight=0.3) is None
    weak = weakness(1.0, 5.0, weight=2.0)
    assert weak is not None
    assert (weak.strength, weak.usual) == (1.0, 5.0)


def test_of_a_few_loras_nothing_is_said(rows: MetricsDatabase) -> None:
    few = MetricsDatabase(rows.table.slice(0, 4), encoder_id=rows.encoder_id)
    assert median_strength(few) is None
    assert weakness(0.1, None) is None


@pytest.mark.parametrize(
    ("strength", "weight", "is_faded"), [(4.0, 0.4, True), (4.0, -0.4, True), (4.0, 0.6, False), (1.0, 0.2, False)]
)
def test_a_lora_whose_weight_was_reduced_until_it_is_hardly_seen_is_called_that(
    strength: float, weight: float, is_faded: bool
) -> None:
    found = faded(strength, 4.0, weight, own=1.0)
    assert (found is not None) == is_faded
    assert faded(strength, None, weight, own=1.0) is None
    # At the weight that was suggested for it, nothing was taken from it.
    assert faded(strength, 4.0, weight, own=round(weight, 3)) is None
    # One that is weak at its own weight is called so for that: of each, one line.
    assert not (is_faded and weakness(strength, 4.0))
