"""`carlos demo` measures LoRAs for real and finds them by what they do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from carlos_core.cli.commands import run
from carlos_core.cli.demo import LORAS, SENTENCES
from tests.support.miniworld import MINIWORLD

pytest.importorskip("diffusers", reason="the extra headless is not installed")

PROMPTS = {
    "nature": {"forest": ["blue sky, a small pink tree in a forest"]},
    "beings": {"cat": ["grey sky, a white cat on the grass"]},
}
ROUND = "seen through a fisheye lens"


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's files, with two prompts."""
    folder = tmp_path_factory.mktemp("assets")
    shutil.copytree(MINIWORLD, folder, dirs_exist_ok=True, copy_function=_linked)
    (folder / "prompts_short.json").unlink()
    (folder / "prompts_short.json").write_text(json.dumps({"name": "two", "prompts": PROMPTS}), encoding="utf-8")
    return folder


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
    return target


def envelope(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert run(["demo", *arguments, "--json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_loras_are_measured_and_found_by_what_they_do(
    capsys: pytest.CaptureFixture[str], assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARLOS_HOME", str(tmp_path / "home"))
    labels = json.loads((MINIWORLD / "labels.json").read_text(encoding="utf-8"))
    here = ("--assets", str(assets), "--out", str(tmp_path / "out"))
    found = envelope(capsys, *here)["result"]
    assert {each["file"] for each in found["indexed"]["indexed"]} == set(LORAS)
    assert found["indexed"]["pictures_made"] >= 4 * 4
    answers = {each["query"]: each for each in found["answers"]}
    assert tuple(answers) == SENTENCES
    fitting = [each for each in found["answers"] if each["fits"]]
    assert all(each["really"] == labels[each["lora"]]["label"] for each in fitting)
    assert {each["really"]: each["query"] for each in fitting} == {
        "heavy snowfall": "snow falling",
        "oil painting with thick brush strokes": "thick oil paint",
        "fisheye lens": ROUND,
    }
    (nothing,) = (each for each in found["answers"] if not each["fits"])
    assert nothing["reason"]
    pictures = [Path(file) for file in found["files"] if file.endswith(".png")]
    assert len(pictures) == 1 + len(LORAS)
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width == 1024
    table = next(Path(file) for file in found["files"] if file.endswith(".md")).read_text(encoding="utf-8")
    assert f"| {ROUND} | mystery_10.safetensors |" in table
    again = envelope(capsys, *here)["result"]
    assert (again["indexed"]["pictures_made"], again["indexed"]["skipped"]) == (0, list(LORAS))
    assert again["answers"] == found["answers"]
    assert not (tmp_path / "home").exists()


def test_a_missing_or_damaged_model_is_said(capsys: pytest.CaptureFixture[str], assets: Path, tmp_path: Path) -> None:
    nowhere = ("--assets", str(tmp_path / "nothing"), "--out", str(tmp_path / "out"))
    missing = envelope(capsys, *nowhere, status=1)["error"]
    assert "mini_diffusion.safetensors is missing" in missing["what"]
    assert "carlos demo --assets" in missing["hint"]
    damaged = tmp_path / "damaged"
    shutil.copytree(assets, damaged, copy_function=_linked)
    (damaged / "mini_diffusion.safetensors").unlink()
    (damaged / "mini_diffusion.safetensors").write_bytes((assets / "mini_diffusion.safetensors").read_bytes()[:5000])
    odd = envelope(capsys, "--assets", str(damaged), "--out", str(tmp_path / "out"), status=1)["error"]
    assert (odd["kind"], "mini_diffusion.safetensors cannot be read" in odd["what"]) == ("GenerationError", True)
    assert not (tmp_path / "out").exists()


def test_without_diffusers_it_says_what_to_install(assets: Path, tmp_path: Path) -> None:
    code = (
        "import sys; import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'peft' else find(name, *rest)\n"
        "from carlos_core.cli.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "demo", "--assets", str(assets), "--out", str(tmp_path / "out")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout) == (1, "")
    assert "peft is not installed" in process.stderr
    assert "carlos-loras[headless]" in process.stderr
