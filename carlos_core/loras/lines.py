"""Lines of models: what is told apart within one shape by words alone.

A model's shapes tell its family, and any LoRA of these shapes loads. Yet on NoobAI a LoRA for Pony does not quite do what it was
trained for, and neither does one for Z-Image Base on Turbo. Nothing in the weights says which is which: only the names and labels
that people give to checkpoints and LoRAs do. Lines serve to prefer, never to leave out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from .family import family_of_name

_LINES = (
    ("SDXL", r"sd[-_ ]?xl[-_ ]?(v?1|base)|stable[-_ ]?diffusion[-_ ]?xl"),
    ("Pony", r"pony(?!tail|([-_ ]?diffusion)?[-_ ]?v?7)|(?<![a-z])pdxl"),
    ("Illustrious", r"illustrious|(?<![a-z])il(xl)?(v\d|(?![a-z]))"),
    ("NoobAI", r"noob(?!ie)|(?<![a-z])nai[-_ ]?xl"),
    ("Animagine XL", r"animagine"),
    ("Flux.1 dev", r"flux[-_. ]?1?[-_. \[]*d(ev)?(?![a-z])"),
    ("Flux.1 schnell", r"schnell|flux[-_. ]?1?[-_. ]*s(?![a-z])"),
    ("Flux.1 Krea", r"flux.*krea"),
    ("Flux.1 Kontext", r"kontext"),
    ("Flux.1 Fill", r"flux.*fill"),
    ("Flux.2 Klein", r"(?<![a-z])klein(?![a-z])"),
    ("Flux.2 Klein Base", r"(?<![a-z])klein.*base"),
    ("Z-Image Turbo", r"(?<![a-z])z[-_ ]?image.*turbo|(?<![a-z])zit(?![a-z])"),
    ("Z-Image Base", r"(?<![a-z])z[-_ ]?image.*base|(?<![a-z])zib(?![a-z])"),
    ("Krea 2 Turbo", r"krea[-_ ]?2.*turbo"),
    ("Krea 2 RAW", r"krea[-_ ]?2.*raw"),
    ("Qwen-Image", r"qwen"),
    ("Qwen-Image Edit", r"qwen.*edit"),
    ("Ernie-Image", r"ernie[-_ ]?image"),
    ("Ernie-Image Turbo", r"ernie[-_ ]?image.*turbo"),
    ("SD 3.5 Large", r"(sd|stable[-_ ]?diffusion)[-_ ]?3\.?5.*large"),
    ("SD 3.5 Large Turbo", r"(sd|stable[-_ ]?diffusion)[-_ ]?3\.?5.*large.*turbo"),
    ("Wan T2V", r"(?<![a-z])wan.*t2v"),
    ("Wan I2V", r"(?<![a-z])wan.*(?<!t)i2v"),
)
"""Bare "SDXL" or "XL" is none: checkpoints made from Pony and Illustrious are called so, too."""

_MADE_FROM = {
    **dict.fromkeys(("Pony", "Illustrious", "Animagine XL"), "SDXL"),
    "NoobAI": "Illustrious",
    **dict.fromkeys(("Flux.1 Krea", "Flux.1 Kontext", "Flux.1 Fill"), "Flux.1 dev"),
    **{f"{line} {kind}": line for line, kind in (("Flux.2 Klein", "Base"), ("Qwen-Image", "Edit"))},
    **{f"{line} Turbo": line for line in ("Ernie-Image", "SD 3.5 Large")},
}
"""Line -> the one that it was made from, or was made into (Klein)."""

LINES = tuple(line for line, _ in _LINES)


@lru_cache(maxsize=16384)
def line_of_name(name: str | None) -> str | None:
    """The line that a label or a file's name names, otherwise the nearest of its folders that does. None: no line, or several."""
    parts = re.split(r"[/\\]", (name or "").lower())
    return next(filter(None, map(_line_of, reversed(parts))), None)


def line_of(words: Iterable[str | None]) -> str | None:
    """The line of what these words are about, the most trusted first; None if none of them names one."""
    return next(filter(None, map(line_of_name, words)), None)


def line_of_choice(family: str | None, named: str | None) -> str | None:
    """The line of a checkpoint.

    family: what the user says it is (`family.FAMILIES`), None if nothing. named: the line in the checkpoint's own words. They
    are more exact if they agree with the user, and do not count if they do not.
    """
    if family is None or family_of_name(named) == family:
        return named
    return family if family in LINES else None


def closeness(line: str, other: str | None) -> float:
    """How near a LoRA's line is to a checkpoint's: 1 the same, 0.5 if one was made from the other, 0 otherwise."""
    if other is None:
        return 0.0
    is_kin = _MADE_FROM.get(line) == other or _MADE_FROM.get(other) == line
    return 1.0 if line == other else 0.5 if is_kin else 0.0


def _line_of(name: str) -> str | None:
    found = {line for line, pattern in _LINES if re.search(pattern, name)}
    # "NoobAI (Illustrious)" is NoobAI.
    for line in tuple(found):
        origin = _MADE_FROM.get(line)
        while origin is not None:
            found.discard(origin)
            origin = _MADE_FROM.get(origin)
    return found.pop() if len(found) == 1 else None
