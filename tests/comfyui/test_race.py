"""A race of LoRAs that nobody has measured, in a real ComfyUI."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from carlos_core.database.database import load_database
from tests.comfyui.test_cancel import told
from tests.support import workflows
from tests.support.comfyui_host import Failed, Host, facts_of
from tests.support.miniworld import MINIWORLD

QUERY, RIGHT = "photographic negative", "mystery_03.safetensors"
RELATED = "colours inverted like a film negative"
NOTHING = "black birds flying"


@pytest.fixture(scope="module")
def first(host: Host) -> dict[str, Any]:
    """All outputs of a race on a folder of which nothing is known."""
    workflow = workflows.race(QUERY)
    workflow["apply"] = workflows.node(
        "CarlosApplyLoras", model=["checkpoint", 0], clip=["checkpoint", 1], matches=["race", 0], max_loras=1, weight=1.0
    )
    workflow["words"] = workflows.node("PreviewAny", source=["apply", 3])
    workflow["listed"] = workflows.node("CarlosLorasByName", database=["race", 1], name="mystery_03", top_k=1)
    workflow["name"] = workflows.node("PreviewAny", source=["listed", 3])
    return host.run(workflow)


def rows(base: Path, name: str) -> list[Any]:
    database = load_database(base / "models" / "carlos" / f"{name}.parquet")
    return [(row.file_name, database.protocols[row.protocol_id or ""]["preset"], row.n_images) for row in database.measured]


def test_the_right_lora_wins_at_a_fraction_of_what_measuring_all_takes(first: dict[str, Any], base: Path) -> None:
    facts = facts_of(first, "race")
    assert [each["file"] for each in facts["choice"]] == [RIGHT]
    assert facts["reason"] == "the best are known"
    assert facts["confidence"] >= 0.9
    assert facts["candidates"] == 22
    assert facts["model_evaluations"] <= facts["quick_model_evaluations"] / 4
    # It goes on from there: applied at once, and in the database.
    assert RIGHT in first["words"]["text"][0]
    assert RIGHT in first["name"]["text"][0]
    kept = {file: (preset, n) for file, preset, n in rows(base, "raced")}
    assert kept[RIGHT][0] == "race"
    assert facts["rows_written"] == len(kept) == 22
    assert kept[RIGHT][1] == max(n for _preset, n in kept.values())


@pytest.mark.parametrize(
    "query",
    [
        f"{QUERY}, no pixel art",
        f"masterpiece, best quality, ({QUERY}:1.2), <lora:pixel_art:1>, 8k\nNegative prompt: snow falling",
    ],
)
def test_what_a_query_forbids_and_what_weighs_nothing_in_it_is_not_raced_for(
    first: dict[str, Any], host: Host, query: str
) -> None:
    outputs = host.run(workflows.race(query, "raced", top_k=1))
    facts = facts_of(outputs, "race")
    assert [each["file"] for each in facts["choice"]] == [RIGHT]
    # There is one effect in it.
    assert "one LoRA that does all of" not in outputs["race"]["text"][0]
    assert facts["notes"][0].startswith(f"Raced for '{QUERY}', and against ")


def test_the_best_keep_a_few_pairs_of_pictures(first: dict[str, Any], base: Path) -> None:
    assert first["race"]["images"]
    assert [path.name for path in (base / "models" / "carlos" / "pictures").glob("mystery_03*")]


def test_a_file_for_another_model_costs_no_picture(first: dict[str, Any], base: Path) -> None:
    facts = facts_of(first, "race")
    assert facts["left_out"] == {"does not fit": 1}
    assert facts["failed"] == []
    files = {path.name for path in (base / "models" / "loras").glob("*.safetensors")}
    assert len(files - {file for file, _preset, _n in rows(base, "raced")}) == 1


def test_a_related_query_starts_from_what_is_known(host: Host, first: dict[str, Any]) -> None:
    facts = facts_of(host.run(workflows.race(RELATED)), "race")
    assert [each["file"] for each in facts["choice"]] == [RIGHT]
    assert facts["model_evaluations"] <= facts_of(first, "race")["model_evaluations"] / 2


def test_nothing_fits_is_an_answer(host: Host, first: dict[str, Any]) -> None:
    workflow = workflows.race(NOTHING)
    outputs = host.run(workflow)
    facts = facts_of(outputs, "race")
    assert facts["choice"] == []
    assert facts["leaders"]
    assert f"Nothing fits '{NOTHING}'. The nearest is " in outputs["race"]["text"][0]


def test_index_library_finishes_what_a_race_began(host: Host, first: dict[str, Any], base: Path) -> None:
    pictures = dict((file, n) for file, _preset, n in rows(base, "raced"))[RIGHT]
    workflow = workflows.index_library(RIGHT, "raced", prompts="miniworld-index")
    facts = facts_of(host.run(workflow), "index")["indexed"][0]
    assert facts["status"] == "indexed"
    assert facts["n_images"] > pictures
    preset, n_images = next((preset, n) for file, preset, n in rows(base, "raced") if file == RIGHT)
    assert (preset, n_images) == ("quick", facts["n_images"])
    # And no race makes less of it again.
    again = facts_of(host.run(workflows.race(QUERY, top_k=2, max_model_evaluations=400)), "race")
    assert again["choice"][0]["file"] == RIGHT
    assert again["choice"][0]["model_evaluations"] == 0
    assert ("quick", n_images) in [(preset, n) for file, preset, n in rows(base, "raced") if file == RIGHT]


def test_auto_lora_races_on_pictures_like_those_of_its_rows(host: Host, first: dict[str, Any]) -> None:
    name = "raced-by-auto"
    host.run(workflows.index("pixel_art.safetensors", name, preset="quick", prompts="miniworld-index"))
    workflow = workflows.auto_lora(QUERY, f"{name}.parquet", max_loras=1, race_unindexed=True)
    workflow["auto"]["inputs"]["vae"] = ["checkpoint", 2]
    facts = facts_of(host.run(workflow), "report")
    assert [each["file"] for each in facts["choice"]] == [RIGHT]
    # Those of the first race are such pictures.
    assert facts["race"]["model_evaluations"] <= facts_of(first, "race")["model_evaluations"] / 4
    assert facts["race"]["candidates"] == 22


def test_a_cancelled_race_keeps_what_it_has_learnt(host: Host, base: Path) -> None:
    # Some of these pictures were made for other races.
    host.run({"clear": workflows.node("CarlosCaches", clear="pictures")})
    # As many as there are: then each gets its first pictures, and no more.
    settings = {"index_prompts": "miniworld-short", "name_filter": "mystery_*", "top_k": 12}
    workflow = workflows.race(QUERY, "race-cancelled", **settings)
    with host.events() as (client_id, socket):
        # All phrases may have to be read first.
        socket.settimeout(400)
        prompt_id = host.submit(workflow, client_id)
        told(socket, r"(\d of 1\d left, [^\x00]*(?:leads: |nearest is ))")
        host.interrupt()
        host.wait(prompt_id, timeout_s=30)
        (kept,) = told(socket, r"cancelled: (\d+) pictures? kept, run again to go on; so far .* (?:leads: |nearest is )")
    raced = rows(base, "race-cancelled")
    assert int(kept) > 0
    assert 0 < len(raced) < 12
    assert {preset for _file, preset, _n in raced} == {"race"}
    again = facts_of(host.run(workflow), "race")
    costs = {each["file"]: each["model_evaluations"] for each in again["leaders"]}
    known = {file for file, _preset, _n in raced}
    # The cancel may come between a LoRA's last picture and its row.
    free = {file for file, cost in costs.items() if cost == 0}
    assert known & set(costs) <= free
    assert len(free - known) <= 1
    assert again["choice"][0]["file"] == RIGHT


def test_on_ones_own_prompt_the_database_stays_as_it_is(host: Host, base: Path) -> None:
    settings = {"prompt": "a house by a lake", "name_filter": "mystery_0[1-5]*", "max_model_evaluations": 2400}
    facts = facts_of(host.run(workflows.race(QUERY, "race-own", **settings)), "race")
    assert facts["prompt"] == "a house by a lake"
    assert facts["model_evaluations"] <= 2400
    assert facts["leaders"][0]["file"] == RIGHT
    assert rows(base, "race-own") == []


def test_what_cannot_be_raced_is_said_before_any_picture(host: Host, base: Path) -> None:
    with pytest.raises(Failed, match="The query is empty"):
        host.run(workflows.race("  "))
    with pytest.raises(Failed, match="asks for no effect: it holds only words and marks that say nothing alone"):
        host.run(workflows.race("!!! ... ,,,"))
    workflow = workflows.race(QUERY)
    workflow["db"] = workflows.loader("bundled")
    with pytest.raises(Failed, match=r"bundled database is read-only.*create_as"):
        host.run(workflow)
    facts = facts_of(host.run(workflows.race(QUERY, name_filter="no such name")), "race")
    assert (facts["choice"], facts["candidates"], facts["model_evaluations"]) == ([], 0, 0)
    odd = base / "models" / "loras"
    pickles = [odd / f"old_{n}.safetensors" for n in range(6)]
    try:
        for pickle in pickles:
            pickle.write_bytes(b"\x80\x04pickle")
        for name, change in (("rank", _of_rank_0), ("alpha", _with_many_alphas)):
            tensors = load_file(MINIWORLD / "loras" / RIGHT)
            save_file({key: change(key, value) for key, value in tensors.items()}, odd / f"odd_{name}.safetensors")
        outputs = host.run(workflows.race(QUERY, name_filter="old_*, odd_*"))
    finally:
        for file in (*pickles, *odd.glob("odd_*.safetensors")):
            file.unlink()
    facts, text = facts_of(outputs, "race"), outputs["race"]["text"][0]
    named = {failure["file"] for failure in facts["failed"]}
    assert (named, facts["left_out"]) == ({*(path.name for path in pickles), "odd_alpha.safetensors", "odd_rank.safetensors"}, {})
    assert "failed: 6 LoRAs alike: ... is not a safetensors file but a pickle" in text
    assert "failed: odd_rank.safetensors: The tensors of odd_rank.safetensors make no sense (" in text
    assert "No LoRA takes part" in text
    assert "Next: change name_filter, or load a checkpoint" in text


def _of_rank_0(key: str, value: Tensor) -> Tensor:
    return value[:, :0].contiguous() if ".lora_up." in key else value[:0].contiguous() if ".lora_down." in key else value


def _with_many_alphas(key: str, value: Tensor) -> Tensor:
    return torch.ones(3) if key.endswith(".alpha") else value


def test_auto_lora_does_not_race_where_nothing_is_asked_for(host: Host) -> None:
    workflow = workflows.auto_lora("no rain", "raced.parquet", race_unindexed=True)
    workflow["db"] = workflows.loader(create_as="nothing-asked")
    facts = facts_of(host.run(workflow), "report")
    assert facts["choice"] == []
    assert "race" not in facts


def test_auto_lora_races_only_where_somebody_is_unmeasured(host: Host, first: dict[str, Any], base: Path) -> None:
    workflow = workflows.auto_lora(NOTHING, "raced.parquet", race_unindexed=True)
    with pytest.raises(Failed, match="race_unindexed makes pictures, and nothing is wired into vae"):
        host.run(workflow)
    workflow["auto"]["inputs"]["vae"] = ["checkpoint", 2]
    # A copy is as measured as what it is a copy of.
    copy = base / "models" / "loras" / "another_name.safetensors"
    shutil.copyfile(copy.with_name(RIGHT), copy)
    try:
        facts = facts_of(host.run(workflow), "report")
    finally:
        copy.unlink()
    assert facts["choice"] == []
    assert "race" not in facts
