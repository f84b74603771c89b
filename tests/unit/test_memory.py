"""Too little memory: work goes on in smaller parts, with the same results. In processes with little address space."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from carlos_core.memory import in_parts, is_out_of_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="address space can be limited on Linux alone")

SCRIPT = """
import json, logging, resource, sys
from pathlib import Path
import torch
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.weights import local_encoders
from carlos_core.errors import EncoderError
from tests.support import miniworld

megabytes, n, side = map(int, sys.argv[1:])
logging.basicConfig(stream=sys.stderr)
torch.set_num_threads(1)
encoder = load_encoder(local_encoders([miniworld.MINIWORLD])["mini_clip"].encoder_id, [miniworld.MINIWORLD])
pictures = torch.rand(n, side, side, 3, generator=torch.Generator().manual_seed(1))
free = encoder.encode_images(pictures)
has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (has + (megabytes << 20), resource.RLIM_INFINITY))
try:
    poor = encoder.encode_images(pictures)
except EncoderError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps({"cosine": float(torch.nn.functional.cosine_similarity(free, poor).min())}))
"""


def looked_at_with(megabytes: int, n: int, side: int) -> tuple[dict[str, Any], str]:
    """What became of n pictures of side x side with so much address space more, and what was logged."""
    command = [sys.executable, "-c", SCRIPT, str(megabytes), str(n), str(side)]
    # What was freed leaves the address space at once: otherwise the C library keeps it, in pieces, and they decide what fits.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout), done.stderr


def test_clip_looks_at_fewer_pictures_at_a_time_where_memory_runs_out() -> None:
    found, log = looked_at_with(24, 64, 256)
    assert "out of memory with 64 items at a time, going on with 32" in log
    assert found["cosine"] > 0.99999


def test_too_little_memory_for_a_single_picture_is_said() -> None:
    found, _ = looked_at_with(40, 1, 2560)
    assert found["error"] == "There is too little memory for CLIP to look at a picture. Close other programs."


def test_other_errors_are_not_tried_again() -> None:
    sizes = []

    def compute(part: Tensor) -> Tensor:
        sizes.append(len(part))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        in_parts(compute, torch.zeros(8, 3), 4)
    assert sizes == [4]


def raised_again(error: BaseException) -> None:
    """As ComfyUI's VAE does it: the error is then in a cycle with the frame of this function."""
    raise error


def test_what_an_attempt_has_computed_is_freed_before_the_next_one() -> None:
    in_vain: list[weakref.ref[Tensor]] = []

    def compute(part: Tensor) -> Tensor:
        assert all(made() is None for made in in_vain)
        so_far = torch.zeros(len(part))
        try:
            if len(part) > 1:
                in_vain.append(weakref.ref(so_far))
                raise RuntimeError("out of memory")
        except RuntimeError as error:
            raised_again(error)
        return so_far

    gc.disable()
    try:
        assert len(in_parts(compute, torch.zeros(4, 3), 4)) == 4
    finally:
        gc.enable()
    assert len(in_vain) == 2


@pytest.mark.parametrize(
    "message",
    ["CUDA error: out of memory", "MPS backend out of memory (MPS allocated: 1 GB)", "could not create a primitive"],
)
def test_what_devices_say_when_memory_runs_out_is_known(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(ValueError(message))
