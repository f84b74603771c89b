"""What is said of a race: as a report, as a list of matches, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...carlos_core.counting import counted, share
from ...carlos_core.drawing import theme
from ...carlos_core.drawing.listing import MOST_ROWS, Listing, Said
from ...carlos_core.loras.listed import posix
from ...carlos_core.measuring.failures import Failure
from ...carlos_core.measuring.run_facts import parts_of_cost
from ...carlos_core.measuring.speed import in_words
from ...carlos_core.search.matches import Match, Matches
from ...carlos_core.search.reading import read
from ...carlos_core.search.selection import parts_of
from . import pictures
from .report import number, said_once, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ...carlos_core.measuring.race_terms import RaceChoice
    from .racing import Raced

_HEADER = ("rank", "LoRA", "score", "+-", "confidence", "pairs", "model evaluations", "strength", "consistency")


_ENTER = "Next: change name_filter, or load a checkpoint that your LoRAs are made for."
"""Where nobody takes part."""


def matches_of(raced: Raced) -> Matches:
    """The choice as matches, with the rows of the race."""
    result = raced.result
    items = tuple(
        Match(rank, choice.score, choice.record, raced.files.get(choice.candidate.lora.sha256), choice.confidence)
        for rank, choice in enumerate(result.choice, start=1)
        if choice.record is not None
    )
    return Matches(result.query, str(raced.database.encoder_id), items, "" if items else why_nothing(raced), raced.signature)


def why_nothing(raced: Raced) -> str:
    """Why no LoRA was chosen, in a sentence."""
    result, who = raced.result, raced.entered
    if not result.candidates:
        return f"No LoRA takes part: none of those that ComfyUI lists under this filter fits this {who.model} model."
    if not result.leaders:
        return result.why_no_leaders
    leader = result.leaders[0]
    sure = f", {leader.confidence.said}" if leader.confidence is not None else ""
    return f"The nearest is {leader.candidate.lora.name} (score {number(leader.score)}{sure})."


def lines(raced: Raced) -> list[str]:
    """The report without its last line."""
    result = raced.result
    took = f"{counted(result.candidates, 'LoRA')} took part, {result.left} {'was' if result.left == 1 else 'were'} left"
    steps = raced.indexer.quick_steps
    parts = parts_of_cost(0 if steps is None else steps.model_evaluations, result.base_model_evaluations)
    cost = f"{result.model_evaluations:,} model evaluations, forward passes of it ({parts})"
    found = (
        [f"LoRAs for {result.query!r}, by a race:", *table(_HEADER, _cells(result.choice))]
        if result.choice
        else [f"{result.nothing(repr(result.query))}. {why_nothing(raced)}"]
    )
    if not result.candidates:
        return [why_nothing(raced), _ENTER, *_notes(raced)]
    asked = share(raced.rules.confidence)
    return [
        *found,
        f"The race ended because {result.reason}: {share(result.confidence)} sure ({asked} asked for). {took}.",
        f"It took {cost} in {in_words(raced.seconds)}; measuring all of them by the preset quick takes at most "
        f"{raced.quick_evaluations:,}.",
        *_next(raced),
        *_notes(raced),
    ]


def _next(raced: Raced) -> Iterator[str]:
    """Why there are fewer than asked for, and what to do then."""
    result, parts = raced.result, parts_of(read(raced.result.query).text)
    if result.fits_none:
        yield "Next: ask in other words, or for another effect."
    elif result.choice and len(result.choice) < min(raced.rules.top_k, result.candidates):
        yield f"No other LoRA of the race is known to fit: {len(result.choice)} of the {raced.rules.top_k} asked for."
    if len(parts) > 1:
        yield (
            f"A race looks for one LoRA that does all of {' + '.join(map(repr, parts))}. For one LoRA each, race them one by "
            "one, or ask Auto LoRA once they are measured."
        )


def in_short(raced: Raced) -> str:
    """A race that another node ran, in a sentence."""
    result = raced.result
    return (
        f"{counted(result.candidates, 'LoRA')} took part in a race, since nothing that was measured fits: {result.reason}, "
        f"{share(result.confidence)} sure, {result.model_evaluations:,} model evaluations."
    )


def _notes(raced: Raced) -> Iterator[str]:
    result, who = raced.result, raced.entered
    yield from result.notes
    if who.n_unfit:
        theirs = counted(who.n_unfit, "LoRA is left out: its", "LoRAs are left out: their")
        yield f"{theirs} layers do not fit this {who.model} model."
    known = sum(choice.was_known for choice in result.leaders)
    if known:
        yield f"{known} of the best {'was' if known == 1 else 'were'} known from the database before."
    if raced.settings.prompt.strip():
        yield "It was run on your own prompt: its pictures are kept for further races, and the database is as it was."
    elif result.rows_written:
        rows = counted(result.rows_written, "row")
        yield f"The race saved {rows} of few pictures. Index Library finishes them, and later races start from them."
    yield from said_once("failed", (*result.failed, *(Failure(posix(name), reason) for name, reason in raced.unreadable.items())))


def _cells(choices: Sequence[RaceChoice]) -> list[tuple[str, ...]]:
    return [
        (
            str(rank),
            choice.candidate.lora.name,
            number(choice.score),
            number(choice.score_se),
            "-" if choice.confidence is None else choice.confidence.word,
            str(choice.pairs),
            str(choice.model_evaluations),
            number(None if choice.record is None else choice.record.strength, 2),
            number(None if choice.record is None else choice.record.consistency),
        )
        for rank, choice in enumerate(choices, start=1)
    ]


def listing(raced: Raced, matches: Matches) -> Listing:
    """The choice as a picture."""
    rows, result = pictures.Rows(raced.database), raced.result
    # That nothing fits is the title.
    why = "" if result.fits_none else f"{result.reason}: "
    ended = Said(
        f"{why}{share(result.confidence)} sure, {result.model_evaluations:,} model evaluations, "
        f"{result.left} of {result.candidates} left",
        theme.QUIET,
    )
    if not result.candidates:
        return rows.listing(Said("No LoRA takes part", theme.DOUBTFUL), [Said(matches.reason), Said(_ENTER)])
    if not matches.items:
        return rows.listing(Said(result.nothing(f"“{result.query}”"), theme.DOUBTFUL), [Said(matches.reason), ended])
    drawn = (rows.of_match(match) for match in matches.items[:MOST_ROWS])
    return rows.listing(Said(f"LoRAs for “{result.query}”, by a race"), [ended], drawn, len(matches.items))
