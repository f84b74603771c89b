"""Where pictures are made, batch by batch. Each is kept as features as soon as it is made, and no picture is made twice."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..clip.encoder import Encoder
from ..counting import counted
from ..errors import OF_A_FILE, BrokenPictureError, CarlosError, GenerationError
from ..foreign import reason_of
from ..generator import Generator, Job, LoraUse
from ..loras.lora_file import LoraFile
from ..loras.trigger_words import has_weight
from ..progress import OnProgress, Progress
from . import picture_cache
from .contact_sheet import PAIRS, SmallPictures, has_thumbnail, keep_thumbnail, of_contact_sheet, worth_a_thumbnail
from .feature_store import Entry, FeatureStore
from .plan import Shot
from .speed import ModelSpeed, Speed, in_words

_TRIAL_BATCH = 16

_ROOM = 1.5
"""So many times what a look at a direction calls enough, a progress bar leaves room for: a later look may ask for more."""

LOOK = 16
"""Pictures without a LoRA that a model is looked at by, before one is measured."""


@dataclass(frozen=True, eq=False)
class Side:
    """The pictures without a LoRA, or those with it at one weight."""

    store: FeatureStore
    loras: tuple[LoraUse, ...]
    """The LoRA at its weight; empty on the side without one."""

    triggers: tuple[str, ...]
    """Words that are added to each prompt."""

    def text(self, shot: Shot) -> str:
        return ", ".join([shot.prompt.text, *self.triggers])

    def job(self, shot: Shot) -> Job:
        return Job(shot.prompt.text, shot.seed, self.loras, self.triggers)

    def entry(self, shot: Shot) -> Entry:
        """What is kept of a picture that has been made."""
        entry = self.store.get(self.text(shot), shot.seed)
        assert entry is not None, "every picture of the plan has been made"
        return entry

    def is_missing(self, part: Sequence[Shot]) -> bool:
        """Whether a batch must be made: as a whole if one picture is missing, since the others in it decide the last bits."""
        return any(self.store.get(self.text(shot), shot.seed) is None for shot in part)

    def missing(self, shots: Sequence[Shot], batch: int, again: Set[Shot] = frozenset()) -> np.ndarray:
        """Which pictures are still to be made, with batches of this size. [N] bool. again: those that are, known or not."""
        parts = [shots[place : place + batch] for place in range(0, len(shots), batch)]
        to_make = [self.is_missing(part) or not again.isdisjoint(part) for part in parts]
        return np.array([is_missing for part, is_missing in zip(parts, to_make, strict=True) for _ in part], dtype=bool)


def broken_picture(shot: Shot) -> BrokenPictureError:
    """The error for a picture whose values are not finite."""
    return BrokenPictureError(
        f"The picture of {shot.prompt.text!r} with seed {shot.seed} is broken (NaN).",
        "Run the model in higher precision (--force-fp32, or --fp32-vae), or lower the LoRA's weight.",
    )


def diff(base: Side, with_lora: Side, shot: Shot) -> np.ndarray:
    """e(with the LoRA) - e(without it). [D] float64, raw CLIP units."""
    return with_lora.entry(shot).features.astype(np.float64) - base.entry(shot).features


@dataclass(frozen=True, eq=False)
class Studio:
    """Makes pictures with a generator, looks at them with an encoder, and keeps their features in a folder.

    The pictures without a LoRA are shared by all LoRAs of one generator and encoder, and work that was broken off goes on.
    """

    generator: Generator
    encoder: Encoder
    folder: Path
    """Where features and speeds are kept."""

    batch_size: int = 0
    """Pictures in a sampler call; 0 for what memory allows. Batches are cut at fixed places of a plan, so that a run that was
    broken off ends with the same numbers to the bit."""

    _stores: dict[tuple[str | float, ...], FeatureStore] = field(default_factory=dict, init=False, repr=False)
    _clipped: list[float] = field(default_factory=list, init=False, repr=False)
    _retaken: set[Path] = field(default_factory=set, init=False, repr=False)
    """The stores whose small pictures were made again."""

    @property
    def trial(self) -> Studio:
        """The same for pictures that no row is made of: they are kept elsewhere, and made in small batches."""
        return replace(self, folder=self.folder / "trials", batch_size=min(self.batch, _TRIAL_BATCH))

    @property
    def batch(self) -> int:
        """Pictures in a sampler call."""
        return self.batch_size or self.generator.suggest_batch_size()

    @property
    def clipped(self) -> float | None:
        """Mean share of values at the ends of their range, in pictures without a LoRA and its words; None if none was made."""
        return float(np.mean(self._clipped)) if self._clipped else None

    def see(self, images: Tensor) -> None:
        """Take in pictures without a LoRA and its words, [B, H, W, 3] in [0, 1]; no more of them once there are enough."""
        for image in images[: LOOK - len(self._clipped)]:
            self._clipped.append(float(((image < 0.01) | (image > 0.99)).float().mean()))

    @property
    def speed(self) -> Speed:
        """How long a picture takes on this machine, as far as it is known from earlier runs."""
        generator, settings = self.generator, self.generator.settings
        of_model = ModelSpeed(self.folder, generator.model_key, (settings.get("width", 0), settings.get("height", 0)))
        return Speed(self.folder, generator.fingerprint, of_model, generator.evaluations_per_image)

    def without_lora(self, triggers: tuple[str, ...] = ()) -> Side:
        """The side without a LoRA. triggers: words that are added to its prompts all the same."""
        return Side(self._store("base", self._identity), (), triggers)

    def with_lora(self, lora: LoraFile, weight: float, triggers: tuple[str, ...]) -> Side:
        """The side with a LoRA at a weight. triggers: words that are added to its prompts."""
        identity: dict[str, str | float] = {**self._identity, "lora": lora.sha256, "weight": weight}
        if any(map(has_weight, triggers)):
            # Pictures of earlier versions took such words literally.
            identity["emphasis"] = "of trigger words"
        store = self._store("loras", identity)
        return Side(store, (LoraUse(lora.path, weight),), triggers)

    def small_pictures(self, base: Side, with_lora: Side, shots: Sequence[Shot]) -> SmallPictures:
        """A few pairs of pictures that were made, as a contact sheet shows them."""
        pairs = [((base.text(shot), shot.seed), (with_lora.text(shot), shot.seed)) for shot in shots[:PAIRS]]
        return of_contact_sheet(base.store, with_lora.store, pairs)

    def without_small(self, side: Side, shots: Sequence[Shot]) -> set[Shot]:
        """Those of some shots that are known, but whose small pictures are gone.

        A side is asked once: where no small picture can be kept, these would be made again for each LoRA.
        """
        if side.store.path in self._retaken:
            return set()
        self._retaken.update([side.store.path] if shots else [])
        known = (shot for shot in shots if not side.is_missing([shot]))
        return {shot for shot in known if not has_thumbnail(side.store, side.text(shot), shot.seed)}

    @property
    def _identity(self) -> dict[str, str]:
        return {"generator": self.generator.fingerprint, "encoder": self.encoder.encoder_id}

    def _store(self, folder: str, identity: Mapping[str, str | float]) -> FeatureStore:
        """A store, which is read once. The base side's stays open, those of a LoRA only until the next LoRA's is asked for.

        As long as it is open, no process removes it.
        """
        key = (folder, *identity.values())
        store = self._stores.get(key)
        if store is not None:
            store.hold()
            return store
        lora = identity.get("lora")
        for other in [other for other in self._stores if other[0] == folder and lora not in other]:
            del self._stores[other]
        store = self._stores[key] = FeatureStore(self.folder / folder, identity, self.encoder.dimension)
        store.hold()
        return store

    def trim(self) -> None:
        """Remove what was kept of other measurements and not used for longest, where the cache is larger than its limit."""
        picture_cache.trim(self.folder, {store.path for store in self._stores.values()})


class Shoot:
    """Makes the pictures of some sides, and reports how far it is and how long it will take.

    `evaluations` counts the forward passes that were spent on each side here, `warm_up_evaluations` those that warmed it up.
    """

    def __init__(
        self,
        studio: Studio,
        sides: Sequence[Side],
        shots: Sequence[Shot],
        on_progress: OnProgress | None,
        *,
        expected: int = 0,
        thumbnails: bool = True,
        is_measurement: bool = False,
        retakes: bool = False,
    ) -> None:
        """Nothing is made yet; `make` makes pictures.

        Args:
            studio: what makes and keeps the pictures.
            sides: all sides that will be made.
            shots: the pictures of each side, in order.
            on_progress: called with the progress, in sampler steps of all sides together.
            expected: how many pictures of each side are likely to be needed; 0 for all.
            thumbnails: whether those that are worth it are also kept as small pictures.
            is_measurement: they are what a LoRA's row is made of, so that what is left of them is left for the LoRA.
            retakes: whether those that are known, but whose small pictures were cleared, are made again; what is known of them
                stays.
        """
        self._is_measurement = is_measurement
        self._studio, self._shots, self._on_progress = studio, shots, on_progress
        self.batch, self._speed, self._steps = studio.batch, studio.speed, studio.generator.steps
        for side in sides:
            # A mere look at what was measured is no use.
            side.store.touch()
        self._shown = worth_a_thumbnail(shots) if thumbnails else []
        again = self._shown if retakes else []
        self._missing = {side: side.missing(shots, self.batch, studio.without_small(side, again)) for side in sides}
        self._most = self._room = self._left(None)
        self._done = 0
        self._known = ""
        self._expected = min(expected or len(shots), len(shots))
        self.evaluations = dict.fromkeys(sides, 0)
        self.warm_up_evaluations = 0

    def make(self, side: Side, start: int, end: int) -> None:
        """Make the missing pictures of one side from `start` up to `end`: multiples of the batch, or the end of all pictures."""
        missing = self._missing[side]
        if missing[start:end].any():
            side.store.begin()
        self._studio.generator.prepare([side.job(self._shots[place]) for place in range(start, end) if missing[place]])
        for place in range(start, end, self.batch):
            part = self._shots[place : min(place + self.batch, end)]
            image, kept = None, 0
            if missing[place]:
                begin = time.monotonic()
                evaluations, image = self._make_batch(side, part, is_for_all=start == 0)
                self._speed.add(time.monotonic() - begin, len(part))
                self.evaluations[side] += evaluations
                kept = len(part)
            missing[place : place + len(part)] = False
            self._done += kept
            self._tell(0, image, self._told(), self._time_left(), kept)

    def expect(self, images_needed: int | None, alignment: float | None, taken: int) -> None:
        """Take in how many pictures it will be, and report that.

        images_needed: None if unknown. alignment: expected cosine, None if unknown. taken: pictures so far.
        """
        self._expected = min(max(images_needed or len(self._shots), taken), len(self._shots))
        self._known = "no direction yet" if alignment is None else f"direction known to {alignment:.3f}"
        if taken == self._expected:
            self._room = self._done
            self._tell(0, None, f"{self._known} after {counted(taken, 'pair')} of pictures, done")
            return
        self._room = min(self._room, self._done + round(_ROOM * self._left(self._expected)))
        self._tell(0, None, self._told(), self._time_left())

    def _make_batch(self, side: Side, part: Sequence[Shot], *, is_for_all: bool) -> tuple[int, Tensor]:
        """Make one batch and keep its features. Returns the forward passes it took and one of its pictures.

        is_for_all: every LoRA of a run would need these pictures of the plain side. What goes wrong there would go wrong for
        each, and the error says so; further pictures are needed by LoRAs that take long alone.
        """
        if side.loras or side.triggers:
            return self._made_batch(side, part)
        try:
            return self._made_batch(side, part)
        except CarlosError as error:
            error.ends_run = is_for_all or error.ends_run
            raise
        except OF_A_FILE as error:
            raise GenerationError(
                f"The model makes no pictures ({reason_of(error)}).",
                "Check that model, clip and vae belong together and that a KSampler can use them.",
                ends_run=is_for_all,
            ) from error

    def _made_batch(self, side: Side, part: Sequence[Shot]) -> tuple[int, Tensor]:
        generated = self._studio.generator.generate(
            [side.job(shot) for shot in part], lambda progress: self._tell(progress.done, None)
        )
        features = self._studio.encoder.encode_images(generated.images).numpy()
        broken = [shot for shot, row in zip(part, features, strict=True) if not np.isfinite(row).all()]
        if broken:
            raise broken_picture(broken[0])
        self.warm_up_evaluations += generated.warm_up_evaluations
        if not side.loras and not side.triggers:
            self._studio.see(generated.images)
        evaluations = generated.model_evaluations // len(part)
        side.store.append([(side.text(shot), shot.seed, row, evaluations) for shot, row in zip(part, features, strict=True)])
        for shot, image in zip(part, generated.images, strict=True):
            if shot in self._shown:
                keep_thumbnail(side.store, side.text(shot), shot.seed, image)
        return generated.model_evaluations, generated.images[0]

    def _told(self) -> str:
        """How many pictures were made, of how many, how many will do, and what is known by them; empty if none is needed."""
        likely = self._done + self._left(self._expected)
        most = f"at most {self._most}" if likely < self._most or self._known else str(self._most)
        enough = f"about {likely} will do" if likely < self._most else ""
        said = ", ".join(filter(None, [f"{self._done} of {most} pictures", enough, self._known]))
        return said if self._most else ""

    def _time_left(self) -> str:
        """From what is missing of the expected pictures; before the first look, also from what is missing of all pictures."""
        seconds = self._speed.seconds_per_picture
        expected, most = self._left(self._expected), self._left(None)
        if seconds is None or not expected:
            return ""
        limit = f", at most {in_words(most * seconds)}" if most > expected and not self._known else ""
        return f", {in_words(expected * seconds)} left{limit}"

    def _left(self, end: int | None) -> int:
        """Pictures that are missing among the first `end` of all sides."""
        return sum(int(missing[:end].sum()) for missing in self._missing.values())

    def _tell(self, step: int, image: Tensor | None, note: str = "", time_left: str = "", kept: int = 0) -> None:
        if self._on_progress is None:
            return
        left = self._left(self._expected) if self._is_measurement and note else None
        done, total = self._done * self._steps + step, self._room * self._steps
        self._on_progress(Progress(done, max(total, done), note + time_left, image, note, left, kept))
