"""Finding and choosing LoRAs: everything that a search needs, together."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from ..clip import signature_file
from ..clip.encoder import Encoder
from ..clip.lazy_encoder import LazyEncoder
from ..clip.signatures import SignatureCache
from ..database.database import MetricsDatabase
from ..database.ranking_arrays import RankingArrays
from ..errors import CarlosError, RetrievalError
from ..foreign import whole_text
from ..progress import OnProgress, Progress
from ..prompts.prompt_set import (
    PromptSet,
    default_content_bank,
    default_effect_bank,
    default_index_prompts,
    default_signature_prompts,
)
from ..storage import cache_directory
from .calibration import Background, CalibratedRows, calibrated_rows, confidences, fit_background
from .content import ContentTails, content_scores, content_tails, content_words, own_words
from .limits import CALIBRATED, DEFAULT_RULES, PUBLISHED, PUBLISHED_LIMITS, RANKINGS, ChoiceRules, SearchLimits
from .matches import Match, Matches, matches_at
from .preference import Preference
from .question import Question
from .ranking import places, rank
from .reading import read
from .selection import Selection
from .spelling import Spelling, spelling_of
from .sure import mark_sure
from .understanding import Understanding

_LOOK_PROMPTS, _CLOSER_PROMPTS = 16, 64
"""So many prompts show whether a phrase may ask for an effect, at first and where that leaves it open. The whole set shows it."""

_PHRASES_AT_A_TIME = 8
"""So many phrases of a bank are encoded between two reports of progress: about five seconds on two cores."""

logger = logging.getLogger(__name__)


class Searcher:
    """Searches a database with its encoder."""

    def __init__(
        self,
        db: MetricsDatabase,
        *,
        encoder: Encoder | None = None,
        prompts: PromptSet | None = None,
        signatures: SignatureCache | None = None,
        bank: PromptSet | None = None,
        content: PromptSet | None = None,
        installed: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is loaded or encoded yet.

        Args:
            db: the database.
            encoder: default is the one that the rows were measured with, which is loaded when it is needed.
            prompts: prompt set of the signatures (default: the built-in one).
            signatures: what was encoded before (default: in CARLOS_HOME).
            bank: the effects that queries are compared with (default: the built-in ones).
            content: phrases that ask for no effect, which they are compared with, too (default: the built-in ones).
            installed: lora_id -> file name of the LoRAs on this machine.

        Raises EncoderError for an encoder other than the rows'.
        """
        if encoder is not None:
            db.check_encoder(encoder.encoder_id)
        self.db = db
        self._encoder = encoder
        self.prompts = prompts or default_signature_prompts()
        self.installed: Mapping[str, str] = installed or {}
        self.preference: Preference | None = None
        self._signatures = signatures or SignatureCache(cache_directory() / signature_file.FOLDER)
        self._bank = bank or default_effect_bank()
        self._content_bank = content or default_content_bank()
        self._known = _Known()

    @property
    def encoder(self) -> Encoder:
        """Raises EncoderError if it is not known which encoder made the rows: they can be searched by a LoRA or by name only."""
        if self._encoder is None:
            self._encoder = LazyEncoder(self.db.check_encoder(), self.db.dimension)
        return self._encoder

    def among(self, installed: Mapping[str, str], preference: Preference | None = None) -> Searcher:
        """The same searcher with other LoRAs installed; what was computed is shared.

        preference: which of them come first among those that fit about equally well, in the calibrated ranking.
        """
        searcher = copy.copy(self)
        searcher.installed, searcher.preference = installed, preference
        return searcher

    def signature(self, text: str) -> Tensor:
        """What a text asks for. [D] float32. Raises RetrievalError for an empty text, EncoderError if the encoder is missing."""
        return self.signatures([text])[0]

    def signatures(self, texts: Sequence[str]) -> list[Tensor]:
        """What texts ask for, each [D] float32; new ones are encoded together. Raises as `signature`."""
        texts = [whole_text(text).strip() for text in texts]
        if not all(texts):
            raise _empty()
        return self._signatures.signatures(self.encoder, self.prompts, texts) if texts else []

    def looks(self, texts: Sequence[str], *, closer: bool = False) -> list[Tensor]:
        """Rough signatures, of a few of the prompts: each [D] float32. Raises as `signature`. closer: of a few more."""
        texts = [whole_text(text).strip() for text in texts]
        prompts = self._more_prompts if closer else self._few_prompts
        return self._signatures.signatures(self.encoder, prompts, texts) if texts else []

    @cached_property
    def _few_prompts(self) -> PromptSet:
        return self._some_prompts(_LOOK_PROMPTS)

    @cached_property
    def _more_prompts(self) -> PromptSet:
        # Half of a set costs more than it saves.
        return self.prompts if len(self.prompts) <= 2 * _CLOSER_PROMPTS else self._some_prompts(_CLOSER_PROMPTS)

    def _some_prompts(self, n: int) -> PromptSet:
        return PromptSet(f"{self.prompts.name}, {n} of them", self.prompts.stratified()[:n])

    @property
    def bank(self) -> PromptSet:
        """The effects that queries are compared with."""
        return self._bank

    @property
    def has_background(self) -> bool:
        """Whether `background` costs nothing by now."""
        return self._known.background is not None

    def encoded(self, bank: PromptSet, on_progress: OnProgress | None = None) -> Tensor:
        """The signatures of phrases, encoded and kept as `background` does it. [B, D] float32. Raises EncoderError."""
        return self._encoded(bank, self.prompts, on_progress)

    def calibrated_rows(self, on_progress: OnProgress | None = None) -> CalibratedRows:
        """The database set against the background, in ranking order. Raises as `background`."""
        return self._rows_before(self.background(on_progress))

    def background(self, on_progress: OnProgress | None = None) -> Background:
        """What unrelated effects look like to the encoder.

        The first time, its bank of phrases is encoded and kept. An error raised by on_progress ends that, and the next call goes
        on from there. Raises EncoderError.
        """
        if self._known.background is None:
            self._known.background = fit_background(self._encoded(self._bank, self.prompts, on_progress))
        return self._known.background

    def find(
        self,
        signature: Tensor,
        limits: SearchLimits = PUBLISHED_LIMITS,
        top_k: int = 5,
        *,
        query: str = "",
        ranking: str = PUBLISHED,
        background: Background | None = None,
    ) -> Matches:
        """The LoRAs whose measured effect fits a signature best.

        Args:
            signature: what is looked for, [D], of any length.
            limits: which LoRAs may be found.
            top_k: how many LoRAs at most, at least 1.
            query: the query in words, for the answer.
            ranking: "published" by cosine, "calibrated" by z-score.
            background: if given, every match says how sure it is, whatever the ranking. The calibrated ranking takes the
                searcher's own if it is not given.

        Raises RetrievalError for top_k < 1, another ranking, a zero signature or one of another encoder's length, EncoderError.
        """
        order = self._order(signature, limits, ranking, background)
        arrays = self.db.ranking_arrays
        rows, scores = rank(arrays.directions, signature, top_k, norms=arrays.norms, allowed=order.allowed, z=order.values)
        items = self._matches_at(order, rows, scores)
        reason = "" if items else limits.why_nothing(self.db, self.installed)
        return Matches(query.strip(), str(self.db.encoder_id), items, reason, signature)

    def nothing(self, query: str, limits: SearchLimits) -> Matches | None:
        """The answer to a query where no row is within the limits, for which no encoder is needed; None if some row is.

        Raises RetrievalError for an empty query.
        """
        if not whole_text(query).strip():
            raise _empty()
        allowed = limits.mask(self.db, self.installed) & (self.db.ranking_arrays.norms > 0)
        if bool(allowed.any()):
            return None
        return Matches(query.strip(), str(self.db.encoder_id), (), limits.why_nothing(self.db, self.installed))

    def placed(
        self,
        lora_ids: Collection[str],
        signature: Tensor,
        limits: SearchLimits = PUBLISHED_LIMITS,
        *,
        ranking: str = PUBLISHED,
        background: Background | None = None,
    ) -> tuple[Match, ...]:
        """What `find` would say of some LoRAs if it found all: each with its rank, best first, without those beyond the limits.

        Arguments and errors as of `find`.
        """
        order = self._order(signature, limits, ranking, background)
        arrays, ids = self.db.ranking_arrays, self.db.column("lora_id")
        wanted = [index for index, row in enumerate(arrays.rows.tolist()) if ids[row] in lora_ids and bool(order.allowed[index])]
        rows = torch.tensor(wanted, dtype=torch.long)
        ranks, scores = places(arrays.directions, signature, rows, norms=arrays.norms, allowed=order.allowed, z=order.values)
        found = self._matches_at(order, rows, scores)
        placed = [replace(match, rank=place + 1) for match, place in zip(found, ranks.tolist(), strict=True)]
        return tuple(sorted(placed, key=lambda match: match.rank))

    def _order(self, signature: Tensor, limits: SearchLimits, ranking: str, background: Background | None) -> _Order:
        """How the rows are ordered for a signature. Arguments and errors as of `find`."""
        check_ranking(ranking)
        if ranking == CALIBRATED and background is None:
            background = self.background()
        arrays = self.db.ranking_arrays
        allowed = limits.mask(self.db, self.installed) & (arrays.norms > 0)
        z = None if background is None else self._rows_before(background).z_scores(signature)
        values = z if ranking == CALIBRATED else None
        behind: Mapping[str, tuple[str, ...]] = {}
        if values is not None and self.preference is not None:
            ids = self.db.column("lora_id")
            values, behind = self.preference.order([ids[row] for row in arrays.rows.tolist()], values, allowed)
        return _Order(allowed, z, values, behind)

    def _matches_at(self, order: _Order, rows: Tensor, scores: Tensor) -> tuple[Match, ...]:
        """Matches for rows, as places in `ranking_arrays`. rows, scores: [K]."""
        sure = None if order.z is None else confidences(order.z[rows], int(order.allowed.sum()))
        items = matches_at(self.db, rows.tolist(), scores.tolist(), self.installed, sure)
        if not order.behind:
            return items
        return tuple(replace(match, preferred_to=order.behind.get(match.lora_id, ())) for match in items)

    def choose(
        self,
        query: str,
        *,
        negative: str = "",
        rules: ChoiceRules = DEFAULT_RULES,
        limits: SearchLimits = PUBLISHED_LIMITS,
        ranking: str = CALIBRATED,
        on_progress: OnProgress | None = None,
    ) -> Selection:
        """The LoRAs for a sentence, with weights; none if nothing fits. See `selection.select`.

        Args:
            query: one effect or several, e.g. "pixel art, burning flames".
            negative: what the LoRAs should not do.
            rules: how many LoRAs, how they are weighed, and how sure a match must be.
            limits: which LoRAs may be found.
            ranking: "published" by cosine, "calibrated" by z-score.
            on_progress: called while the bank of effects is encoded, which happens once.

        Raises RetrievalError for values that make no sense, EncoderError.
        """
        check_ranking(ranking)
        question = Question(self, read(query), negative, rules, limits, ranking, on_progress)

        def without(lora_ids: Collection[str]) -> Selection:
            return self.choose(query, negative=negative, rules=rules, limits=limits.without(lora_ids), ranking=ranking)

        return replace(question.selection(), alternative=without)

    def mark_sure(
        self,
        matches: Matches,
        min_confidence: str,
        *,
        limits: SearchLimits = PUBLISHED_LIMITS,
        ranking: str = CALIBRATED,
        on_progress: OnProgress | None = None,
    ) -> tuple[Matches, Selection]:
        """The matches of a query, each marked by whether `choose` would hold it for sure enough: see `sure.mark_sure`."""
        return mark_sure(self, matches, min_confidence, limits, ranking, on_progress)

    def understand(
        self,
        query: str,
        *,
        limits: SearchLimits = PUBLISHED_LIMITS,
        may_skip_effects: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Understanding:
        """What a query asks for, as `choose` understands it: the effects, each with the LoRA that fits it best, and all else.

        Args:
            query: one effect or several, or a whole prompt.
            limits: which LoRAs may be found.
            may_skip_effects: whether only the words are read where that is all there is to tell (a short phrase), and where the
                effects cannot be looked for, for example without the encoder; `Understanding.why_unread` then says why.
            on_progress: called while the banks are encoded, which happens once.

        Raises EncoderError, unless the effects may be skipped.
        """
        question = Question(self, read(query), "", DEFAULT_RULES, limits, CALIBRATED, on_progress)
        if not may_skip_effects:
            return question.understanding
        if question.reading.is_short:
            return question.by_words
        try:
            return question.understanding
        except CarlosError as error:
            return replace(question.by_words, why_unread=str(error))

    @cached_property
    def content_words(self) -> frozenset[str]:
        """The words of the bank of content."""
        return content_words(self._content_bank.texts)

    @cached_property
    def _has_own_word(self) -> Tensor:
        """Which phrases of the bank of content have a word that no other one has. [B] bool."""
        return own_words(self._content_bank.texts)

    @property
    def spelling(self) -> Spelling:
        """The words of the library and of the banks, gathered once for each state of the database."""
        known = self._known.spelling
        if known is None or known[0] is not self.db.table:
            right = (self._content_bank, default_index_prompts(), default_signature_prompts())
            texts = [text for prompts in right for text in prompts.texts]
            known = self._known.spelling = self.db.table, spelling_of(self.db, self._bank.texts, texts)
        return known[1]

    def z_scores(self, signature: Tensor, background: Background) -> Tensor:
        """How far each row stands out from its own background, in ranking order. [R]; NaN for rows without a direction."""
        return self._rows_before(background).z_scores(signature)

    def content_tails(self, background: Background, allowed: Tensor, on_progress: OnProgress | None = None) -> ContentTails:
        """What phrases that ask for no effect reach with the best of some rows. allowed: [R] bool, in ranking order.

        The first time, the bank of content is looked at and kept, as in `background`. Raises EncoderError.
        """
        if self._known.content is None:
            self._known.content = self._encoded(self._content_bank, self._few_prompts, on_progress)
        rows = self._rows_before(background)
        if self._known.content_scores is None or self._known.content_scores[0] is not rows:
            self._known.content_scores = rows, content_scores(rows, self._known.content)
        return content_tails(self._known.content_scores[1], allowed, self._has_own_word)

    def _encoded(self, bank: PromptSet, prompts: PromptSet, on_progress: OnProgress | None) -> Tensor:
        """The signatures of a bank, made with some prompts. [B, D]."""
        encoder_id = self.encoder.encoder_id
        missing = self._signatures.missing(encoder_id, prompts, bank.texts)
        if missing:
            logger.info("carlos: encoding %d phrases with %s to compare queries with, once", len(missing), encoder_id)
        for place in range(0, len(missing), _PHRASES_AT_A_TIME):
            if on_progress is not None:
                done = len(bank) - len(missing) + place
                on_progress(Progress(done, len(bank), f"reading phrases to compare with, once: {done} of {len(bank)}"))
            self._signatures.signatures(self.encoder, prompts, missing[place : place + _PHRASES_AT_A_TIME])
        return torch.stack(self._signatures.signatures(self.encoder, prompts, bank.texts))

    def _rows_before(self, background: Background) -> CalibratedRows:
        """The library set against a background, computed once for each state of the database."""
        arrays, rows = self.db.ranking_arrays, self._known.rows
        if rows is None or self._known.arrays is not arrays or rows.background is not background:
            rows = self._known.rows = calibrated_rows(arrays.directions, background)
            self._known.arrays = arrays
        return rows


class _Order(NamedTuple):
    """How the rows are ordered for a signature. All tensors are [R], in ranking order."""

    allowed: Tensor
    """bool, what may be found."""

    z: Tensor | None
    """None if there is no background to compare with."""

    values: Tensor | None
    """What they are ordered by, highest first; None: by cosine."""

    behind: Mapping[str, tuple[str, ...]]
    """lora_id -> ids of better ones behind it (`Preference.order`)."""


@dataclass
class _Known:
    """What a searcher and those made from it have computed. rows: those of the database in the state of `arrays`."""

    background: Background | None = None
    arrays: RankingArrays | None = None
    rows: CalibratedRows | None = None
    content: Tensor | None = None
    content_scores: tuple[CalibratedRows, Tensor] | None = None
    spelling: tuple[pa.Table, Spelling] | None = None
    """With the rows that it was gathered from."""


def check_query(query: str) -> None:
    """Raises RetrievalError for one that says nothing."""
    if not whole_text(query).strip():
        raise _empty()


def _empty() -> RetrievalError:
    return RetrievalError("The query is empty.", 'Say what the LoRA should do, e.g. "snowfall".')


def check_ranking(ranking: str) -> None:
    """Raises RetrievalError for a ranking that does not exist."""
    if ranking not in RANKINGS:
        raise RetrievalError(f"There is no ranking {ranking!r}.", f"Choose {' or '.join(RANKINGS)}.")
