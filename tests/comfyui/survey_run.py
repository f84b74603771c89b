"""A folder of LoRAs on a drive so slow that its files are looked at once a day, on ComfyUI's own list of files.

usage: PYTHONPATH=COMFYUI:. python tests/comfyui/survey_run.py WORK  (with ComfyUI's Python)

Prints, as JSON, the sizes that are known of the file after each thing that happens to it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

(WORK,) = sys.argv[1:]

sys.argv = [sys.argv[0], "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import folder_paths

ROOT = Path(__file__).resolve().parents[2]
NAME = "style/one.safetensors"


def main() -> None:
    pack = importlib.util.spec_from_file_location("carlos_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert pack is not None
    sys.modules["carlos_pack"] = importlib.util.module_from_spec(pack)
    lora_folder = importlib.import_module("carlos_pack.nodes.host.lora_folder")
    vars(lora_folder)["_SURVEY_SHARE"] = 1e-12
    folder = Path(WORK) / "loras"
    file = folder / NAME
    file.parent.mkdir(parents=True)
    folder_paths.folder_names_and_paths["loras"] = ([str(folder)], {".safetensors"})
    found = {}

    def look(after: str) -> None:
        # File systems tell times in steps of some milliseconds.
        time.sleep(0.05)
        found[after] = [state.size for state in lora_folder.lora_survey()]

    file.write_bytes(b"1")
    look("made")
    with file.open("ab") as growing:
        growing.write(b"2")
    look("written to")
    other = Path(WORK) / "other"
    other.write_bytes(b"123")
    os.replace(other, file)
    look("replaced")
    kept = file.rename(Path(WORK) / "kept")
    file.write_bytes(b"1234")
    look("moved away, and another one put there")
    file.unlink()
    look("deleted")
    kept.rename(file)
    look("put back")
    sys.stdout.write(json.dumps(found))


main()
