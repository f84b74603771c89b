"""What can be done with a folder of LoRAs of which a database knows few or none: in two sentences, and as scripts read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..counting import counted
from .presets import PRESETS
from .race_rule import usual_pictures
from .settings import RACE_EVALUATIONS
from .speed import in_words

_KNOWN_SHARE = 0.1
"""A database that knows a smaller part of the files than this says little about the folder."""


@dataclass(frozen=True)
class Files:
    """The LoRA files on this machine, in numbers. Those that fit the model, where there is one."""

    listed: int
    """All that can be read, whether they fit or not; a file with several names counts once."""

    fitting: int | None
    """Those that fit the model, by the shapes of their layers; None without a model."""

    measured: int
    """Of those that fit, if that is known: those that the database knows."""

    published: int
    """Of those that fit, if that is known: those that are rows of the bundled database, by a version id or a hash."""

    unreadable: int = 0
    """Files beside those that are listed, which make no LoRA."""

    @property
    def usable(self) -> int:
        """Those that could be applied, as far as is known."""
        return self.listed if self.fitting is None else self.fitting

    @property
    def unmeasured(self) -> int:
        return self.usable - self.measured

    @property
    def are_unknown(self) -> bool:
        """Whether the database knows so few of them that it says little about the folder."""
        return self.measured < max(1.0, _KNOWN_SHARE * self.usable)


@dataclass(frozen=True)
class Costs:
    """What it takes to know more, in model evaluations, and how long one of them takes."""

    quick: int
    """To index by the preset quick what is not measured, at most."""

    seconds_per_evaluation: float | None
    """None if it is not known."""

    race: int = RACE_EVALUATIONS
    """For one query, usually."""

    @classmethod
    def of(cls, n_files: int, evaluations_per_picture: int, seconds_per_evaluation: float | None) -> Costs:
        """What it takes.

        Args:
            n_files: how many are not measured.
            evaluations_per_picture: of the preset quick with this model.
            seconds_per_evaluation: of this model on this machine.
        """
        of_one_side = PRESETS["quick"].max_evaluations // evaluations_per_picture * evaluations_per_picture
        quick = (n_files + 1) * of_one_side
        race = usual_pictures(n_files) * evaluations_per_picture
        return cls(quick, seconds_per_evaluation, min(RACE_EVALUATIONS, quick, race))

    def said(self, evaluations: int) -> str:
        """For people: minutes, or evaluations where their time is not known."""
        if self.seconds_per_evaluation is None:
            return f"about {evaluations:,} model evaluations"
        return in_words(evaluations * self.seconds_per_evaluation)


@dataclass(frozen=True)
class Start:
    """What can be done now, for somebody whose LoRAs the database hardly knows."""

    files: Files
    rows: int
    """Rows of the database."""

    is_bundled: bool
    """Whether the database is the bundled one."""

    n_bundled: int
    """Rows of the bundled database."""

    model: str = ""
    """ComfyUI's class of the model; empty without one."""

    costs: Costs | None = None
    """None without a model."""

    def __str__(self) -> str:
        """Two sentences."""
        return f"{self._what_there_is} {self._what_to_do}"

    @property
    def in_short(self) -> str:
        """What it is about, for a place that has room for two short lines."""
        files = self.files
        if not files.listed:
            return "No LoRA is in ComfyUI's list: put some into models/loras."
        if not files.usable:
            return f"No LoRA file is for this {self.model} model."
        known = f"It knows {files.measured or 'none'} of {counted(files.usable, 'LoRA file')} here"
        return f"{known}: run Index Library, or Race LoRAs."

    @property
    def facts(self) -> dict[str, Any]:
        """The same for scripts."""
        costs = self.costs
        seconds = None if costs is None else costs.seconds_per_evaluation
        return {
            "files": self.files.listed,
            "fitting": self.files.fitting,
            "measured": self.files.measured,
            "published": self.files.published,
            "race_evaluations": None if costs is None else costs.race,
            "quick_evaluations": None if costs is None else costs.quick,
            "seconds_per_evaluation": seconds,
            "race_seconds": None if costs is None or seconds is None else costs.race * seconds,
            "quick_seconds": None if costs is None or seconds is None else costs.quick * seconds,
        }

    @property
    def _what_there_is(self) -> str:
        files = self.files
        if not files.listed:
            return "ComfyUI lists no LoRA that can be read."
        readable = f" that can be read ({files.unreadable} cannot)" if files.unreadable else ""
        listed = f"Of {counted(files.listed, 'LoRA file')} in ComfyUI's list{readable}"
        fitting = "" if files.fitting is None else f"{_are(files.fitting)} for this {self.model} model by the shapes, "
        published = f"{_are(files.published)} among the {self.n_bundled} published ones of 'bundled', by version id"
        if self.is_bundled:
            return f"{listed} {fitting}{'and ' if fitting else ''}{published}."
        return f"{listed} {fitting}{_are(files.measured)} in this database, and {published}."

    @property
    def _what_to_do(self) -> str:
        files, costs = self.files, self.costs
        if not files.listed:
            return "Put LoRAs into models/loras, and press R."
        if not files.usable:
            return f"Load a checkpoint that they were made for, or put LoRAs for this {self.model} model into models/loras."
        if costs is None:
            return (
                "Race LoRAs finds the one for a query without indexing them, and Index Library measures all, overnight or in the "
                "background; LoRA Retriever and Auto LoRA with a MODEL wired in say how many fit it and how long that takes."
            )
        return (
            f"Race LoRAs finds the one for a query in {costs.said(costs.race)} here, without indexing them; Index Library "
            f"(quick) measures the {files.unmeasured} in at most {costs.said(costs.quick)}, once for all queries; loading each "
            "LoRA, and a model that needs more than the fewest steps, add to both."
        )


def _are(n: int) -> str:
    return counted(n, "is", "are") if n else "none is"
