"""LoRAs by what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from carlos_core.database.database import MetricsDatabase
from carlos_core.database.published import load_bundled_database
from carlos_core.errors import RetrievalError
from carlos_core.search import by_name
from carlos_core.search.by_name import find_named as find_named_among
from carlos_core.search.limits import SearchLimits
from carlos_core.search.matches import Matches
from carlos_core.search.names_in_queries import Place, named_in, without_names
from tests.support.rows import a_row


def find_named(
    database: MetricsDatabase, name: str, *, top_k: int, installed: Mapping[str, str] | None = None, **limits: Any
) -> Matches:
    return find_named_among(database, name, top_k=top_k, limits=SearchLimits(**limits), installed=installed or {})


def library(*rows: tuple[str, dict[str, Any]]) -> MetricsDatabase:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    for lora_id, facts in rows:
        database.upsert(a_row(lora_id, **facts))
    return database


def found(database: MetricsDatabase, name: str, **choice: Any) -> list[str]:
    return [match.lora_id for match in find_named(database, name, **{"top_k": 10, **choice}).items]  # type: ignore[arg-type]


LIBRARY = library(
    ("1", {"file_name": "styles/PixelArt_v2.safetensors"}),
    ("2", {"model_name": "Pixel Art"}),
    ("3", {"model_name": "Aquarelle légère", "trigger_words": ("lavis", "pixel art")}),
    ("4", {"model_name": "Straße bei Nacht", "file_name": "nacht.safetensors"}),
    ("555777", {"model_name": "水彩画"}),
)


@pytest.mark.parametrize("name", ["pixel art", "PIXEL ART", "art pixel", "pixel-art", "pixelart", "  Pixel,  art!"])
def test_words_are_found_in_any_order_case_and_spelling(name: str) -> None:
    assert set(found(LIBRARY, name)) == {"1", "2", "3"}


def test_the_name_that_is_asked_for_whole_comes_first() -> None:
    matches = find_named(LIBRARY, "pixel art", top_k=10)
    assert [match.score for match in matches.items][:2] == [1.0, 1.0]
    assert [match.lora_id for match in matches.items] == ["2", "3", "1"]
    # "stylespixelartv2safetensors" has 27 letters and digits, 8 of them asked for.
    assert matches.items[2].score == pytest.approx(8 / 27)
    assert [match.rank for match in matches.items] == [1, 2, 3]


def test_accents_ligatures_scripts_and_ids() -> None:
    assert found(LIBRARY, "legere AQUARELLE") == ["3"]
    assert found(LIBRARY, "Légère") == ["3"]
    assert found(LIBRARY, "strasse") == ["4"]
    assert found(LIBRARY, "水彩") == ["555777"]
    assert found(LIBRARY, "555777") == ["555777"]
    assert found(LIBRARY, "lavis") == ["3"]


def test_all_words_must_be_there_but_in_any_of_the_names() -> None:
    assert found(LIBRARY, "pixel oil") == []
    assert found(LIBRARY, "aquarelle lavis") == ["3"]
    nothing = find_named(LIBRARY, "pixel oil", top_k=3)
    assert nothing.reason == "No LoRA's name, file, id or trigger words hold all of: pixel, oil."
    assert nothing.signature is None


def test_an_id_is_found_by_its_beginning_and_no_part_of_it_is_a_name() -> None:
    database = library(
        ("sha256:cc04d9e177aa0b04", {"model_name": "ink"}),
        ("812040", {"model_name": "fog"}),
        ("5", {"file_name": "a_04.safetensors"}),
    )
    assert found(database, "04") == ["5"]
    assert found(database, "cc0") == []
    for hash_of_it in ("cc04", "CC04D9E1", "sha256:cc04", "SHA256:CC04", "sha256:cc04d9e177aa0b04"):
        assert found(database, hash_of_it) == ["sha256:cc04d9e177aa0b04"]
    assert found(database, "d9e177aa") == []
    assert found(database, "sha256") == []
    assert (found(database, "812040"), found(database, "8120"), found(database, "2040")) == (["812040"], ["812040"], [])
    assert find_named(database, "812040", top_k=1).items[0].score == 1.0
    assert found(database, "ink cc04") == ["sha256:cc04d9e177aa0b04"]


NAMED = library(
    ("1", {"file_name": "styles/mystery_12.safetensors"}),
    ("2", {"file_name": "pencil_sketch.safetensors"}),
    ("3", {"model_name": "Oil Paint XL"}),
    ("4", {"model_name": "sketch2", "file_name": None}),
    ("5", {"model_name": "Old Film 35", "file_name": "film.safetensors"}),
    ("6", {"model_name": "3D"}),
    ("7", {"model_name": "80s"}),
    ("8", {"file_name": "fog_12.safetensors"}),
    ("9", {"model_name": "White"}),
    ("10", {"model_name": "Blue Eyes"}),
)
FILES = [
    "styles/mystery_12.safetensors",
    "new/foggy_night.safetensors",
    "My Rain.safetensors",
    "film_xl.safetensors",
    "fog_12.safetensors",
    "pi_sdxl_style.safetensors",
    "new/thing2.safetensors",
    "y2k.safetensors",
    "pencil_sketch.safetensors",
]
INSTALLED = {"1": FILES[0], "5": FILES[3], "8": FILES[4]}


@pytest.mark.parametrize(
    ("query", "named", "named_if_lost"),
    [
        ("mystery_12", ["mystery_12"], ["mystery_12"]),
        ("snow, MYSTERY_12.safetensors", ["MYSTERY_12"], ["MYSTERY_12"]),
        ("styles/mystery_12", ["mystery_12"], ["mystery_12"]),
        # A name that no file at hand has is looked for only where nothing was found.
        ("sketch2", [], ["sketch2"]),
        ("thing2", ["thing2 (files)"], ["thing2 (files)"]),
        ("Oil Paint XL.safetensors", ["Oil Paint XL"], ["Oil Paint XL"]),
        # By another name than its file's.
        ("film_xl", ["Old Film 35"], ["Old Film 35"]),
        ("pi_sdxl_style", ["pi_sdxl_style (files)"], ["pi_sdxl_style (files)"]),
        ("my rain", [], ["my rain (files)"]),
        ("unknown thing.safetensors", ["unknown thing (nowhere)"], ["unknown thing (nowhere)"]),
        # Tags are for other nodes.
        ("<lora:anything:0.8>, snow", [], ["anything (nowhere)"]),
        ("<lora:mystery_12:0.8>, snow", [], ["mystery_12"]),
        # Words that are an effect, too: a name only where they found nothing.
        ("pencil sketch", [], ["pencil sketch"]),
        ("oil paint xl", [], ["oil paint xl"]),
        ("3d", [], ["3d"]),
        ("80s", [], ["80s"]),
        ("pencil_sketch", [], ["pencil_sketch"]),
        ("foggy_night", [], ["foggy_night (files)"]),
        ("1girl, blue_eyes, foggy_night, y2k", [], ["blue_eyes", "foggy_night (files)", "y2k (files)"]),
        ("pencil_sketch.safetensors", ["pencil_sketch"], ["pencil_sketch"]),
        # A choice of two things is in no folder.
        ("black/white photo, wet/white", [], []),
        ("other/mystery_12", [], []),
        ("other/mystery_12.safetensors", ["mystery_12"], ["mystery_12"]),
        ("a pencil sketch of a cat", [], []),
        ("mystery_13, 8k, sketch3, .safetensors", [], []),
        ("", [], []),
    ],
)
def test_a_name_in_a_query_of_effects_is_seen_and_where_it_is(query: str, named: list[str], named_if_lost: list[str]) -> None:
    def seen(is_lost: bool) -> list[str]:
        found = named_in(query, NAMED, FILES, INSTALLED, is_lost=is_lost)
        assert all(find_named(NAMED, each.name, top_k=1).items for each in found if each.place is Place.DATABASE)
        return [each.name if each.place is Place.DATABASE else f"{each.name} ({each.place.value})" for each in found]

    assert seen(False) == named
    assert seen(True) == named_if_lost


def test_names_are_gathered_when_one_may_be_asked_for_and_again_when_rows_change(monkeypatch: pytest.MonkeyPatch) -> None:
    database = library(("1", {"file_name": "fog_1.safetensors"}))
    read = []
    column = MetricsDatabase.column

    def listening(self: MetricsDatabase, name: str) -> list[Any]:
        read.append(name)
        return column(self, name)

    monkeypatch.setattr(MetricsDatabase, "column", listening)
    assert named_in("snow falling, 3d", database, [], {}, is_lost=False) == []
    assert read == []
    for _ in range(2):
        assert [each.name for each in named_in("fog_1", database, ["fog_1.pt"], {}, is_lost=False)] == ["fog_1"]
    assert read.count("file_name") == 1
    database.upsert(a_row("2", file_name="rain_2.safetensors"))
    assert [each.name for each in named_in("rain_2.pt", database, [], {}, is_lost=False)] == ["rain_2"]


def test_the_ending_of_a_file_finds_the_row_whether_it_knows_the_file_or_not() -> None:
    assert found(LIBRARY, "Pixel Art.safetensors") == ["2", "3", "1"]
    assert found(LIBRARY, "styles/PixelArt_v2.safetensors") == ["1"]
    assert find_named(LIBRARY, "styles/PixelArt_v2.safetensors", top_k=1).items[0].score == 1.0
    assert found(LIBRARY, "pixel oil.safetensors") == []


def test_few_digits_begin_no_id() -> None:
    database = library(("123456", {"model_name": "pixel"}), ("12", {"model_name": "fog"}), ("7", {"model_name": "pixel 1"}))
    assert found(database, "pixel 1") == ["7"]
    assert found(database, "pixel 12") == []
    assert found(database, "pixel 123") == ["123456"]
    assert found(database, "12") == ["12"]


def test_families_and_installed_files_can_be_asked_for_alone() -> None:
    database = library(("a", {"model_name": "snow", "base_model": "SDXL"}), ("b", {"model_name": "snow", "base_model": "Pony"}))
    assert found(database, "snow", base_model="SDXL") == ["a"]
    assert found(database, "snow", installed={"b": "b.safetensors"}, installed_only=True) == ["b"]
    assert find_named(database, "snow", top_k=5, installed={"b": "b.safetensors"}).items[1].file == "b.safetensors"


def test_the_signature_is_the_mean_of_what_was_found_each_counting_the_same() -> None:
    database = library(
        ("a", {"model_name": "snow", "direction": [4, 0, 0, 0]}),
        ("b", {"model_name": "snow", "direction": [0, 0.5, 0, 0]}),
        ("c", {"model_name": "snow", "direction": [0, 0, 0, 0]}),
        ("d", {"model_name": "fog", "direction": [0, 0, 1, 0]}),
    )
    signature = find_named(database, "snow", top_k=5).signature
    assert signature is not None
    np.testing.assert_allclose(signature.numpy(), [0.5, 0.5, 0, 0])


def test_a_name_in_the_published_database_is_that_of_a_row() -> None:
    database = load_bundled_database()
    lora_id = str(database.column("lora_id")[17])
    assert found(database, lora_id, top_k=1) == [lora_id]


@pytest.mark.parametrize(
    ("name", "top_k", "says"), [("", 5, "name is empty"), (" -/ ", 5, "name is empty"), ("a", 0, "top_k is 0")]
)
def test_what_makes_no_sense_is_refused(name: str, top_k: int, says: str) -> None:
    with pytest.raises(RetrievalError, match=says):
        find_named(LIBRARY, name, top_k=top_k)


def test_a_lora_of_that_name_which_the_limits_leave_out_is_named_with_the_limit() -> None:
    """Otherwise somebody would index a LoRA that is measured already, or for another model."""

    def reason(limits: SearchLimits) -> str:
        answer = find_named_among(LIBRARY, "pixelart_v2", top_k=5, limits=limits, installed={})
        assert answer.items == ()
        return answer.reason

    name = "styles/PixelArt_v2.safetensors is called so and left out: only what"
    assert reason(SearchLimits(unfit={"1"}, model="SDXL")) == f"{name} has layers that fit this SDXL model is listed."
    assert reason(SearchLimits(installed_only=True)) == f"{name} is installed is listed."
    assert find_named(LIBRARY, "pixelart_v3", top_k=5).reason.startswith("No LoRA's name")


def test_rows_beyond_the_limits_are_compared_only_if_no_other_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    score = by_name._score

    def counting(words: list[str], names: list[str], lora_id: str) -> float:
        compared.append(lora_id)
        return score(words, names, lora_id)

    monkeypatch.setattr(by_name, "_score", counting)
    here = {"2": "art.safetensors"}
    assert [match.lora_id for match in find_named(LIBRARY, "pixel", top_k=5, installed=here, installed_only=True).items] == ["2"]
    assert compared == ["2"]
    assert "left out" in find_named(LIBRARY, "nacht", top_k=5, installed=here, installed_only=True).reason
    assert sorted(compared[1:]) == sorted(LIBRARY.column("lora_id"))


def test_a_name_in_a_query_says_which_file_it_is() -> None:
    def file(query: str) -> list[str]:
        return [each.file for each in named_in(query, NAMED, FILES, INSTALLED, is_lost=True)]

    assert file("foggy_night, my rain, film_xl") == FILES[1:4]
    assert file("unknown thing.safetensors") == [""]


@pytest.mark.parametrize(
    ("query", "ids", "rest"),
    [
        ("mystery_12", {"1"}, ""),
        ("use the LoRA mystery_12.safetensors, please", {"1"}, ""),
        ("(mystery_12:1.2)", {"1"}, ""),
        ("((mystery_12)), snow", {"1"}, "snow"),
        ("(mystery_12, snow:1.2)", {"1"}, "(, snow:1.2)"),
        ("(snow, mystery_12:1.2)", {"1"}, "(snow, :1.2)"),
        ("mystery_12, mystery_123, <lora:mystery_12:1>", {"1"}, "mystery_123, <lora:mystery_12:1>"),
        ("mystery_12, fog_(12)", {"1", "8"}, ""),
        ("snow falling, mystery_12", {"1"}, "snow falling"),
        ("a cabin in the style of film_xl", {"5"}, "a cabin in the style of"),
        ("pi_sdxl_style", set(), ""),
        # Words of an effect stay, whatever is called so.
        ("pencil sketch", set(), "pencil sketch"),
        ("pencil_sketch, black/white photo", set(), "pencil_sketch, black/white photo"),
    ],
)
def test_names_are_taken_out_of_a_query_and_nothing_is_left_of_one_that_is_only_a_name(
    query: str, ids: set[str], rest: str
) -> None:
    found = named_in(query, NAMED, FILES, INSTALLED, is_lost=False)
    assert {lora_id for each in found for lora_id in each.lora_ids} == ids
    assert without_names(query, found) == rest
