"""How much LoRAs change pictures together, and weights that leave the prompt visible: against sums over made-up pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carlos_core.search.keeping import Keeping, joint_change, kept
from carlos_core.search.weights import Candidates, WeightLimits


def candidates(directions: list[list[float]] | np.ndarray, strength: list[float]) -> Candidates:
    n = len(strength)
    return Candidates([chr(97 + place) for place in range(n)], np.array(directions, float), np.array(strength), np.ones(n))


def random_candidates(seed: int, n: int) -> Candidates:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n, 6))
    return candidates(directions, (np.linalg.norm(directions, axis=1) * rng.uniform(1, 3, size=n)).tolist())


def test_one_lora_changes_pictures_by_its_weight_times_its_strength() -> None:
    assert joint_change(candidates([[3.0, 0.0]], [5.0]), np.array([0.5])) == pytest.approx(2.5)


def test_the_joint_change_is_that_of_pictures_to_which_each_lora_adds_something_of_its_own() -> None:
    rng = np.random.default_rng(1)
    directions, spread, weights = rng.normal(size=(3, 8)), np.array([0.5, 1.0, 2.0]), np.array([1.0, 0.4, 0.7])
    diffs = directions[:, None] + spread[:, None, None] * rng.normal(size=(3, 200_000, 8))
    strength = np.sqrt((diffs**2).sum(-1).mean(-1))
    joint = np.einsum("k,kpd->pd", weights, diffs)
    found = joint_change(candidates(directions, strength.tolist()), weights)
    assert found == pytest.approx(np.sqrt((joint**2).sum(-1).mean()), rel=5e-3)


def test_two_that_have_nothing_in_common_together_change_pictures_as_one_does() -> None:
    pair = candidates([[1, 0], [0, 1]], [5.0, 5.0])
    weights = kept(pair, np.ones(2), np.ones(2), 0.5)
    assert weights == pytest.approx([np.sqrt(0.5)] * 2)
    assert joint_change(pair, weights) == pytest.approx(5.0)
    # Two that do the same add up.
    assert kept(candidates([[5, 0], [5, 0]], [5.0, 5.0]), np.ones(2), np.ones(2), 0.5) == pytest.approx([0.5, 0.5])


def test_a_lora_alone_keeps_its_weight_unless_more_content_is_asked_for() -> None:
    one = candidates([[3, 4]], [6.0])
    assert kept(one, np.array([0.8]), np.array([0.8]), 0.5).tolist() == [0.8]
    assert kept(one, np.array([0.8]), np.array([0.8]), 1.0) == pytest.approx([0.4])


@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0.1, 5.0))
def test_the_knob_takes_from_all_weights_alike_and_never_adds(seed: int, n: int, budget: float) -> None:
    loras, rng = random_candidates(seed, n), np.random.default_rng(seed)
    shares = rng.uniform(0.1, 1.0, size=n)
    weights = WeightLimits(budget, max_strength=np.inf).weights(loras, range(n), shares)
    assert kept(loras, weights, np.ones(n), 0.0).tolist() == weights.tolist()
    found = [kept(loras, weights, np.ones(n), keep) for keep in (0.0, 0.2, 0.5, 0.75, 1.0)]
    for more, less in zip(found, found[1:], strict=False):
        assert (less <= more).all()
        assert less.sum() <= budget * (1 + 1e-9)
        assert less / less.sum() == pytest.approx(weights / weights.sum())
    assert joint_change(loras, found[2]) <= loras.strength.max() * 1.002 + 1e-9


def test_what_changes_nothing_keeps_its_weight() -> None:
    assert kept(candidates([[0, 0]], [0.0]), np.ones(1), np.ones(1), 1.0).tolist() == [1.0]


@pytest.mark.parametrize(
    ("keeping", "says", "may_break"),
    [
        (Keeping(2.0, 1.42, 5.0, 5.0), ["Weights reduced from 2.00 to 1.42 in all, so that the prompt stays visible"], False),
        (Keeping(2.0, 2.0, 7.0, 5.0), [], False),
        (Keeping(2.0, 2.0, 8.25, 6.0), ["of its prompt: the LoRAs together change pictures by about 8.2"], True),
        (Keeping(3.0, 2.0, 9.0, 6.0), ["from 3.00 to 2.00 in all, so that more of the prompt stays visible", "about 9.0"], True),
        # How strong one LoRA may be is what max_strength says; how much it is emphasised, the user.
        (Keeping(1.0, 1.0, 9.0, 9.0, n_loras=1), [], False),
        (Keeping(1.5, 1.5, 8.6, 5.7, n_loras=1), ["of its prompt: the LoRA changes pictures by about 8.6"], True),
        (Keeping(1.402, 1.4, 5.0, 5.0), [], False),
    ],
)
def test_what_was_taken_and_what_is_expected_is_said(keeping: Keeping, says: list[str], may_break: bool) -> None:
    assert len(keeping.notes) == len(says)
    assert all(words in note for words, note in zip(says, keeping.notes, strict=True))
    assert keeping.facts["may_break"] == may_break
