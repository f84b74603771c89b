"""The mini-world's text encoder is made twice: for ComfyUI by a script beside its weights, and here."""

from __future__ import annotations

import importlib.util

import torch

from carlos_core.diffusers.model import DiffusersModel
from tests.support.miniworld import MINIWORLD

LAST = ".layers.11."
"""The only layer that does anything."""


def test_its_text_encoder_is_the_one_that_comfyui_gets(miniworld_model: DiffusersModel) -> None:
    spec = importlib.util.spec_from_file_location("build_checkpoint", MINIWORLD / "build_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    prefix = "text_encoders.clip_l.transformer."
    comfyuis = {
        name.removeprefix(prefix).replace(LAST, ".layers.0."): tensor
        for name, tensor in script.text_encoder().items()
        if name.startswith(prefix) and (".layers." not in name or LAST in name)
    }
    ours = miniworld_model.pipe.text_encoder.state_dict()
    assert set(ours) == set(comfyuis)
    assert all(torch.equal(ours[name].half(), tensor) for name, tensor in comfyuis.items())
