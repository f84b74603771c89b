"""`carlos retrieve` and `carlos choose`: LoRAs for a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..counting import number
from . import options
from .app import FINDING, Usage, command
from .codes import DONE, NOTHING_FITS
from .comfyui import ComfyUI
from .facts import database_facts, database_line, lora_facts, match_facts, matches_table, posix
from .output import Answer, Table
from .places import BUNDLED, places_of
from .progress import showing

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..search.limits import SearchLimits
    from ..search.names_in_queries import Named
    from ..search.selection import Selection
    from .places import Places

Query = Annotated[
    str, typer.Argument(help='What the LoRA should do, e.g. "snowfall". A whole prompt will do.', show_default=False)
]
Prompts = Annotated[
    Path | None, typer.Option("--prompts", metavar="FILE", help="A prompt set (JSON) for what the sentence means, for experts.")
]
Confidence = Annotated[
    str, typer.Option("--min-confidence", help="How sure a match must be: any, weak, likely or clear.", metavar="WORD")
]


@command(
    "retrieve",
    FINDING,
    'retrieve "snowfall"',
    'retrieve "oil painting" --comfyui ~/ComfyUI --installed-only',
    'retrieve "snowfall" --min-confidence likely --json | jq -r ".result.matches[].name"',
)
def retrieve(
    query: Query,
    database: options.Database = BUNDLED,
    top_k: options.TopK = 5,
    ranking: Annotated[
        str, typer.Option("--ranking", metavar="WORD", help="published: by the published score. calibrated: by how sure it is.")
    ] = "published",
    min_confidence: Confidence = "any",
    prompts: Prompts = None,
    installed_only: options.InstalledOnly = False,
    base_model: options.BaseModel = None,
    max_strength: options.MaxStrength = 9.8,
    min_consistency: options.MinConsistency = 0.041,
    exclude: options.Exclude = None,
    loras: options.Loras = None,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """List the LoRAs whose measured effect fits a sentence best, as the node LoRA Retriever does."""
    from ..search.limits import ANY, CONFIDENCES, PUBLISHED, SearchLimits
    from ..search.names_in_queries import doubted
    from ..search.searcher import check_ranking

    check_ranking(ranking)
    _check_word(min_confidence, CONFIDENCES)
    places = places_of(ComfyUI.of(comfyui, python, base_directory, comfyui_args), loras)
    opened = places.open_database(database)
    searcher = places.searcher(opened, prompts)
    limits = SearchLimits(
        max_strength, min_consistency, base_model=base_model, installed_only=installed_only, exclude=tuple(exclude or ())
    )
    with showing() as progress:
        signature = searcher.signature(query)
        background = None if (min_confidence, ranking) == (ANY, PUBLISHED) else searcher.background(progress)
        found = searcher.find(signature, limits, top_k, query=query, ranking=ranking, background=background)
        if min_confidence != ANY:
            found, _chosen = searcher.mark_sure(found, min_confidence, limits=limits, ranking=ranking, on_progress=progress)
            found = doubted(query, found, _named(query, opened, places))
        understanding = searcher.understand(query, limits=limits, may_skip_effects=True, on_progress=progress)
    files = places.resolved(opened)
    matches = [match_facts(match, files, places) for match in found.items]
    fits = any(match["sure_enough"] for match in matches)
    reason = "" if fits else _reason(found.doubt or found.reason, matches, min_confidence)
    then = "" if fits else _next(opened, limits, places)
    result = {
        "query": query,
        "fits": fits,
        "reason": reason,
        "next": then,
        "matches": matches,
        "reading": understanding.facts,
        "database": database_facts(opened),
    }
    notes = [suggestion.text for suggestion in understanding.did_you_mean]
    shown: list[str | Table] = [matches_table(matches)] if matches else []
    shown = [
        *([f"Nothing fits {query!r}. {reason}"] if not fits else []),
        *shown,
        *([then] if then else []),
        database_line(opened),
    ]
    return Answer(result, shown, notes, DONE if fits else NOTHING_FITS)


@command(
    "choose",
    FINDING,
    'choose "pixel art, burning flames" --mode composed',
    'choose "a boat on a lake, snow falling" --comfyui ~/ComfyUI --installed-only',
    'choose "watercolour" --json | jq -r ".result.loras[] | [.file, .weight] | @tsv"',
)
def choose(
    query: Query,
    database: options.Database = BUNDLED,
    negative: Annotated[str, typer.Option("--negative", help="What the LoRAs should not do.")] = "",
    mode: Annotated[str, typer.Option("--mode", help='"best one", "top k equal" or "composed".', metavar="WORDS")] = "best one",
    max_loras: Annotated[int, typer.Option("--max-loras", min=1, max=16, help="So many LoRAs at most.")] = 2,
    strength_budget: Annotated[float, typer.Option("--strength-budget", help="What all weights may add up to.")] = 2.0,
    keep_content: Annotated[
        float,
        typer.Option("--keep-content", min=0, max=1, help="Between effect (0) and what the prompt shows (1); 0.5 leaves both."),
    ] = 0.5,
    weight: Annotated[
        str, typer.Option("--weight", metavar="WORD", help="A LoRA's own weight: suggested (by a scale sweep), or 1.0.")
    ] = "suggested",
    min_confidence: Confidence = "likely",
    prompts: Prompts = None,
    installed_only: options.InstalledOnly = False,
    base_model: options.BaseModel = None,
    max_strength: options.MaxStrength = 9.8,
    min_consistency: options.MinConsistency = 0.041,
    exclude: options.Exclude = None,
    loras: options.Loras = None,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """Choose LoRAs and their weights for a sentence, or say that nothing fits, as the node Auto LoRA does."""
    from ..search.limits import ANY, ChoiceRules, SearchLimits
    from ..search.names_in_queries import without_strangers

    places = places_of(ComfyUI.of(comfyui, python, base_directory, comfyui_args), loras)
    opened = places.open_database(database)
    if weight not in ("suggested", "1.0"):
        raise Usage(f"There is no weight {weight!r}.", "Choose suggested or 1.0.")
    own = weight == "suggested"
    rules = ChoiceRules(mode, max_loras, strength_budget, min_confidence, takes_suggested=own, keep_content=keep_content)
    limits = SearchLimits(
        max_strength, min_consistency, base_model=base_model, installed_only=installed_only, exclude=tuple(exclude or ())
    )
    with showing() as progress:
        searcher = places.searcher(opened, prompts)

        def choice(asked: str) -> Selection:
            return searcher.choose(asked, negative=negative, rules=rules, limits=limits, on_progress=progress)

        selection = choice(query)
        if min_confidence != ANY:
            selection = without_strangers(query, selection, choice, lambda: _named(query, opened, places))
    picks = _picks(selection, places)
    words = list(dict.fromkeys(word for pick in picks for word in pick["trigger_words"]))
    then = "" if picks else _next(opened, limits, places, is_unfit=selection.is_unfit)
    result = {
        "query": query,
        "fits": bool(picks),
        "reason": selection.reason,
        "next": then,
        "loras": picks,
        "trigger_words": words,
        "lora_syntax": " ".join(f"<lora:{_stem(pick['file'])}:{pick['weight']:g}>" for pick in picks if pick["file"]),
        "reading": {} if selection.understanding is None else selection.understanding.facts,
        "keep_content": None if selection.keeping is None else selection.keeping.facts,
        "database": database_facts(opened),
    }
    shown: list[str | Table] = [said for said in (selection.reason, then) if said]
    if picks:
        shown += [_picks_table(picks), *([f"trigger words: {', '.join(words)}"] if words else [])]
    suggestions = selection.understanding.did_you_mean if selection.understanding is not None else ()
    notes = [*(suggestion.text for suggestion in suggestions), *selection.notes]
    return Answer(result, [*shown, database_line(opened)], notes, DONE if picks else NOTHING_FITS)


def _next(database: MetricsDatabase, limits: SearchLimits, places: Places, *, is_unfit: bool = True) -> str:
    """What to do where nothing is found. is_unfit: whether LoRAs were looked at and none fits."""
    from ..database.told import raced
    from ..search.next_step import Ways, after_filters, after_search, unmeasured

    n_unmeasured = unmeasured(places.library.entries, places.resolved(database))
    ways = Ways(
        "carlos index-folder",
        "carlos race",
        widen=lambda others: f"leave out --base-model{f', or name {others}' if others else ''}",
        files="at hand",
        limit=lambda name: f"--{name.replace('_', '-')}",
    )
    filtered = after_filters(database, limits, places.installed(database), n_unmeasured, ways)
    if filtered or not is_unfit:
        return filtered
    return after_search(n_unmeasured if places.loras else None, raced(database), False, ways)


def _named(query: str, database: MetricsDatabase, places: Places) -> list[Named]:
    """The names of LoRAs in a query."""
    from ..search.names_in_queries import named_in

    installed = {lora_id: where.name for lora_id, where in places.resolved(database).items() if where.name is not None}
    return named_in(query, database, [entry.name for entry in places.library.entries], installed, is_lost=False)


def _picks(selection: Selection, places: Places) -> list[dict[str, Any]]:
    found = []
    for pick in selection.picks:
        sure = pick.match.confidence
        found.append(
            {
                **lora_facts(pick.match.record, pick.match.file, places),
                "weight": pick.weight,
                "score": pick.score,
                "confidence": None if sure is None else sure.word,
                "p_value": None if sure is None else sure.p_value,
                "for": pick.part,
            }
        )
    return found


def _picks_table(picks: list[dict[str, Any]]) -> Table:
    has_other_names = any(pick["file"] not in (None, pick["name"]) for pick in picks)
    header = ("for", "LoRA", "weight", "score", "confidence", "installed", *(["file"] if has_other_names else []))
    rows = [
        (
            pick["for"],
            pick["name"],
            number(pick["weight"], 2),
            number(pick["score"]),
            pick["confidence"] or "-",
            "yes" if pick["installed"] else "no",
            *([pick["file"] or "-"] if has_other_names else []),
        )
        for pick in picks
    ]
    return Table(header, rows, ("weight", "score"))


def _stem(file: str) -> str:
    return posix(file).rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _reason(said: str, matches: list[dict[str, Any]], min_confidence: str) -> str:
    if said or not matches:
        return said
    return f"No LoRA fits as surely as --min-confidence {min_confidence} asks."


def _check_word(word: str, words: tuple[str, ...]) -> None:
    from ..errors import RetrievalError

    if word not in words:
        raise RetrievalError(f"There is no confidence {word!r}.", f"Choose {', '.join(words)}.")
