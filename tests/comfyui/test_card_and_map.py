"""LoRA Card and LoRA Map in a real ComfyUI: what indexing kept is what the card shows, and the map is that of the database."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carlos_core.database.database import MetricsDatabase
from tests.support import miniworld, workflows
from tests.support.comfyui_host import Failed, Host, facts_of
from tests.support.rows import lora_id_of

DATABASE = "cards.parquet"
LORA = "pencil_sketch.safetensors"
PAIR = LORA, "mystery_12.safetensors"
"""LoRAs that do the same."""


@pytest.fixture(scope="module")
def rows(base: Path) -> MetricsDatabase:
    """The mini-world's reference metrics as a database that ComfyUI lists."""
    return miniworld.reference_rows(base / "models" / "carlos" / DATABASE)


def card(database: dict[str, Any] | None = None, **inputs: Any) -> workflows.Workflow:
    """A card, and its pictures of before and after saved as files."""
    return {
        "db": database or workflows.loader(DATABASE),
        "card": workflows.node("CarlosLoraCard", database=["db", 0], **inputs),
        "without": workflows.node("PreviewImage", images=["card", 1]),
        "with": workflows.node("PreviewImage", images=["card", 2]),
    }


def lora_map(**inputs: Any) -> workflows.Workflow:
    return {"db": workflows.loader(DATABASE), "map": workflows.node("CarlosLoraMap", database=["db", 0], **inputs)}


def pictures_of(host: Host, outputs: dict[str, Any], node: str) -> list[np.ndarray]:
    """What a node shows, [H, W, 3] each."""
    files = [host.output_file(image) for image in outputs[node]["images"]]
    return [np.asarray(Image.open(file).convert("RGB"), dtype=np.float64) for file in files]


def test_the_card_of_a_lora_shows_the_pictures_that_indexing_kept(host: Host, base: Path) -> None:
    indexed = facts_of(host.run(workflows.index(LORA, "pictured", max_prompts=6)), "index")
    outputs = host.run(card(workflows.loader(create_as="pictured"), lora_name=LORA))
    facts = facts_of(outputs, "card")
    for name in ("lora_id", "strength", "consistency", "alignment", "n_images", "protocol_id"):
        assert facts[name] == indexed[name], name
    kept = list((base / "models" / "carlos" / "pictures").glob("pencil_sketch-*.jpg"))
    assert len(kept) == 1
    with Image.open(kept[0]) as sheet:
        assert sheet.size == (4 * 128, 2 * 128)
    assert [each["kind"] for each in facts["pictures"]] == ["typical", "typical", "strongest", "weakest"]
    assert f"3. strongest: {facts['pictures'][2]['prompt']}" in outputs["card"]["text"][0].splitlines()
    without, with_lora = (pictures_of(host, outputs, node) for node in ("without", "with"))
    assert [picture.shape for picture in (*without, *with_lora)] == [(128, 128, 3)] * 8
    assert all(np.abs(after - before).mean() > 2 for before, after in zip(without, with_lora, strict=True))
    (shown,) = pictures_of(host, outputs, "card")
    assert shown.shape[1] == 1024
    assert shown.shape[0] > 900
    # Clearing the cache, which is no part of it, leaves the pictures.
    host.run({"caches": workflows.node("CarlosCaches", clear="everything")})
    assert facts_of(host.run(card(workflows.loader(create_as="pictured"), lora_name=LORA)), "card") == facts


def test_a_copy_of_a_measured_lora_is_known_by_its_content(host: Host, base: Path) -> None:
    indexed = facts_of(host.run(workflows.index("pixel_art.safetensors", "copied", max_prompts=4)), "index")
    loras = base / "models" / "loras"
    shutil.copy(loras / "pixel_art.safetensors", loras / "a copy.safetensors")
    page = loras / "page.safetensors"
    page.write_bytes(b"<!DOCTYPE html><html>" + b" " * 100)
    try:
        facts = facts_of(host.run(card(workflows.loader(create_as="copied"), lora_name="a copy.safetensors")), "card")
        assert facts["lora_id"] == indexed["lora_id"]
        with pytest.raises(Failed, match="not a safetensors file but a web page"):
            host.run(card(workflows.loader(create_as="copied"), lora_name="page.safetensors"))
    finally:
        page.unlink()
        (loras / "a copy.safetensors").unlink()


def test_pictures_that_are_gone_are_gone_from_the_card_at_once(host: Host, base: Path) -> None:
    name = "burning_flames.safetensors"
    host.run(workflows.index(name, "gone", max_prompts=4))
    workflow = card(workflows.loader(create_as="gone"), lora_name=name)
    assert len(facts_of(host.run(workflow), "card")["pictures"]) == 4
    for file in (base / "models" / "carlos" / "pictures").glob("burning_flames-*.jpg"):
        file.unlink()
    outputs = host.run(workflow)
    assert facts_of(outputs, "card")["pictures"] == []
    assert "No pictures of it are kept" in outputs["card"]["text"][0]
    # What goes on to other nodes is still a picture, and says so, too.
    without, with_lora = (pictures_of(host, outputs, node)[0] for node in ("without", "with"))
    assert without.shape == with_lora.shape
    assert without.std() > 20


def test_a_row_that_was_measured_elsewhere_has_a_card_without_pictures(host: Host, rows: MetricsDatabase) -> None:
    facts = facts_of(host.run(card(lora_id=lora_id_of(rows, "pixel_art.safetensors"))), "card")
    assert facts["pictures"] == []
    nearest = facts["most_like_it"][0]
    assert nearest["name"] == "mystery_01.safetensors"
    assert nearest["cosine"] > 0.99
    assert len(facts["most_like_it"]) == 5
    bundled = host.run(card(workflows.loader("bundled"), lora_id="244808"))
    assert facts_of(bundled, "card")["n_images"] == 4480


def test_a_card_of_the_best_match(host: Host, rows: MetricsDatabase) -> None:
    find = workflows.node("CarlosLorasByName", database=["db", 0], name="watercolour", top_k=1)
    facts = facts_of(host.run({**card(matches=["find", 0]), "find": find}), "card")
    assert facts["file"] == "watercolour_painting.safetensors"
    # A LoRA that is chosen on the node counts more.
    chosen = facts_of(host.run({**card(matches=["find", 0], lora_name=LORA), "find": find}), "card")
    assert chosen["file"] == LORA


def test_where_nothing_fits_the_card_says_so(host: Host, rows: MetricsDatabase) -> None:
    find = workflows.node("CarlosLorasByName", database=["db", 0], name="no such name", top_k=1)
    outputs = host.run({**card(matches=["find", 0]), "find": find})
    assert facts_of(outputs, "card")["lora_id"] is None
    assert "Nothing fits 'no such name'" in outputs["card"]["text"][0]
    assert len(pictures_of(host, outputs, "card")) == 1


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "No LoRA is chosen. Choose one in lora_name"),
        ({"lora_id": "nobody"}, "has no LoRA 'nobody'"),
        ({"lora_name": "../x.safetensors"}, "not in (the )?list"),
    ],
)
def test_a_card_of_no_lora_is_refused(host: Host, rows: MetricsDatabase, inputs: dict[str, Any], reason: str) -> None:
    with pytest.raises(Failed, match=reason):
        host.run(card(**inputs))


def test_a_lora_that_is_not_measured_is_refused(host: Host, rows: MetricsDatabase, base: Path) -> None:
    folder = base / "models" / "loras"
    content = bytearray((folder / LORA).read_bytes())
    # Another LoRA: one of its numbers is a little different.
    content[-2] ^= 1
    (folder / "not_measured.safetensors").write_bytes(content)
    try:
        with pytest.raises(Failed, match=r"not_measured.safetensors is not in cards.parquet. Index it with LoRA Indexer first."):
            host.run(card(lora_name="not_measured.safetensors"))
    finally:
        (folder / "not_measured.safetensors").unlink()


def test_the_map_names_what_is_nearest_to_a_query(host: Host, rows: MetricsDatabase) -> None:
    outputs = host.run(lora_map(query="pencil sketch"))
    facts = facts_of(outputs, "map")
    with_effect = sum(rows.row_at(place).strength > 0 for place in range(len(rows)))
    assert (facts["loras"], facts["drawn"]) == (with_effect, with_effect)
    assert facts["named"][0]["name"] in PAIR
    assert 2 <= len(facts["named"]) <= 6
    assert all(each["cosine"] > 0.1 for each in facts["named"]), "what is not like it is not named as near"
    assert [each["cosine"] for each in facts["named"]] == sorted((each["cosine"] for each in facts["named"]), reverse=True)
    (shown,) = pictures_of(host, outputs, "map")
    assert shown.shape[1] == 1024


def test_the_map_marks_a_lora_or_matches(host: Host, rows: MetricsDatabase) -> None:
    facts = facts_of(host.run(lora_map(lora_name="pixel_art.safetensors")), "map")
    assert [each["name"] for each in facts["named"][:2]] == ["pixel_art.safetensors", "mystery_01.safetensors"]
    assert [each["marked"] for each in facts["named"]] == [True] + [False] * 6
    find = workflows.node("CarlosLorasByName", database=["db", 0], name="mystery", top_k=4)
    facts = facts_of(host.run({**lora_map(matches=["find", 0]), "find": find}), "map")
    assert [each["marked"] for each in facts["named"]].count(True) == len(facts["named"])


def test_the_map_of_a_family_or_of_nothing(host: Host, rows: MetricsDatabase) -> None:
    # Nothing says which family the mini-world's LoRAs are for: they stay.
    whole, some = (facts_of(host.run(lora_map(base_model=family)), "map") for family in ("any", "Flux"))
    assert some == whole
    assert list(whole["families"]) == ["unknown"]
    empty = {"db": workflows.loader("empty"), "map": workflows.node("CarlosLoraMap", database=["db", 0])}
    outputs = host.run(empty)
    assert facts_of(outputs, "map")["loras"] == 0
    assert "There is no LoRA with an effect to show" in outputs["map"]["text"][0]
    assert len(pictures_of(host, outputs, "map")) == 1
