"""Scores of a race and their error bars, how sure it is of its best, and who is next: in worlds whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from carlos_core.measuring.race_rule import FIRST, Standing, best, confidence, doubling, first_batch, following, round_of
from carlos_core.measuring.race_scores import Scores, Seen, Yardstick, correlations, noise_of, scores_of
from carlos_core.records import LoraRecord

DIMENSION, PAIRS = 40, 64


@dataclass(frozen=True, eq=False)
class World:
    """LoRAs of different consistency, whose differences share a part of their noise."""

    truth: np.ndarray
    """Scores, [A]."""

    diffs: np.ndarray
    """[A, n, D]."""

    yardstick: Yardstick


def world(seed: int, *, size: int = 40, shared: float = 0.3, consistency: tuple[float, float] = (0.06, 0.4)) -> World:
    rng = np.random.default_rng(seed)
    shape = 1 / np.sqrt(np.arange(1, DIMENSION + 1))
    shape /= np.linalg.norm(shape)
    means = rng.standard_normal((size, DIMENSION)) * shape
    aim = rng.standard_normal(DIMENSION) * shape
    lengths = np.linalg.norm(means, axis=1)
    own, common = rng.standard_normal((size, PAIRS, DIMENSION)), rng.standard_normal((PAIRS, DIMENSION))
    noise = np.sqrt(1 - shared) * own + np.sqrt(shared) * common
    deviation = lengths * np.sqrt(1 / rng.uniform(*consistency, size) - 1)
    diffs = means[:, None] + deviation[:, None, None] * shape * noise
    return World(means @ aim / lengths / np.linalg.norm(aim), diffs, Yardstick.cosine(aim))


@pytest.mark.parametrize("pairs", [2, 4, 16, 64])
def test_the_truth_is_within_the_error_bars(pairs: int) -> None:
    off = []
    for seed in range(20):
        drawn = world(seed)
        scores = scores_of([Seen.of(diffs[:pairs], drawn.yardstick) for diffs in drawn.diffs], drawn.yardstick)
        off.append(np.abs(scores.mean - drawn.truth) / scores.deviation)
    covered = np.concatenate(off) < 1.645
    assert 0.87 <= covered.mean() <= 0.985


def test_the_cosine_of_few_differences_is_too_small_and_the_estimate_is_not() -> None:
    plain, ours, truth = [], [], []
    for seed in range(40):
        drawn = world(seed)
        first = int(drawn.truth.argmax())
        mean = drawn.diffs[first, :8].mean(0)
        plain.append(float(mean @ drawn.yardstick.aim / np.linalg.norm(mean)))
        ours.append(scores_of([Seen.of(diffs[:8], drawn.yardstick) for diffs in drawn.diffs], drawn.yardstick).estimate[first])
        truth.append(drawn.truth[first])
    assert np.mean(plain) < np.mean(truth) - 0.05
    assert abs(np.mean(ours) - np.mean(truth)) < 0.04


def test_a_row_counts_as_the_pictures_behind_it() -> None:
    drawn = world(3)
    diffs = drawn.diffs[0]
    lengths = np.linalg.norm(diffs, axis=1)
    total = (diffs / lengths[:, None]).sum(0)
    n = len(diffs)
    consistency = float((total @ total - n) / (n * (n - 1)))
    row = LoraRecord(
        lora_id="1",
        direction=diffs.mean(0).astype(np.float32),
        strength=float(lengths.mean()),
        consistency=consistency,
        n_prompts=n,
    )
    others = [Seen.of(each, drawn.yardstick) for each in drawn.diffs[1:]]
    as_row = scores_of([Seen.of_row(row, drawn.yardstick), *others], drawn.yardstick)
    as_pictures = scores_of([Seen.of(diffs, drawn.yardstick), *others], drawn.yardstick)
    assert as_row.estimate[0] == pytest.approx(as_pictures.estimate[0], abs=0.02)
    assert as_row.se[0] == pytest.approx(as_pictures.se[0], rel=0.5)


def test_pictures_without_a_change_score_nothing() -> None:
    drawn = world(1, size=3)
    still = np.zeros((4, DIMENSION))
    scores = scores_of([Seen.of(diffs, drawn.yardstick) for diffs in (still, *drawn.diffs)], drawn.yardstick)
    assert np.isfinite([*scores.mean, *scores.deviation]).all()
    assert scores.estimate[0] == 0


def test_the_confidence_is_the_share_of_draws_in_which_no_other_is_better() -> None:
    rng = np.random.default_rng(5)
    mean, deviation = np.array([0.5, 0.45, 0.3, 0.1]), np.array([0.05, 0.06, 0.1, 0.2])
    draws = rng.normal(mean, deviation, (200_000, 4))
    none = np.zeros((1, 4))
    share = (draws[:, 1:].max(1) <= draws[:, 0] + 0.02).mean()
    assert confidence(mean, deviation, np.array([0]), 0.02, none) == pytest.approx(share, abs=0.005)


def test_another_one_that_does_not_fit_is_no_better_choice() -> None:
    rng = np.random.default_rng(5)
    mean, deviation = np.array([0.5, 0.45, 0.3, 0.1]), np.array([0.05, 0.06, 0.1, 0.2])
    draws = rng.normal(mean, deviation, (200_000, 4))
    share = (draws[:, 1:].max(1) <= np.maximum(draws[:, 0] + 0.02, 0.54)).mean()
    assert confidence(mean, deviation, np.array([0]), 0.02, np.zeros((1, 4)), 0.54) == pytest.approx(share, abs=0.005)


def scores_like(mean: Sequence[float], deviation: float) -> Scores:
    means, deviations = np.array(mean), np.full(len(mean), deviation)
    return Scores(means, deviations, means, deviations, float(means.mean()), 0.2)


def test_those_that_do_not_fit_need_not_be_told_apart() -> None:
    scores, noise = scores_like([0.8, 0.11, 0.1, 0.1], 0.05), [np.zeros(0)] * 4
    told_apart = Standing.of(scores, 3, 0.02, noise)
    fitting = Standing.of(scores, 3, 0.02, noise, least=0.5)
    assert told_apart.confidence < 0.5
    assert told_apart.left == 4
    assert fitting.confidence > 0.99
    assert fitting.left == 3
    assert fitting.leader_fits > 0.99
    assert Standing.of(scores, 3, 0.02, noise, least=1.0).nothing_fits > 0.99


def test_a_chosen_one_that_does_not_fit_gets_no_more_pictures() -> None:
    scores, everyone = scores_like([0.8, 0.1, 0.45, 0.05], 0.06), np.ones(4, dtype=bool)
    standing = Standing.of(scores, 3, 0.02, [np.zeros(0)] * 4, least=0.5)
    assert following(standing, everyone) == 2
    assert standing.chosen.tolist() == [0, 2, 1]


def test_a_small_budget_goes_to_fewer_and_fewer_of_the_best() -> None:
    standing = Standing.of(scores_like(np.linspace(0.5, 0.1, 20).tolist(), 0.3), 1, 0.02, [np.zeros(0)] * 20)
    pairs, left, taken = np.full(20, 2), 200, []
    while left >= 8:
        index = doubling(standing, pairs, np.ones(20, dtype=bool), left)
        assert index is not None
        taken.append(index)
        further = round_of(int(pairs[index]), 2)
        pairs[index] += further
        left -= further
    assert max(taken[:10]) > max(taken[-10:])
    assert pairs[0] == pairs.max() > 16
    assert list(pairs) == sorted(pairs, reverse=True)
    assert doubling(standing, pairs, np.zeros(20, dtype=bool), 100) is None


def test_errors_that_go_together_make_a_difference_surer() -> None:
    mean, deviation, first = np.array([0.5, 0.45]), np.array([0.05, 0.05]), np.array([0])
    together = confidence(mean, deviation, first, 0.02, np.array([[1.0, 0.9]]))
    rng = np.random.default_rng(6)
    draws = rng.multivariate_normal(mean, 0.05**2 * np.array([[1, 0.9], [0.9, 1]]), 200_000)
    assert together == pytest.approx((draws[:, 1] <= draws[:, 0] + 0.02).mean(), abs=0.005)
    assert together > confidence(mean, deviation, first, 0.02, np.zeros((1, 2)))


def test_shared_noise_is_seen_as_such() -> None:
    apart, alike = (world(7, shared=shared) for shared in (0.0, 0.8))
    found = [
        float(np.mean(correlations([noise_of(diffs, drawn.yardstick) for diffs in drawn.diffs], [0])[0, 1:]))
        for drawn in (apart, alike)
    ]
    assert abs(found[0]) < 0.1
    assert found[1] > 0.5


def run(drawn: World, top_k: int) -> tuple[Standing, int]:
    """A race without a budget. Returns how it stands and the pairs it took."""
    size, most = drawn.diffs.shape[:2]
    n = [FIRST] * size
    while True:
        taken = [diffs[:pairs] for diffs, pairs in zip(drawn.diffs, n, strict=True)]
        scores = scores_of([Seen.of(diffs, drawn.yardstick) for diffs in taken], drawn.yardstick)
        standing = Standing.of(scores, top_k, 0.02, [noise_of(diffs, drawn.yardstick) for diffs in taken])
        index = following(standing, np.array(n) < most)
        if standing.confidence >= 0.9 or index is None:
            return standing, sum(n)
        n[index] = min(most, n[index] + round_of(n[index], FIRST))


@pytest.mark.parametrize("top_k", [1, 3])
def test_the_confidence_asked_for_is_kept(top_k: int) -> None:
    ended, errors, pairs = 0, 0, []
    for seed in range(24):
        drawn = world(seed + 100, size=10, consistency=(0.2, 0.5))
        standing, taken = run(drawn, top_k)
        if standing.confidence >= 0.9:
            ended += 1
            last = np.sort(drawn.truth)[-top_k]
            errors += bool(drawn.truth[standing.chosen].min() < last - 0.02)
            pairs.append(taken)
    assert ended >= 6
    assert errors <= 0.1 * ended + 2
    assert np.median(pairs) < 10 * PAIRS / 2


def test_nobody_who_is_clearly_out_gets_pictures() -> None:
    scores = scores_of([Seen.of(diffs, world(9).yardstick) for diffs in world(9).diffs], world(9).yardstick)
    standing = Standing.of(scores, 1, 0.02, [np.zeros(0)] * 40)
    index = following(standing, np.ones(40, dtype=bool))
    assert index is not None
    assert index in standing.chosen or standing.chances[index] == standing.chances.max() or standing.chances[index] > 0.001


def test_it_is_over_when_only_those_who_are_out_could_get_pictures() -> None:
    drawn = world(9, size=3)
    scores = scores_of([Seen.of(diffs, drawn.yardstick) for diffs in drawn.diffs], drawn.yardstick)
    standing = Standing.of(scores, 1, 0.02, [np.zeros(0)] * 3)
    assert following(standing, np.zeros(3, dtype=bool)) is None


def test_equal_scores_keep_their_order() -> None:
    assert best(np.array([0.1, 0.3, 0.3, 0.2]), 3).tolist() == [1, 2, 3]


def test_first_pictures_take_at_most_half_of_the_budget() -> None:
    assert first_batch(300, 2500) == 4
    assert first_batch(1000, 2500) == 2
    assert first_batch(1000, 0) == 4


def test_visits_grow_with_what_a_candidate_has() -> None:
    assert [round_of(taken, 4) for taken in (0, 2, 4, 16, 32, 64)] == [4, 2, 4, 4, 8, 16]
