"""What saved workflows and scripts rely on is as it was: nodes, ids, rows, choices, reports.

`golden.json` was written by `golden.py` with one version of ComfyUI. To change what it holds on purpose, write it again and say
why. Ids of models, and what they go into, are a host's own: other versions of ComfyUI describe the same checkpoint otherwise.
There the numbers are compared, and how many pictures were kept where.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.comfyui import golden
from tests.support import comfyui_host as hosts

_NOT_TO_THE_BIT = ("bits", "direction", "topic_directions")
_OF_THE_HOST = ("protocol_id",)
WRITTEN_WITH = "0.33.0"


@pytest.fixture(scope="module")
def is_same_host(comfyui: Path) -> bool:
    return f'"{WRITTEN_WITH}"' in (comfyui / "comfyui_version.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def seen(comfyui: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    base = hosts.make_base_folder(tmp_path_factory.mktemp("golden"))
    (base / "models" / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    with hosts.running(comfyui, base) as host:
        yield json.loads(json.dumps(golden.observe(host)))


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", ["nodes", "reports"])
def test_nodes_and_keys_of_reports_are_as_they_were(seen: Any, kept: Any, part: str) -> None:
    assert list(golden.differences(seen[part], kept[part])) == []


def test_pictures_are_kept_where_they_were(seen: Any, kept: Any, is_same_host: bool) -> None:
    if is_same_host:
        assert seen["cache"] == kept["cache"]
    kinds = [Counter((Path(name).parts[0], Path(name).suffix) for name in names) for names in (seen["cache"], kept["cache"])]
    assert kinds[0] == kinds[1]


# Weights of a choice are rounded to three digits, which may go the other way on another processor.
@pytest.mark.parametrize(("part", "tolerance"), [("choices", 1.5e-3), ("searches", 1e-4)])
def test_every_query_finds_what_it_found(seen: Any, kept: Any, part: str, tolerance: float) -> None:
    assert list(golden.differences(seen[part], kept[part], tolerance=tolerance)) == []


def test_rows_have_the_same_ids_and_numbers(seen: Any, kept: Any, is_same_host: bool) -> None:
    left_out = _NOT_TO_THE_BIT if is_same_host else (*_NOT_TO_THE_BIT, *_OF_THE_HOST)
    assert seen["rows"].keys() == kept["rows"].keys()
    for name, rows in kept["rows"].items():
        # The last entry is what the file says of its protocols, by their ids.
        for ours, theirs in zip(seen["rows"][name], rows if is_same_host else rows[:-1], strict=is_same_host):
            a_row, b_row = ({key: value for key, value in row.items() if key not in left_out} for row in (ours, theirs))
            assert list(golden.differences(a_row, b_row, tolerance=1e-4)) == []
            if "direction" in theirs:
                a, b = (np.array(row["direction"], dtype=np.float64) for row in (ours, theirs))
                assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.999999
