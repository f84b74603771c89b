"""Measuring one LoRA: pictures with and without it, their features, the row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import numpy as np
from torch import Tensor

from ..database.columns import check_storable
from ..errors import DatabaseError, IndexingError, LoraError
from ..foreign import printable, whole_text
from ..generator import Generator, LoraFit, LoraUse, OnDevice
from ..loras.lora_file import LoraFile, check_unchanged
from ..progress import OnProgress
from ..records import NO_EFFECT, LoraRecord, LoraVector, TopicEffect
from .labels import sheet_or_notice
from .metrics import DiffAccumulator, LoraMetrics
from .noise_floor import NoiseFloor, noise_floor
from .plan import Plan, Shot
from .protocol import Protocol
from .stopping import ALL_TAKEN, Decision, StoppingRule
from .studio import Shoot, Side, Studio, diff

_BASE_AHEAD = 1.5


@dataclass(frozen=True, eq=False)
class Measurement:
    """A measured LoRA."""

    record: LoraRecord
    """The LoRA's row."""

    protocol: Protocol
    fit: LoraFit
    """How much of the LoRA the model took."""

    model_evaluations: int
    """Forward passes behind the pictures of the LoRA side, also of pictures that were kept from an earlier run."""

    base_model_evaluations: int
    """Forward passes that this run spent on the base side."""

    sheet: Tensor | None
    """[1, H, W, 3] float in [0, 1]; None if no thumbnail could be kept."""

    other_evaluations: int = 0
    """Forward passes whose results were thrown away: to warm up a model that was just loaded, and to see the host's noise."""

    @property
    def contact_sheet(self) -> Tensor:
        """[1, H, W, 3] float in [0, 1]: pairs of pictures, or words that say that there are none."""
        return sheet_or_notice(self.sheet)


def sides_of(studio: Studio, lora: LoraFile, protocol: Protocol) -> tuple[Side, Side]:
    """Both halves of a measurement: without the LoRA, and with it."""
    words = protocol.trigger_words(lora)
    return studio.without_lora(protocol.base_triggers(words)), studio.with_lora(lora, protocol.lora_weight, words)


def take_in(studio: Studio, lora: LoraFile, weight: float) -> LoraFit:
    """Have a studio's generator load a LoRA, so that its pictures are those of the content that was hashed.

    Raises LoraError if nothing of the LoRA fits, or if its file was changed since it was read.
    """
    fit = studio.generator.check_lora(LoraUse(lora.path, weight))
    check_unchanged(lora)
    return fit


def measure(
    studio: Studio,
    lora: LoraFile,
    protocol: Protocol,
    plan: Plan,
    on_progress: OnProgress | None = None,
    *,
    again: bool = False,
    notes: tuple[str, ...] = (),
) -> Measurement:
    """Measure a LoRA on a plan's pictures, as in arXiv 2512.08826, with the pictures kept as features only.

    Args:
        studio: where the pictures are made and looked at.
        lora: the LoRA file.
        protocol: the LoRA's weight and where its trigger words stand; its id is noted in the row.
        plan: the pictures, their order, and the rule that ends the measurement.
        on_progress: called with the progress and the newest picture.
        again: make a complete measurement again; one that was broken off still goes on.
        notes: what else the row is to say.

    Raises LoraError if the LoRA does not fit, was changed since it was read or its row could not be saved, GenerationError for a
    broken picture, IndexingError for a plan without pictures or if pictures cannot be kept.
    """
    if not plan.shots:
        raise IndexingError("There is nothing to measure on.", "Choose a prompt set with at least one prompt.")
    check_row(lora, studio.encoder.dimension)
    fit = take_in(studio, lora, protocol.lora_weight)
    base, with_lora = sides_of(studio, lora, protocol)
    studio.trim()
    noise = noise_floor(studio, (base, with_lora), plan.shots) if isinstance(studio.generator, OnDevice) else None
    if again and with_lora.store.is_complete:
        with_lora.store.clear()
    # What needs no picture for its numbers shall take no time for pictures to look at.
    is_new = with_lora.is_missing(plan.shots) and not with_lora.store.is_complete
    sides, expected = (base, with_lora), plan.expected
    shoot = Shoot(studio, sides, plan.shots, on_progress, expected=expected, is_measurement=True, retakes=is_new)
    decision: Decision | None = None
    taken = base_taken = 0
    for end in _ends(plan, shoot.batch):
        if base_taken < end:
            is_missing = base.is_missing(plan.shots[base_taken:end])
            ahead = _ahead(end, len(plan.shots), shoot.batch, decision) if is_missing else end
            shoot.make(base, base_taken, ahead)
            base_taken = ahead
        shoot.make(with_lora, taken, end)
        taken = end
        if plan.rule is not None:
            decision = _above(noise, _decided(plan.rule, plan, base, with_lora, taken), base, with_lora, plan.shots[:taken])
            needed = decision.images_needed
            shoot.expect(needed and max(needed, min(plan.at_least, len(plan.shots))), decision.alignment, taken)
            if decision.stop and taken >= plan.at_least:
                break
    with_lora.store.mark_complete()
    shots = plan.shots[:taken]
    found = Found(fit, decision, noise, notes)
    return Measurement(
        record=row_of(studio, lora, protocol, zip(shots, (diff(base, with_lora, shot) for shot in shots), strict=True), found),
        protocol=protocol,
        fit=fit,
        model_evaluations=sum(with_lora.entry(shot).evaluations for shot in shots),
        base_model_evaluations=shoot.evaluations[base],
        sheet=studio.small_pictures(base, with_lora, shots).sheet(),
        other_evaluations=shoot.warm_up_evaluations + (noise.model_evaluations if noise is not None else 0),
    )


@dataclass(frozen=True)
class Found:
    """What was found out about a LoRA beside its pictures."""

    fit: LoraFit
    decision: Decision | None = None
    """Of the stopping rule; None without one."""

    noise: NoiseFloor | None = None
    notes: tuple[str, ...] = ()
    """What else the row is to say."""


def row_of(
    studio: Studio, lora: LoraFile, protocol: Protocol, diffs: Iterable[tuple[Shot, np.ndarray]], found: Found
) -> LoraRecord:
    """A LoRA's row, from the differences of pairs of pictures, [D] each."""
    decision, noise = found.decision, found.noise
    topics, metrics = _metrics(diffs, studio.encoder.dimension)
    return LoraRecord(
        lora_id=lora.lora_id,
        metadata=lora.metadata,
        file_name=lora.name,
        sha256=lora.sha256,
        direction=metrics.direction.astype(np.float32),
        strength=metrics.strength,
        consistency=metrics.consistency,
        n_images=metrics.n_images,
        n_prompts=metrics.n_prompts,
        alignment=metrics.alignment if decision is None else decision.alignment,
        strength_se=metrics.strength_se,
        consistency_se=metrics.consistency_se,
        topics=topics,
        protocol_id=protocol.protocol_id,
        model_key=studio.generator.model_key or None,
        encoder_id=studio.encoder.encoder_id,
        indexed_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        noise_floor=None if noise is None else noise.features,
        measured_on=_environment(studio.generator),
        notes=(*_notes(metrics, found.fit, decision, noise), *found.notes),
    )


def _ends(plan: Plan, batch: int) -> list[int]:
    """Numbers of pictures after which to look, moved up to whole batches."""
    total = len(plan.shots)
    looks = (*plan.rule.checkpoints(total), plan.at_least or total) if plan.rule is not None else (total,)
    return sorted({min(-(-look // batch) * batch, total) for look in looks} | {total})


def _ahead(end: int, total: int, batch: int, decision: Decision | None) -> int:
    """How far to make the base side when it must be made.

    Beyond the next look, since putting a LoRA on and off takes seconds and other LoRAs want these pictures too; but no further
    than this LoRA is likely to need.
    """
    wanted = int(_BASE_AHEAD * end)
    if decision is not None and decision.images_needed is not None:
        wanted = min(wanted, decision.images_needed)
    return min(-(-max(end, wanted) // batch) * batch, total)


def _decided(rule: StoppingRule, plan: Plan, base: Side, with_lora: Side, taken: int) -> Decision:
    """What the rule says of the first `taken` pictures."""
    shots = plan.shots[:taken]
    return rule.decide(
        np.stack([diff(base, with_lora, shot) for shot in shots]),
        [shot.prompt.text for shot in shots],
        max(plan.n_full, len(plan.shots)),
        len({shot.prompt.text for shot in plan.shots}),
        [f"{shot.prompt.topic}/{shot.prompt.sub_category}" for shot in shots],
    )


def _above(noise: NoiseFloor | None, decision: Decision, base: Side, with_lora: Side, shots: Sequence[Shot]) -> Decision:
    """The same decision, unless the differences so far are no larger than the host's noise: then no effect can be seen."""
    if noise is None or not noise.features:
        return decision
    strength = float(np.mean([np.linalg.norm(diff(base, with_lora, shot)) for shot in shots]))
    return Decision(True, NO_EFFECT, *(None,) * 3) if strength <= noise.features else decision


def _environment(generator: Generator) -> str | None:
    """What a row says of where it was measured: JSON with the fields of `generator.Environment`."""
    return json.dumps(asdict(generator.environment), sort_keys=True) if isinstance(generator, OnDevice) else None


def _metrics(diffs: Iterable[tuple[Shot, np.ndarray]], dimension: int) -> tuple[tuple[TopicEffect, ...], LoraMetrics]:
    """By topic and for all pictures, summed in the order of the plan, so that the result does not depend on how the run went."""
    topics: dict[str, DiffAccumulator] = {}
    for shot, change in diffs:
        topic = topics.setdefault(shot.prompt.topic, DiffAccumulator(dimension))
        topic.update(change[None], [shot.prompt.text])
    whole = DiffAccumulator(dimension)
    for topic in topics.values():
        whole.merge(topic)
    return tuple(_topic_effect(name, topic.metrics()) for name, topic in topics.items()), whole.metrics()


def _topic_effect(name: str, metrics: LoraMetrics) -> TopicEffect:
    vector = LoraVector(metrics.direction.astype(np.float32), metrics.strength, metrics.consistency)
    return TopicEffect(name, metrics.n_images, vector)


def check_row(lora: LoraFile, dimension: int) -> None:
    """Raises LoraError, before any picture is made, for a LoRA whose row could not be saved afterwards."""
    if whole_text(lora.name) != lora.name:
        raise LoraError(f"The file name {printable(lora.name)} is not valid text (UTF-8).", "Rename the file.")
    row = LoraRecord(
        lora_id=lora.lora_id,
        metadata=lora.metadata,
        file_name=lora.name,
        sha256=lora.sha256,
        direction=np.zeros(dimension, np.float32),
        strength=0.0,
        consistency=None,
    )
    try:
        check_storable(row)
    except DatabaseError as error:
        raise LoraError(f"{lora.name}: {error.what}", error.hint) from error


def _notes(metrics: LoraMetrics, fit: LoraFit, decision: Decision | None, noise: NoiseFloor | None) -> Iterator[str]:
    is_noise = noise is not None and metrics.strength <= noise.features
    if metrics.strength == 0 or is_noise or (decision is not None and decision.reason == NO_EFFECT):
        yield NO_EFFECT
    elif decision is not None and decision.reason in ("", ALL_TAKEN):
        known = "unknown" if decision.lower is None else f"{decision.lower:.3f}"
        yield f"all pictures taken before the target was certain; the direction is known to at least {known}"
    if fit.warning:
        yield fit.warning
    if noise is not None and noise.note:
        yield noise.note
