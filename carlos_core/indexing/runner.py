"""Measuring one LoRA: pictures with and without it, their features, the row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
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
from ..types import LoraRecord
from .contact_sheet import PAIRS, contact_sheet, keep_thumbnail
from .journal import Entry, Journal
from .plan import Shot
from .protocol import TRIGGERS_ON_LORA_SIDE, Protocol

logger = logging.getLogger(__name__)

NO_EFFECT = "no measurable effect"


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a measurement is: sampler steps of single pictures, done and in all. image: [H, W, 3], newest, or None."""

    done: int
    total: int
    image: Tensor | None = None


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
    on_progress: OnProgress | None = None,
) -> Measurement:
    """Measure a LoRA on `shots`: arXiv 2512.08826, with the pictures kept as features only.

    working_directory: where features are kept; the base side's are shared by all LoRAs of one generator and encoder, and a
    measurement that was broken off goes on. batch_size: pictures a sampler call, 0 for what memory allows; batches are cut from
    `shots` at fixed places, so that a run that was broken off ends with the same numbers to the bit. afresh: a complete
    measurement is made again; one that was broken off still goes on.
    Raises LoraError if the LoRA does not fit, GenerationError for a broken picture, IndexingError if nothing can be kept.
    """
    if not shots:
        raise IndexingError("There is nothing to measure on.", "Choose a prompt set with at least one prompt.")
    fit = generator.check_lora(LoraUse(lora.path, protocol.lora_weight))
    base, with_lora = _sides(lora, generator, encoder.encoder_id, encoder.dimension, protocol, working_directory)
    if afresh and not _is_missing(with_lora, shots):
        with_lora.journal.clear()
    batch = batch_size or generator.suggest_batch_size()
    todo = [(side, part) for side in (base, with_lora) for part in _batches(shots, batch) if _is_missing(side, part)]
    total = sum(len(part) for _, part in todo) * generator.steps
    done = base_evaluations = 0
    for side, part in todo:
        evaluations, image = _make(side, part, shots[:PAIRS], generator, encoder, _reporter(on_progress, done, total))
        done += len(part) * generator.steps
        if side is base:
            base_evaluations += evaluations
        if on_progress is not None:
            on_progress(Progress(done, total, image))
    metrics = _metrics(base, with_lora, shots, encoder.dimension)
    return Measurement(
        record=_record(lora, metrics, protocol, encoder.encoder_id, fit),
        protocol=protocol,
        fit=fit,
        model_evaluations=sum(_entry(with_lora, shot).evaluations for shot in shots),
        base_model_evaluations=base_evaluations,
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
    triggers = lora.trigger_words if protocol.trigger_rule == TRIGGERS_ON_LORA_SIDE else ()
    common = {"generator": generator.fingerprint, "encoder": encoder_id}
    own = {**common, "lora": lora.sha256, "weight": protocol.lora_weight}
    base = Journal(working_directory / "base", common, dimension)
    with_lora = Journal(working_directory / "loras", own, dimension)
    return _Side(base, (), ()), _Side(with_lora, (LoraUse(lora.path, protocol.lora_weight),), triggers)


def _sheet(base: _Side, with_lora: _Side, shots: Sequence[Shot]) -> Tensor:
    pairs = [((base.text(shot), shot.seed), (with_lora.text(shot), shot.seed)) for shot in shots[:PAIRS]]
    return contact_sheet(base.journal, with_lora.journal, pairs)


def _batches(shots: Sequence[Shot], batch: int) -> list[Sequence[Shot]]:
    return [shots[start : start + batch] for start in range(0, len(shots), batch)]


def _is_missing(side: _Side, part: Sequence[Shot]) -> bool:
    """A batch is made again as a whole if one of its pictures is missing: its companions decide the last bits."""
    return any(side.journal.get(side.text(shot), shot.seed) is None for shot in part)


def _make(
    side: _Side,
    part: Sequence[Shot],
    shown: Sequence[Shot],
    generator: Generator,
    encoder: Encoder,
    on_step: Callable[[int, int], None] | None,
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


def _reporter(on_progress: OnProgress | None, done: int, total: int) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda step, steps: on_progress(Progress(done + step, total))


def _metrics(base: _Side, with_lora: _Side, shots: Sequence[Shot], dimension: int) -> LoraMetrics:
    """Metrics of the kept features, in the order of the plan, so that the sums do not depend on how the run went."""
    accumulator = DiffAccumulator(dimension)
    for shot in shots:
        diff = _entry(with_lora, shot).features.astype(np.float64) - _entry(base, shot).features
        accumulator.update(diff[None], [shot.prompt.text])
    return accumulator.metrics()


def _entry(side: _Side, shot: Shot) -> Entry:
    entry = side.journal.get(side.text(shot), shot.seed)
    assert entry is not None, "every picture of the plan has been made"
    return entry


def _record(lora: LoraFile, metrics: LoraMetrics, protocol: Protocol, encoder_id: str, fit: LoraFit) -> LoraRecord:
    notes = []
    if metrics.strength == 0:
        notes.append(NO_EFFECT)
    if fit.matched < fit.total:
        notes.append(f"{fit.total - fit.matched} of {fit.total} keys do not match this {fit.model} model and are without effect")
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
        n_images=metrics.n_images,
        n_prompts=metrics.n_prompts,
        alignment=metrics.alignment,
        strength_se=metrics.strength_se,
        consistency_se=metrics.consistency_se,
        protocol_id=protocol.protocol_id,
        encoder_id=encoder_id,
        indexed_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        notes=tuple(notes),
    )
