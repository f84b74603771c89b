"""A race with ComfyUI's model: from settings and files to the race, for the nodes and the command line alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import RetrievalError
from ..foreign import printable
from ..measuring.plan import Plan
from ..measuring.promise import promise_of
from ..measuring.race import Race
from ..measuring.race_field import Candidate
from ..measuring.race_terms import RaceQuestion, RaceResult, RaceRules
from ..measuring.settings import RaceSettings
from ..search.queries import but_not
from ..search.reading import Reading, read
from ..search.reasons import why_empty
from ..search.searcher import check_query
from .indexing import Loaded, comfy_indexer

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..loras.lora_file import LoraFile
    from ..measuring.indexer import Indexer
    from ..measuring.workplace import Workplace
    from ..progress import OnProgress
    from ..records import LoraRecord
    from ..search.limits import SearchLimits
    from ..search.searcher import Searcher


def settings_of_rows(database: MetricsDatabase, of_model: str, prompt_sets: Mapping[str, str]) -> RaceSettings:
    """Prompts and size of most rows that were measured on a model's shape, so that their pictures are shared.

    Where there is none, the built-in prompts and the model's own size.
    of_model: `layers.model_key`. prompt_sets: `PromptSet.content_hash` -> name, of those that can be chosen.
    """
    of_rows = (database.protocols.get(row.protocol_id or "") for row in database.measured if row.model_key == of_model)
    usual = Counter(
        (prompt_sets[each["prompts"]], int(each.get("width") or 0), int(each.get("height") or 0))
        for each in of_rows
        if each and each.get("prompts") in prompt_sets
    )
    if not usual:
        return RaceSettings()
    prompts, width, height = usual.most_common(1)[0][0]
    return RaceSettings(index_prompts=prompts, width=width, height=height)


def race_indexer(
    loaded: Loaded,
    settings: RaceSettings,
    at: Workplace,
    guidances: tuple[float, ...],
    files: Sequence[LoraFile],
    on_progress: OnProgress | None,
) -> Indexer:
    """What makes the pictures of a race and keeps its rows. files: that take part. Else, and errors: as of `comfy_indexer`."""
    database = at.target.read()
    are_known = all(database.row(database.id_of(lora.lora_id, lora.sha256)) is not None for lora in files)
    # A name says nothing of a file that was written over since it was measured.
    names = [lora.name for lora in files] if are_known else None
    indexer = comfy_indexer(loaded, settings.measuring, at, guidances, names, on_progress)
    if not settings.prompt.strip():
        return indexer
    return replace(indexer, plan=Plan.of_prompt(settings.prompt.strip(), len(indexer.plan.shots)))


def check_asked(query: str) -> None:
    """Raises RetrievalError for a query that asks for no effect: whatever was found would be chance."""
    check_query(query)
    reading = read(query)
    if not reading.wishes:
        raise RetrievalError(why_empty(reading), "Say what the LoRA should do, in plain words.")


def question_of(searcher: Searcher, query: str, limits: SearchLimits, on_progress: OnProgress | None) -> RaceQuestion:
    """What a race is asked: the effects in a query, without what it forbids, and not what weighs nothing in it.

    Raises RetrievalError for a query that is empty or forbids what it asks for, EncoderError.
    """
    reading = read(query)
    signature = searcher.signature(reading.text)
    for unwanted in reading.forbidden:
        signature = but_not(signature, searcher.signature(unwanted.text))
    background = searcher.background(on_progress)
    return RaceQuestion(query.strip(), signature.double().numpy(), background, limits, _raced_for(reading))


def _raced_for(reading: Reading) -> tuple[str, ...]:
    """What is raced for, in a sentence, where a query holds more than that."""
    if reading.is_plain:
        return ()
    against = ", ".join(repr(unwanted.text) for unwanted in reading.forbidden)
    return (printable(f"Raced for {reading.text!r}{f', and against {against}' if against else ''}."),)


def race_of(
    indexer: Indexer, files: Sequence[LoraFile], question: RaceQuestion, rules: RaceRules, *, keeps_rows: bool, began: float
) -> Race:
    """The race of some files. keeps_rows, began: see `Race`. Raises RetrievalError."""
    database, asked = indexer.target.read(), read(question.query).text
    candidates = [Candidate(lora, _row_of(indexer, database, lora), promise_of(asked, lora)) for lora in files]
    return Race(indexer, candidates, question, rules, keeps_rows=keeps_rows, began=began)


def _row_of(indexer: Indexer, database: MetricsDatabase, lora: LoraFile) -> LoraRecord | None:
    """The row of a LoRA that counts for the model: one that spares measuring it, or one that does not say what it was measured
    on, such as the published ones, which searches take as well."""
    row = database.row(database.id_of(lora.lora_id, lora.sha256))
    if row is None or (row.protocol_id is not None and not indexer.is_covered(row.measured, database)):
        return None
    return row


def keep_race_pictures(indexer: Indexer, result: RaceResult) -> None:
    """Keep a few pairs of pictures of the best, as indexing does, unless there are some already."""
    gallery = indexer.gallery
    if gallery is None:
        return
    for leader in result.leaders:
        record = leader.record
        if record is not None and not leader.was_known and gallery.sheet(record) is None:
            indexer.keep_pictures(leader.candidate.lora, record)


def race_facts(result: RaceResult, settings: RaceSettings, n_unfit: int) -> dict[str, Any]:
    """What a race came to, as scripts read it. n_unfit: files that were left out because they do not fit the model."""
    return {
        **result.facts,
        "prompt": settings.prompt.strip() or None,
        "rows_written": result.rows_written,
        "left_out": {"does not fit": n_unfit} if n_unfit else {},
        "leaders": [{**leader.facts, **_sure(leader.confidence)} for leader in result.leaders],
    }


def _sure(confidence: Any) -> dict[str, Any]:
    return {} if confidence is None else {"confidence": confidence.word, "p_value": confidence.p_value}
