"""What may have been meant by words of a query: words that LoRAs or effects are called by, one letter away."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from open_clip.tokenizer import SimpleTokenizer

from carlos_core.database.database import MetricsDatabase
from carlos_core.database.published import load_bundled_database
from carlos_core.prompts.prompt_set import PromptSet, default_effect_bank
from carlos_core.search import spelling
from carlos_core.search.reading import read
from carlos_core.search.searcher import Searcher
from tests.support import miniworld
from tests.support.rows import a_row

ROOT = Path(__file__).resolve().parents[3]

WITHOUT_A_VOCABULARY = """
import sys
from carlos_core.database.database import MetricsDatabase
from carlos_core.search.reading import read
from carlos_core.search.searcher import Searcher
spelling = Searcher(MetricsDatabase.empty("some encoder", 4)).spelling
assert not spelling.suggestions(read("charcoal drawing of zzyzzxq, without dust"))
print("open_clip" in sys.modules)
"""


def library(*names: str, **facts: Any) -> MetricsDatabase:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    for place, name in enumerate(names):
        database.upsert(a_row(str(place), model_name=name, **facts))
    return database


def meant(query: str, database: MetricsDatabase | None = None) -> dict[str, str]:
    known = Searcher(library() if database is None else database).spelling
    return {suggestion.word: suggestion.meant for suggestion in known.suggestions(read(query))}


@pytest.fixture(scope="module")
def snow() -> MetricsDatabase:
    return library("Snowfall XL v2", "PencilArt_v3", "Aquarelle légère", "a jackal", trigger_words=("kirschblüte",))


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("snowfal", "snowfall"),
        ("snowwfall", "snowfall"),
        ("snowfoll", "snowfall"),
        ("snofwall", "snowfall"),
        ("nowfall", "snowfall"),
        ("Snowfal!", "snowfall"),
        ("pencli", "pencil"),
        ("pencilrat", "pencilart"),
        ("aquarele", "aquarelle"),
        ("kirschblute", None),
        ("kirschblutte", "kirschblute"),
        ("kirschblütte", None),
        ("kirschblu\u0308tte", None),
        ("snowfäl", None),
        ("snfal", None),
    ],
)
def test_one_letter_away_from_a_word_that_loras_are_called_by(snow: MetricsDatabase, word: str, other: str | None) -> None:
    assert list(meant(f"a house in {word}", snow).values()) == ([] if other is None else [other])


def test_a_word_is_quoted_as_it_was_first_written(snow: MetricsDatabase) -> None:
    assert meant("Snowfal!, snowfal", snow) == {"Snowfal": "snowfall"}
    assert meant("«Pencli» sketch, old-Snowfal", snow) == {"Pencli": "pencil", "Snowfal": "snowfall"}


def test_one_letter_away_from_a_word_of_the_bank_of_effects() -> None:
    assert any("charcoal" in text for text in default_effect_bank().texts)
    assert meant("charcol drawing") == {"charcol": "charcoal"}


@pytest.mark.parametrize(
    ("slip", "word"),
    [
        ("snowfal", "snowfall"),
        ("snwofall", "snowfall"),
        ("baloon", "balloon"),
        ("watercolr", "watercolor"),
        ("lighthose", "lighthouse"),
    ],
)
def test_one_letter_away_from_a_word_of_the_other_banks_or_of_clip_where_no_lora_is_called_so(slip: str, word: str) -> None:
    assert meant(f"a house in {slip}") == {slip: word}


def test_another_letter_in_place_of_one_turns_too_many_right_words_into_others_of_clip() -> None:
    """Each has no token in CLIP, and "whispers", "marrakech" and "darren" have one."""
    assert meant("whiskers, marrakesh, darken the sky") == {}


def test_words_of_another_language_are_not_doubted() -> None:
    assert meant("eine alte Zeichnung mit Schnee und ein Herz, himmel, regen", library("rege", "himmels", "hertz")) == {}


def test_no_english_word_of_all_queries_is_doubted_and_most_slips_are_asked_about(database: MetricsDatabase) -> None:
    """See the module's description. The slips are those of the mini-world's queries for one effect."""
    files = [*(miniworld.MINIWORLD.glob("queries*.json")), *(ROOT / "studies").glob("*.json")]
    texts = [text for file in files for text in _queries(json.loads(file.read_text(encoding="utf-8")))]
    assert len(texts) > 600
    for db in (database, load_bundled_database()):
        known = Searcher(db).spelling
        doubted = {each.word for text in texts for each in known.suggestions(read(text))}
        assert doubted == {"Hund"}
    queries = json.loads((miniworld.MINIWORLD / "queries.json").read_text(encoding="utf-8"))["single"]
    words = sorted({word for query in queries for word in re.findall(r"[a-z]{5,}", query["query"])})
    slips = [(slip, word) for word in words for slip in _slips_in(word)]
    asked = {slip: meant(slip, database).get(slip) for slip, _ in slips}
    right = [slip for slip, word in slips if asked[slip] == word]
    assert len(slips) > 200
    assert len(right) > 0.7 * len(slips)


def _queries(content: Any) -> Iterator[str]:
    """The texts of more than one word, and single ones under "query"."""
    if isinstance(content, str):
        yield from [content] if " " in content else []
    elif isinstance(content, dict) and "query" in content:
        yield content["query"]
    elif isinstance(content, (dict, list)):
        for each in content.values() if isinstance(content, dict) else content:
            yield from _queries(each)


def _slips_in(word: str) -> list[str]:
    """A letter left out, one doubled, two swapped, at the word's third."""
    place = len(word) // 3
    left, right = word[:place], word[place:]
    return [
        left + right[1:],
        left + right[0] + right,
        *([left + right[1] + right[0] + right[2:]] if right[0] != right[1] else []),
    ]


def test_the_vocabulary_is_that_of_clips_own_tokenizer() -> None:
    tokens = SimpleTokenizer().encoder
    whole = {token.removesuffix("</w>") for token in tokens if token.endswith("</w>") and len(token) >= 3 + len("</w>")}
    assert spelling._tokens().keys() == whole


def test_the_librarys_words_come_before_the_banks_and_those_of_more_loras_before_others() -> None:
    assert meant("charcoalq") == {"charcoalq": "charcoal"}
    assert meant("charcoalq", library("charcoalx")) == {"charcoalq": "charcoalx"}
    assert meant("charcoalq", library("charcoalz", "charcoalx", "charcoalz")) == {"charcoalq": "charcoalz"}
    assert meant("charcoalq", library("charcoalz", "charcoalx")) == {"charcoalq": "charcoalx"}


def test_files_folders_and_trigger_words_are_names_and_endings_of_files_are_not() -> None:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    database.upsert(a_row("1", file_name="winter/Snowdrift.safetensors", trigger_words=("flurryscape",)))
    assert meant("snowdrif, flurriscape, wintter, safetensor", database) == {
        "snowdrif": "snowdrift",
        "flurriscape": "flurryscape",
        "wintter": "winter",
    }


@pytest.mark.parametrize(
    ("query", "near"),
    [
        ("jackpot", "jackpox"),  # one of CLIP's words
        ("lighthouse", "lighthousy"),  # the bank of content
        ("masterpieces in charcoal", "mastirpieces charcoat"),  # words of requests and praise; the bank of effects
        ("vignettes, vignetted", "vignette"),
        ("vignette", "vignettes"),
        ("glitchy", "glitch"),
        ("ice, red, xml", "icey redd xmls"),
        ("snowfal1, sn0wfall, 1snowfal", "snowfall"),
        ("<lora:snowfal:1>, embedding:snowfal, __snowfal__", "snowfall"),
        ("стеклo, 雪の夜", "snowfall"),
    ],
)
def test_right_words_short_ones_and_tags_are_left_alone(query: str, near: str) -> None:
    assert meant(query, library(near)) == {}


def test_prompts_without_mistakes_are_left_alone(signature_prompts: PromptSet, database: MetricsDatabase) -> None:
    # Words that no list here holds are in them: the mini-world's prompts are its own.
    said = [meant(text, database) for text in signature_prompts.texts]
    assert [each for each in said if each] == []


def test_what_is_forbidden_is_checked_and_what_is_ignored_is_not(snow: MetricsDatabase) -> None:
    assert meant("a house, no snowfal", snow) == {"snowfal": "snowfall"}
    assert meant("snowfal or pencli", snow) == {"snowfal": "snowfall", "pencli": "pencil"}


def test_a_library_that_changed_has_other_words() -> None:
    database = library("Snowfall")
    searcher = Searcher(database)
    assert [each.meant for each in searcher.spelling.suggestions(read("snowfal, rhaimdropz"))] == ["snowfall"]
    assert searcher.among({"0": "x"}).spelling is searcher.spelling
    database.set_value("0", "model_name", "Rhaindropz")
    assert [each.meant for each in searcher.spelling.suggestions(read("sepia, rhaimdropz"))] == ["rhaindropz"]


def test_the_vocabulary_of_clip_is_read_without_importing_its_package() -> None:
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_VOCABULARY], capture_output=True, text=True, timeout=120, check=True
    )
    assert process.stdout.split() == ["False"]


@pytest.mark.parametrize(
    "content",
    [None, b"no archive", gzip.compress(b"\xff\n\xff</w>"), gzip.compress(b"a b")[:-6]],
    ids=["missing", "no archive", "no text", "cut off"],
)
def test_without_that_vocabulary_nothing_is_doubted_which_is_logged_once(
    content: bytes | None,
    snow: MetricsDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if content is not None:
        (tmp_path / spelling._VOCABULARY).write_bytes(content)
    moved = ModuleSpec("open_clip", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(spelling, "find_spec", lambda name: moved)
    spelling._tokens.cache_clear()
    try:
        assert meant("snowfal, a baloon, lighthose, zyzzyxq", snow) == meant("pencli", snow) == {}
    finally:
        spelling._tokens.cache_clear()
    (said,) = caplog.messages
    assert "words are not checked for slips" in said


@pytest.mark.parametrize("unit", ["a", "snowfal", "snowfal ", "no snowfal, ", "é", "'", "ﬁ"])
def test_any_text_is_taken(snow: MetricsDatabase, unit: str) -> None:
    assert set(meant(unit * 20_000, snow)) <= {"snowfal"}
