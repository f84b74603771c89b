"""Measuring one LoRA: pictures with and without it, their features, the row."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from torch import Tensor

from ..embedding.encoder import Encoder
from ..errors import GenerationError, IndexingError
from ..generation.base import Generator, Job, LoraFit, LoraUse
from ..loras.file import LoraFile
from ..metrics import DiffAccumulator, LoraMetrics
from ..types import LoraRecord, LoraVector, TopicEffect
from .contact_sheet import PAIRS, contact_sheet, keep_thumbnail
from .journal import Entry, Journal
from .plan import Shot
from .protocol import TRIGGERS_ON_BOTH_SIDES, Protocol
from .stopping import ALL_TAKEN, NO_EFFECT, Decision, StoppingRule

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a measurement is: sampler steps of single pictures, done and in all (an estimate, if it may end early).

    image: [H, W, 3], the newest picture, or None. note: what is known by now, for people; empty between two looks.
    """

    done: int
    total: int
    image: Tensor | None = None
    note: str = ""


_BASE_AHEAD = 1.5

OnProgress = Callable[[Progress], None]
"""It may raise, to cancel: pictures finished before are kept."""


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


@dataclass(frozen=True)
class _Side:
    """One half of a measurement: the pictures without, or those with the LoRA."""

    journal: Journal
    loras: tuple[LoraUse, ...]
    triggers: tuple[str, ...]

    def text(self, shot: Shot) -> str:
        return ", ".join([shot.prompt.text, *self.triggers])

    def job(self, shot: Shot) -> Job:
        return Job(shot.prompt.text, shot.seed, self.loras, self.triggers)


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
    on_progress: OnProgress | None = None,
) -> Measurement:
    """Measure a LoRA on `shots`: arXiv 2512.08826, with the pictures kept as features only.

    working_directory: where features are kept; the base side's are shared by all LoRAs of one generator and encoder, and a
    measurement that was broken off goes on. batch_size: pictures a sampler call, 0 for what memory allows; batches are cut from
    `shots` at fixed places, so that a run that was broken off ends with the same numbers to the bit. afresh: a complete
    measurement is made again; one that was broken off still goes on. rule: ends the measurement when the direction of the full
    protocol, of `n_full` pictures, is known; without one all of `shots` are taken.
    Raises LoraError if the LoRA does not fit, GenerationError for a broken picture, IndexingError if nothing can be kept.
    """
    if not shots:
        raise IndexingError("There is nothing to measure on.", "Choose a prompt set with at least one prompt.")
    fit = generator.check_lora(LoraUse(lora.path, protocol.lora_weight))
    base, with_lora = _sides(lora, generator, encoder.encoder_id, encoder.dimension, protocol, working_directory)
    if afresh and with_lora.journal.is_complete:
        with_lora.journal.clear()
    batch = batch_size or generator.suggest_batch_size()
    work = _Work(generator, encoder, shots, batch, on_progress)
    decision: Decision | None = None
    taken = base_taken = 0
    for end in _ends(shots, batch, rule):
        if base_taken < end:
            is_missing = _is_missing(base, shots[base_taken:end])
            ahead = _ahead(end, len(shots), batch, decision) if is_missing else end
            work.make(base, base_taken, ahead)
            base_taken = ahead
        work.make(with_lora, taken, end)
        taken = end
        if rule is not None:
            diffs = np.stack([_diff(base, with_lora, shot) for shot in shots[:taken]])
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
        model_evaluations=sum(_entry(with_lora, shot).evaluations for shot in shots),
        base_model_evaluations=work.base_evaluations,
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
) -> tuple[_Side, _Side]:
    """Both halves, with the journals where their pictures are kept."""
    triggers = lora.trigger_words
    base_triggers = triggers if protocol.trigger_rule == TRIGGERS_ON_BOTH_SIDES else ()
    common = {"generator": generator.fingerprint, "encoder": encoder_id}
    own = {**common, "lora": lora.sha256, "weight": protocol.lora_weight}
    base = Journal(working_directory / "base", common, dimension)
    with_lora = Journal(working_directory / "loras", own, dimension)
    return _Side(base, (), base_triggers), _Side(with_lora, (LoraUse(lora.path, protocol.lora_weight),), triggers)


def _sheet(base: _Side, with_lora: _Side, shots: Sequence[Shot]) -> Tensor:
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


def _is_missing(side: _Side, part: Sequence[Shot]) -> bool:
    """A batch is made again as a whole if one of its pictures is missing: its companions decide the last bits."""
    return any(side.journal.get(side.text(shot), shot.seed) is None for shot in part)


class _Work:
    """Making pictures batch by batch, and telling how far it is."""

    def __init__(
        self, generator: Generator, encoder: Encoder, shots: Sequence[Shot], batch: int, on_progress: OnProgress | None
    ) -> None:
        self._generator, self._encoder, self._shots, self._batch = generator, encoder, shots, batch
        self._on_progress = on_progress
        self._done = 0
        self._expected = len(shots)
        self._made = 0
        self._begin = time.monotonic()
        self.base_evaluations = 0

    def make(self, side: _Side, start: int, end: int) -> None:
        """Make what is missing of one side's pictures from `start` to `end`, both multiples of the batch."""
        for place in range(start, end, self._batch):
            part = self._shots[place : min(place + self._batch, end)]
            if _is_missing(side, part):
                evaluations, image = _make(side, part, self._shots[:PAIRS], self._generator, self._encoder, self._report)
                self.base_evaluations += 0 if side.loras else evaluations
                self._made += len(part)
            else:
                image = None
            self._done += len(part) * self._generator.steps
            self._tell(0, image, f"{self._done // self._generator.steps} of about {2 * self._expected} pictures")

    def expect(self, images_needed: int | None, alignment: float | None, taken: int) -> None:
        """Take in how many pictures it will be, and say so."""
        self._expected = min(max(images_needed or len(self._shots), taken), len(self._shots))
        known = "no direction yet" if alignment is None else f"direction known to {alignment:.3f}"
        left = 2 * (self._expected - taken) * (time.monotonic() - self._begin) / max(self._made, 1)
        self._tell(0, None, f"{known} after {taken} images, {_duration(left)}")

    def _report(self, step: int, steps: int) -> None:
        del steps
        self._tell(step, None)

    def _tell(self, step: int, image: Tensor | None, note: str = "") -> None:
        if self._on_progress is not None:
            total = 2 * self._expected * self._generator.steps
            self._on_progress(Progress(self._done + step, max(total, self._done + step), image, note))


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "done"
    return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"


def _make(
    side: _Side,
    part: Sequence[Shot],
    shown: Sequence[Shot],
    generator: Generator,
    encoder: Encoder,
    on_step: Callable[[int, int], None],
) -> tuple[int, Tensor]:
    """Make one batch and keep its features. Returns the forward passes it took and one of its pictures."""
    generated = generator.generate([side.job(shot) for shot in part], on_step)
    features = encoder.encode_images(generated.images).numpy()
    broken = [shot for shot, row in zip(part, features, strict=True) if not np.isfinite(row).all()]
    if broken:
        raise GenerationError(
            f"The picture of {broken[0].prompt.text!r} with seed {broken[0].seed} is broken (NaN).",
            "Run the model in higher precision (--force-fp32, or --fp32-vae), or lower the LoRA's weight.",
        )
    evaluations = generated.model_evaluations // len(part)
    side.journal.append([(side.text(shot), shot.seed, row, evaluations) for shot, row in zip(part, features, strict=True)])
    for shot, image in zip(part, generated.images, strict=True):
        if shot in shown:
            keep_thumbnail(side.journal, side.text(shot), shot.seed, image)
    return generated.model_evaluations, generated.images[0]


def _diff(base: _Side, with_lora: _Side, shot: Shot) -> np.ndarray:
    """e(with the LoRA) - e(without it). [D] float64."""
    return _entry(with_lora, shot).features.astype(np.float64) - _entry(base, shot).features


def _entry(side: _Side, shot: Shot) -> Entry:
    entry = side.journal.get(side.text(shot), shot.seed)
    assert entry is not None, "every picture of the plan has been made"
    return entry


def _record(
    lora: LoraFile,
    base: _Side,
    with_lora: _Side,
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
        topic.update(_diff(base, with_lora, shot)[None], [shot.prompt.text])
    whole = DiffAccumulator(encoder.dimension)
    for topic in topics.values():
        whole.merge(topic)
    metrics = whole.metrics()
    return LoraRecord(
        lora_id=lora.lora_id,
        direction=metrics.direction.astype(np.float32),
        strength=metrics.strength,
        consistency=metrics.consistency,
        version_id=lora.sidecar.version_id,
        model_id=lora.sidecar.model_id,
        model_name=lora.sidecar.model_name,
        file_name=lora.name,
        sha256=lora.sha256,
        base_model=lora.base_model,
        trigger_words=lora.trigger_words,
        nsfw_level=lora.sidecar.nsfw_level,
        download_count=lora.sidecar.download_count,
        preview_url=lora.sidecar.preview_url,
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


def _topic_effect(name: str, metrics: LoraMetrics) -> TopicEffect:
    vector = LoraVector(metrics.direction.astype(np.float32), metrics.strength, metrics.consistency)
    return TopicEffect(name, metrics.n_images, vector)


def _notes(metrics: LoraMetrics, fit: LoraFit, decision: Decision | None) -> Iterator[str]:
    if metrics.strength == 0 or (decision is not None and decision.reason == NO_EFFECT):
        yield NO_EFFECT
    elif decision is not None and decision.reason in ("", ALL_TAKEN):
        known = "unknown" if decision.lower is None else f"{decision.lower:.3f}"
        yield f"all pictures taken before the target was certain; the direction is known to at least {known}"
    if fit.matched < fit.total:
        yield f"{fit.total - fit.matched} of {fit.total} keys do not match this {fit.model} model and are without effect"
