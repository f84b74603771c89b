"""ComfyUI's generator and diffusers' beside each other on the mini-world: the same pictures, shapes, counts, directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carlos_core.demo.miniworld_diffusers import SIDE, diffusers_folder
from carlos_core.diffusers.generator import DiffusersGenerator
from carlos_core.diffusers.loading import load_model
from carlos_core.generator import Job, LoraUse, Sampling
from carlos_core.prompts.prompt_set import load_prompt_set
from tests.support import comfyui_host as hosts
from tests.support import miniworld
from tests.support.miniworld import MINIWORLD

_SCRIPT = Path(__file__).with_name("same_pictures_run.py")
_SAMPLING: dict[str, Any] = {
    "steps": 12,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "width": SIDE,
    "height": SIDE,
}
_LORAS = ("pencil_sketch.safetensors", "digital_glitch.safetensors")
"""In kohya's names, and in diffusers' with trigger words."""

_PROMPTS = 3


def test_both_generators_measure_the_same(comfyui: Path, checkpoint: Path, tmp_path: Path) -> None:
    prompts = load_prompt_set(MINIWORLD / "prompts_short.json").stratified()[:_PROMPTS]
    words = {name: tuple(facts["trigger_words"]) for name, facts in miniworld.labels().items()}
    sides = [((), ()), *(((LoraUse(MINIWORLD / "loras" / name, 1.0),), words[name]) for name in _LORAS)]
    jobs = [Job(prompt.text, seed, loras, more) for loras, more in sides for seed, prompt in enumerate(prompts)]
    plain = [[job.prompt, job.seed, str(job.loras[0].path) if job.loras else "", job.triggers] for job in jobs]
    (tmp_path / "jobs.json").write_text(json.dumps({"sampling": _SAMPLING, "jobs": plain}))
    hosts.run_script(comfyui, _SCRIPT, checkpoint, tmp_path)
    theirs = torch.from_numpy(np.load(tmp_path / "pictures.npz")["images"])
    facts = json.loads((tmp_path / "facts.json").read_text())

    generator = DiffusersGenerator(load_model(diffusers_folder(MINIWORLD, tmp_path / "folder"), "cpu"), Sampling(**_SAMPLING))
    ours = generator.generate(jobs).images
    assert (ours - theirs).abs().mean() < 5e-6
    assert generator.model_key == facts["model_key"]
    for use in {job.loras[0] for job in jobs if job.loras}:
        fit = generator.check_lora(use)
        assert vars(fit) == facts["fits"][str(use.path)]

    def differences(images: torch.Tensor) -> np.ndarray:
        features = miniworld.encoder().encode_images(images).double().numpy().reshape(len(sides), _PROMPTS, -1)
        return features[1:] - features[:1]

    for mine, reference in zip(differences(ours), differences(theirs), strict=True):
        assert miniworld.cosine(mine.mean(axis=0), reference.mean(axis=0)) > 0.9999
        lengths = [float(np.linalg.norm(each, axis=1).mean()) for each in (mine, reference)]
        assert lengths[0] == pytest.approx(lengths[1], rel=0.001)
