"""The stopping rule: what it promises is what happens, and it ends in every case."""

from __future__ import annotations

import math

import numpy as np
import pytest

from carlos_core.measuring.stopping import ALL_TAKEN, DIRECTION_KNOWN, StoppingRule, picture_order
from carlos_core.records import NO_EFFECT

DIMENSION, PROMPTS, SEEDS, STRATA = 48, 80, 4, 10
RULE = StoppingRule()
ORDER = picture_order(PROMPTS, SEEDS)
NAMES = [f"prompt {prompt}" for prompt, _ in ORDER]
TOPICS = [f"topic {prompt % STRATA}" for prompt, _ in ORDER]
SCALES = np.exp(-np.arange(DIMENSION) / 12)
SCALES /= np.sqrt((SCALES**2).sum())


def full_protocol(seed: int, *, consistency: float, r: float = 0.5, strength: float = 6.0) -> np.ndarray:
    """Differences [320, D] of a LoRA in the order taken; noise of unequal axes, a share r of it common to a prompt's pictures."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=DIMENSION) * SCALES
    of_prompts = rng.normal(size=(PROMPTS, DIMENSION)) * SCALES
    own = rng.normal(size=(len(ORDER), DIMENSION)) * SCALES
    noise = math.sqrt(r) * of_prompts[[prompt for prompt, _ in ORDER]] + math.sqrt(1 - r) * own
    return strength * (math.sqrt(consistency) * direction / np.linalg.norm(direction) + math.sqrt(1 - consistency) * noise)


def measured(diffs: np.ndarray, n_full: int = 0) -> tuple[int, str, float]:
    """Pictures at the end, reason, realised cosine with the mean of all."""
    n_full = n_full or len(diffs)
    for n in RULE.checkpoints(len(diffs)):
        decision = RULE.decide(diffs[:n], NAMES[:n], n_full, PROMPTS, TOPICS[:n])
        if decision.stop:
            break
    found, wanted = diffs[:n].mean(0), diffs.mean(0)
    return n, decision.reason, float(found @ wanted / np.sqrt((found @ found) * (wanted @ wanted)))


@pytest.mark.parametrize(("consistency", "r"), [(0.3, 0.0), (0.3, 0.8), (0.12, 0.4)])
def test_promise_is_kept_in_95_of_100_measurements_with_a_fraction_of_the_pictures(consistency: float, r: float) -> None:
    runs = [measured(full_protocol(seed, consistency=consistency, r=r)) for seed in range(80)]
    assert {reason for _, reason, _ in runs} == {DIRECTION_KNOWN}
    assert np.mean([cosine >= RULE.target for _, _, cosine in runs]) >= 0.95
    needed = 15.9 * (1 - consistency) / consistency
    assert np.median([n for n, _, _ in runs]) <= 1.3 * 1.7 * needed


def test_lower_bound_holds_as_often_as_it_says_at_a_fixed_number_of_pictures() -> None:
    held = []
    for seed in range(300):
        diffs = full_protocol(seed, consistency=0.2)
        decision = RULE.decide(diffs[:50], NAMES[:50], len(diffs), PROMPTS, TOPICS[:50])
        found, wanted = diffs[:50].mean(0), diffs.mean(0)
        assert decision.lower is not None
        held.append(found @ wanted / np.sqrt((found @ found) * (wanted @ wanted)) >= decision.lower)
    assert 0.94 <= np.mean(held) <= 0.995


def test_differences_of_zero_end_at_the_first_look() -> None:
    decision = RULE.decide(np.zeros((16, DIMENSION)), NAMES[:16], 320, PROMPTS)
    assert decision.stop
    assert decision.reason == NO_EFFECT
    assert not RULE.decide(np.zeros((4, DIMENSION)), NAMES[:4], 320, PROMPTS).stop


def test_noise_without_direction_is_no_effect_and_ends_early() -> None:
    rng = np.random.default_rng(3)
    names = [f"prompt {k}" for k in range(280)]
    ends = []
    for _ in range(40):
        diffs = rng.normal(size=(280, DIMENSION)) * SCALES
        looks = (n for n in RULE.checkpoints(4480) if n <= 280)
        decisions = ((n, RULE.decide(diffs[:n], names[:n], 4480, 280)) for n in looks)
        ends.append(next(((n, decision.reason) for n, decision in decisions if decision.stop), (280, "")))
    assert {reason for _, reason in ends} == {NO_EFFECT}
    assert np.median([n for n, _ in ends]) < 150


@pytest.mark.parametrize("consistency", [0.13, 0.035])
def test_weak_but_consistent_is_not_no_effect(consistency: float) -> None:
    for seed in range(15):
        assert measured(full_protocol(seed, consistency=consistency, strength=0.3), n_full=4480)[1] != NO_EFFECT


def test_everything_taken_ends_with_full_knowledge() -> None:
    diffs = full_protocol(0, consistency=0.005)
    decision = RULE.decide(diffs, NAMES, len(diffs), PROMPTS, TOPICS)
    assert decision.stop
    assert decision.reason == ALL_TAKEN
    assert decision.lower == pytest.approx(1)
    assert decision.images_needed == len(diffs)
    assert RULE.decide(np.ones((1, DIMENSION)), ["a"], 1).reason == ALL_TAKEN


def test_names_and_order_of_pictures_do_not_matter() -> None:
    diffs = full_protocol(5, consistency=0.2)[:60]
    shuffle = np.random.default_rng(0).permutation(60)
    renamed = {name: f"{k * 7919 % 101} other" for k, name in enumerate(dict.fromkeys(NAMES))}
    a = RULE.decide(diffs, NAMES[:60], 320, PROMPTS, TOPICS[:60])
    b = RULE.decide(diffs[shuffle], [renamed[NAMES[k]] for k in shuffle], 320, PROMPTS, [TOPICS[k][::-1] for k in shuffle])
    assert a.lower == pytest.approx(b.lower, rel=1e-9)
    assert (a.stop, a.images_needed) == (b.stop, b.images_needed)


def test_unit_of_the_features_does_not_matter() -> None:
    diffs = full_protocol(6, consistency=0.2)[:60]
    a, b = (RULE.decide(scale * diffs, NAMES[:60], 320, PROMPTS) for scale in (1.0, 1e-3))
    assert a.lower == pytest.approx(b.lower, rel=1e-9)


def test_knowing_the_prompts_and_their_topics_never_needs_to_be_told_but_saves_pictures() -> None:
    diffs = full_protocol(7, consistency=0.15, r=0.9)[:70]
    endless = RULE.decide(diffs, NAMES[:70], 4480)
    finite = RULE.decide(diffs, NAMES[:70], 320, PROMPTS)
    assert endless.lower is not None
    assert finite.lower is not None
    assert endless.lower < finite.lower


def test_images_needed_is_what_it_takes_in_the_end() -> None:
    ends, guesses = [], []
    for seed in range(30):
        diffs = full_protocol(seed, consistency=0.12, r=0.3)
        guess = RULE.decide(diffs[:40], NAMES[:40], len(diffs), PROMPTS, TOPICS[:40]).images_needed
        assert guess is not None
        guesses.append(guess)
        ends.append(measured(diffs)[0])
    assert np.median(guesses) == pytest.approx(np.median(ends), rel=0.25)


@pytest.mark.parametrize("n_total", [1, 15, 16, 17, 256, 4480])
def test_looks_grow_and_end_at_the_cap(n_total: int) -> None:
    looks = RULE.checkpoints(n_total)
    assert looks[-1] == n_total
    assert all(a < b for a, b in zip(looks, looks[1:], strict=False))
    assert len(looks) < 130


@pytest.mark.parametrize(("n_prompts", "n_seeds"), [(280, 16), (30, 1), (3, 2), (1, 5), (14, 2)])
def test_order_holds_every_picture_once(n_prompts: int, n_seeds: int) -> None:
    order = picture_order(n_prompts, n_seeds)
    assert len(order) == n_prompts * n_seeds
    assert set(order) == {(prompt, seed) for prompt in range(n_prompts) for seed in range(n_seeds)}


def test_order_repeats_a_few_prompts_early_and_takes_the_rest_once_first() -> None:
    order = picture_order(280, 16)
    assert {prompt for prompt, _ in order[:301]} == set(range(280))
    assert len({prompt for prompt, _ in order[:140]}) == 130
    assert [prompt for prompt, _ in picture_order(280, 16, repeat_every=0)] == 16 * list(range(280))


def test_order_spreads_the_seeds_evenly_over_every_beginning() -> None:
    for n in (48, 96, 280):
        seeds = np.bincount([seed for _, seed in picture_order(280, 16)[:n]], minlength=16)
        assert abs(seeds - n / 16).max() <= 3
    assert {seed for _, seed in picture_order(280, 16, spread_seeds=False, repeat_every=0)[:280]} == {0}
