"""Which pictures are made in which order, and when a row is as good as a new one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from carlos_core.errors import IndexingError
from carlos_core.measuring.base_check import UNSUITABLE
from carlos_core.measuring.plan import Plan
from carlos_core.measuring.presets import AS_GIVEN, FEW_STEPS
from carlos_core.measuring.protocol import Covering, Protocol
from carlos_core.prompts.prompt_set import Prompt, PromptSet
from carlos_core.records import NO_EFFECT, MeasuredRow

PROMPTS = PromptSet("p", tuple(Prompt(f"{topic}{k}", topic, "s") for topic in "abc" for k in range(3)))
SETTINGS = {"model": "SDXL", "fingerprint": "f00d", "steps": 25, "cfg": 5.0, "sampler": "euler", "size": "1024x1024"}
PROTOCOL = Protocol(
    preset="custom", prompts_hash="abcd", seed_rule="0 + k", lora_weight=1.0, trigger_rule="lora side", generator=SETTINGS
)


def test_all_prompts_come_once_in_stratified_order_before_any_second_seed() -> None:
    shots = Plan.all(PROMPTS, seeds=2, first_seed=100).shots
    round_ = ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]
    assert [(shot.prompt.text, shot.seed) for shot in shots] == [(text, seed) for seed in (100, 101) for text in round_]


def test_a_limit_takes_the_first_prompts_of_that_order() -> None:
    shots = Plan.all(PROMPTS, seeds=2, first_seed=0, max_prompts=4).shots
    assert [(shot.prompt.text, shot.seed) for shot in shots] == [
        (text, seed) for seed in (0, 1) for text in ("a0", "b0", "c0", "a1")
    ]
    assert Plan.all(PROMPTS, seeds=1, first_seed=0, max_prompts=1000) == Plan.all(PROMPTS, seeds=1, first_seed=0)


@pytest.mark.parametrize(("seeds", "max_prompts"), [(0, 0), (-1, 0), (1, -1)])
def test_a_plan_without_pictures_is_refused(seeds: int, max_prompts: int) -> None:
    with pytest.raises(IndexingError, match=f"{seeds} seeds and {max_prompts} prompts"):
        Plan.all(PROMPTS, seeds=seeds, first_seed=0, max_prompts=max_prompts)


def test_the_id_is_the_beginning_of_the_hash_of_the_canonical_json() -> None:
    # Worked out by hand: keys in order, no blanks.
    canonical = (
        '{"cfg":5.0,"fingerprint":"f00d","lora_weight":1.0,"model":"SDXL","preset":"custom","prompts":"abcd","sampler":"euler",'
        '"seed_rule":"0 + k","size":"1024x1024","steps":25,"trigger_rule":"lora side"}'
    )
    assert PROTOCOL.protocol_id == hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert PROTOCOL.described() == json.loads(canonical)


def test_the_id_does_not_depend_on_the_order_of_settings_nor_on_the_kind_of_number() -> None:
    shuffled = replace(PROTOCOL, generator=dict(reversed(SETTINGS.items())), lora_weight=1)
    assert shuffled.protocol_id == PROTOCOL.protocol_id


def test_the_id_changes_with_every_field() -> None:
    changes: list[dict[str, Any]] = [
        {"preset": "quick"},
        {"prompts_hash": "abce"},
        {"seed_rule": "1 + k"},
        {"lora_weight": 0.9},
        {"trigger_rule": "none"},
        *({"generator": SETTINGS | {name: "another"}} for name in SETTINGS),
        {"generator": SETTINGS | {"scheduler": "normal"}},
    ]
    ids = {replace(PROTOCOL, **change).protocol_id for change in changes}
    assert len(ids | {PROTOCOL.protocol_id}) == len(changes) + 1


def covered(
    measured: Protocol, n_images: int | None, wanted: Protocol, wanted_images: int = 100, *, is_described: bool = True
) -> str | None:
    """Whether a row measured by one protocol covers another."""
    protocols = {measured.protocol_id: measured.described()} if is_described else {}
    found = wanted.covering(row_of(measured.protocol_id, n_images), protocols, wanted_images)
    assert found is None or not found.is_other_checkpoint
    return None if found is None else found.preset


def row_of(protocol_id: str | None, n_images: int | None) -> MeasuredRow:
    return MeasuredRow("a", "a.safetensors", protocol_id, "SDXL-1", n_images, 5.0, (), has_curve=False)


def test_custom_covers_itself_with_at_least_as_many_pictures() -> None:
    assert covered(PROTOCOL, 100, PROTOCOL) == "custom"
    assert covered(PROTOCOL, 101, PROTOCOL) == "custom"
    assert covered(PROTOCOL, 99, PROTOCOL) is None
    assert covered(PROTOCOL, None, PROTOCOL) is None
    assert covered(PROTOCOL, 1000, replace(PROTOCOL, lora_weight=0.5)) is None


@pytest.mark.parametrize("preset", ["quick", "standard", "paper"])
def test_a_preset_covers_itself_whatever_the_number_of_pictures(preset: str) -> None:
    protocol = replace(PROTOCOL, preset=preset)
    assert covered(protocol, 3, protocol) == preset


def test_a_fuller_preset_covers_the_lesser_ones_and_is_named() -> None:
    presets = ("race", "quick", "standard", "paper")
    for k, measured in enumerate(presets):
        for wanted_k, wanted in enumerate(presets):
            # The presets differ in their settings too, as they do in life.
            found = covered(
                replace(PROTOCOL, preset=measured, generator=SETTINGS | {"steps": 10 + k}),
                64,
                replace(PROTOCOL, preset=wanted, generator=SETTINGS | {"steps": 10 + wanted_k}),
            )
            assert found == (measured if k >= wanted_k else None), (measured, wanted)


def test_a_fuller_preset_on_another_model_covers_nothing() -> None:
    paper = replace(PROTOCOL, preset="paper", generator=SETTINGS | {"model": "Pony"})
    assert covered(paper, 4480, replace(PROTOCOL, preset="quick")) is None


def test_custom_and_presets_do_not_cover_each_other() -> None:
    assert covered(PROTOCOL, 100_000, replace(PROTOCOL, preset="quick")) is None
    assert covered(replace(PROTOCOL, preset="paper"), 4480, PROTOCOL) is None


def test_a_row_whose_protocol_is_not_known_covers_nothing() -> None:
    assert covered(replace(PROTOCOL, preset="paper"), 4480, replace(PROTOCOL, preset="quick"), is_described=False) is None
    assert PROTOCOL.covering(row_of(None, 4480), {}, 1) is None
    published = {"published": {"model": "SDXL", "images": 4480}}
    assert replace(PROTOCOL, preset="quick").covering(row_of("published", 4480), published, 1) is None


@pytest.mark.parametrize("preset", ["quick", "standard", "paper"])
def test_a_preset_covers_nothing_that_was_measured_with_other_settings_under_its_name(preset: str) -> None:
    protocol = replace(PROTOCOL, preset=preset)
    assert covered(protocol, 4480, replace(protocol, generator=SETTINGS | {"steps": 26})) is None


OTHER = replace(PROTOCOL, generator=SETTINGS | {"model": "another checkpoint"})


def covered_elsewhere(measured: Protocol, wanted: Protocol, *, model_key: str = "SDXL-1", **row: Any) -> Covering | None:
    """Whether a row of 100 pictures of one checkpoint covers 100 pictures of another."""
    found = row_of(measured.protocol_id, 100)._replace(**row)
    return wanted.covering(found, {measured.protocol_id: measured.described()}, 100, model_key=model_key)


def test_a_row_covers_other_checkpoints_of_its_shape() -> None:
    assert covered_elsewhere(OTHER, PROTOCOL) == Covering("custom", is_other_checkpoint=True)
    assert covered_elsewhere(OTHER, PROTOCOL, n_images=99) is None
    standard = replace(OTHER, preset="standard")
    assert covered_elsewhere(standard, replace(PROTOCOL, preset="standard")) == Covering("standard", is_other_checkpoint=True)
    assert covered_elsewhere(standard, replace(PROTOCOL, preset="quick")) == Covering("standard", is_other_checkpoint=True)
    assert covered_elsewhere(standard, replace(PROTOCOL, preset="paper")) is None


def test_a_race_elsewhere_spares_a_race_no_pictures() -> None:
    theirs, ours = replace(OTHER, preset="race"), replace(PROTOCOL, preset="race")
    assert covered_elsewhere(theirs, ours) is None
    assert covered_elsewhere(ours, ours) == Covering("race")
    assert covered_elsewhere(replace(OTHER, preset="quick"), ours) == Covering("quick", is_other_checkpoint=True)


def test_a_row_of_another_or_an_unknown_shape_covers_nothing_elsewhere() -> None:
    for theirs, ours in (("Flux-1", "SDXL-1"), (None, "SDXL-1"), (None, ""), ("", ""), ("SDXL-1", "")):
        found = row_of(OTHER.protocol_id, 100)._replace(model_key=theirs)
        assert PROTOCOL.covering(found, {OTHER.protocol_id: OTHER.described()}, 100, model_key=ours) is None


def test_another_checkpoint_counts_only_if_everything_else_is_the_same() -> None:
    for change in ({"prompts_hash": "abce"}, {"lora_weight": 0.5}, {"generator": SETTINGS | {"model": "x", "steps": 26}}):
        assert covered_elsewhere(replace(OTHER, **change), PROTOCOL) is None  # type: ignore[arg-type]


def test_a_row_without_an_effect_covers_its_own_checkpoint_alone() -> None:
    for nothing in ({"strength": 0.0}, {"notes": (NO_EFFECT,)}):
        assert covered_elsewhere(OTHER, PROTOCOL, **nothing) is None
        assert covered_elsewhere(PROTOCOL, PROTOCOL, **nothing) == Covering("custom")


def test_a_preset_sampled_otherwise_has_another_id_and_one_sampled_as_ever_its_old_one() -> None:
    protocol = replace(PROTOCOL, preset="standard")
    assert "sampling" not in protocol.described()
    ids = {replace(protocol, sampling=name).protocol_id for name in ("", FEW_STEPS, AS_GIVEN)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("measured", "wanted", "covers"),
    [
        (FEW_STEPS, FEW_STEPS, True),
        # Burnt pictures are no reason not to measure, and few steps of an ordinary model say little.
        ("", FEW_STEPS, False),
        (FEW_STEPS, "", False),
        (AS_GIVEN, "", False),
        ("", AS_GIVEN, False),
        (AS_GIVEN, AS_GIVEN, True),
    ],
)
def test_a_fuller_preset_covers_only_what_is_sampled_alike(measured: str, wanted: str, *, covers: bool) -> None:
    fuller = replace(PROTOCOL, preset="standard", sampling=measured)
    assert (covered(fuller, 64, replace(PROTOCOL, preset="quick", sampling=wanted)) is not None) == covers


def test_rows_of_pictures_that_do_not_suit_hold_for_their_own_checkpoint_alone() -> None:
    burnt = (f"{UNSUITABLE}: they are burnt",)
    assert covered_elsewhere(OTHER, PROTOCOL, notes=burnt) is None
    assert covered_elsewhere(PROTOCOL, PROTOCOL, notes=burnt) == Covering("custom")


def test_as_given_covers_itself() -> None:
    given = replace(PROTOCOL, preset="quick", sampling=AS_GIVEN)
    assert covered(given, 64, given) == "quick"
    assert covered(given, 64, replace(given, generator=SETTINGS | {"steps": 7})) is None


def test_another_checkpoint_of_the_shape_may_want_another_sampling() -> None:
    few = SETTINGS | {"model": "a turbo", "steps": 8, "cfg": 1.0}
    turbo = replace(PROTOCOL, preset="quick", sampling=FEW_STEPS, generator=few)
    ordinary = replace(PROTOCOL, preset="quick")
    assert covered_elsewhere(turbo, ordinary) == Covering("quick", is_other_checkpoint=True)
    assert covered_elsewhere(ordinary, turbo) == Covering("quick", is_other_checkpoint=True)
    standard = replace(PROTOCOL, preset="standard")
    assert covered_elsewhere(standard, turbo) == Covering("standard", is_other_checkpoint=True)
    assert covered_elsewhere(turbo, standard) is None
    # Pictures of another size are another matter, and so are settings of the user's own.
    assert covered_elsewhere(replace(turbo, generator=few | {"size": "512x512"}), ordinary) is None
    assert covered_elsewhere(replace(turbo, sampling=AS_GIVEN), ordinary) is None
