"""Indexes a LoRA on random-weight models in the shapes of SD 1.5, SDXL, SD 3, Flux and Z-Image, and times the SDXL one.

usage: python -m benchmarks.model_families COMFYUI_FOLDER MINIWORLD [--cut] [--families sd15 sdxl sd3 flux zimage] [--images 32]

Speed does not depend on the weights. --cut makes tiny models of the same layout, for a look on a CPU. For SDXL the wall time of
indexing is set against a bare loop of ComfyUI's sampler and VAE over the same latents, and images a second against batch size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "in_channels": 4,
    "model_channels": 320,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": UNET
    | {
        "adm_in_channels": None,
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "context_dim": 768,
        "num_heads": 8,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "sdxl": UNET
    | {
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "channel_mult": [1, 2, 4],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
        "context_dim": 2048,
        "num_head_channels": 64,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    },
    "sd3": {
        "in_channels": 16,
        "patch_size": 2,
        "depth": 24,
        "input_size": None,
        "num_patches": 36864,
        "pos_embed_max_size": 192,
        "pos_embed_scaling_factor": None,
        "adm_in_channels": 2048,
        "qkv_bias": True,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
    },
    "flux": {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": 768,
        "context_in_dim": 4096,
        "hidden_size": 3072,
        "mlp_ratio": 4.0,
        "num_heads": 24,
        "depth": 19,
        "depth_single_blocks": 38,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
    },
    # Of its 30 layers 8: as wide as the real one, and a few GB.
    "zimage": {
        "image_model": "lumina2",
        "patch_size": 2,
        "in_channels": 16,
        "dim": 3840,
        "cap_feat_dim": 2560,
        "n_layers": 8,
        "qk_norm": True,
        "n_heads": 30,
        "n_kv_heads": 30,
        "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
        "rope_theta": 256.0,
        "ffn_dim_multiplier": 8 / 3,
        "z_image_modulation": True,
        "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    },
}
CUT: dict[str, dict[str, Any]] = {
    "sd15": {"model_channels": 32, "num_heads": 4},
    "sdxl": {
        "model_channels": 64,
        "transformer_depth": [0, 0, 1, 1, 1, 1],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    },
    "sd3": {
        "depth": 2,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
    },
    "flux": {"depth": 1, "depth_single_blocks": 1, "hidden_size": 256, "num_heads": 2},
    # No narrower: ComfyUI knows it by its width.
    "zimage": {"n_layers": 1},
}
CLASSES = {"sd15": "SD15", "sdxl": "SDXL", "sd3": "SD3", "flux": "Flux", "zimage": "ZImage"}
TEXT_ENCODER_OPTIONS = {"qwen3_4b_model_config": {"num_hidden_layers": 3}}
"""For whoever loads such a checkpoint: Z-Image's text encoder has 3 of its 36 layers. Texts of it have any number of tokens."""


def randomised(module: Any, seed: int) -> Any:
    """Small random weights everywhere, norms at one, so that activations stay finite."""
    generator = torch.Generator(next(module.parameters()).device).manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel()
            parameter.data.normal_(0, fan**-0.5, generator=generator)
        else:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
    return module


def build(family: str, cut: bool, device: torch.device) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a family, random."""
    import comfy.latent_formats
    import comfy.ldm.flux.model
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    import comfy.text_encoders.flux
    import comfy.text_encoders.sd3_clip
    from comfy.ldm.models.autoencoder import AutoencoderKL

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    settings = CONFIGS[family] | (CUT[family] if cut else {})
    if "txt_ids_dims" not in comfy.ldm.flux.model.FluxParams.__dataclass_fields__:
        # ComfyUI before Flux.2.
        settings.pop("txt_ids_dims", None)
    config = getattr(comfy.supported_models, CLASSES[family])(settings)
    config.set_inference_dtype(dtype, None)
    model = randomised(config.get_model({}, "", device=device), 1)
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )
    if family == "sd3":
        target = comfy.supported_models_base.ClipTarget(
            comfy.text_encoders.sd3_clip.SD3Tokenizer, comfy.text_encoders.sd3_clip.sd3_clip(clip_l=True, clip_g=False, t5=False)
        )
    elif family == "flux" and cut:
        # T5-XXL does not fit a small machine; the CLIP half gives the pooled vector, and its tokens stand in for T5's.
        target = comfy.supported_models_base.ClipTarget(
            comfy.text_encoders.sd3_clip.SD3Tokenizer, comfy.text_encoders.sd3_clip.sd3_clip(clip_l=True, clip_g=False, t5=False)
        )
    elif family == "flux":
        target = comfy.supported_models_base.ClipTarget(
            comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.flux_clip(dtype_t5=dtype)
        )
    else:
        target = config.clip_target()
    clip = comfy.sd.CLIP(
        target, embedding_directory=None, tokenizer_data={}, parameters=0, model_options=dict(TEXT_ENCODER_OPTIONS)
    )
    randomised(clip.cond_stage_model, 2)
    channels = 4 if family in ("sd15", "sdxl") else 16
    # Z-Image's cut checkpoint can be loaded, where ComfyUI expects a VAE of this width.
    width = 32 if cut and family != "zimage" else 128
    shape: dict[str, Any] = {
        "double_z": True,
        "z_channels": channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
    }
    shape |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    state = randomised(AutoencoderKL(ddconfig=shape, embed_dim=channels), 3).state_dict()
    return patcher, clip, comfy.sd.VAE(sd=state, config={"params": {"ddconfig": shape, "embed_dim": channels}})


def write_lora(model: Any, path: Path) -> Path:
    """A random LoRA of rank 4 on some of a model's linear layers, in kohya's names."""
    import comfy.lora
    from safetensors.torch import save_file

    weights = model.model.state_dict()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    tensors = {}
    for name, target in keys.items():
        weight = weights.get(target) if isinstance(target, str) else None
        if name.startswith("lora_unet_") and weight is not None and weight.ndim == 2:
            tensors[f"{name}.lora_down.weight"] = torch.randn(4, weight.shape[1]) * weight.shape[1] ** -0.5
            tensors[f"{name}.lora_up.weight"] = torch.randn(weight.shape[0], 4) * 0.3
    save_file(tensors, path)
    return path


def index(generator: Any, lora: Any, encoder: Any, images: int, folder: Path, batch: int = 0) -> tuple[Any, float]:
    """Measure a LoRA; returns the measurement and the seconds it took."""
    from carlos_core.measuring.measure import measure
    from carlos_core.measuring.plan import Plan
    from carlos_core.measuring.presets import TRIGGERS_ON_LORA_SIDE
    from carlos_core.measuring.protocol import Protocol
    from carlos_core.measuring.studio import Studio
    from carlos_core.prompts.prompt_set import default_index_prompts

    prompts = default_index_prompts()
    plan = Plan.all(prompts, max_prompts=images)
    protocol = Protocol("custom", prompts.content_hash, plan.seed_rule, 1.0, TRIGGERS_ON_LORA_SIDE, generator.settings)
    start = time.perf_counter()
    measured = measure(Studio(generator, encoder, folder, batch), lora, protocol, plan)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return measured, time.perf_counter() - start


def bare_loop(model: Any, clip: Any, vae: Any, lora: Path, images: int, batch: int, steps: int, size: int) -> float:
    """Seconds of ComfyUI's own sampler and VAE over as many pictures, without and with the LoRA; text encoded before."""
    import comfy.sample
    import comfy.sd
    import comfy.utils

    loaded = comfy.sd.load_lora_for_models(model, clip, comfy.utils.load_torch_file(str(lora)), 1.0, 1.0)
    text = clip.encode_from_tokens_scheduled(clip.tokenize("a house by a lake"))
    start = time.perf_counter()
    for side, _ in ((model, clip), loaded):
        for place in range(0, images, batch):
            n = min(batch, images - place)
            latent = torch.zeros(n, 4, size // 8, size // 8)
            noise = torch.cat([comfy.sample.prepare_noise(latent[:1], seed) for seed in range(n)])
            sampled = comfy.sample.sample(
                side, noise, steps, 5.0, "euler", "normal", text, text, latent, disable_pbar=True, seed=0
            )
            vae.decode(sampled)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("--families", nargs="*", default=list(CONFIGS))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", type=int, default=1024)
    options = parser.parse_args()
    sys.argv = [sys.argv[0], *([] if torch.cuda.is_available() else ["--cpu"])]
    sys.path.insert(0, str(options.comfyui))
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.model_management

    from carlos_core.clip.weights import local_encoders
    from carlos_core.comfy.encoder import load_comfy_encoder
    from carlos_core.comfy.families import is_guidance_distilled
    from carlos_core.comfy.generator import ComfyGenerator
    from carlos_core.generator import Sampling
    from carlos_core.loras.lora_file import read_lora_file

    device = comfy.model_management.get_torch_device()
    encoder = load_comfy_encoder(local_encoders([options.miniworld])["mini_clip"].encoder_id, [options.miniworld])
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}\n")
    print("| family | parameters | LoRA keys | native size | evaluations | strength | seconds |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for family in options.families:
            model, clip, vae = build(family, options.cut, device)
            lora = read_lora_file(write_lora(model, folder / f"{family}.safetensors"))
            size = 64 if options.cut else 0
            cfg = 1.0 if is_guidance_distilled(model) else 5.0
            generator = ComfyGenerator(model, clip, vae, Sampling(3, cfg, "euler", "normal", size, size))
            measured, seconds = index(generator, lora, encoder, 2, folder / family)
            parameters = sum(parameter.numel() for parameter in model.model.parameters()) / 1e6
            print(
                f"| {family} | {parameters:,.0f} M | {measured.fit.matched}/{measured.fit.total} | {generator.width} | "
                f"{measured.model_evaluations} | {measured.record.strength:.3f} | {seconds:.1f} |",
                flush=True,
            )
            if family == "sdxl":
                time_sdxl(model, clip, vae, lora, encoder, folder, options)
            del model, clip, vae, generator
            comfy.model_management.unload_all_models()
            comfy.model_management.soft_empty_cache()


def time_sdxl(model: Any, clip: Any, vae: Any, lora: Any, encoder: Any, folder: Path, options: argparse.Namespace) -> None:
    """Overhead against the bare loop at one batch size, and images a second at several."""
    from carlos_core.comfy.generator import ComfyGenerator
    from carlos_core.generator import Sampling

    size = 64 if options.cut else options.size

    def generator() -> Any:
        return ComfyGenerator(model, clip, vae, Sampling(options.steps, 5.0, "euler", "normal", size, size))

    auto = generator().suggest_batch_size()
    bare_loop(model, clip, vae, lora.path, auto, auto, 2, size)
    lines = []
    for batch in dict.fromkeys((1, 4, 16, auto)):
        images = min(options.images, max(4, 2 * batch))
        _, ours = index(generator(), lora, encoder, images, folder / f"batch{batch}", batch)
        bare = bare_loop(model, clip, vae, lora.path, images, batch, options.steps, size)
        label = f"{batch} (auto)" if batch == auto else str(batch)
        lines.append(f"| {label} | {2 * images / ours:.2f} | {2 * images / bare:.2f} | {ours / bare:.3f} |")
    print(f"\nSDXL shape, {size} px, {options.steps} steps:\n")
    print("| batch | indexing, images/s | bare loop, images/s | wall, ours / bare |")
    print("|---|---|---|---|\n" + "\n".join(lines) + "\n", flush=True)


if __name__ == "__main__":
    main()
