"""Auto LoRA on whole prompts in a real ComfyUI, with a picture before and after each.

usage: python -m studies.posted_prompts ROWS SHEET [--prompts FILE]   (ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI)

ROWS: a database of the mini-world's LoRAs, as `auto_lora.py --keep` copies it. SHEET: where the contact sheet goes, a PNG. The
same text is wired into Auto LoRA's `query` (composed, at most 2 LoRAs, budget 2, likely) and into CLIP Text Encode. "Right": one
LoRA for each effect that the prompt names, nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from studies.choosing import interval
from tests.support import comfyui_host as hosts
from tests.support import miniworld, workflows

LIBRARY = "posted"
_SIDE, _LINE, _COLUMNS = 128, 14, 5


@dataclass(frozen=True)
class Posted:
    """A prompt as people post it. wants, forbids: labels of effects."""

    prompt: str
    wants: list[str]
    forbids: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What came of it. labels: of the LoRAs that were applied."""

    posted: Posted
    labels: list[str]
    weights: list[float]
    reading: dict[str, Any]
    reason: str
    before: Path
    after: Path

    @property
    def is_right(self) -> bool:
        return sorted(self.labels) == sorted(self.posted.wants)

    @property
    def chosen(self) -> str:
        return ", ".join(f"{label} {weight:.2f}" for label, weight in zip(self.labels, self.weights, strict=True)) or "nothing"


def outcome_of(host: hosts.Host, posted: Posted, labels: dict[str, dict[str, Any]]) -> Outcome:
    workflow = workflows.auto_lora(posted.prompt, f"{LIBRARY}.parquet")
    workflow |= workflows.render(posted.prompt, 7, ["checkpoint", 0], ["checkpoint", 1], "before")
    workflow |= workflows.render(posted.prompt, 7, ["auto", 0], ["auto", 1], "after")
    outputs = host.run(workflow)
    said = hosts.facts_of(outputs, "report")
    return Outcome(
        posted,
        [str(labels[Path(lora["file"]).name]["label"]) for lora in said["choice"]],
        [float(lora["weight"]) for lora in said["choice"]],
        said["reading"],
        said["reason"],
        host.output_file(outputs["before-save"]["images"][0]),
        host.output_file(outputs["after-save"]["images"][0]),
    )


def sheet(outcomes: Sequence[Outcome]) -> Image.Image:
    """Before and after, side by side, over the choice and the beginning of the prompt."""
    cell = (2 * _SIDE + 8, _SIDE + 3 * _LINE + 6)
    rows = -(-len(outcomes) // _COLUMNS)
    picture = Image.new("RGB", (_COLUMNS * cell[0], rows * cell[1]), "white")
    draw = ImageDraw.Draw(picture)
    for place, outcome in enumerate(outcomes):
        left, top = place % _COLUMNS * cell[0], place // _COLUMNS * cell[1]
        for x, path in enumerate((outcome.before, outcome.after)):
            with Image.open(path) as image:
                picture.paste(image.convert("RGB"), (left + x * _SIDE, top))
        colour = "black" if outcome.is_right else "red"
        for line, text in enumerate((f"{place + 1}: {outcome.chosen}", outcome.posted.prompt[:42], outcome.posted.prompt[42:84])):
            draw.text((left + 2, top + _SIDE + 2 + line * _LINE), text, fill=colour)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_name("posted_prompts.json"))
    options = parser.parse_args()
    folder = hosts.comfyui_folder()
    if folder is None:
        sys.exit("No ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI.")
    labels = json.loads((miniworld.MINIWORLD / "labels.json").read_text(encoding="utf-8"))
    prompts = [Posted(**entry) for entry in json.loads(options.prompts.read_text(encoding="utf-8"))]
    with tempfile.TemporaryDirectory() as name:
        base = hosts.make_base_folder(Path(name) / "base")
        hosts.build_checkpoint(base / "models" / "checkpoints" / workflows.CHECKPOINT)
        shutil.copy(options.rows, base / "models" / "carlos" / f"{LIBRARY}.parquet")
        with hosts.running(folder, base) as host:
            outcomes = [outcome_of(host, posted, labels) for posted in prompts]
            sheet(outcomes).save(options.sheet)
    unwanted = sum(bool({*outcome.labels} - {*outcome.posted.wants}) for outcome in outcomes)
    forbidden = sum(bool({*outcome.labels} & {*outcome.posted.forbids}) for outcome in outcomes)
    print(f"right: {interval(sum(outcome.is_right for outcome in outcomes), len(outcomes))}")
    print(f"a LoRA that nobody asked for: {interval(unwanted, len(outcomes))}; one that is forbidden: {forbidden}\n")
    print("| | prompt | wanted | chosen | read as effects |")
    print("|---|---|---|---|---|")
    for place, outcome in enumerate(outcomes, start=1):
        wanted = ", ".join(outcome.posted.wants) or "nothing"
        effects = "; ".join(effect["text"] for effect in outcome.reading.get("effects", ())) or outcome.reason
        mark = "" if outcome.is_right else "**"
        prompt = outcome.posted.prompt.replace("|", "\\|")
        print(f"| {place} | {prompt} | {wanted} | {mark}{outcome.chosen}{mark} | {effects} |")


if __name__ == "__main__":
    main()
