"""LoRAs through diffusers' loader and peft: what a file adds to which weights, what fits, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from carlos_core.diffusers.generator import DiffusersGenerator
from carlos_core.diffusers.loading import load_model
from carlos_core.diffusers.lora_files import LoraTensors
from carlos_core.diffusers.merging import LoadedLora
from carlos_core.diffusers.model import DiffusersModel
from carlos_core.errors import LoraError
from carlos_core.generator import Job, LoraUse, Sampling
from tests.support.kohya_loras import Layer, add, write_lora
from tests.support.tiny_diffusers import SIDE

_KOHYA = ("lora_down.weight", "lora_up.weight")
_PEFT = ("lora_A.weight", "lora_B.weight")
_TE, _TE_1 = "lora_te1_text_model_encoder_layers_0", "text_model.encoder.layers.0"
_MID = "mid_block.attentions.0.transformer_blocks.0"
_SDXL_KOHYA: Sequence[Layer] = (
    ("lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q", "unet", [f"{_MID}.attn1.to_q"]),
    ("lora_unet_middle_block_1_transformer_blocks_0_ff_net_0_proj", "unet", [f"{_MID}.ff.net.0.proj"]),
    ("lora_unet_middle_block_1_proj_in", "unet", ["mid_block.attentions.0.proj_in"]),
    ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", "text_encoder", ["encoder.layers.0.self_attn.q_proj"]),
    ("lora_te1_text_model_encoder_layers_0_self_attn_out_proj", "text_encoder", ["encoder.layers.0.self_attn.out_proj"]),
    ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "text_encoder", ["encoder.layers.0.mlp.fc1"]),
    (
        "lora_te2_text_model_encoder_layers_0_self_attn_out_proj",
        "text_encoder_2",
        ["text_model.encoder.layers.0.self_attn.out_proj"],
    ),
    ("lora_te2_text_model_encoder_layers_1_mlp_fc2", "text_encoder_2", ["text_model.encoder.layers.1.mlp.fc2"]),
)
_SDXL_DIFFUSERS: Sequence[Layer] = (
    (f"unet.{_MID}.attn2.to_v", "unet", [f"{_MID}.attn2.to_v"]),
    ("unet.down_blocks.1.attentions.0.proj_out", "unet", ["down_blocks.1.attentions.0.proj_out"]),
)
_SD15_KOHYA: Sequence[Layer] = (
    ("lora_unet_down_blocks_1_attentions_0_proj_in", "unet", ["down_blocks.1.attentions.0.proj_in"]),
    ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", "unet", [f"{_MID}.attn2.to_k"]),
    ("lora_te_text_model_encoder_layers_0_self_attn_v_proj", "text_encoder", ["encoder.layers.0.self_attn.v_proj"]),
    ("lora_te_text_model_encoder_layers_0_self_attn_out_proj", "text_encoder", ["encoder.layers.0.self_attn.out_proj"]),
)
_ATTENTION = "transformer_blocks.0.attn"
_SD3_KOHYA: Sequence[Layer] = (
    (
        "lora_unet_joint_blocks_0_x_block_attn_qkv",
        "transformer",
        [f"{_ATTENTION}.to_q", f"{_ATTENTION}.to_k", f"{_ATTENTION}.to_v"],
    ),
    ("lora_unet_joint_blocks_1_x_block_mlp_fc1", "transformer", ["transformer_blocks.1.ff.net.0.proj"]),
    ("lora_unet_final_layer_linear", "transformer", ["proj_out"]),
    (f"{_TE}_mlp_fc1", "text_encoder", [f"{_TE_1}.mlp.fc1"]),
    (
        "lora_te1_text_model_encoder_layers_0_self_attn_out_proj",
        "text_encoder",
        ["text_model.encoder.layers.0.self_attn.out_proj"],
    ),
)
_FLUX: Sequence[Layer] = (
    (f"transformer.{_ATTENTION}.to_q", "transformer", [f"{_ATTENTION}.to_q"]),
    ("transformer.single_transformer_blocks.0.proj_mlp", "transformer", ["single_transformer_blocks.0.proj_mlp"]),
)
_QWEN: Sequence[Layer] = ((f"transformer.{_ATTENTION}.to_q", "transformer", [f"{_ATTENTION}.to_q"]),)
_Z_IMAGE: Sequence[Layer] = (
    ("transformer.layers.0.attention.to_q", "transformer", ["layers.0.attention.to_q"]),
    ("transformer.layers.0.feed_forward.w1", "transformer", ["layers.0.feed_forward.w1"]),
)
JOBS = (Job("a red house", 1), Job("a boat", 2))


def generator_of(model: DiffusersModel) -> DiffusersGenerator:
    cfg = 1.0 if model.family.has_embedded_guidance(model.pipe) else 3.0
    return DiffusersGenerator(model, Sampling(2, cfg, "euler", "simple", SIDE, SIDE))


def with_lora(path: Path, weight: float = 1.0) -> list[Job]:
    return [Job(job.prompt, job.seed, (LoraUse(path, weight),)) for job in JOBS]


@pytest.mark.parametrize(
    ("kind", "layers", "halves", "alpha", "ranks"),
    [
        pytest.param("sdxl", _SDXL_KOHYA, _KOHYA, 1.0, (2,), id="SDXL, kohya"),
        pytest.param("sdxl", _SDXL_DIFFUSERS, ("lora.down.weight", "lora.up.weight"), None, (2,), id="SDXL, older diffusers"),
        pytest.param("sdxl", _SDXL_DIFFUSERS, _PEFT, None, (2,), id="SDXL, peft"),
        pytest.param("sdxl", _SDXL_KOHYA, _KOHYA, 1.0, (4, 4, 4, 2, 2, 3, 4, 2), id="SDXL, kohya, several ranks"),
        pytest.param("sd15", _SD15_KOHYA, _KOHYA, 4.0, (2,), id="SD 1.5, kohya"),
        pytest.param("sd3", _SD3_KOHYA, _KOHYA, 1.0, (2,), id="SD 3, kohya"),
        pytest.param("flux", _FLUX, _PEFT, None, (2,), id="Flux"),
        pytest.param("qwen_image", _QWEN, _PEFT, None, (2,), id="Qwen-Image"),
        pytest.param("z_image", _Z_IMAGE, _PEFT, None, (2,), id="Z-Image"),
    ],
)
def test_a_lora_adds_its_product_to_each_of_its_layers_and_leaves_no_trace(
    kind: str,
    layers: Sequence[Layer],
    halves: tuple[str, str],
    alpha: float | None,
    ranks: Sequence[int],
    tmp_path: Path,
    tiny_folder: Callable[[str], Path],
    tiny_model: Callable[[str], DiffusersModel],
) -> None:
    model, path = tiny_model(kind), tmp_path / "lora.safetensors"
    changed = load_model(tiny_folder(kind), "cpu")
    added = write_lora(path, changed.pipe, layers, halves=halves, alpha=alpha, ranks=ranks)
    add(changed.pipe, added, 0.7)
    generator = generator_of(model)
    before = generator.generate(JOBS).images
    made = generator.generate(with_lora(path, 0.7)).images
    expected = generator_of(changed).generate(JOBS).images
    assert (made - expected).abs().max() < 2e-4
    assert (made - before).abs().mean() > 2e-5
    fit = generator.check_lora(LoraUse(path, 0.7))
    assert (fit.matched, fit.total, fit.of_other_shape, fit.warning) == (len(load_file(path)), len(load_file(path)), 0, "")
    assert torch.equal(generator.generate(JOBS).images, before)


def test_a_lora_that_was_half_added_is_taken_out_again(
    tmp_path: Path, tiny_model: Callable[[str], DiffusersModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = tiny_model("sdxl"), tmp_path / "lora.safetensors"
    write_lora(path, model.pipe, _SDXL_DIFFUSERS, halves=_PEFT)
    generator = generator_of(model)
    before = generator.generate(JOBS).images
    whole = LoadedLora.add

    def interrupted(lora: LoadedLora) -> None:
        whole(lora)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LoadedLora, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generator.generate(with_lora(path))
    assert torch.equal(generator.generate(JOBS).images, before)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"lora_down.weight": torch.zeros(0, 64), "lora_up.weight": torch.zeros(64, 0)}, "a rank of 0"),
        ({"alpha": torch.ones(2)}, "2 values of alpha"),
        ({"alpha": torch.ones(0)}, "0 values of alpha"),
    ],
)
def test_a_lora_of_no_rank_or_with_an_odd_alpha_is_refused_in_a_sentence(
    odd: dict[str, Tensor], words: str, tmp_path: Path, tiny_model: Callable[[str], DiffusersModel]
) -> None:
    model, path = tiny_model("sdxl"), tmp_path / "odd.safetensors"
    write_lora(path, model.pipe, _SDXL_KOHYA[:1], halves=_KOHYA, alpha=1.0)
    save_file(load_file(path) | {f"{_SDXL_KOHYA[0][0]}.{end}": tensor for end, tensor in odd.items()}, path)
    with pytest.raises(LoraError, match=rf"The tensors of odd.safetensors make no sense \(.*{words}"):
        generator_of(model).check_lora(LoraUse(path, 1.0))


def test_a_small_alpha_is_not_lost_in_half_precision(tmp_path: Path, tiny_model: Callable[[str], DiffusersModel]) -> None:
    model, path = tiny_model("sdxl"), tmp_path / "half.safetensors"
    write_lora(path, model.pipe, _SDXL_KOHYA, halves=_KOHYA, alpha=2.0**-14)
    file = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(file, path)
    lora = LoadedLora(LoraTensors(path, model.pipe, model.family), model.pipe, model.family, 1.0)
    for name, component, (place,) in (_SDXL_KOHYA[0], _SDXL_KOHYA[3]):
        layer = next(layer for key, layer in lora.layers[component].items() if key.endswith(place))
        scaled = file[f"{name}.lora_up.weight"].float() * 2.0**-15
        assert torch.equal(layer.lora_B["carlos"].weight, scaled)


def test_a_dora_scales_its_layer_and_leaves_no_trace_for_the_next_lora(
    tmp_path: Path, tiny_model: Callable[[str], DiffusersModel]
) -> None:
    model, path, other = tiny_model("sdxl"), tmp_path / "dora.safetensors", tmp_path / "lora.safetensors"
    name, component, (place,) = _SDXL_DIFFUSERS[0]
    added = write_lora(path, model.pipe, _SDXL_DIFFUSERS[:1], halves=_PEFT)
    weight = getattr(model.pipe, component).get_submodule(place).weight.clone()
    whole = weight + added[component, place]
    save_file(load_file(path) | {f"{name}.lora_magnitude_vector": 2 * whole.norm(dim=1)}, path)
    write_lora(other, model.pipe, _SDXL_DIFFUSERS, halves=_PEFT)
    generator = generator_of(model)
    before = generator.generate(JOBS).images
    assert generator.check_lora(LoraUse(path, 1.0)).matched == 3
    generator.generate(with_lora(path))
    now = getattr(model.pipe, component).get_submodule(place).weight
    assert torch.allclose(now, 2 * whole, atol=1e-5)
    generator.check_lora(LoraUse(other, 1.0))
    generator.generate(with_lora(other))
    assert torch.equal(generator.generate(JOBS).images, before)
    assert torch.equal(now, weight)


def test_a_kohya_dora_says_that_its_scales_are_left_out(tmp_path: Path, tiny_model: Callable[[str], DiffusersModel]) -> None:
    model, path = tiny_model("sdxl"), tmp_path / "dora.safetensors"
    write_lora(path, model.pipe, _SDXL_KOHYA[:1], halves=_KOHYA, alpha=1.0)
    save_file(load_file(path) | {f"{_SDXL_KOHYA[0][0]}.dora_scale": torch.ones(64, 1)}, path)
    fit = generator_of(model).check_lora(LoraUse(path, 1.0))
    assert (fit.matched, fit.total) == (3, 4)
    assert "1 of 4 keys" in fit.warning
