"""What a LoRA or a checkpoint was made for within one shape, as names and labels say."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from carlos_core.loras.family import FAMILIES, family_of_name
from carlos_core.loras.library import scan
from carlos_core.loras.lines import LINES, closeness, line_of, line_of_choice, line_of_name


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ponyDiffusionV6XL_v6StartWithThisOne.safetensors", "Pony"), ("Pony", "Pony"), ("cyberrealisticPony_v110", "Pony"),
        ("style_pdxl-v2.safetensors", "Pony"), ("ponytail hair", None), ("Pony V7", None), ("pony-diffusion-v7", None),
        ("Illustrious", "Illustrious"), ("Illustrious-XL-v1.0", "Illustrious"), ("waiNSFWIllustrious_v140", "Illustrious"),
        ("ink_wash_IL.safetensors", "Illustrious"), ("novaAnimeXL_ilV80", "Illustrious"), ("ilxl-ink", "Illustrious"),
        ("film grain", None), ("oil.safetensors", None), ("illustration", None), ("illumination", None),
        ("NoobAI", "NoobAI"), ("NoobAI-XL-Vpred-v1.0", "NoobAI"), ("noobaiXLNAIXL_vPred10Version", "NoobAI"),
        ("noob (Illustrious)", "NoobAI"), ("ponyIllustriousMerge_v2", None), ("pony x noob", None),
        ("SDXL 1.0", "SDXL"), ("sd_xl_base_1.0.safetensors", "SDXL"), ("stable-diffusion-xl-base-1.0", "SDXL"),
        ("Pony (SDXL 1.0)", "Pony"),
        # These are also the names of checkpoints made from Pony and Illustrious.
        ("SDXL", None), ("juggernautXL_v9", None), ("autismmixSDXL", None),
        ("animagineXL40", "Animagine XL"),
        ("Flux.1 D", "Flux.1 dev"), ("flux1-dev-fp8.safetensors", "Flux.1 dev"), ("flux_dev", "Flux.1 dev"),
        ("FLUX.1-Krea-dev", "Flux.1 Krea"), ("flux1-krea-dev_fp8_scaled.safetensors", "Flux.1 Krea"),
        ("Flux.1 Kontext", "Flux.1 Kontext"), ("flux1-dev-kontext_fp8_scaled.safetensors", "Flux.1 Kontext"),
        ("Flux.1 S", "Flux.1 schnell"), ("flux1-schnell.safetensors", "Flux.1 schnell"), ("flux1-fill-dev", "Flux.1 Fill"),
        ("Flux.2 Klein 9B", "Flux.2 Klein"), ("flux-2-klein-base-4b.safetensors", "Flux.2 Klein Base"), ("flux", None),
        ("Flux.2 D", None),
        ("ZImageTurbo", "Z-Image Turbo"), ("z_image_turbo_bf16.safetensors", "Z-Image Turbo"), ("film_ZIT", "Z-Image Turbo"),
        ("ZImageBase", "Z-Image Base"), ("Z Image Base", "Z-Image Base"), ("Z-Image", None),
        ("krea2_turbo", "Krea 2 Turbo"), ("Krea 2 RAW", "Krea 2 RAW"), ("krea 2", None),
        ("Qwen", "Qwen-Image"), ("qwen_image_edit_2511_bf16", "Qwen-Image Edit"), ("Ernie-Image-Turbo", "Ernie-Image Turbo"),
        ("sd3.5_large_turbo", "SD 3.5 Large Turbo"), ("SD 3.5 Large", "SD 3.5 Large"), ("SD 3.5 Medium", None),
        ("Wan Video 2.2 I2V-A14B", "Wan I2V"), ("wan2.1_t2v_1.3B_fp16", "Wan T2V"), ("Wan 2.2 TI2V 5B", None),
        # A file's own name counts for more than its folder, the nearest folder more than others.
        ("sdxl/Pony/autismmix.safetensors", "Pony"), ("pony\\inkIllustrious.safetensors", "Illustrious"),
        ("Tongyi-MAI/Z-Image-Turbo", "Z-Image Turbo"), ("pony and friends/noobai/ink", "NoobAI"),
        ("my_merge.safetensors", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_a_line_is_known_by_what_people_call_checkpoints_and_loras(name: str | None, line: str | None) -> None:
    assert line_of_name(name) == line


def test_a_line_is_known_by_its_own_name_and_is_of_a_known_family() -> None:
    assert [line_of_name(line) for line in LINES if line != "SDXL"] == [line for line in LINES if line != "SDXL"]
    assert {family_of_name(line) for line in LINES} <= set(FAMILIES)


def test_the_first_words_that_name_a_line_count() -> None:
    assert line_of(("SDXL", None, "ponyDiffusionV6XL.safetensors", "noob.safetensors")) == "Pony"
    assert line_of((None, "x")) is None


def test_a_lora_is_near_a_checkpoint_of_its_line_and_of_what_that_was_made_from() -> None:
    assert closeness("NoobAI", "NoobAI") == 1
    assert closeness("NoobAI", "Illustrious") == closeness("Illustrious", "NoobAI") == 0.5
    assert closeness("Flux.1 Krea", "Flux.1 dev") == 0.5
    for other in ("Pony", "SDXL", "Z-Image Turbo", None):
        assert closeness("NoobAI", other) == 0


def test_what_the_user_says_a_checkpoint_is_counts_for_more_than_its_name_unless_they_agree() -> None:
    assert line_of_choice(None, "Pony") == "Pony"
    assert line_of_choice("Illustrious", "NoobAI") == "NoobAI"
    assert line_of_choice("Illustrious", "Pony") == "Illustrious"
    assert line_of_choice("Pony", None) == "Pony"
    assert line_of_choice("Flux", "Flux.1 Krea") == "Flux.1 Krea"
    # A family of which we know no lines, or of which nothing says which one.
    assert line_of_choice("SD 3", "Pony") is None
    assert line_of_choice("Flux", None) is line_of_choice(None, None) is None


def lora(path: Path, label: str | None = None, **metadata: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_file({"x": np.ones(2, np.float32)}, path, metadata)
    if label is not None:
        path.with_suffix(".civitai.info").write_text(json.dumps({"baseModel": label}))
    return path


def test_a_file_says_its_line_by_its_label_and_by_what_it_was_trained_on_and_that_is_kept(tmp_path: Path) -> None:
    trained = {"ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "ponyDiffusionV6XL.safetensors"}
    files = {
        "a": (lora(tmp_path / "a.safetensors", "NoobAI", **trained), "NoobAI"),
        "b": (lora(tmp_path / "b.safetensors", **trained), "Pony"),
        "c": (lora(tmp_path / "c.safetensors", "SDXL", **trained), "Pony"),
        "d": (lora(tmp_path / "d.safetensors", "ZImageTurbo"), "Z-Image Turbo"),
        "e": (lora(tmp_path / "e.safetensors"), None),
    }
    expected = {name: line for name, (_, line) in files.items()}
    index = tmp_path / "loras.sqlite"
    for _ in range(2):
        entries = scan([(name, path) for name, (path, _) in files.items()], index, hash_files=False).entries
        assert {entry.name: entry.line for entry in entries} == expected
    # What the last version kept lacks lines: headers and sidecars are read again, and fits looked up; hashes stay.
    (hashed,) = scan([("a", files["a"][0])], index).entries
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute("UPDATE files SET facts = json_remove(facts, '$.line')")
        connection.execute("INSERT INTO fits VALUES ('a model', 'a layout', 1, 2, 3)")
        connection.execute("PRAGMA user_version = 2")
    entries = scan([(name, path) for name, (path, _) in files.items()], index, hash_files=False).entries
    assert {entry.name: entry.line for entry in entries} == expected
    assert entries[0].sha256 == hashed.sha256 is not None
    with closing(sqlite3.connect(index)) as connection:
        assert connection.execute("SELECT count(*) FROM fits").fetchone() == (0,)
