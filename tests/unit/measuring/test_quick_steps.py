"""How many steps suffice, from the features of pictures."""

from __future__ import annotations

import numpy as np
import pytest

from carlos_core.measuring.first_pictures import of_different_prompts
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.presets import PRESETS
from carlos_core.measuring.quick_steps import agreement
from carlos_core.measuring.studio import LOOK
from tests.support.bench import MANY_PROMPTS

CHANCE = np.random.default_rng(0)
FULL = CHANCE.normal(size=(16, 64)) + 5


def test_the_same_pictures_agree_whatever_they_have_in_common() -> None:
    found = agreement(FULL, FULL + 3)
    assert found.mean == pytest.approx(1.0)
    assert found.own == 1
    assert found.is_enough


@pytest.mark.parametrize(("noise", "is_enough"), [(0.2, True), (0.6, False)])
def test_pictures_that_differ_agree_less(noise: float, is_enough: bool) -> None:
    few = FULL + noise * CHANCE.normal(size=FULL.shape)
    found = agreement(few, FULL)
    # Cosine of a vector with itself and noise across it.
    assert found.mean == pytest.approx(1 / np.sqrt(1 + noise**2), abs=0.03)
    assert found.is_enough == is_enough


def test_pictures_of_other_prompts_are_not_taken_for_their_own() -> None:
    found = agreement(np.roll(FULL, 1, axis=0), FULL)
    assert found.own == 0
    assert not found.is_enough


def test_pictures_that_are_all_the_same_agree_with_nothing() -> None:
    assert agreement(np.ones((16, 64)), FULL).mean == 0


def test_prompts_that_come_twice_are_looked_at_once_in_the_plans_order() -> None:
    shots = Plan.of_preset(PRESETS["quick"], MANY_PROMPTS, 8).shots
    shown = of_different_prompts(shots)
    # The 14th picture is a second one of the first prompt.
    assert shots[13].prompt == shots[0].prompt
    assert shown == [*shots[:13], *shots[14:LOOK]]
