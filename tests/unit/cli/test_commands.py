"""Commands that need no ComfyUI: their answers for people and programs, their exit statuses, and what they say when they fail."""

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

from carlos_core import __version__
from carlos_core.cli.commands import run
from carlos_core.database.database import load_database
from tests.support import miniworld
from tests.support.miniworld import MINIWORLD

PROMPTS = ["--prompts", str(MINIWORLD / "prompts_signature.json")]
LORAS = ["--loras", str(MINIWORLD / "loras")]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CARLOS_HOME with the mini-world's CLIP; nothing of the machine's settings."""
    for name in ("COMFYUI", "COMFYUI_BASE", "COMFYUI_ARGS", "DATABASE", "CHECKPOINT", "DIFFUSERS"):
        monkeypatch.delenv(f"CARLOS_{name}", raising=False)
    home = tmp_path / "home"
    (home / "encoders").mkdir(parents=True)
    for name in ("mini_clip.json", "mini_clip.safetensors"):
        shutil.copy(MINIWORLD / name, home / "encoders")
    monkeypatch.setenv("CARLOS_HOME", str(home))
    return home


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """The mini-world's reference rows as a database."""
    path = tmp_path / "mini.parquet"
    miniworld.reference_rows(path)
    return path


def envelope(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    """What a command with --json writes: one line on stdout."""
    assert run([*arguments, "--json"]) == status
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out)
    assert (found["carlos"], found["command"], found["ok"]) == (1, arguments[0], "error" not in found)
    return found


def test_retrieve_gives_names_words_and_files(capsys: pytest.CaptureFixture[str], mini: Path) -> None:
    found = envelope(capsys, "retrieve", "pencil sketch", "-d", str(mini), *PROMPTS, *LORAS)["result"]
    best = found["matches"][0]
    assert (found["fits"], best["file"], best["installed"]) == (True, "pencil_sketch.safetensors", True)
    assert Path(best["path"]).is_file()
    assert best["trigger_words"] == ["plumivo"]
    assert run(["retrieve", "pencil sketch", "-d", str(mini), *PROMPTS, *LORAS]) == 0
    told = capsys.readouterr().out
    assert "pencil_sketch.safetensors" in told
    assert "\x1b" not in told
    assert not any(line.endswith(" ") for line in told.splitlines())


def test_nothing_fits_is_an_answer_with_a_status_of_its_own(capsys: pytest.CaptureFixture[str], mini: Path) -> None:
    limits = ("--max-strength", "0")
    found = envelope(capsys, "retrieve", "pencil sketch", "-d", str(mini), *PROMPTS, *limits, status=3)["result"]
    assert (found["fits"], found["matches"]) == (False, [])
    assert found["reason"]
    none = envelope(capsys, "choose", "pencil sketch", "-d", str(mini), *PROMPTS, *limits, status=3)["result"]
    assert (none["fits"], none["loras"]) == (False, [])
    assert none["reason"]
    assert found["next"] == none["next"] == "Next: raise --max-strength."


def test_where_nothing_fits_what_can_be_done_now_is_said(capsys: pytest.CaptureFixture[str], mini: Path, tmp_path: Path) -> None:
    few = tmp_path / "loras"
    few.mkdir()
    for name in ("pencil_sketch", "dark_vignette"):
        shutil.copy(MINIWORLD / "loras" / f"{name}.safetensors", few)

    def said(*options: str) -> set[str]:
        asked = ("a herd of elephants", "-d", str(mini), *PROMPTS, *options)
        both = (("choose", *asked), ("retrieve", *asked, "--min-confidence", "likely"))
        return {str(envelope(capsys, *arguments, status=3)["result"]["next"]) for arguments in both}

    other = "Next: ask in other words, or for another effect"
    assert said() == {f"{other}."}
    assert said("--loras", str(few)) == {f"{other}; every LoRA at hand is in this database."}
    shutil.copy(few / "pencil_sketch.safetensors", few / "new.safetensors")
    measure = "measure the 1 LoRA at hand that is not in this database yet (carlos index-folder)"
    assert said("--loras", str(few)) == {f"Next: ask in other words, {measure}, or race them for this query (carlos race)."}
    # What cannot be measured is nothing to measure, and what was only raced can be measured whole.
    (few / "new.safetensors").write_bytes(b"\x80\x04pickle")
    assert said("--loras", str(few)) == {f"{other}; every LoRA at hand is in this database."}
    labelled = load_database(mini)
    labelled.set_values("protocol_id", dict.fromkeys(labelled.column("lora_id")[:18], "few"))
    labelled.protocols["few"] = {"preset": "race"}
    labelled.save_parquet(mini)
    raced = "measure whole what was only raced (carlos index-folder): 18 rows of this database are of few pictures."
    assert said("--loras", str(few)) == {f"{other}, or {raced}"}
    labelled.set_values("base_model", dict.fromkeys(labelled.column("lora_id"), "SD 3"))
    labelled.save_parquet(mini)
    assert said("--base-model", "SDXL") == {"Next: leave out --base-model, or name SD 3."}


def test_choose_gives_weights_and_words(capsys: pytest.CaptureFixture[str], mini: Path) -> None:
    arguments = ("choose", "pencil sketch, red balloons", "--mode", "composed", "-d", str(mini), *PROMPTS, *LORAS)
    found = envelope(capsys, *arguments)["result"]
    assert {each["file"] for each in found["loras"]} == {"pencil_sketch.safetensors", "red_balloons.safetensors"}
    assert all(0 < each["weight"] <= 2 for each in found["loras"])
    assert found["trigger_words"] == ["plumivo"]
    assert "<lora:pencil_sketch:" in found["lora_syntax"]


def test_similar_and_duplicates(capsys: pytest.CaptureFixture[str], mini: Path) -> None:
    found = envelope(capsys, "similar", "pencil_sketch", "-d", str(mini))["result"]
    assert (found["name"], len(found["matches"])) == ("pencil_sketch.safetensors", 5)
    assert found["lora_id"] not in {each["lora_id"] for each in found["matches"]}
    groups = envelope(capsys, "duplicates", "--min-cosine", "0.5", "-d", str(mini))["result"]["groups"]
    assert all(len(group) > 1 and group[0]["score"] == 1.0 for group in groups)
    several = envelope(capsys, "similar", "mystery", "-d", str(mini), status=1)["error"]
    assert several["what"] == "Several LoRAs are called 'mystery'."
    missing = envelope(capsys, "similar", "no such", "-d", str(mini), status=1)["error"]
    assert missing["kind"] == "RetrievalError"


def test_card_and_map_are_pictures(capsys: pytest.CaptureFixture[str], mini: Path, tmp_path: Path) -> None:
    card, plan = tmp_path / "card.png", tmp_path / "map.jpg"
    about = envelope(capsys, "card", "pixel_art", "-d", str(mini), "-o", str(card))["result"]
    assert (about["lora"]["file"], len(about["most_like_it"]) > 0) == ("pixel_art.safetensors", True)
    asked = ("map", "pencil sketch", "--mark", "pixel_art", "-d", str(mini), *PROMPTS, "-o", str(plan))
    names = {each["name"]: each["marked"] for each in envelope(capsys, *asked)["result"]["named"]}
    assert (names["pixel_art.safetensors"], names["pencil_sketch.safetensors"]) == (True, False)
    for path, kind in ((card, "PNG"), (plan, "JPEG")):
        with Image.open(path) as picture:
            assert (picture.format, min(picture.size) > 200) == (kind, True)
    assert envelope(capsys, "card", "pixel_art", "-d", str(mini), "-o", "card.txt", status=2)["error"]["kind"] == "Usage"
    missing = str(tmp_path / "card.png" / "card.png")
    assert envelope(capsys, "card", "pixel_art", "-d", str(mini), "-o", missing, status=1)["error"]["hint"]


def test_info_of_a_database_and_of_a_lora(capsys: pytest.CaptureFixture[str], mini: Path) -> None:
    about = envelope(capsys, "info", "-d", str(mini), *LORAS)["result"]
    assert (about["database"]["rows"], about["dimension"], about["installed"]) == (23, 64, 23)
    lora = envelope(capsys, "info", "pixel_art", "-d", str(mini))["result"]["lora"]
    assert (lora["file"], lora["strength"] > 0) == ("pixel_art.safetensors", True)
    assert envelope(capsys, "info", "-d", "no_such.parquet", status=1)["error"]["what"] == "There is no database no_such.parquet."


def test_import_merge_and_export(capsys: pytest.CaptureFixture[str], mini: Path, tmp_path: Path) -> None:
    own, copy = tmp_path / "own.parquet", tmp_path / "copy.parquet"
    reference = str(MINIWORLD / "reference_metrics.parquet")
    first = envelope(capsys, "import", reference, str(own), "--encoder", miniworld.encoder_id())["result"]
    assert (len(first["added"]), first["replaced"], first["kept"]) == (23, [], [])
    again = envelope(capsys, "merge", str(own), str(mini))["result"]
    assert (again["added"], again["replaced"], len(again["kept"])) == ([], [], 23)
    unknown = envelope(capsys, "export", str(own), str(copy), "--layout", "reference", status=1)["error"]
    assert unknown["what"].startswith("23 rows have no CivitAI version")
    done = envelope(capsys, "export", "bundled", str(copy), "--layout", "reference")["result"]
    assert (done["rows"], len(load_database(copy))) == (740, 740)
    there = envelope(capsys, "export", str(own), str(copy), status=1)["error"]
    assert there["what"].endswith("copy.parquet exists already.")
    other = envelope(capsys, "merge", str(own), "bundled", status=1)["error"]
    assert (other["kind"], len(load_database(own))) == ("DatabaseError", 23)


def test_the_cache_is_shown_and_cleared(capsys: pytest.CaptureFixture[str], mini: Path, own_home: Path) -> None:
    envelope(capsys, "retrieve", "pencil sketch", "-d", str(mini), *PROMPTS)

    def signatures(*arguments: str) -> int:
        parts = envelope(capsys, "cache", *arguments)["result"]["parts"]
        return next(part["count"] for part in parts if part["kind"] == "signatures")

    assert signatures() > 0
    assert signatures("--clear", "signatures") == 0
    assert envelope(capsys, "cache", "--clear", "all", status=2)["error"]["kind"] == "Usage"


def test_doctor_says_what_is_wrong_and_what_to_do(
    capsys: pytest.CaptureFixture[str], mini: Path, own_home: Path, tmp_path: Path
) -> None:
    def wrong(*arguments: str) -> list[dict[str, str]]:
        assert run(["doctor", *arguments, "--json"]) in (0, 1)
        findings = json.loads(capsys.readouterr().out)["result"]["findings"]
        return [finding for finding in findings if finding["status"] == "wrong"]

    assert wrong("-d", str(mini), *LORAS) == []
    (no_comfyui,) = wrong("-d", str(mini), "--comfyui", str(tmp_path))
    assert (no_comfyui["about"], "main.py" in no_comfyui["do"]) == ("ComfyUI", True)
    (no_database,) = wrong("-d", str(tmp_path / "no.parquet"))
    assert no_database["about"] == "database"
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(mini.read_bytes()[:2000])
    assert wrong("-d", str(damaged))[0]["about"] == "database"
    folder = tmp_path / "loras"
    folder.mkdir()
    (folder / "broken.safetensors").write_bytes(b"not a LoRA")
    (broken,) = wrong("-d", str(mini), "--loras", str(folder))
    assert (broken["about"], "broken.safetensors" in broken["said"]) == ("LoRA files", True)
    (own_home / "encoders" / "mini_clip.safetensors").unlink()
    (no_clip,) = wrong("-d", str(mini))
    assert (no_clip["about"], "mini_clip.safetensors" in no_clip["do"]) == ("CLIP weights", True)


def test_a_comfyui_that_cannot_be_used_is_said_in_one_message(
    capsys: pytest.CaptureFixture[str], mini: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    here = ("fits", "--checkpoint", "x", "--comfyui", str(folder), "--python")
    old = envelope(capsys, *here, sys.executable, status=1)["error"]
    assert (old["kind"], "is no ComfyUI that CARLoS knows" in old["what"]) == ("GenerationError", True)
    gone = envelope(capsys, *here, str(tmp_path / "python"), status=1)["error"]
    assert gone["hint"] == "Give ComfyUI's Python with --python."
    for name, code in (("options", "def enable_args_parsing(): pass"), ("cli_args", "import sys\nsys.exit(2)")):
        (folder / "comfy" / f"{name}.py").write_text(code)
    wrong = envelope(capsys, *here, sys.executable, "--comfyui-args", "--no-such", status=1)["error"]
    assert (wrong["what"], wrong["hint"]) == ("ComfyUI does not take its options: no reason.", "Correct --comfyui-args.")
    (folder / "comfy" / "cli_args.py").write_text("import os\nos._exit(7)")
    ended = envelope(capsys, *here, sys.executable, status=1)["error"]
    assert ended["what"] == "ComfyUI's process ended without an answer (status 7)."
    (folder / "comfy" / "cli_args.py").write_text("raise RuntimeError('no CUDA')")
    assert "--cpu" in envelope(capsys, *here, sys.executable, status=1)["error"]["hint"]


def test_wrong_use_has_a_status_and_an_envelope(capsys: pytest.CaptureFixture[str]) -> None:
    assert envelope(capsys, "retrieve", status=2)["error"]["kind"] == "Usage"
    assert envelope(capsys, "retrieve", "snow", "--no-such-option", status=2)["error"]["kind"] == "Usage"
    assert envelope(capsys, "index", "x.safetensors", "-d", "own", "--checkpoint", "x", status=1)["error"]["hint"].startswith(
        "Name your"
    )
    assert (
        envelope(capsys, "index-folder", "-d", "own", "--checkpoint", "x", "--shard", "3/2", status=2)["error"]["kind"] == "Usage"
    )
    assert run(["retrieve"]) == 2
    assert "Missing argument" in capsys.readouterr().err


def test_words_that_no_widget_offers_are_refused_without_comfyui_too(
    capsys: pytest.CaptureFixture[str], mini: Path, tmp_path: Path
) -> None:
    asked = ("index", str(MINIWORLD / "loras" / "pencil_sketch.safetensors"), "-d", str(mini), "--diffusers", str(tmp_path))
    for option, word, noun in (
        ("--preset", "race", "preset"),
        ("--triggers", "both", "trigger rule"),
        ("--measured-on", "x", "choice of checkpoints"),
        ("--sampling", "as givn", "sampling"),
    ):
        error = envelope(capsys, *asked, option, word, status=1)["error"]
        assert (error["kind"], error["what"]) == ("IndexingError", f"There is no {noun} {word!r}.")


def test_one_model_makes_the_pictures_and_what_is_typed_comes_before_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mini: Path, tmp_path: Path
) -> None:
    lora = str(MINIWORLD / "loras" / "pencil_sketch.safetensors")

    def error(*options: str, status: int) -> str:
        said: str = envelope(capsys, "index", lora, "-d", str(mini), *options, status=status)["error"]["what"]
        return said

    checkpoint, model = ("--checkpoint", "a"), ("--diffusers", str(tmp_path / "b"))
    by_comfyui = "Nothing makes the pictures to measure with."
    assert "Two models are named" in error(*checkpoint, *model, status=2)
    assert error(*model, "--model-config", str(tmp_path), status=2).startswith("--model-config is for a single file")
    assert error(*checkpoint, "--model-config", str(tmp_path), status=2).startswith("--model-config is for a single file")
    monkeypatch.setenv("CARLOS_DIFFUSERS", model[1])
    assert error(*checkpoint, status=1) == by_comfyui
    monkeypatch.setenv("CARLOS_CHECKPOINT", checkpoint[1])
    assert "Two models are named" in error(status=2)
    monkeypatch.delenv("CARLOS_DIFFUSERS")
    assert error(status=1) == by_comfyui
    pytest.importorskip("diffusers", reason="the extra headless is not installed")
    assert error(*model, status=1) == f"There is no model of diffusers at {tmp_path / 'b'}."


def test_what_only_a_comfyui_can_do_names_no_other_way(capsys: pytest.CaptureFixture[str], mini: Path) -> None:
    for command in (("fits",), ("race", "snow", "-d", str(mini))):
        error = envelope(capsys, *command, "--checkpoint", "a", status=1)["error"]
        assert error["what"] == "This needs a ComfyUI, and none is named."
        assert "--diffusers" not in error["hint"]


def test_every_command_has_help_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out
    commands = (
        "retrieve",
        "choose",
        "similar",
        "duplicates",
        "card",
        "map",
        "index",
        "index-folder",
        "fits",
        "info",
        "import",
        "merge",
    )
    for name in (*commands, "export", "cache", "doctor"):
        assert name in listed
        assert run([name, "--help"]) == 0
        assert f"carlos {name}" in capsys.readouterr().out.replace("\n", " ")


def test_json_is_utf_8_whatever_the_pipe_is() -> None:
    command = [sys.executable, "-m", "carlos_core.cli", "cache", "--clear", "é", "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = subprocess.run(command, capture_output=True, timeout=60, check=False, env=environment)
    assert process.returncode == 2
    assert "'é'" in json.loads(process.stdout.decode("utf-8"))["error"]["what"]


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"carlos {__version__}\n"


def test_help_waits_for_nothing_heavy() -> None:
    code = "import sys; from carlos_core.cli.commands import run; run(['--help']); print('torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.splitlines()[-1] == "False"
