"""Measuring one LoRA: pictures with and without it, their features, the row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..clip.encoder import Encoder
from ..database.columns import check_storable
from ..errors import DatabaseError, IndexingError, LoraError
from ..foreign import printable, whole_text
from ..generator import Generator, LoraFit, LoraUse
from ..loras.lora_file import LoraFile
from ..records import LoraRecord, LoraVector, TopicEffect
from .contact_sheet import PAIRS, contact_sheet
from .metrics import DiffAccumulator, LoraMetrics
from .plan import Shot
from .protocol import Protocol
from .speed import Speed
from .stopping import ALL_TAKEN, NO_EFFECT, Decision, StoppingRule
from .studio import OnProgress, Side, Work, base_side, diff, lora_side

_BASE_AHEAD = 1.5


@dataclass(frozen=True, eq=False)
class Measurement:
    """A measured LoRA. model_evaluations: forward passes behind the LoRA side's pictures, also of those that were kept from an
    earlier run; base_model_evaluations: those that this run spent on the base side. contact_sheet: [1, H, W, 3]."""

    record: LoraRecord
    protocol: Protocol
    fit: LoraFit
    model_evaluations: int
    base_model_evaluations: int
    contact_sheet: Tensor


def measure_lora(
    lora: LoraFile,
    *,
    generator: Generator,
    encoder: Encoder,
    protocol: Protocol,
    shots: Sequence[Shot],
    working_directory: Path,
    batch_size: int = 0,
    afresh: bool = False,
    rule: StoppingRule | None = None,
    n_full: int = 0,
    expected: int = 0,
    on_progress: OnProgress | None = None,
) -> Measurement:
    """Measure a LoRA on `shots`: arXiv 2512.08826, with the pictures kept as features only.

    working_directory: where features are kept; the base side's are shared by all LoRAs of one generator and encoder, and a
    measurement that was broken off goes on. batch_size: pictures a sampler call, 0 for what memory allows; batches are cut from
    `shots` at fixed places, so that a run that was broken off ends with the same numbers to the bit. afresh: a complete
    measurement is made again; one that was broken off still goes on. rule: ends the measurement when the direction of the full
    protocol, of `n_full` pictures, is known; without one all of `shots` are taken. expected: how many of `shots` it is likely to
    take, for the estimate of the time until the rule has looked; 0 for all.
    Raises LoraError if the LoRA does not fit or its row could not be saved, GenerationError for a broken picture, IndexingError
    if nothing can be kept.
    """
    if not shots:
        raise IndexingError("There is nothing to measure on.", "Choose a prompt set with at least one prompt.")
    _check_storable(lora, encoder.dimension)
    fit = generator.check_lora(LoraUse(lora.path, protocol.lora_weight))
    base, with_lora = _sides(lora, generator, encoder.encoder_id, encoder.dimension, protocol, working_directory)
    if afresh and with_lora.journal.is_complete:
        with_lora.journal.clear()
    batch = batch_size or generator.suggest_batch_size()
    speed = Speed(working_directory, generator.fingerprint)
    work = Work(generator, encoder, (base, with_lora), shots, batch, speed, on_progress, expected)
    decision: Decision | None = None
    taken = base_taken = 0
    for end in _ends(shots, batch, rule):
        if base_taken < end:
            is_missing = base.is_missing(shots[base_taken:end])
            ahead = _ahead(end, len(shots), batch, decision) if is_missing else end
            work.make(base, base_taken, ahead)
            base_taken = ahead
        work.make(with_lora, taken, end)
        taken = end
        if rule is not None:
            diffs = np.stack([diff(base, with_lora, shot) for shot in shots[:taken]])
            decision = rule.decide(
                diffs,
                [shot.prompt.text for shot in shots[:taken]],
                max(n_full, len(shots)),
                len({shot.prompt.text for shot in shots}),
                [f"{shot.prompt.topic}/{shot.prompt.sub_category}" for shot in shots[:taken]],
            )
            work.expect(decision.images_needed, decision.alignment, taken)
            if decision.stop:
                break
    with_lora.journal.mark_complete()
    shots = shots[:taken]
    return Measurement(
        record=_record(lora, base, with_lora, shots, encoder, protocol, fit, decision),
        protocol=protocol,
        fit=fit,
        model_evaluations=sum(with_lora.entry(shot).evaluations for shot in shots),
        base_model_evaluations=work.evaluations[base],
        contact_sheet=_sheet(base, with_lora, shots),
    )


def kept_contact_sheet(
    lora: LoraFile,
    *,
    generator: Generator,
    encoder_id: str,
    dimension: int,
    protocol: Protocol,
    shots: Sequence[Shot],
    working_directory: Path,
) -> Tensor:
    """The contact sheet of a LoRA that was measured before. [1, H, W, 3]; a grey square if its pictures are gone."""
    return _sheet(*_sides(lora, generator, encoder_id, dimension, protocol, working_directory), shots)


def _sides(
    lora: LoraFile, generator: Generator, encoder_id: str, dimension: int, protocol: Protocol, working_directory: Path
) -> tuple[Side, Side]:
    """Both halves, with the journals where their pictures are kept."""
    place = (generator, encoder_id, dimension, working_directory)
    return base_side(protocol.base_triggers(lora.trigger_words), *place), lora_side(lora, protocol.lora_weight, *place)


def _sheet(base: Side, with_lora: Side, shots: Sequence[Shot]) -> Tensor:
    pairs = [((base.text(shot), shot.seed), (with_lora.text(shot), shot.seed)) for shot in shots[:PAIRS]]
    return contact_sheet(base.journal, with_lora.journal, pairs)


def _ends(shots: Sequence[Shot], batch: int, rule: StoppingRule | None) -> list[int]:
    """Numbers of pictures after which to look, moved up to whole batches."""
    looks = rule.checkpoints(len(shots)) if rule is not None else (len(shots),)
    return sorted({min(-(-look // batch) * batch, len(shots)) for look in looks} | {len(shots)})


def _ahead(end: int, total: int, batch: int, decision: Decision | None) -> int:
    """How far to make the base side when it must be made: beyond the next look, since putting a LoRA on and off takes seconds,
    and other LoRAs want these pictures too; but no further than this one is likely to need."""
    wanted = int(_BASE_AHEAD * end)
    if decision is not None and decision.images_needed is not None:
        wanted = min(wanted, decision.images_needed)
    return min(-(-max(end, wanted) // batch) * batch, total)


def _record(
    lora: LoraFile,
    base: Side,
    with_lora: Side,
    shots: Sequence[Shot],
    encoder: Encoder,
    protocol: Protocol,
    fit: LoraFit,
    decision: Decision | None,
) -> LoraRecord:
    """The row, summed in the order of the plan, so that it does not depend on how the run went."""
    topics: dict[str, DiffAccumulator] = {}
    for shot in shots:
        topic = topics.setdefault(shot.prompt.topic, DiffAccumulator(encoder.dimension))
        topic.update(diff(base, with_lora, shot)[None], [shot.prompt.text])
    whole = DiffAccumulator(encoder.dimension)
    for topic in topics.values():
        whole.merge(topic)
    metrics = whole.metrics()
    return LoraRecord(
        lora_id=lora.lora_id,
        direction=metrics.direction.astype(np.float32),
        strength=metrics.strength,
        consistency=metrics.consistency,
        **_facts(lora),
        n_images=metrics.n_images,
        n_prompts=metrics.n_prompts,
        alignment=metrics.alignment if decision is None else decision.alignment,
        strength_se=metrics.strength_se,
        consistency_se=metrics.consistency_se,
        topics=tuple(_topic_effect(name, topic.metrics()) for name, topic in topics.items()),
        protocol_id=protocol.protocol_id,
        encoder_id=encoder.encoder_id,
        indexed_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        notes=tuple(_notes(metrics, fit, decision)),
    )


def _facts(lora: LoraFile) -> dict[str, Any]:
    """What a row says of its LoRA besides what was measured."""
    return {
        "version_id": lora.sidecar.version_id,
        "model_id": lora.sidecar.model_id,
        "model_name": lora.sidecar.model_name,
        "file_name": lora.name,
        "sha256": lora.sha256,
        "base_model": lora.base_model,
        "trigger_words": lora.trigger_words,
        "nsfw_level": lora.sidecar.nsfw_level,
        "download_count": lora.sidecar.download_count,
        "preview_url": lora.sidecar.preview_url,
    }


def _check_storable(lora: LoraFile, dimension: int) -> None:
    """Raises LoraError, before any picture is made, for a LoRA whose row could not be saved afterwards."""
    if whole_text(lora.name) != lora.name:
        raise LoraError(f"The file name {printable(lora.name)} is no valid text (UTF-8).", "Rename the file.")
    row = LoraRecord(
        lora_id=lora.lora_id, direction=np.zeros(dimension, np.float32), strength=0.0, consistency=None, **_facts(lora)
    )
    try:
        check_storable(row)
    except DatabaseError as error:
        raise LoraError(f"{lora.name}: {error.what}", error.hint) from error


def _topic_effect(name: str, metrics: LoraMetrics) -> TopicEffect:
    vector = LoraVector(metrics.direction.astype(np.float32), metrics.strength, metrics.consistency)
    return TopicEffect(name, metrics.n_images, vector)


def _notes(metrics: LoraMetrics, fit: LoraFit, decision: Decision | None) -> Iterator[str]:
    if metrics.strength == 0 or (decision is not None and decision.reason == NO_EFFECT):
        yield NO_EFFECT
    elif decision is not None and decision.reason in ("", ALL_TAKEN):
        known = "unknown" if decision.lower is None else f"{decision.lower:.3f}"
        yield f"all pictures taken before the target was certain; the direction is known to at least {known}"
    if fit.warning:
        yield fit.warning
