"""Bad input in a real ComfyUI: a sentence that says what happened, one that says what to do, and nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from carlos_core.database.database import load_database
from tests.support import workflows
from tests.support.comfyui_host import Failed, Host, facts_of


@pytest.fixture(scope="module")
def good(host: Host, base: Path) -> Path:
    """A database with one row, and its file."""
    host.run(workflows.index("sepia_toned.safetensors", "good"))
    return base / "models" / "carlos" / "good.parquet"


def _not_parquet(path: Path, good: Path) -> None:
    path.write_text("this is not a parquet file")


def _truncated(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[:-100])


def _wrong_columns(path: Path, good: Path) -> None:
    pq.write_table(pa.table({"name": ["a"], "price": [1.0]}), path)


def _nan_direction(path: Path, good: Path) -> None:
    pq.write_table(
        pa.table({"lora_id": ["a"], "direction": [[0.0, float("nan")]], "strength": [1.0], "consistency": [0.5]}), path
    )


def _mixed_dimensions(path: Path, good: Path) -> None:
    columns = {"lora_id": ["a", "b"], "direction": [[1.0, 2.0], [1.0]], "strength": [1.0, 1.0], "consistency": [0.5, 0.5]}
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_not_parquet, "cannot be read as parquet"),
        (_truncated, "cannot be read as parquet"),
        (_wrong_columns, "is not a metrics database: it lacks direction, strength, consistency, lora_id"),
        (_nan_direction, "hold NaN or infinity"),
        (_mixed_dimensions, "mixes directions of 1 and 2 dimensions"),
    ],
)
def test_a_bad_database_is_named_and_left_as_it_is(
    host: Host, base: Path, good: Path, spoil: Callable[[Path, Path], None], says: str
) -> None:
    path = base / "models" / "carlos" / f"bad{spoil.__name__}.parquet"
    spoil(path, good)
    before = path.read_bytes()
    workflow = workflows.retrieve("sepia") | {"db": workflows.loader(path.name)}
    with pytest.raises(Failed, match=says) as caught:
        host.run(workflow)
    assert path.name in str(caught.value)
    with pytest.raises(Failed, match=says):
        host.run(workflows.index("pixel_art.safetensors", path.stem))
    assert path.read_bytes() == before
    path.unlink()


def test_a_database_that_went_away_is_named(host: Host, base: Path, good: Path) -> None:
    shutil.copy(good, good.with_name("gone.parquet"))
    workflow = workflows.retrieve("sepia") | {"db": workflows.loader("gone.parquet")}
    host.run(workflow)
    good.with_name("gone.parquet").unlink()
    with pytest.raises(Failed, match=r"gone\.parquet"):
        host.run(workflow)


@pytest.mark.parametrize("name", ["../../input/evil.parquet", "/etc/passwd", "..\\evil.parquet"])
def test_a_database_outside_the_allowed_folders_is_not_opened(host: Host, base: Path, good: Path, name: str) -> None:
    shutil.copy(good, base / "input" / "evil.parquet")
    with pytest.raises(Failed, match=r"not in (the )?list"):
        host.run(workflows.retrieve("sepia") | {"db": workflows.loader(name)})


@pytest.mark.parametrize("name", ["../evil", "sub/evil", "/tmp/evil", "..", ".hidden", "a:b", "C:\\evil", "new\0"])
def test_a_new_database_gets_a_plain_name_or_none(host: Host, base: Path, name: str) -> None:
    files = {path for path in base.rglob("*.parquet")}
    with pytest.raises(Failed, match="is not a name for a database"):
        host.run(workflows.index("sepia_toned.safetensors", name))
    assert {path for path in base.rglob("*.parquet")} == files


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"query": "   "}, "The query is empty."),
        ({"query": "sepia", "top_k": 0}, "top_k"),
        ({"query": "sepia", "base_model": "SDXXL"}, "base_model|base model"),
        ({"query": "sepia", "prompts": "../../../etc/passwd"}, "prompt"),
    ],
)
def test_a_bad_query_is_refused_with_the_way_out(host: Host, good: Path, settings: dict[str, object], says: str) -> None:
    with pytest.raises(Failed, match=says):
        host.run(workflows.retrieve(**{"create_as": "good", **settings}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"lora_name": "not_a_lora.safetensors"},
            "not_a_lora.safetensors is not a safetensors file but a pickle",
        ),
        ({"lora_name": "../checkpoints/miniworld.safetensors"}, "not in (the )?list"),
        ({"preset": "fastest"}, "preset"),
        ({"preset": "paper"}, "Load an SDXL checkpoint, or choose 'standard'"),
        ({"lora_name": "CivitAI"}, "No LoRA is chosen: lora_name is CivitAI, and no id is given"),
        ({"width": 100}, "multiples of 8"),
    ],
)
def test_bad_index_settings_are_refused_before_anything_is_made(
    host: Host, base: Path, good: Path, settings: dict[str, object], says: str
) -> None:
    pickle = base / "models" / "loras" / "not_a_lora.safetensors"
    pickle.write_bytes(b"\x80\x04pickle")
    before = good.read_bytes()
    try:
        with pytest.raises(Failed, match=says):
            host.run(workflows.index(**{"lora_name": "sepia_toned.safetensors", "create_as": "good", **settings}))  # type: ignore[arg-type]
    finally:
        pickle.unlink()
    assert good.read_bytes() == before


@pytest.mark.parametrize("database", ["bundled", "empty"])
def test_a_database_that_cannot_be_saved_is_refused_before_anything_is_made(host: Host, database: str) -> None:
    workflow = workflows.index("sepia_toned.safetensors") | {"db": workflows.loader(database)}
    with pytest.raises(Failed, match="create_as"):
        host.run(workflow)


def _asked(database: str, create_as: str, encoder: str = "mini_clip") -> workflows.Workflow:
    return workflows.retrieve("sepia") | {"db": workflows.loader(database, create_as, encoder)}


def test_a_name_that_exists_with_another_encoder_than_the_chosen_one_is_not_opened(host: Host, base: Path, good: Path) -> None:
    for database in ("empty", "bundled"):
        with pytest.raises(
            Failed, match=r"good\.parquet exists already, .* measured with the encoder mini_clip@.*is chosen"
        ) as told:
            host.run(_asked(database, "good", "ViT-B-32-quickgelu/openai"))
        assert "choose good.parquet in database, or its encoder in encoder" in str(told.value)
    with pytest.raises(
        Failed, match=r"good\.parquet exists already and holds none of the bundled LoRAs, and 'bundled' is chosen"
    ):
        host.run(_asked("bundled", "good"))
    host.run(_asked("empty", "good"))


def test_a_new_database_with_almost_the_name_of_another_is_made_and_said(host: Host, base: Path, good: Path) -> None:
    outputs = host.run(_asked("empty", "Godo"))
    (said,) = outputs["db"]["text"]
    assert said.startswith("The new database Godo.parquet was made, and good.parquet is there already.")
    assert "correct create_as" in said
    assert (base / "models" / "carlos" / "Godo.parquet").exists()
    # Once: from then on it is a database like any other.
    for name in ("Godo", "something_else"):
        assert "is there already" not in host.run(_asked("empty", name))["db"]["text"][0]


def test_a_chosen_file_is_opened_although_the_one_of_create_as_is_damaged(host: Host, base: Path, good: Path) -> None:
    folder = base / "models" / "carlos"
    (folder / "damaged.parquet").write_bytes(good.read_bytes()[:-100])
    facts = facts_of(host.run(_asked("good.parquet", "damaged")), "report")
    assert facts["database"]["file"] == "good.parquet"
    with pytest.raises(Failed, match=r"damaged\.parquet cannot be read"):
        host.run(_asked("empty", "damaged"))


def test_a_copy_of_an_earlier_version_is_known_by_its_rows(host: Host, base: Path, good: Path) -> None:
    copy = base / "models" / "carlos" / "old_copy.parquet"
    copy.write_bytes(good.read_bytes())
    facts = facts_of(host.run(_asked("good.parquet", "old_copy")), "report")
    assert facts["database"]["file"] == "old_copy.parquet"


def test_the_published_rows_are_not_opened_as_an_empty_database(host: Host, base: Path) -> None:
    by_name = workflows.node("CarlosLorasByName", database=["db", 0], name="a", top_k=1)
    published = "ViT-B-32-quickgelu/openai"

    def named(database: str, create_as: str, encoder: str = published) -> workflows.Workflow:
        show = workflows.node("PreviewAny", source=["find", 3])
        return {"db": workflows.loader(database, create_as, encoder), "find": by_name, "report": show}

    host.run(named("bundled", "of_the_template"))
    with pytest.raises(Failed, match=r"of_the_template\.parquet exists already and holds 740 of the bundled LoRAs, and 'empty'"):
        host.run(named("empty", "of_the_template"))
    facts = facts_of(host.run(named("bundled", "of_the_template")), "report")
    assert facts["database"] == {"file": "of_the_template.parquet", "rows": 740, "encoder_id": published}
    # Another encoder for the published rows would be ignored, so it is refused before there is a file.
    with pytest.raises(Failed, match="The bundled LoRAs were measured with the encoder ViT"):
        host.run(named("bundled", "never_made", "mini_clip"))
    assert not (base / "models" / "carlos" / "never_made.parquet").exists()


def test_a_chosen_file_is_opened_whatever_create_as_says_unless_that_is_its_copy(host: Host, base: Path, good: Path) -> None:
    host.run(workflows.index("pixel_art.safetensors", "chosen"))
    names = ("good", "chosen", "", "copy_of_chosen", "copy_of_chosen")
    outputs = [host.run(_asked("chosen.parquet", create_as)) for create_as in names]
    files = [facts_of(output, "report")["database"]["file"] for output in outputs]
    assert files == ["chosen.parquet"] * 3 + ["copy_of_chosen.parquet"] * 2
    # That a name plays no part is said where there is one.
    said = [output["db"]["text"][0] for output in outputs]
    assert (
        "chosen.parquet is opened, because it is chosen in database: 'good' in create_as is there already, and not used."
        in said[0]
    )
    assert not any("not used" in text for text in said[1:])
    # What is measured into the copy goes on going into the copy.
    workflow = workflows.index("sepia_toned.safetensors") | {"db": workflows.loader("chosen.parquet", "copy_of_chosen")}
    assert facts_of(host.run(workflow), "index")["database"]["rows"] == 2
    assert len(load_database(good.with_name("chosen.parquet"))) == 1
    assert facts_of(host.run(_asked("chosen.parquet", "copy_of_chosen")), "report")["database"]["rows"] == 2


@pytest.mark.parametrize("preset", ["custom", "quick"])
def test_without_the_encoder_of_the_rows_a_library_run_says_so_once_and_makes_nothing(
    host: Host, base: Path, good: Path, preset: str
) -> None:
    database = load_database(good)
    database.encoder_id = "mini_clip@000000000000"
    database.save_parquet(good.with_name("no_encoder.parquet"))
    workflow = workflows.index_library("", preset=preset, first_seed=7000) | {"db": workflows.loader("no_encoder.parquet")}
    cache = base / "user" / "carlos" / "cache"
    before, log = sorted(cache.rglob("*.journal")), len(host.log.read_text(errors="replace"))
    with pytest.raises(Failed, match="need the encoder mini_clip@000000000000"):
        host.run(workflow)
    assert sorted(cache.rglob("*.journal")) == before
    said = host.log.read_text(errors="replace")[log:]
    assert said.count("could not be indexed") == 1  # the one for another model, whose header says so
    assert "mystery_04" in said


def test_two_embedding_spaces_do_not_mix(host: Host, base: Path, good: Path) -> None:
    """Without CLIP's weights and without a network, rows of OpenAI's CLIP say which file they need."""
    with pytest.raises(Failed, match=r"ViT-B-32-quickgelu\.openai\.safetensors"):
        host.run(workflows.retrieve("snow", create_as=""))
    database = load_database(good)
    database.encoder_id = "mini_clip@000000000000"
    database.save_parquet(good.with_name("other_space.parquet"))
    with pytest.raises(Failed, match="need the encoder mini_clip@000000000000"):
        host.run(workflows.retrieve("a query of its own", create_as="other_space"))


def test_a_zero_direction_is_listed_nowhere(host: Host, good: Path) -> None:
    host.run(workflows.index("mystery_08.safetensors", "good"))
    database = load_database(good)
    assert any(not np.any(row) for row in database.to_dataframe().direction)
    outputs = host.run(workflows.retrieve("sepia", create_as="good", top_k=100, min_consistency=-1.0))
    assert "mystery_08" not in outputs["report"]["text"][0]


@pytest.mark.parametrize(
    ("part", "output", "says"), [("clip", 1, "The input clip .* has no text encoder"), ("vae", 2, "The input vae .* has no VAE")]
)
def test_a_checkpoint_that_lacks_a_part_is_named_before_anything_is_made(
    host: Host, base: Path, checkpoint: Path, good: Path, part: str, output: int, says: str
) -> None:
    # Load Checkpoint gives nothing for the part whose tensors its file does not have.
    prefix = {"clip": "text_encoders.", "vae": "first_stage_model."}[part]
    whole = load_file(checkpoint)
    name = f"without_{part}.safetensors"
    save_file(
        {key: tensor for key, tensor in whole.items() if not key.startswith(prefix)}, base / "models" / "checkpoints" / name
    )
    workflow = workflows.index("pixel_art.safetensors", "good")
    workflow["bare"] = workflows.node("CheckpointLoaderSimple", ckpt_name=name)
    workflow["index"]["inputs"][part] = ["bare", output]
    before = good.read_bytes()
    with pytest.raises(Failed, match=says):
        host.run(workflow)
    assert good.read_bytes() == before
