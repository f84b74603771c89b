"""Pictures by diffusers: the same whatever shares a batch, by ComfyUI's noise and levels, with progress and cancel."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carlos_core.diffusers.generator import DiffusersGenerator
from carlos_core.diffusers.loading import SDXL_BASE, load_model, own_folder
from carlos_core.diffusers.model import DiffusersModel
from carlos_core.diffusers.original_names import unet_layers
from carlos_core.diffusers.schedules import schedule_of
from carlos_core.errors import GenerationError, LoraError
from carlos_core.generator import LEADING, Generator, Job, LoraUse, OnDevice, Sampling
from carlos_core.progress import Progress
from tests.support.miniworld import MINIWORLD
from tests.support.tiny_diffusers import KINDS, SIDE

_FLOW = Sampling(3, 3.0, "euler", "simple", SIDE, SIDE)


class _Cancel(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_the_same_whatever_shares_its_batch(kind: str, tiny_model: Callable[[str], DiffusersModel]) -> None:
    model = tiny_model(kind)
    has_guidance = not model.family.has_embedded_guidance(model.pipe)
    generator = DiffusersGenerator(model, Sampling(2, 3.0 if has_guidance else 1.0, "euler", "simple", SIDE, SIDE))
    jobs = [Job("a red house", 5), Job("a boat", 6), Job("three trees in a row", 5)]
    generator.prepare(jobs)
    together = generator.generate(jobs)
    alone = torch.cat([generator.generate([job]).images for job in reversed(jobs)]).flip(0)
    assert together.images.shape == (3, SIDE, SIDE, 3)
    assert (together.images - alone).abs().max() < 2e-5
    assert together.images.std() > 0.02
    assert together.model_evaluations == 3 * generator.evaluations_per_image == 3 * 2 * (2 if has_guidance else 1)


def test_its_settings_never_make_the_protocol_of_another_generator(tiny_model: Callable[[str], DiffusersModel]) -> None:
    generator: Generator = DiffusersGenerator(tiny_model("sdxl"), Sampling(25, 5.0, "euler", LEADING, zero_negative=True))
    assert generator.settings["generator"] == "diffusers"
    assert (generator.settings["sampler"], generator.settings["scheduler"], generator.settings["negative"]) == (
        "euler",
        "leading",
        "zeros",
    )
    assert isinstance(generator, OnDevice)
    assert generator.environment.host.startswith("diffusers ")
    other = DiffusersGenerator(tiny_model("sdxl"), Sampling(24, 5.0, "euler", LEADING, zero_negative=True))
    assert other.fingerprint != generator.fingerprint
    assert other.settings["model"] == generator.settings["model"]


def test_progress_counts_the_steps_of_all_pictures_and_may_cancel(tiny_model: Callable[[str], DiffusersModel]) -> None:
    generator = DiffusersGenerator(tiny_model("sd3"), _FLOW)
    jobs = [Job("a red house", 1), Job("a boat", 2)]
    seen: list[tuple[int, int]] = []

    def cancel(progress: Progress) -> None:
        seen.append((progress.done, progress.total))
        if progress.done == 4:
            raise _Cancel

    with pytest.raises(_Cancel):
        generator.generate(jobs, cancel)
    assert seen == [(2, 6), (4, 6)]
    whole = generator.generate(jobs).images
    assert torch.equal(whole, generator.generate(jobs).images)


def test_too_little_memory_for_a_batch_makes_smaller_ones(
    tiny_model: Callable[[str], DiffusersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("sd3")
    generator = DiffusersGenerator(model, _FLOW)
    jobs = [Job("a red house", seed) for seed in range(3)]
    expected = generator.generate(jobs).images
    pipe_call = type(model.pipe).__call__
    batches: list[int] = []

    def limited(pipe: object, **arguments: object) -> object:
        latents = arguments["latents"]
        assert isinstance(latents, torch.Tensor)
        batches.append(len(latents))
        if len(latents) > 2:
            raise torch.OutOfMemoryError
        return pipe_call(pipe, **arguments)

    monkeypatch.setattr(type(model.pipe), "__call__", limited)
    assert (generator.generate(jobs).images - expected).abs().max() < 2e-5
    assert batches == [3, 2, 1]


def test_a_lora_that_fits_nowhere_is_refused_with_the_counts_that_comfyui_gives(miniworld_model: DiffusersModel) -> None:
    labels = json.loads((MINIWORLD / "labels.json").read_text())
    misfit = next(name for name, facts in labels.items() if facts["kind"] == "misfit")
    generator = DiffusersGenerator(miniworld_model, Sampling(2, 3.0, "euler", "simple"))
    with pytest.raises(LoraError, match=rf"LoRA does not fit: 0 of 18 keys in '{misfit}' match this SD3 model"):
        generator.check_lora(LoraUse(MINIWORLD / "loras" / misfit, 1.0))


def test_the_miniworlds_shape_has_the_key_that_comfyui_gives_it(miniworld_model: DiffusersModel) -> None:
    # The key of the mini-world's rows in tests/comfyui/golden.json and benchmarks/results/gpu.md.
    assert miniworld_model.model_key == "SD3-046dd2b6"


def test_noise_levels_are_those_of_comfyuis_schedules() -> None:
    flow = {"num_train_timesteps": 1000, "shift": 3.0}
    simple = schedule_of(flow, Sampling(4, 3.0, "euler", "simple"), is_flow=True, levels=1000)
    simple.scheduler.set_timesteps(sigmas=simple.sigmas)
    # ComfyUI: every 250th of 1,000 levels, shifted by 3: 3t / (1 + 2t).
    expected = [3 * t / (1 + 2 * t) for t in (1.0, 0.75, 0.5, 0.25)] + [0.0]
    assert np.allclose(simple.scheduler.sigmas.numpy(), expected, atol=1e-6)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    normal = schedule_of(betas, Sampling(3, 5.0, "euler", "normal"), is_flow=False, levels=1000)
    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    levels = ((1 - kept) / kept) ** 0.5
    middle = np.exp((np.log(levels[499]) + np.log(levels[500])) / 2)
    assert normal.sigmas is not None
    assert np.allclose(normal.sigmas, [levels[999], middle, levels[0], 0.0], rtol=1e-3)
    odd = schedule_of(betas, Sampling(3, 5.0, "dpmpp_sde", "beta"), is_flow=False, levels=1000)
    assert (odd.sampler_name, odd.scheduler_name) == ("euler (for dpmpp_sde)", "normal (for beta)")


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.pt"])
def test_files_that_may_be_pickles_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(GenerationError, match="may be a pickle"):
        load_model(tmp_path / name)


def test_a_folder_with_pickled_weights_is_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "sd15"
    for path in tiny_folder("sd15").rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(tiny_folder("sd15"))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(GenerationError, match="diffusers cannot load sd15"):
        load_model(folder, "cpu")


def test_a_pipeline_of_another_kind_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": ["custom_pipeline", "Evil"]}))
    with pytest.raises(GenerationError, match="of a kind that is not supported"):
        load_model(tmp_path, "cpu")


@pytest.mark.parametrize(("kind", "option"), [("sdxl", {"prediction_type": "v_prediction"}), ("sd3", {"shift": 6.0})])
def test_the_same_weights_read_in_another_way_are_another_model(
    kind: str, option: dict[str, object], tiny_folder: Callable[[str], Path]
) -> None:
    model = load_model(tiny_folder(kind), "cpu")
    sampling = Sampling(2, 3.0, "euler", "simple", SIDE, SIDE)
    usual = DiffusersGenerator(model, sampling)
    model.pipe.scheduler.register_to_config(**option)
    other = DiffusersGenerator(model, sampling)
    assert other.settings["model"] != usual.settings["model"]
    assert other.environment.checkpoint == usual.environment.checkpoint
    another_sampler = DiffusersGenerator(model, replace(sampling, sampler_name="dpmpp_2m", steps=3))
    assert another_sampler.settings["model"] == other.settings["model"]


def test_options_of_a_models_repository_change_no_schedule_and_add_no_noise() -> None:
    odd = {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++", "stochastic_sampling": True}
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    for sampler, name, is_flow in (("euler", LEADING, False), ("euler", "simple", False), ("euler", "simple", True)):
        sampling = Sampling(4, 5.0, sampler, name)
        plain, given = (schedule_of(betas | more, sampling, is_flow=is_flow, levels=1000) for more in ({}, odd))
        for schedule in (plain, given):
            schedule.scheduler.set_timesteps(**({"sigmas": schedule.sigmas} if schedule.sigmas else {"num_inference_steps": 4}))
        assert torch.equal(plain.scheduler.sigmas, given.scheduler.sigmas)
        assert not (is_flow and given.scheduler.config.stochastic_sampling)
    solver = schedule_of(betas | odd, Sampling(4, 5.0, "dpmpp_2m", "normal"), is_flow=False, levels=1000)
    assert (solver.scheduler.config.algorithm_type, solver.scheduler.config.use_karras_sigmas) == ("dpmsolver++", False)


def test_a_model_keeps_its_name_when_a_library_gets_an_option_and_not_when_it_computes_otherwise(
    tiny_folder: Callable[[str], Path],
) -> None:
    model = load_model(tiny_folder("sdxl"), "cpu")

    def name() -> str:
        return DiffusersModel(model.pipe, model.family, model.device).fingerprint

    before = name()
    model.pipe.unet.register_to_config(a_new_option=True)
    model.pipe.text_encoder.config.a_new_option = {"rate": 0.5}
    assert name() == before
    model.pipe.text_encoder.config.hidden_act = "gelu"
    encoder = name()
    model.pipe.vae.register_to_config(scaling_factor=0.5)
    assert len({before, encoder, name()}) == 3


def test_the_first_device_of_a_kind_has_one_name(tiny_model: Callable[[str], DiffusersModel]) -> None:
    model = tiny_model("sd3")
    assert DiffusersModel(model.pipe, model.family, torch.device("cpu", 0)).device == torch.device("cpu")


def test_a_model_that_does_not_fit_into_memory_says_so(
    tiny_model: Callable[[str], DiffusersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("sd3")

    def full(*_given: object) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patched:
        patched.setattr(model.denoiser, "to", full)
        with pytest.raises(GenerationError, match="The model does not fit into the memory of cpu"):
            DiffusersModel(model.pipe, model.family, model.device)


def test_a_unet_with_other_layers_has_no_key(tiny_model: Callable[[str], DiffusersModel]) -> None:
    layers = [name.removesuffix(".weight") for name in tiny_model("sd15").denoiser.state_dict() if name.endswith(".weight")]
    assert len(unet_layers(layers)) == len(layers)
    assert unet_layers([*layers, "time_embedding.cond_proj"]) == {}
    assert unet_layers(["prior.proj"]) == {}


def test_models_of_two_owners_never_share_a_folder_of_ones_own(tiny_folder: Callable[[str], Path], home: Path) -> None:
    models = home / "models"
    models.mkdir(parents=True)
    (models / "model").symlink_to(tiny_folder("sd15"))
    (models / "one--model").symlink_to(tiny_folder("sdxl"))
    (models / "stable-diffusion-xl-base-1.0").symlink_to(tiny_folder("sdxl"))
    for name in ("one/model", SDXL_BASE):
        assert type(load_model(name, "cpu").pipe).__name__ == "StableDiffusionXLPipeline"
    assert own_folder("two/model") == models / "two--model"
