"""Which LoRAs a sentence gets, and when it gets none: a made-up library whose cosines are read off the rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carlos_core.database.database import MetricsDatabase
from carlos_core.errors import RetrievalError
from carlos_core.search.limits import ChoiceRules
from carlos_core.search.matches import Confidence, Match, Matches
from carlos_core.search.searcher import Searcher
from carlos_core.search.selection import Search, Selection, parts_of, select
from tests.support.rows import a_row

SNOW, PENCIL, OIL = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]
SIGNATURES = {
    "snow": [1, 0, 0, 0],
    "pencil": [0, 1, 0, 0],
    "oil": [0, 0, 1, 0],
    "elephants": [0, 0, 0, 1],
    "wet snow": [1, 0, 0, 0.5],  # cosine with SNOW: 0.894
    "soft pencil": [0, 1, 0, 0.25],  # with PENCIL: 0.970
    "winter": [1, 0.6, 0, 0],  # with SNOW: 0.857, with PENCIL: 0.514
}
Row = tuple[str, Sequence[float], dict[str, Any]]


def library(*rows: Row | tuple[str, Sequence[float]]) -> MetricsDatabase:
    """Rows (id, direction, facts); without any: one LoRA for each of three effects."""
    database = MetricsDatabase.empty("some encoder", dimension=4)
    for lora_id, direction, *facts in rows or (("snow", SNOW), ("pencil", PENCIL), ("oil", OIL)):
        database.upsert(a_row(lora_id, direction, **(facts[0] if facts else {})))  # type: ignore[arg-type]
    return database


def by_score(match: Match) -> Confidence:
    """The surer the higher the cosine: clear from 0.9, likely from 0.8, weak from 0.5."""
    words = ((0.9, "clear"), (0.8, "likely"), (0.5, "weak"), (-1.0, "none"))
    return Confidence(match.score, 1 - match.score, next(word for least, word in words if match.score >= least))


def searcher(database: MetricsDatabase, confidence: Callable[[Match], Confidence] | None = by_score) -> Search:
    """The real search, for signatures that are the sum of those of the query's parts."""

    def search(text: str) -> Matches:
        signature = torch.tensor([SIGNATURES[part] for part in parts_of(text)], dtype=torch.float32).sum(0)
        found = Searcher(database).find(signature, top_k=12, query=text)
        if confidence is None:
            return found
        return replace(found, items=tuple(replace(match, confidence=confidence(match)) for match in found.items))

    return search


def chosen(query: str, search: Search | None = None, **choice: Any) -> Selection:
    max_strength = choice.pop("max_strength", 9.8)
    rules = ChoiceRules(**({"mode": "composed"} | choice))  # type: ignore[arg-type]
    return select(query, search or searcher(library()), rules, max_strength)  # type: ignore[arg-type]


def weights(selection: Selection) -> dict[str, Any]:
    return {pick.match.lora_id: pytest.approx(pick.weight, abs=6e-4) for pick in selection.picks}


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("snow", ("snow",)),
        ("  snow ", ("snow",)),
        ("snow, pencil sketch", ("snow", "pencil sketch")),
        ("snow and pencil sketch", ("snow", "pencil sketch")),
        ("oil paint WITH dark corners", ("oil paint", "dark corners")),
        ("snow;pencil+oil & fire\nhearts plus rain", ("snow", "pencil", "oil", "fire", "hearts", "rain")),
        (",snow,, and pencil,", ("snow", "and pencil")),
        ("sand without wind", ("sand without wind",)),
        ("", ()),
        (" , ", ()),
    ],
)
def test_a_query_falls_apart_at_commas_and_words_that_join(query: str, parts: tuple[str, ...]) -> None:
    assert parts_of(query) == parts


def test_a_query_of_two_effects_gets_both_though_it_fits_neither_as_a_whole() -> None:
    selection = chosen("snow, pencil")
    assert weights(selection) == {"snow": 1.0, "pencil": 1.0}
    found: list[tuple[str, Any]] = [(pick.part, pick.score) for pick in selection.picks]
    assert found == [
        ("snow", pytest.approx(0.5**0.5)),
        ("pencil", pytest.approx(0.5**0.5)),
    ]
    assert selection.query == "snow, pencil"
    assert "Each part" in selection.reason


def test_one_effect_gets_one_lora_at_its_own_weight() -> None:
    for mode in ("best one", "composed", "top k equal"):
        selection = chosen("wet snow", mode=mode)
        assert weights(selection) == {"snow": 1.0}
        assert selection.picks[0].score == pytest.approx(1 / 1.25**0.5)
        assert "likely" in selection.reason


def test_a_part_that_nothing_fits_is_named_and_nothing_is_chosen() -> None:
    selection = chosen("snow, elephants")
    assert selection.picks == ()
    assert re.search(r"Nothing fits 'elephants' \(nearest: \w+, no better than chance\) of 'snow, elephants'", selection.reason)
    two = chosen("elephants, snow, winter", min_confidence="clear").reason
    assert re.search(r"Nothing fits 'elephants' \(nearest: [^)]+\) nor 'winter' \(nearest: \w+, (weak|likely)\) of", two)


@pytest.mark.parametrize("mode", ["best one", "composed", "top k equal"])
def test_a_query_that_nothing_fits_gets_nothing_and_the_best_is_named(mode: str) -> None:
    selection = chosen("elephants", mode=mode)
    assert selection.picks == ()
    assert selection.reason.startswith("Nothing fits 'elephants': the nearest, ")
    assert "is no better than chance (100% of unrelated queries find one that looks as good)." in selection.reason
    unsure = chosen("wet snow", mode=mode, min_confidence="clear").reason
    assert unsure.startswith("Nothing fits 'wet snow' surely enough: the nearest, snow, is likely to be right (11% of")
    assert unsure.endswith("), and min_confidence asks for 'clear'.")


def test_what_fits_and_is_not_applied_is_named_with_the_reason() -> None:
    assert chosen("snow, pencil").notes == ()
    three = chosen("snow, soft pencil, oil", max_loras=2)
    assert {pick.part for pick in three.picks} == {"snow", "oil"}
    assert three.notes == ("pencil fits 'soft pencil' and is not applied, because max_loras is 2.",)
    assert three.fitting == {"snow", "pencil", "oil"}
    one = chosen("snow, pencil", mode="best one")
    assert [pick.match.lora_id for pick in one.picks] == ["snow"]
    assert one.notes == ("pencil fits 'pencil' and is not applied, because mode is best one.",)
    same = searcher(library(("snow", SNOW), ("frost", [1, 0.2, 0, 0]), ("pencil", PENCIL)))
    assert chosen("snow, winter, pencil", same, max_loras=3).notes == (
        "frost fits 'winter' and is not applied: snow does the same.",
    )
    together = chosen("snow, elephants", searcher(library(("snow", SNOW), ("zoo", [1, 0, 0, 1]))))
    assert together.notes == ("snow fits 'snow' and is not applied, because zoo fits the whole query.",)
    assert chosen("snow, pencil, oil", max_loras=2, min_confidence="any").notes == ()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("clear", "The best match is clear."),
        ("likely", "The best match is likely to be right."),
        ("weak", "The best match is weak and may be chance."),
        ("none", "The best match is no better than chance."),
    ],
)
def test_every_confidence_reads_as_a_sentence(word: str, said: str) -> None:
    search = searcher(library(), lambda match: Confidence(0.0, 0.0, word))
    assert chosen("snow", search, min_confidence="any").reason == said
    if word != "clear":
        end = said.removeprefix("The best match is ").removesuffix(".")
        assert f"the nearest, snow, is {end} (" in chosen("snow", search, min_confidence="clear").reason


def test_a_query_that_fits_as_a_whole_needs_no_parts_that_do() -> None:
    together = library(("snow", SNOW), ("zoo", [1, 0, 0, 1]))
    assert weights(chosen("snow, elephants", searcher(together))) == {"zoo": 1.0}


def test_any_takes_the_best_whatever_it_is_and_asks_for_no_confidence() -> None:
    for confidence in (by_score, None):
        selection = chosen("winter, elephants", searcher(library(), confidence), min_confidence="any", mode="best one")
        assert weights(selection) == {"snow": 1.0}
    assert chosen("wet snow", searcher(library(), None), min_confidence="any", mode="best one").reason == ""


def test_a_database_without_rows_says_so() -> None:
    selection = chosen("snow, pencil", searcher(MetricsDatabase.empty("some encoder", dimension=4)))
    assert (selection.picks, "is empty" in selection.reason) == ((), True)


def test_best_one_takes_the_best_for_the_whole_query() -> None:
    together = searcher(library(("snow", SNOW), ("pencil", PENCIL), ("both", [1, 1, 0, 0])))
    assert weights(chosen("snow, pencil", together, mode="best one")) == {"both": 1.0}
    assert weights(chosen("snow, pencil", together, mode="composed", max_loras=1)) == {"both": 1.0}
    assert weights(chosen("snow, pencil", together, mode="composed")) == {"snow": 1.0, "pencil": 1.0}


def test_best_one_is_sure_enough_also_where_nothing_fits_the_whole() -> None:
    # For the whole the best is HALF, with a cosine of 0.73 that is too weak; the parts have theirs at 0.89, 0.97 and 1.
    rows = searcher(library(("snow", SNOW), ("pencil", PENCIL), ("oil", OIL), ("half", [1, 1, 0, -1])))
    for query, expected in (
        ("wet snow, pencil", "pencil"),
        ("snow and soft pencil", "snow"),
        ("wet snow, soft pencil", "pencil"),
    ):
        for choice in ({"mode": "best one"}, {"max_loras": 1}):
            selection = chosen(query, rows, **choice)
            assert weights(selection) == {expected: 1.0}
            assert selection.picks[0].match.confidence is not None
            assert selection.picks[0].match.confidence.fits
            assert expected in selection.picks[0].part


def test_top_k_equal_takes_the_parts_and_then_the_next_best_all_alike() -> None:
    together = searcher(library(("snow", SNOW), ("pencil", PENCIL), ("both", [1, 1, 0, 0]), ("oil", OIL)))
    assert weights(chosen("snow, pencil", together, mode="top k equal", max_loras=4)) == {
        "snow": 0.667,
        "pencil": 0.667,
        "both": 0.667,
    }
    one_effect = searcher(library(("snow", SNOW), ("sleet", [0.85, 0, 0, 0.5]), ("oil", OIL)))
    assert weights(chosen("snow", one_effect, mode="top k equal")) == {"snow": 1.0, "sleet": 1.0}
    assert weights(chosen("snow", one_effect, mode="top k equal", strength_budget=0.8)) == {"snow": 0.4, "sleet": 0.4}


def test_a_query_of_one_part_is_composed_of_the_loras_that_fit_it() -> None:
    assert weights(chosen("winter")) == {"snow": 1.0}
    # 1 * SNOW + 0.6 * PENCIL is the signature; in proportion, the budget of 2 is 1.25 + 0.75.
    assert weights(chosen("winter", min_confidence="weak")) == {"snow": 1.25, "pencil": 0.75}


def test_a_preferred_lora_takes_the_place_of_its_near_duplicate_among_several() -> None:
    rows = searcher(library(("snow", SNOW), ("flakes", [1, 0.1, 0, 0]), ("pencil", PENCIL)))

    def preferring(text: str) -> Matches:
        """The second best, which does the same as the best, stands before it."""
        found = rows(text)
        best, second, *others = found.items
        assert (best.lora_id, second.lora_id) == ("flakes", "snow")
        return replace(found, items=(replace(second, preferred_to=("flakes",)), best, *others))

    for search, expected in ((rows, {"flakes", "pencil"}), (preferring, {"snow", "pencil"})):
        assert set(weights(chosen("winter", search, min_confidence="weak"))) == expected


def test_with_fewer_loras_than_parts_the_surest_are_taken_in_the_order_of_the_query() -> None:
    # Cosines: 0.894, 0.970 and 1.
    for query, expected in (
        ("wet snow, soft pencil, oil", ["pencil", "oil"]),
        ("oil and wet snow with soft pencil", ["oil", "pencil"]),
    ):
        selection = chosen(query)
        assert [pick.match.lora_id for pick in selection.picks] == expected
        assert {pick.match.lora_id: pick.part for pick in selection.picks} == {"pencil": "soft pencil", "oil": "oil"}
    assert len(chosen("wet snow, soft pencil, oil", max_loras=3).picks) == 3


def test_two_parts_for_the_same_lora_or_for_its_near_duplicate_give_one() -> None:
    same = chosen("snow, wet snow")
    assert (weights(same), same.picks[0].part) == ({"snow": 1.0}, "snow")
    # The cosine of the two rows is 0.908, and each is the best for one part.
    alike = searcher(library(("snow", SNOW), ("wet", [1, 0, 0, 0.46]), ("pencil", PENCIL)))
    assert weights(chosen("snow, wet snow", alike)) == {"snow": 1.0}
    assert weights(chosen("wet snow, snow", alike)) == {"wet": 1.0}
    assert set(weights(chosen("snow, wet snow, pencil", alike))) == {"snow", "pencil"}
    assert weights(chosen("snow", alike, mode="top k equal")) == {"snow": 1.0}


def test_the_weights_add_up_to_the_budget_and_stay_below_what_the_strength_allows() -> None:
    # 1 * (1, 0) + 1/2 * (0, 2) = (1, 1); in proportion, the budget of 2 is 4/3 + 2/3.
    long = searcher(library(("snow", SNOW), ("pencil", [0, 2, 0, 0])))
    assert weights(chosen("snow, pencil", long)) == {"snow": 1.333, "pencil": 0.667}
    assert weights(chosen("snow, pencil", long, strength_budget=0.6)) == {"snow": 0.4, "pencil": 0.2}
    # More than 1 each is not needed, however much is allowed.
    assert weights(chosen("snow, pencil", long, strength_budget=9.0)) == {"snow": 1.333, "pencil": 0.667}
    # 9.8 / 8 = 1.225 is the most for the first; the other gets the rest of the budget.
    strong = searcher(library(("snow", SNOW, {"strength": 8.0}), ("pencil", [0, 2, 0, 0])))
    assert weights(chosen("snow, pencil", strong)) == {"snow": 1.225, "pencil": 0.775}
    assert weights(chosen("snow, pencil", strong, max_strength=8.8)) == {"snow": 1.1, "pencil": 0.9}
    assert weights(chosen("snow", strong, max_strength=4.0)) == {"snow": 0.5}


def test_suggested_weights_are_what_a_lora_gets_alone() -> None:
    swept = searcher(library(("snow", SNOW, {"suggested_weight": 0.6}), ("pencil", PENCIL)))
    assert weights(chosen("snow", swept)) == {"snow": 0.6}
    assert weights(chosen("snow", swept, takes_suggested=False)) == {"snow": 1.0}
    assert weights(chosen("snow, pencil", swept, mode="top k equal")) == {"snow": 0.6, "pencil": 1.0}
    # Equal shares of 0.6 + 1 are 0.8 each, within 1.5 times what each has alone.
    assert weights(chosen("snow, pencil", swept)) == {"snow": 0.8, "pencil": 0.8}


def test_a_part_is_taken_by_the_best_lora_that_is_sure_enough_wherever_it_ranks() -> None:
    # By the published ranking the nearest row need not be the surest: here SNOW is near everything.
    def doubted(match: Match) -> Confidence:
        return Confidence(0.0, 0.5, "none") if match.lora_id == "hub" else by_score(match)

    rows = library(("hub", SNOW), ("snow", [1, 0, 0, 0.4]), ("pencil", [0, 1, 0, 0]))
    selection = chosen("snow, pencil", searcher(rows, doubted))
    assert [(pick.match.lora_id, pick.part) for pick in selection.picks] == [("snow", "snow"), ("pencil", "pencil")]
    # What comes closest to (1, 1, 0, 0): (1, 0, 0, 0.4) at 1 / 1.16, (0, 1, 0, 0) at 1.
    assert weights(selection) == {"snow": 0.926, "pencil": 1.074}
    assert "Nothing fits 'oil' (nearest: hub, no better than chance) of" in chosen("snow, oil", searcher(rows, doubted)).reason


def test_equal_inputs_give_equal_answers_whatever_the_order_of_rows() -> None:
    rows: list[Row] = [("b", SNOW, {}), ("a", SNOW, {}), ("c", PENCIL, {}), ("d", [0, 0.9, 0.4, 0], {})]
    answers = [
        [(pick.match.lora_id, pick.weight, pick.score, pick.part) for pick in chosen(query, searcher(library(*order))).picks]
        for query in ("snow, pencil", "pencil and snow")
        for order in (rows, rows[::-1], rows)
    ]
    assert answers[0] == answers[1] == answers[2]
    assert answers[3] == answers[4] == answers[5]
    assert [name for name, *_ in answers[0]] == ["a", "c"]


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"mode": "all of them"}, "'all of them' is not a way.*best one, top k equal, composed"),
        ({"min_confidence": "none"}, "'none' is not a way.*any, weak, likely, clear"),
        ({"max_loras": 0}, "0 LoRAs with a budget of 2"),
        ({"strength_budget": 0.0}, "2 LoRAs with a budget of 0"),
        ({"strength_budget": float("nan")}, "a budget of nan"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_looked_for(choice: dict[str, Any], says: str) -> None:
    def search(text: str) -> Matches:
        raise AssertionError(f"{text!r} was looked for")

    with pytest.raises(RetrievalError, match=says):
        chosen("snow", search, **choice)


def test_a_search_that_looked_for_no_effect_cannot_be_weighed() -> None:
    by_name = searcher(library())
    with pytest.raises(RetrievalError, match="has no signature"):
        chosen("snow", lambda text: replace(by_name(text), signature=None))


OLD_SEPARATORS = re.compile(r"\s*[,;+&\n]\s*|\s+(?:and|with|plus)\s+", re.IGNORECASE)


@given(st.lists(st.sampled_from(["snow", "AND", "and", "with", "plus", "sand", ",", ";", "+", "&", "\n", " ", "  ", "\t", ""])))
def test_a_query_has_the_parts_that_its_words_say_however_they_are_spaced(pieces: list[str]) -> None:
    query = " ".join(pieces[::2]) + "".join(pieces[1::2])
    parts = [" ".join(part.split()) for part in OLD_SEPARATORS.split(query.strip())]
    assert list(parts_of(query)) == [part for part in parts if part]


def test_a_query_of_a_million_blanks_is_taken_apart_in_no_time() -> None:
    # A pattern that looks for a separator behind each of them would take days.
    assert parts_of("snow" + " " * 500_000 + "rain\t" + "\t" * 500_000 + "and hail") == ("snow rain", "hail")


@pytest.mark.parametrize(("p_value", "said"), [(0.0012, "fewer than 1%"), (0.009, "fewer than 1%"), (0.03, "3%")])
def test_few_are_not_said_to_be_none(p_value: float, said: str) -> None:
    search = searcher(library(), lambda _match: Confidence(3.0, p_value, "likely"))
    reason = select("snow", search, ChoiceRules(min_confidence="clear")).reason
    assert f"is likely to be right ({said} of unrelated queries find one that looks as good), and min_confidence" in reason
