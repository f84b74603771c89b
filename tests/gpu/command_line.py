"""`carlos` on the mini-world, in a process of its own of the ComfyUI under test."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import comfyui_host as hosts

_MINI = ("--checkpoint", "miniworld", "--encoder", "mini_clip", "--width", "128", "--height", "128")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommandLine:
    """Runs commands on the models of one base folder."""

    base: Path

    @classmethod
    def with_loras(cls, folder: Path, wanted: Collection[str] = ()) -> CommandLine:
        """With the mini-world's checkpoint, and its LoRAs or some of them, by name without suffix."""
        base = hosts.make_base_folder(folder, with_pack=False)
        for lora in (base / "models" / "loras").glob("*"):
            if wanted and lora.stem not in wanted:
                lora.unlink()
        hosts.build_checkpoint(base / "models" / "checkpoints" / "miniworld.safetensors")
        return cls(base)

    def result(self, comfyui_arguments: str, command: str, *arguments: object) -> dict[str, Any]:
        """The result of a command that measures, run with arguments of ComfyUI."""
        comfyui = hosts.comfyui_folder()
        if comfyui is None:
            pytest.skip("No ComfyUI in COMFYUI_DIR or ~/comfy/ComfyUI.")
        line = [sys.executable, "-m", "carlos_core.cli", command, *map(str, arguments), *_MINI, "--json"]
        line += ["--comfyui", str(comfyui), "--python", str(hosts.comfyui_python(comfyui)), "--base-directory", str(self.base)]
        line += ["--comfyui-args", comfyui_arguments]
        run = subprocess.run(line, cwd=hosts.ROOT, capture_output=True, text=True, timeout=400, check=False)
        assert run.returncode == 0, f"{run.stdout[-2000:]}\n{run.stderr[-3000:]}"
        (answer,) = run.stdout.splitlines()
        logger.info("%s %s: %s", command, comfyui_arguments or "without arguments of ComfyUI", answer[:3000])
        found: dict[str, Any] = json.loads(answer)["result"]
        return found
