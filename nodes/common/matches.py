"""Matches as a node's outputs and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ...carlos_core.counting import counted
from ...carlos_core.drawing import theme
from ...carlos_core.drawing.listing import MOST_ROWS, Listing, Said
from ...carlos_core.loras.listed import posix
from ...carlos_core.loras.matching import Resolved
from ...carlos_core.search.limits import told
from ...carlos_core.search.matches import Match, Matches, mark_alike
from ..host import lora_folder, runtime
from . import descriptions, doubt, next_step, pictures, preferred, reading, start, weak_loras
from .model_fit import ForModel, for_model
from .report import database_facts, database_line, number, report, table
from .search_widgets import limits_of
from .sockets import CarlosMatches, facts_output, picture_output

if TYPE_CHECKING:
    from ...carlos_core.measuring.start import Start
    from ...carlos_core.search.understanding import Understanding


_INSTEAD = (
    "Load LoRA gets no name, so that it cannot run. Apply Retrieved LoRAs, in place of Load LoRA, goes on without a LoRA then."
)
"""Ends what ComfyUI shows where the branch of a name is blocked."""


def outputs() -> list[io.Output]:
    return [
        CarlosMatches.Output(display_name="matches"),
        io.AnyType.Output(display_name="lora_name", tooltip="The best installed match. Connect it to Load LoRA."),
        io.Float.Output(display_name="score", tooltip="Its score, or 0 if no match is installed."),
        io.String.Output(display_name="report"),
        facts_output(),
        picture_output(),
    ]


def fingerprint() -> str:
    """Changes when a LoRA or a sidecar was added, removed or changed: that changes the answer, though no input does."""
    return str(hash(lora_folder.lora_survey()))


def found(
    database: Any,
    query: str,
    signature: Any,
    *notes: str,
    hidden: Any,
    top_k: int,
    about: Callable[[Matches], Sequence[str]] = lambda _matches: (),
    title: str = "",
    min_cosine: float = 0.0,
    **limits: Any,
) -> io.NodeOutput:
    """The outputs of a search for a signature.

    Args:
        database: the database to search.
        query: the query in words, for the report.
        signature: what is looked for, [D].
        notes: lines that the report begins with.
        hidden: of the node, whose prompt names the checkpoint.
        top_k: how many LoRAs at most.
        about: what to say of the matches as a whole, in lines.
        title: of the picture; empty: the query is a text that somebody wrote.
        min_cosine: how like what is looked for a LoRA must be to be passed on; 0 for no limit.
        limits: the values of `search_widgets.optional_limits`, by widget, the model, and what else `SearchLimits` knows.
    """

    def find(installed: dict[str, str], allowed: ForModel) -> Matches:
        searcher = runtime.searcher(database).among(installed, allowed.preference)
        return mark_alike(searcher.find(signature, allowed.limits, top_k, query=query), min_cosine)

    done = searched(database, find, hidden, **limits)
    return output_of(database, done, *notes, *about(done.matches), title=title)


class Searched(NamedTuple):
    """What a search came to."""

    files: dict[str, Resolved]
    """What `lora_folder.resolved` gave."""
    allowed: ForModel
    """Among which LoRAs."""
    matches: Matches


def searched(
    database: Any,
    find: Callable[[dict[str, str], ForModel], Matches],
    hidden: Any,
    **limits: Any,
) -> Searched:
    """A search among the installed LoRAs, once more if the file of a match is found to be something else when it is read.

    Args:
        database: the database to search.
        find: (lora_id -> file of what is installed, what is allowed) -> matches.
        hidden: of the node, whose prompt names the checkpoint.
        limits: the values of `search_widgets.optional_limits`, by widget, the model, and what else `SearchLimits` knows.
    """
    model = limits.pop("model", None)

    def search(files: dict[str, Resolved]) -> tuple[Searched, list[str]]:
        installed = lora_folder.installed(files)
        allowed = for_model(limits_of(**limits), database, model, None, installed, hidden)
        matches = find(installed, allowed)
        return Searched(files, allowed, matches), [match.lora_id for match in matches.items if match.file is not None]

    return lora_folder.surely(database, search)


def output_of(
    database: Any,
    found: Searched,
    *notes: str,
    understanding: Understanding | None = None,
    further: Sequence[str] = (),
    by_effect: bool = True,
    title: str = "",
    then: str = "",
    first: Start | None = None,
) -> io.NodeOutput:
    """The outputs for what a search has found.

    Args:
        database: the database that was searched.
        found: what was found.
        notes: lines that the report begins with.
        understanding: what was read in the query, if it was read.
        further: lines that come after what was read.
        by_effect: whether the limits on what was measured counted; if not, names were searched.
        title: of the picture; empty: the query is a text that somebody wrote.
        then: what to do where LoRAs were looked at and none fits; what to do where there are none is said in any case.
        first: what can be done now, where the database hardly knows the files.
    """
    files, allowed, matches = found
    words = descriptions.of_matches(database, matches.items)
    facts = _facts(matches, files, words) | ({"left_out": allowed.facts} if allowed.facts else {})
    facts |= preferred.facts_of(allowed.preference, matches.items)
    made_for = preferred.notes_of(allowed.preference, matches.items, database)
    facts |= {"database": database_facts(database), **start.facts_of(first)}
    facts |= {} if understanding is None else {"reading": reading.facts_of(understanding)}
    filters = allowed.limits.filters(database, allowed.installed, by_effect=by_effect)
    facts |= {"filters": [each._asdict() for each in filters]}
    read = reading.lines(understanding, database)
    said_of_filters = told(filters, len(database))
    # Where nothing was found, the reason may have them already.
    filtered = [] if said_of_filters in matches.reason else [said_of_filters]
    doubts = doubt.lines(matches, understanding)
    if not matches.items:
        then = next_step.after_filters(database, allowed, files) if by_effect else ""
    facts["next"] = then
    doubts = [*doubts, *([then] if then else [])]
    listed = _table(matches, words, doubts)
    # Its weight is chosen where it is applied.
    weak = weak_loras.notes_of(database, ((match, 1.0) for match in matches.installed))
    notices = [*made_for, *weak, *_notes(matches, files), *allowed.notes, *filtered, database_line(database)]
    text, said = report([*notes, *listed, *start.lines(first), *read, *further, *notices], facts)
    doubts_shown = [*doubts, *weak, *start.lines(first)]
    listing = _listing(database, found, notes, doubts_shown, _Worded(title, by_effect=by_effect))
    picture, shown = pictures.drawn(listing, text)
    if not matches.installed:
        reason = matches.doubt or matches.reason or "None of the matches is installed: put one of them into models/loras."
        return io.NodeOutput(matches, ExecutionBlocker(f"{reason} {_INSTEAD}"), 0.0, text, said, picture, ui=shown)
    best = matches.installed[0]
    return io.NodeOutput(matches, best.file, best.score, text, said, picture, ui=shown)


def name_of(match: Match) -> str:
    """A LoRA's name in a table."""
    return match.name if match.version_id is None else f"{match.name} [CivitAI version {match.version_id}]"


def file_of(match: Match) -> str | None:
    """File name with "/" between folders, as reports give it."""
    return posix(match.file) if match.file else match.record.file_name


class _Worded(NamedTuple):
    """How a picture of matches is worded."""

    title: str
    """Empty: the query is a text that somebody wrote."""

    by_effect: bool
    """If not, names were searched."""


def _listing(database: Any, found: Searched, notes: Sequence[str], doubts: Sequence[str], worded: _Worded) -> Listing:
    """The matches as a picture. notes: lines that the report begins with. doubts: why they may not fit."""
    matches, rows = found.matches, pictures.Rows(database, found.allowed)
    said = [*(Said(note, theme.QUIET) for note in notes), *(Said(line, theme.DOUBTFUL) for line in doubts)]
    if not matches.items:
        nothing = [*said[: len(notes)], Said(matches.reason), *said[len(notes) :]]
        return rows.listing(Said(f"Nothing fits “{matches.query}”", theme.DOUBTFUL), nothing)
    drawn = (rows.of_match(match, by_effect=worded.by_effect) for match in matches.items[:MOST_ROWS])
    title = worded.title or f"LoRAs {'for' if worded.by_effect else 'called'} “{matches.query}”"
    return rows.listing(Said(title), said, drawn, len(matches.items))


def _table(matches: Matches, words: Mapping[str, str], doubts: Sequence[str]) -> list[str]:
    if not matches.items:
        return [f"Nothing fits {matches.query!r}. {matches.reason}", *doubts]
    confidence = () if matches.surest is None else ("confidence",)
    sure = ("sure enough" if confidence else "alike enough",) if matches.is_judged else ()
    header = ("rank", "LoRA", "score", *confidence, *sure, "strength", "consistency", "installed", "base model")
    cells = [(*_cells(match, is_judged=matches.is_judged), *descriptions.cell(words, match.lora_id)) for match in matches.items]
    return [f"LoRAs for {matches.query!r}:", *doubts, *table((*header, *descriptions.column(words)), cells)]


def _cells(match: Match, *, is_judged: bool) -> tuple[str, ...]:
    return (
        str(match.rank),
        name_of(match),
        number(match.score),
        *(() if match.confidence is None else (match.confidence.word,)),
        *((_yes(match.is_sure),) if is_judged else ()),
        number(match.vector.strength, 2),
        number(match.vector.consistency),
        _yes(match.file is not None),
        match.record.metadata.base_model or "unknown",
    )


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _notes(matches: Matches, files: Mapping[str, Resolved]) -> list[str]:
    """What is ambiguous about the files of the matches, and how many other LoRAs do not count as installed for that reason."""
    listed = {match.lora_id for match in matches.items}
    notes = [
        f"{match.name}: {files[match.lora_id].note}"
        for match in matches.items
        if match.lora_id in files and files[match.lora_id].note
    ]
    unclear = [where.note for lora_id, where in files.items() if where.name is None and lora_id not in listed]
    if unclear:
        more = counted(len(unclear), "more LoRA", "more LoRAs")
        notes.append(f"not counted as installed: {more} of the database, e.g. because {unclear[0]}")
    return notes


def _facts(matches: Matches, files: Mapping[str, Resolved], words: Mapping[str, str]) -> dict[str, object]:
    return {
        "query": matches.query,
        "matches": [
            {
                "rank": match.rank,
                "lora_id": match.lora_id,
                "file": file_of(match),
                "score": match.score,
                "strength": match.vector.strength,
                "consistency": match.vector.consistency,
                "installed": match.file is not None,
                **({} if match.is_sure else {"sure_enough": False}),
                "found_by": files[match.lora_id].by if match.file is not None else None,
                "described_as": words.get(match.lora_id),
                **_confidence(match),
            }
            for match in matches.items
        ],
    }


def _confidence(match: Match) -> dict[str, object]:
    if match.confidence is None:
        return {}
    return {"confidence": match.confidence.word, "p_value": match.confidence.p_value}
