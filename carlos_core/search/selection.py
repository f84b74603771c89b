"""From a sentence to LoRAs with weights, or to "nothing fits"."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import RetrievalError
from ..vectors import cosine
from .limits import ANY, BEST_ONE, CONFIDENCES, MAX_STRENGTH, MODES, TOP_K_EQUAL, ChoiceRules
from .matches import Match, Matches, own_weight
from .weights import Candidates, WeightLimits, compose, unlike, weighed

if TYPE_CHECKING:
    from .keeping import Keeping
    from .understanding import Understanding

CANDIDATES = 12
"""How many matches of a search are considered."""

_BLANKS = re.compile(r"\s+")
_SEPARATORS = re.compile(r"\s?[,;+&\n]\s?|\s(?:and|with|plus)\s", re.IGNORECASE)
"""What separates the parts of a query in which all blanks are single."""

Search = Callable[[str], Matches]
"""Text -> its best matches, with `signature` and, unless everything is taken, with confidences."""


@dataclass(frozen=True, eq=False)
class Pick:
    """A LoRA to apply."""

    match: Match
    weight: float
    """For model and CLIP."""

    score: float
    """Cosine of its direction with the signature of the whole query."""

    part: str
    """The part of the query that it was taken for, or the whole query."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What to apply for a query."""

    query: str
    picks: tuple[Pick, ...]
    """Empty when nothing fits."""

    reason: str
    """Why nothing fits, or how the picks were chosen."""

    alternative: Callable[[Collection[str]], Selection] | None = field(default=None, repr=False)
    """Ids of LoRAs that cannot be used -> the choice without them."""

    understanding: Understanding | None = None
    """What was read as effect, as forbidden, as content, and as nothing; None if the query was taken as it is."""

    fitting: frozenset[str] = frozenset()
    """Ids of all LoRAs that are sure enough, whether they were picked or not: for a part, if it was chosen by parts, otherwise
    for the whole or a part."""

    notes: tuple[str, ...] = ()
    """What fits and was not picked, what was taken from the weights, and whether the picture may break; one sentence each."""

    is_unfit: bool = False
    """Whether nothing was chosen for no other reason than that no LoRA that may be found fits: other words may find one."""

    keeping: Keeping | None = None
    """How much of the prompt the picks leave, and what that cost; None if there are none."""

    def without(self, lora_ids: Collection[str]) -> Selection:
        """The choice if these LoRAs cannot be used, e.g. because they do not load. lora_ids: also those left out before."""
        if self.alternative is None:
            return Selection(self.query, (), "The LoRAs that were chosen cannot be used.")
        return self.alternative(lora_ids)


def parts_of(query: str) -> tuple[str, ...]:
    """The effects that a query asks for: it is split at , ; + & and line breaks, and at "and", "with" and "plus"."""
    # Runs of blanks first, so that the time does not grow with their square.
    single = _BLANKS.sub(lambda run: "\n" if "\n" in run[0] else " ", query.strip())
    return tuple(part.strip() for part in _SEPARATORS.split(single) if part.strip())


def select(
    query: str,
    search: Search,
    rules: ChoiceRules,
    max_strength: float = MAX_STRENGTH,
    *,
    parts_are: Sequence[str] | None = None,
) -> Selection:
    """The LoRAs for a query.

    A query of several parts fits if all of its parts do, or if it does as a whole: the signature of two effects at once looks
    less sure than either. The modes:

    - "best one": the best LoRA for the whole query; if none fits it, the LoRA of the surest part.
    - "composed": the best LoRA of each part, with weights whose predicted joint direction comes closest to the signature of the
      whole query. If the query has only one part, or some part has no LoRA: `weights.compose` of the LoRAs that fit the whole.
    - "top k equal": the same LoRAs and then the next best for the whole (the best for the whole, where there is no LoRA for each
      part), in proportion to their own weights.

    Near-duplicates (cosine above weights.MAX_LIKENESS) are not put together. Equal inputs give equal answers.

    Args:
        query: one effect or several.
        search: text -> its best matches.
        rules: how many LoRAs, how they are weighed, and how sure a match must be.
        max_strength: the most that one LoRA may change pictures, as in the search, in raw CLIP units.
        parts_are: the effects that the query asks for, if they are known already.

    Raises RetrievalError for values that make no sense, and what `search` raises.
    """
    check_rules(rules)
    whole = search(query)
    if not whole.items:
        return Selection(whole.query, (), whole.reason)
    texts = parts_of(query) if parts_are is None else parts_are
    parts = [search(text) for text in texts] if len(texts) > 1 else []
    fitting = _fitting(whole, rules)
    leaders = _leaders(parts, rules)
    if not fitting and len(leaders) < len(parts or [whole]):
        return Selection(whole.query, (), _why_not(whole, _lacking(parts, leaders) if leaders else [], rules.min_confidence))
    n = 1 if rules.mode == BEST_ONE else rules.max_loras
    is_by_parts = bool(parts) and len(leaders) == len(parts) and (n > 1 or not fitting)
    limits = WeightLimits(rules.strength_budget, max_strength)
    if is_by_parts:
        chosen = _of_parts(leaders, fitting, n, rules)
    elif n == 1:
        chosen = fitting[:1]
    elif rules.mode == TOP_K_EQUAL:
        chosen = _unlike(fitting, n)
    else:
        chosen = _composed(fitting, whole, n, limits, rules)
    signature = _signature(whole)
    weights = weighed(candidates_of(chosen, rules), signature, limits, is_equal=rules.mode == TOP_K_EQUAL)
    names = {match.lora_id: part.query for part, match in reversed(leaders)} if is_by_parts else {}
    picks = tuple(
        Pick(match, round(float(weight), 3), cosine(match.vector.direction, signature), names.get(match.lora_id, whole.query))
        for match, weight in zip(chosen, weights, strict=True)
    )
    lacking = _lacking(parts, leaders)
    reason = _why(chosen[0], lacking) if fitting or not parts else "Each part of the query has a LoRA that fits."
    sure = frozenset(match.lora_id for found in (parts if is_by_parts else (whole, *parts)) for match in _fitting(found, rules))
    return Selection(whole.query, picks, reason, fitting=sure, notes=_left_out(leaders, chosen, rules))


def check_rules(rules: ChoiceRules) -> None:
    """Raises RetrievalError for rules that make no sense."""
    for value, choices in ((rules.mode, MODES), (rules.min_confidence, CONFIDENCES)):
        if value not in choices:
            raise RetrievalError(f"{value!r} is not a way to choose LoRAs.", f"Choose one of {', '.join(choices)}.")
    if rules.max_loras < 1 or not rules.strength_budget > 0:
        raise RetrievalError(
            f"{rules.max_loras} LoRAs with a budget of {rules.strength_budget:g}.", "Allow at least 1 LoRA and some weight."
        )
    if not 0 <= rules.keep_content <= 1:
        raise RetrievalError(f"keep_content is {rules.keep_content:g}.", "Choose a number from 0 (effect) to 1 (content).")


def _of_parts(leaders: Sequence[tuple[Matches, Match]], fitting: Sequence[Match], n: int, rules: ChoiceRules) -> list[Match]:
    """The best LoRA of each part. If these are more than may be used, only the surest are taken, in the order of the query."""
    chosen = _unlike([match for _, match in leaders], len(leaders))
    surest = sorted(chosen, key=_p_value)[:n]
    chosen = [match for match in chosen if match in surest]
    return _unlike([*chosen, *fitting], n) if rules.mode == TOP_K_EQUAL else chosen


def _composed(fitting: Sequence[Match], whole: Matches, max_loras: int, limits: WeightLimits, rules: ChoiceRules) -> list[Match]:
    """The best match, and others that together with it come closer to the query."""
    if any(match.preferred_to for match in fitting):
        # Of LoRAs that do the same, the preferred one: by the query alone, the other would be taken.
        fitting = _unlike(fitting, len(fitting))
    composition = compose(candidates_of(fitting, rules), _signature(whole), limits, max_loras)
    rows = sorted(each.index for each in composition.chosen)
    return [fitting[row] for row in rows] if 0 in rows else [fitting[0]]


def _fitting(matches: Matches, rules: ChoiceRules) -> list[Match]:
    """The matches that are sure enough, best first."""
    if rules.min_confidence == ANY:
        return list(matches.items)
    return [match for match in matches.items if match.confidence is not None and match.confidence.reaches(rules.min_confidence)]


def _leaders(parts: Sequence[Matches], rules: ChoiceRules) -> list[tuple[Matches, Match]]:
    """The parts that some LoRA fits, each with its best match that is sure enough."""
    found = [(part, _fitting(part, rules)) for part in parts]
    return [(part, fitting[0]) for part, fitting in found if fitting]


def _unlike(matches: Sequence[Match], n: int) -> list[Match]:
    """The first `n` matches, without those that do the same as an earlier one."""
    if not matches:
        return []
    directions = _directions(matches)
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return [matches[place] for place in unlike(range(len(matches)), units, n)]


def _lacking(parts: Sequence[Matches], leaders: Sequence[tuple[Matches, Match]]) -> list[str]:
    """The parts that nothing fits, each with what comes nearest to it."""
    led = {part.query for part, _ in leaders}
    return [with_nearest(part.query, part.items[0] if part.items else None) for part in parts if part.query not in led]


def with_nearest(text: str, nearest: Match | None) -> str:
    """A text that nothing fits in quotes, and what comes nearest to it: "'fog' (nearest: snow, weak)"."""
    if nearest is None:
        return repr(text)
    sure = "" if nearest.confidence is None else f", {nearest.confidence.in_short}"
    return f"{text!r} (nearest: {nearest.name}{sure})"


def _left_out(leaders: Sequence[tuple[Matches, Match]], chosen: Sequence[Match], rules: ChoiceRules) -> tuple[str, ...]:
    """Why the LoRAs of some parts were not chosen. leaders: as from `_leaders`."""
    if rules.min_confidence == ANY:
        return ()
    if rules.mode == BEST_ONE:
        limit = f"mode is {BEST_ONE}"
    elif len(chosen) >= rules.max_loras:
        limit = f"max_loras is {rules.max_loras}"
    else:
        limit = f"{chosen[0].name} fits the whole query"
    ids, notes = {match.lora_id for match in chosen}, []
    for part, match in leaders:
        if match.lora_id not in ids:
            like = next((other for other in chosen if len(_unlike([other, match], 2)) == 1), None)
            why = f": {like.name} does the same" if like is not None else f", because {limit}"
            notes.append(f"{match.name} fits {part.query!r} and is not applied{why}.")
    return tuple(notes)


def _why_not(whole: Matches, lacking: Sequence[str], min_confidence: str) -> str:
    """Why nothing fits. lacking: as of `_lacking`; empty if nothing fits any part, or if the query has only one."""
    best = whole.items[0]
    if lacking:
        return f"Nothing fits {' nor '.join(lacking)} of {whole.query!r}: ask for the rest alone, or lower min_confidence."
    if best.confidence is None:
        return f"Nothing fits {whole.query!r}: the best, {best.name}, is not {min_confidence}."
    share = "fewer than 1%" if _p_value(best) < 0.01 else f"{_p_value(best):.0%}"
    looks = f"{share} of unrelated queries find one that looks as good"
    nearest = f"the nearest, {best.name}, is {best.confidence.said} ({looks})"
    if best.confidence.word == "none":
        return f"Nothing fits {whole.query!r}: {nearest}."
    return f"Nothing fits {whole.query!r} surely enough: {nearest}, and min_confidence asks for {min_confidence!r}."


def _why(best: Match, lacking: Sequence[str]) -> str:
    """The reason for a query that fits as a whole. lacking: its parts that nothing fits alone, as of `_lacking`."""
    known = "" if best.confidence is None else f"The best match is {best.confidence.said}. "
    return f"{known}Nothing fits {' nor '.join(lacking)} alone.".strip() if lacking else known.strip()


def _p_value(match: Match) -> float:
    return match.confidence.p_value if match.confidence is not None else 0.0


def _directions(matches: Sequence[Match]) -> np.ndarray:
    return np.stack([match.vector.direction for match in matches]).astype(np.float64)


def candidates_of(matches: Sequence[Match], rules: ChoiceRules) -> Candidates:
    """Matches with the weight of each LoRA when it is applied alone."""
    return Candidates(
        ids=[match.lora_id for match in matches],
        directions=_directions(matches),
        strength=np.array([match.vector.strength for match in matches]),
        base_weights=np.array([own_weight(match, rules) for match in matches]),
    )


def _signature(matches: Matches) -> np.ndarray:
    """The signature behind matches, [D] float64. Raises RetrievalError if there is none."""
    if matches.signature is None:
        raise RetrievalError(f"The search for {matches.query!r} has no signature.", "Search by an effect, not by a name.")
    return matches.signature.double().numpy()
