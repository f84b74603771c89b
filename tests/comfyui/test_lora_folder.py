"""What is known of the files in ComfyUI's folders of LoRAs is never older than the folders."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import comfyui_host as hosts


def test_a_replaced_file_is_seen_at_once_on_the_slowest_drive(comfyui: Path, tmp_path: Path) -> None:
    ran = hosts.run_script(comfyui, Path(__file__).with_name("survey_run.py"), tmp_path)
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found == {
        "made": [1],
        # Its folder does not say so: this waits until the files are looked at again.
        "written to": [1],
        "replaced": [3],
        "moved away, and another one put there": [4],
        "deleted": [],
        "put back": [3],
    }
