"""Auto LoRA's choice for queries as people ask them, with a real CLIP and the rows of the mini-world."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.lazy_encoder import LazyEncoder
from carlos_core.clip.loading import load_encoder_parts
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.errors import EncoderError, RetrievalError
from carlos_core.progress import Progress
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.search import question
from carlos_core.search.calibration import confidences
from carlos_core.search.content import ContentTail, content_tails, corrected, own_words
from carlos_core.search.limits import COMPOSED, PUBLISHED_LIMITS, ChoiceRules, SearchLimits
from carlos_core.search.matches import Confidence
from carlos_core.search.question import Question
from carlos_core.search.reading import read
from carlos_core.search.searcher import Searcher
from carlos_core.search.selection import Selection
from carlos_core.search.understanding import MAX_WHOLE, Verdict, understand
from tests.support import miniworld
from tests.support.rows import lora_id_of

RULES = ChoiceRules(COMPOSED)
SNOW, PENCIL, HEARTS = "mystery_12.safetensors", "pencil_sketch.safetensors", "pink_hearts.safetensors"


@pytest.fixture(scope="module")
def signatures() -> SignatureCache:
    return SignatureCache()


@pytest.fixture(scope="module")
def searcher(encoder: OpenClipEncoder, signature_prompts: PromptSet, signatures: SignatureCache) -> Searcher:
    database: MetricsDatabase = load_database(
        miniworld.MINIWORLD / "reference_metrics.parquet", encoder_id=miniworld.encoder_id()
    )
    return Searcher(database, encoder=encoder, prompts=signature_prompts, signatures=signatures)


def files(selection: Selection) -> list[str]:
    return [str(pick.match.record.file_name) for pick in selection.picks]


def facts(selection: Selection) -> dict[str, Any]:
    assert selection.understanding is not None
    return selection.understanding.facts


def test_an_effect_is_found_in_a_prompt_and_the_rest_is_content(searcher: Searcher) -> None:
    selection = searcher.choose("masterpiece, a wooden boat on a lake, snow falling, <lora:detail:1>", rules=RULES)
    assert files(selection) == [SNOW]
    assert [effect["text"] for effect in facts(selection)["effects"]] == ["snow falling"]
    assert facts(selection)["content"] == ["a wooden boat on a lake"]
    assert set(facts(selection)["ignored"]) == {"masterpiece", "<lora:detail:1>"}


def test_two_effects_in_a_prompt_both_come_weighed_as_without_the_rest(searcher: Searcher) -> None:
    in_prompt = searcher.choose("a wooden boat on a lake, snow falling, drawn in pencil, 8k", rules=RULES)
    bare = searcher.choose("snow falling, drawn in pencil", rules=RULES)
    assert sorted(files(in_prompt)) == sorted([SNOW, PENCIL])
    assert {pick.match.lora_id: pick.weight for pick in in_prompt.picks} == {
        pick.match.lora_id: pick.weight for pick in bare.picks
    }


def test_effects_joined_in_other_words_both_come(searcher: Searcher) -> None:
    assert sorted(files(searcher.choose("snow falling as well as floating love hearts, please", rules=RULES))) == sorted(
        [SNOW, HEARTS]
    )


def test_what_is_forbidden_is_not_applied(searcher: Searcher) -> None:
    assert files(searcher.choose("drawn in pencil, no snow", rules=RULES)) == [PENCIL]
    assert files(searcher.choose("no snow falling", rules=RULES)) == []
    assert files(searcher.choose("without snowflakes in the air and with floating love hearts", rules=RULES)) in ([], [HEARTS])
    contradiction = searcher.choose("snow falling, no snow falling", rules=RULES)
    assert SNOW not in files(contradiction)


@pytest.mark.parametrize(
    "query", [".", "photo of a cat", "a red car on a road, blue sky, 8k", "please", "1girl, solo, long hair"]
)
def test_what_asks_for_no_effect_gets_nothing(searcher: Searcher, query: str) -> None:
    selection = searcher.choose(query, rules=RULES)
    assert files(selection) == []
    assert selection.reason


def test_an_object_of_a_colour_is_not_taken_for_the_effect_that_has_this_colour(searcher: Searcher) -> None:
    selection = searcher.choose("large red robot on a metal floor, yellow background", rules=RULES)
    assert files(selection) == []
    assert files(searcher.choose("many red balloons, yellow background", rules=RULES)) == ["red_balloons.safetensors"]


class JudgeOfWords:
    """A library with one LoRA that all texts ask for which hold its word."""

    def __init__(self, word: str) -> None:
        self.word, self.judged = word, list[str]()

    def looks(self, texts: Sequence[str]) -> list[float | None]:
        return [9.0 if self.word in text.split() else 0.0 for text in texts]

    def closer_looks(self, texts: Sequence[str]) -> list[float | None]:
        return self.looks(texts)

    def verdict(self, text: str) -> Verdict | None:
        self.judged.append(text)
        return Verdict("lora", 9.0, True) if self.word in text.split() else Verdict("lora", 0.0, False)

    def verdicts(self, texts: Sequence[str]) -> list[Verdict | None]:
        return [self.verdict(text) for text in texts]

    def p_value(self, z: float, *, is_content: bool) -> float:
        return 1e-6 if z >= 9 else 1.0


def test_nothing_longer_than_the_phrases_of_the_bank_is_judged_as_one() -> None:
    judge = JudgeOfWords("smoke")
    understanding = understand(read(f"{' '.join(f'word{n}' for n in range(20))} smoke, {'more ' * 12}"), judge, 0.05, ())
    assert judge.judged
    assert max(len(text.split()) for text in judge.judged) <= MAX_WHOLE
    assert [effect.lora_id for effect in understanding.effects] == ["lora"]


def test_words_in_letters_that_the_encoder_hardly_knows_ask_for_nothing() -> None:
    judge = JudgeOfWords("собака")
    assert not understand(read("red smoke собака"), judge, 0.05, ()).effects
    assert not any("собака" in text for text in judge.judged)


def test_emphasis_gives_more_or_less_weight(searcher: Searcher) -> None:
    plain, more, less = (
        searcher.choose(query, rules=RULES).picks[0].weight
        for query in ("drawn in pencil", "(drawn in pencil:1.3)", "(drawn in pencil:0.6)")
    )
    assert more == pytest.approx(1.3 * plain)
    assert less == pytest.approx(0.6 * plain)
    budget = replace(RULES, strength_budget=1.0)
    assert searcher.choose("(drawn in pencil:1.3)", rules=budget).picks[0].weight <= 1.0


def test_any_confidence_still_takes_the_best(searcher: Searcher) -> None:
    assert files(searcher.choose("photo of a cat", rules=ChoiceRules(min_confidence="any")))


class Listening(OpenClipEncoder):
    """The mini CLIP, and the texts that it had to read."""

    def __init__(self) -> None:
        parts = load_encoder_parts(miniworld.encoder_id(), [miniworld.MINIWORLD])
        super().__init__(parts.model, parts.tokenizer, parts.encoder_id, parts.pixel_format, parts.dimension)
        self.heard: list[str] = []

    def token_ids(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        self.heard += texts
        return super().token_ids(texts)


def listening_to(db: MetricsDatabase, prompts: PromptSet) -> tuple[Listening, Searcher]:
    """An encoder that has read nothing, and a searcher that has nothing else."""
    listening = Listening()
    return listening, Searcher(db, encoder=listening, prompts=prompts, signatures=SignatureCache())


def test_a_changed_word_costs_only_the_phrases_that_hold_it_and_an_unchanged_query_nothing(
    searcher: Searcher, signature_prompts: PromptSet
) -> None:
    listening, other = listening_to(searcher.db, signature_prompts)
    query = "a wooden boat on a quiet lake, snow falling, two birds on a fence, no rain"
    other.choose(query, rules=RULES)
    assert "snow falling" in listening.heard
    listening.heard.clear()
    other.choose(query, rules=RULES)
    assert listening.heard == []
    assert files(other.choose(query.replace("boat", "house"), rules=RULES)) == files(searcher.choose(query, rules=RULES))
    assert "a wooden house on a quiet lake" in listening.heard
    assert [text for text in listening.heard if "house" not in text] == []


def test_a_prompt_without_an_effect_is_not_encoded_as_a_whole_with_all_prompts(
    searcher: Searcher, signature_prompts: PromptSet
) -> None:
    listening, other = listening_to(searcher.db, signature_prompts)
    query = "a red car on a road, two birds on a fence, a man with a hat, an empty street, three apples on a plate"
    selection = other.choose(query, rules=RULES)
    assert files(selection) == []
    assert query in selection.reason
    # Once, when it is looked at.
    assert Counter(listening.heard)[query] == 1


def test_forms_of_asking_reach_what_the_bare_phrases_reach(searcher: Searcher) -> None:
    asked = json.loads((miniworld.MINIWORLD / "queries_as_asked.json").read_text(encoding="utf-8"))
    wrong = []
    for entry in asked[::4]:
        chosen = files(searcher.choose(entry["query"], rules=RULES))
        assert not {*chosen} & {*entry["forbids"]}, entry
        is_right = len(chosen) == len(entry["wants"]) and all(any(file in right for file in chosen) for right in entry["wants"])
        wrong += [] if is_right else [(entry["query"], chosen)]
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize(
    "query", ["drawn in pencil, plumivoq", "plumivoq", "a house, no plumivoq", "no plumivoq", "plumivoq please"]
)
def test_what_may_be_misspelt_is_said_whether_something_fits_or_not_and_searched_for_as_it_is(
    searcher: Searcher,
    database: MetricsDatabase,
    encoder: OpenClipEncoder,
    signature_prompts: PromptSet,
    signatures: SignatureCache,
    query: str,
) -> None:
    database.set_value(lora_id_of(database, SNOW), "model_name", "Plumivor")
    named = Searcher(database, encoder=encoder, prompts=signature_prompts, signatures=signatures)
    limits_and_rules = [
        (PUBLISHED_LIMITS, RULES),
        (PUBLISHED_LIMITS, ChoiceRules(min_confidence="any")),
        (SearchLimits(max_strength=0.0), RULES),
    ]
    for limits, rules in limits_and_rules:
        selection = named.choose(query, rules=rules, limits=limits)
        assert facts(selection)["did_you_mean"] == [{"word": "plumivoq", "meant": "plumivor"}]
        without_that_name = searcher.choose(query, rules=rules, limits=limits)
        assert facts(without_that_name)["did_you_mean"] == []
        assert [(pick.match.lora_id, pick.weight, pick.part) for pick in selection.picks] == [
            (pick.match.lora_id, pick.weight, pick.part) for pick in without_that_name.picks
        ]
        assert facts(selection) | {"did_you_mean": []} == facts(without_that_name)


PROMPT = "masterpiece, a wooden boat on a lake, snow falling, drawn in pencil, no hearts, <lora:x:1>"


def test_what_a_query_asks_for_is_told_without_a_choice_too(searcher: Searcher) -> None:
    asked = searcher.understand(PROMPT)
    chosen = searcher.choose(PROMPT, rules=RULES)
    assert asked == chosen.understanding
    best = {effect.text: searcher.db.cells(effect.lora_id)["file_name"] for effect in asked.effects}
    assert best == {"snow falling": SNOW, "drawn in pencil": PENCIL}
    assert (asked.facts["forbidden"], asked.facts["content"]) == (["hearts"], ["a wooden boat on a lake"])
    assert set(asked.facts["ignored"]) == {"masterpiece", "<lora:x:1>"}
    pencil = lora_id_of(searcher.db, PENCIL)
    without_pencil = searcher.understand(PROMPT, limits=SearchLimits(exclude={pencil}))
    assert pencil not in [effect.lora_id for effect in without_pencil.effects]


def test_to_tell_it_changes_no_ranking(searcher: Searcher) -> None:
    before = searcher.find(searcher.signature(PROMPT), top_k=30, query=PROMPT)
    searcher.understand(PROMPT, may_skip_effects=True)
    after = searcher.find(searcher.signature(PROMPT), top_k=30, query=PROMPT)
    assert [(match.lora_id, match.score, match.confidence) for match in before.items] == [
        (match.lora_id, match.score, match.confidence) for match in after.items
    ]


def not_there(encoder_id: str) -> OpenClipEncoder:
    raise EncoderError(f"{encoder_id} is not installed.", "Install it.")


@pytest.fixture
def without_encoder(searcher: Searcher, signature_prompts: PromptSet) -> Searcher:
    missing = LazyEncoder(miniworld.encoder_id(), 64, not_there)
    return Searcher(searcher.db, encoder=missing, prompts=signature_prompts, signatures=SignatureCache())


@pytest.mark.parametrize("query", ["drawn in pencil", "heavy snowfall by night and day", " pencl sketch "])
def test_a_short_phrase_costs_nothing_where_effects_may_be_skipped(without_encoder: Searcher, query: str) -> None:
    understanding = without_encoder.understand(query, may_skip_effects=True)
    assert (understanding.why_unread, understanding.effects) == ("", ())
    assert [suggestion.meant for suggestion in understanding.did_you_mean] == (["pencil"] if "pencl" in query else [])
    with pytest.raises(EncoderError, match="is not installed"):
        without_encoder.understand(query)


@pytest.mark.parametrize(
    "query",
    ["drawn in pencil, snowfall", "please, drawn in pencil", "(drawn in pencil:1.2)", "heavy snowfall at night by the lake"],
)
def test_without_an_encoder_the_words_are_read_and_it_is_said_why_not_more(without_encoder: Searcher, query: str) -> None:
    understanding = without_encoder.understand(query, may_skip_effects=True)
    assert understanding.why_unread == f"{miniworld.encoder_id()} is not installed. Install it."
    assert understanding.facts["ignored"] == (["please"] if "please" in query else [])


def test_telling_effects_apart_shows_progress_and_can_be_cancelled(
    searcher: Searcher, encoder: OpenClipEncoder, signature_prompts: PromptSet
) -> None:
    def cancel(_progress: Progress) -> None:
        raise KeyboardInterrupt

    anew = Searcher(searcher.db, encoder=encoder, prompts=signature_prompts, signatures=SignatureCache())
    assert not anew.understand("drawn in pencil", may_skip_effects=True, on_progress=cancel).why_unread
    with pytest.raises(KeyboardInterrupt):
        anew.understand(PROMPT, may_skip_effects=True, on_progress=cancel)


def test_the_tail_of_content_counts_and_goes_on_beyond_the_bank() -> None:
    # The quantiles of an exponential distribution with a mean of 0.5.
    maxima = -torch.log1p(-(torch.arange(2000, dtype=torch.float64) + 0.5) / 2000) / 2
    tail = ContentTail(maxima)
    for z, p in ((0.2, 0.67032), (1.0, 0.13534), (2.0, 0.01832), (4.0, 0.000335)):
        assert tail.p_value(z) == pytest.approx(p, rel=0.1)
    assert ContentTail(torch.zeros(0)).p_value(5.0) == 1.0
    assert corrected(0.01, 10) == pytest.approx(1 - 0.99**10)
    assert corrected(1.0, 3) == 1.0


def test_words_that_the_bank_of_content_lacks_are_held_against_phrases_with_a_word_of_their_own() -> None:
    phrases = ["a brown bridge", "a brown cat", "a cat on a bridge", "a harp", "a lyre on a bridge", "the the"]
    assert own_words(phrases).tolist() == [False, False, False, True, True, False]
    n = 60
    scores = torch.cat([torch.linspace(4, 6, n), torch.linspace(0, 2, n)]).double()[:, None] + torch.tensor([0.0, 9.0])
    scores[3] = torch.nan
    has_own_word, allowed = torch.arange(2 * n) >= n, torch.tensor([True, False])
    tails = content_tails(scores, allowed, has_own_word)
    assert (len(tails.known.maxima), len(tails.new.maxima)) == (2 * n - 1, n)
    assert tails.p_value(4.0, is_known=True) > 0.4
    assert tails.p_value(4.0, is_known=False) < 0.001
    # Too few to make a tail: all phrases count.
    few = content_tails(scores, allowed, torch.arange(2 * n) >= 2 * n - 5)
    assert few.p_value(4.0, is_known=False) == few.p_value(4.0, is_known=True)
    assert content_tails(scores, torch.zeros(2, dtype=torch.bool), has_own_word).p_value(9.0, is_known=False) == 1.0


def test_an_effect_is_found_among_content_whose_colours_look_like_another(searcher: Searcher) -> None:
    prompt = "a fishing boat in a small harbour, ropes and nets on the deck, thick snow falling, large flakes everywhere"
    assert files(searcher.choose(prompt, rules=RULES)) == [SNOW]


def test_a_text_in_another_language_gets_that_sentence_and_no_lora(searcher: Searcher) -> None:
    for query in ("雪の降る夜", "eine alte Zeichnung mit Schnee und ein Herz"):
        selection = searcher.choose(query, rules=RULES)
        assert files(selection) == []
        assert "ask in English" in selection.reason


def test_a_prompt_without_an_effect_is_not_told_to_ask_for_the_rest(searcher: Searcher) -> None:
    selection = searcher.choose("orange pyramid in the desert, teal sky", rules=RULES)
    assert files(selection) == []
    assert "asks surely enough for what a LoRA" in selection.reason


def test_what_nothing_fits_hides_nothing_and_is_named_with_what_comes_nearest(searcher: Searcher) -> None:
    elephants = "'a herd of elephants' (nearest: pale_pastel_colours.safetensors, no better than chance)"
    wool = "'knitted wool' (nearest: mystery_10.safetensors, no better than chance)"
    for query in ("a herd of elephants, drawn in pencil", "drawn in pencil and a herd of elephants"):
        selection = searcher.choose(query, rules=RULES)
        assert files(selection) == [PENCIL]
        assert selection.reason.endswith(f"Nothing fits {elephants}.")
    both = searcher.choose("snow falling, a herd of elephants, drawn in pencil, knitted wool", rules=RULES)
    assert files(both) == [SNOW, PENCIL]
    assert both.reason.endswith(f"Nothing fits {elephants} nor {wool}.")
    neither = searcher.choose("knitted wool, a herd of elephants", rules=RULES)
    assert files(neither) == []
    assert neither.reason.endswith(f"Nothing fits {wool} nor {elephants}.")
    # The word is the one that min_confidence can be lowered to.
    query = "orange pyramid in the desert, teal sky"
    assert (
        "'orange pyramid in the desert' (nearest: burning_flames.safetensors, weak)" in searcher.choose(query, rules=RULES).reason
    )
    assert files(searcher.choose(query, rules=replace(RULES, min_confidence="weak"))) == ["burning_flames.safetensors"]


@pytest.mark.parametrize(
    ("query", "negative", "said"),
    [
        ("snowstorm", "snow falling", f"negative_query ('snow falling'): otherwise {SNOW} would fit."),
        ("snow, no snow", "", f"what the query does not want ('snow'): otherwise {SNOW} would fit."),
    ],
)
def test_what_is_not_wanted_is_named_where_it_is_why_nothing_fits(
    searcher: Searcher, query: str, negative: str, said: str
) -> None:
    selection = searcher.choose(query, negative=negative, rules=RULES)
    assert files(selection) == []
    assert selection.reason.startswith(f"What is in the way is {said} Nothing fits ")
    # It is not blamed for what nothing would fit anyway.
    assert "in the way" not in searcher.choose("a herd of elephants", negative="snow", rules=RULES).reason
    assert "in the way" not in searcher.choose("drawn in pencil", negative="snow falling", rules=RULES).reason


@pytest.mark.parametrize(
    ("query", "negative", "said"),
    [
        ("drawn in pencil", "snow falling", "without it, the same LoRAs come first."),
        ("a herd of elephants", "snow", "without it, nothing fits either."),
        ("drawn in pencil", "graphite pencil drawing", ""),
        ("drawn in pencil", "", ""),
    ],
)
def test_what_is_not_wanted_and_plays_no_part_is_called_that(searcher: Searcher, query: str, negative: str, said: str) -> None:
    selection = searcher.choose(query, negative=negative, rules=RULES)
    notes = [note for note in selection.notes if "plays no part" in note]
    assert notes == ([f"negative_query ({negative!r}) plays no part here: {said}"] if said else [])
    assert selection.is_unfit == (not selection.picks and "in the way" not in selection.reason)


def test_what_is_not_wanted_is_named_where_it_takes_a_part_of_the_query(searcher: Searcher) -> None:
    selection = searcher.choose("pencil sketch and snow falling", negative="graphite pencil drawing", rules=RULES)
    assert files(selection) == [SNOW]
    assert selection.reason.endswith("In the way of 'pencil sketch' is negative_query ('graphite pencil drawing').")
    # Also where the rest is taken as one.
    whole = searcher.choose("snowflakes in the air with two by two grid", negative="snow", rules=RULES)
    assert len(files(whole)) == 1
    assert whole.reason.endswith("In the way of 'snowflakes in the air' is negative_query ('snow').")


def test_what_is_in_the_way_comes_first_and_without_advice_that_does_not_help(searcher: Searcher) -> None:
    advice = "name the effect alone, or lower min_confidence"
    query = "snowstorm, a herd of elephants"
    blocked = searcher.choose(query, negative="snow falling", rules=RULES)
    assert blocked.reason.startswith(
        f"What is in the way is negative_query ('snow falling'): otherwise {SNOW} would fit. Nothing in {query!r} asks"
    )
    assert advice not in blocked.reason
    assert "'a herd of elephants' (nearest:" in blocked.reason
    assert advice in searcher.choose("a brick wall, a herd of elephants", negative="snow falling", rules=RULES).reason


def test_of_two_things_that_are_not_wanted_each_is_blamed_for_what_it_keeps_out(searcher: Searcher) -> None:
    def reason(query: str, negative: str) -> str:
        return searcher.choose(query, negative=negative, rules=RULES).reason

    assert reason("snow, no snow, pencil sketch", "graphite pencil drawing").startswith(
        f"What is in the way is negative_query ('graphite pencil drawing'): otherwise {PENCIL} would fit. "
        f"What is in the way is what the query does not want ('snow'): otherwise {SNOW} would fit. Nothing in"
    )
    # Either is enough, one alone is it, or both must go.
    either = reason("burning flames, no fire", "graphite pencil drawing")
    assert "is negative_query ('graphite pencil drawing') or what the query does not want ('fire'): otherwise" in either
    assert reason("pink hearts, snow, no hearts", "watercolour").endswith(
        "In the way of 'pink hearts' is what the query does not want ('hearts')."
    )
    both = "In the way of 'snow' is negative_query ('snow falling') and what the query does not want ('snow')."
    assert reason("snow, no snow, pencil sketch", "snow falling").endswith(both)
    # What is left of the query without the one may be what the other avoids.
    assert searcher.choose("snow, pencil sketch, no snow", negative="snow, pencil sketch", rules=RULES).query


@pytest.mark.parametrize(
    ("query", "negative", "n_choices"),
    [
        ("drawn in pencil", "snow falling", 1),
        ("drawn in pencil, burning flames, no snow", "", 1),
        ("drawn in pencil, a brick wall", "burning flames", 1),
        ("a herd of elephants", "blurry", 1),
        ("snowstorm", "snow falling", 2),
        ("pencil sketch and snow falling", "graphite pencil drawing", 2),
        ("a house in a snowstorm drawn in pencil", "snow", 2),
    ],
)
def test_a_query_is_chosen_for_again_only_if_what_is_unwanted_can_have_changed_something(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch, query: str, negative: str, n_choices: int
) -> None:
    chosen: list[str] = []
    choose = Question._chosen

    def counting(asked: Question) -> Selection:
        chosen.append(asked.negative)
        return choose(asked)

    monkeypatch.setattr(Question, "_chosen", counting)
    reason = searcher.choose(query, negative=negative, rules=RULES).reason
    assert len(chosen) == n_choices
    assert ("n the way" in reason) == (n_choices > 1)


def test_what_does_something_forbidden_is_told_without_a_loop_over_the_rows(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []

    def counting(z: torch.Tensor, n_rows: int) -> list[Confidence]:
        judged.append(len(z))
        return confidences(z, n_rows)

    monkeypatch.setattr(question, "confidences", counting)
    assert files(searcher.choose("snow, drawn in pencil, no snow", rules=RULES)) == [PENCIL]
    assert set(judged) == {1}


def test_a_query_that_asks_for_what_it_avoids_is_refused_by_the_name_of_the_input(searcher: Searcher) -> None:
    with pytest.raises(RetrievalError, match=r"negative_query \('snow falling'\), is all that was looked for"):
        searcher.choose("snow falling", negative="snow falling", rules=RULES)


class JudgeOfScores:
    """A library with one LoRA for each text that has a z-score."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    def looks(self, texts: Sequence[str]) -> list[float | None]:
        return [self.scores.get(text, 0.0) for text in texts]

    closer_looks = looks

    def verdicts(self, texts: Sequence[str]) -> list[Verdict | None]:
        return [Verdict(text, self.scores.get(text, 0.0), True) for text in texts]

    def p_value(self, z: float, *, is_content: bool) -> float:
        return float(10**-z)


def test_what_would_fit_alone_is_told_where_it_is_not_sure_enough_next_to_other_things() -> None:
    # Each is 0.02 to 0.05 alone; next to another it would have to be 0.015.
    judge = JudgeOfScores({"sepia": 1.6, "fog": 5.0})
    alone = understand(read("sepia"), judge, 0.05, ())
    assert ([effect.text for effect in alone.effects], alone.alone) == (["sepia"], ())
    beside = understand(read("sepia, elephants"), judge, 0.05, ())
    assert (beside.effects, [effect.text for effect in beside.alone]) == ((), ["sepia"])
    assert beside.facts["alone"] == [{"text": "sepia", "lora_id": "sepia"}]
    other = understand(read("sepia, fog, elephants"), judge, 0.05, ())
    assert ([effect.text for effect in other.effects], [effect.text for effect in other.alone]) == (["fog"], ["sepia"])
    assert "alone" not in alone.facts
