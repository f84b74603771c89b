"""`carlos.index_lora` and `carlos index` without ComfyUI and without a generator: diffusers makes the pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import carlos_core as carlos
from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.diffusers.model import DiffusersModel
from carlos_core.measuring.presets import CUSTOM
from carlos_core.prompts.prompt_set import load_prompt_set
from tests.support import civitai_server, miniworld
from tests.support.hub_server import breaking_server, hub
from tests.support.kohya_loras import write_lora
from tests.support.miniworld import MINIWORLD

_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"

EXAMPLE = """
from pathlib import Path
import carlos_core as carlos

model_id = "2300298"
version_id = "2588340"

out_dir = Path({out_dir!r})
out_dir.mkdir(parents=True, exist_ok=True)

db_parquet = out_dir / "metrics_database.local.parquet"
carlos.copy_bundled_database(db_parquet, overwrite=False)
db = carlos.load_database(db_parquet)

result = carlos.index_lora(
    db,
    lora_source="civitai",
    model_id=model_id,
    version_id=version_id,
    overwrite=False,
    working_directory=out_dir / "work",
)

db.save_parquet(db_parquet)

print("Indexed:", result.row["version_id"])
print("Strength:", result.vector.strength)
print("Consistency:", result.vector.consistency)
"""
"""The reference package's third example, with the import changed."""


def run(code: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, with a home of its own."""
    root = str(Path(__file__).resolve().parents[3])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "CARLOS_", "CIVITAI_"))}
    own = {"CARLOS_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **own, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_model_that_cannot_be_fetched_ends_in_a_clear_sentence(*, is_offline: bool, tmp_path: Path) -> None:
    with breaking_server() as address:
        more = {"HF_HUB_OFFLINE": "1"} if is_offline else {"NO_PROXY": "127.0.0.1,localhost"}
        ended = run(f"import carlos_core; carlos_core.load_model({_SDXL!r})", tmp_path, HF_ENDPOINT=address, **more)
    assert ended.returncode != 0
    last = ended.stderr.strip().splitlines()[-1]
    assert f"GenerationError: The model {_SDXL} is not here and could not be fetched" in last
    assert str(tmp_path / "home" / "models" / "stable-diffusion-xl-base-1.0") in last
    assert "model_index.json" in last


def test_the_reference_packages_indexing_example_runs_to_its_end(
    tmp_path: Path, tiny_folder: Callable[[str], Path], tiny_model: Callable[[str], DiffusersModel]
) -> None:
    torch.manual_seed(0)
    encoders = tmp_path / "home" / "encoders"
    encoders.mkdir(parents=True)
    clip = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    save_file(
        {name: tensor.contiguous() for name, tensor in clip.state_dict().items()},
        encoders / "ViT-B-32-quickgelu.openai.safetensors",
    )
    # It turns what comes out of the model: a large effect, which is soon known.
    layers = [("unet.conv_out", "unet", ["conv_out"])]
    lora = tmp_path / "lora.safetensors"
    write_lora(lora, tiny_model("sdxl").pipe, layers, halves=("lora_A.weight", "lora_B.weight"), alpha=None)
    with hub({_SDXL: tiny_folder("sdxl")}) as (address, asked), civitai_server.serving() as civitai:
        civitai.add(2588340, lora.read_bytes(), model_id=2300298)
        ended = run(
            EXAMPLE.format(out_dir=str(tmp_path / "out")),
            tmp_path,
            HF_ENDPOINT=address,
            CARLOS_CIVITAI_URL=civitai.url,
            CIVITAI_API_KEY=civitai_server.KEY,
            NO_PROXY="127.0.0.1,localhost",
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert any("unet/diffusion_pytorch_model.safetensors" in page for page in asked)
    lines = dict(line.split(": ") for line in ended.stdout.strip().splitlines() if ": " in line)
    assert lines["Indexed"] == "2588340"
    assert float(lines["Strength"]) > 0
    saved = carlos.load_database(tmp_path / "out" / "metrics_database.local.parquet")
    row = saved.row("2588340")
    assert row is not None
    described = saved.protocols[str(row.protocol_id)]
    assert (described["generator"], described["preset"], described["steps"]) == ("diffusers", "standard", 25)
    assert (described["cfg"], described["scheduler"]) == (5.0, "normal")
    assert row.model_key == tiny_model("sdxl").model_key


def test_a_lora_of_the_miniworld_gets_the_direction_that_the_reference_measured(
    miniworld_model: DiffusersModel, encoder: OpenClipEncoder, tmp_path: Path
) -> None:
    database = carlos.MetricsDatabase.empty(miniworld.encoder_id(), 64)
    result = carlos.index_lora(
        database,
        lora_source=MINIWORLD / "loras" / "sepia_toned.safetensors",
        working_directory=tmp_path,
        model=miniworld_model,
        encoder=encoder,
        prompts=load_prompt_set(MINIWORLD / "prompts_short.json"),
        max_prompts=6,
    )
    reference = carlos.load_database(MINIWORLD / "reference_metrics.parquet", encoder_id=miniworld.encoder_id()).to_dataframe()
    expected = reference.set_index("file_name").direction["sepia_toned.safetensors"]
    assert miniworld.cosine(result.vector.direction, expected) > 0.85
    assert database.protocols[str(result.record.protocol_id)]["preset"] == CUSTOM
    assert result.record.model_key == "SD3-046dd2b6"
