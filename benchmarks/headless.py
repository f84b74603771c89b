"""Pictures a second of the generator on diffusers, beside a bare loop over diffusers' own pipeline and ComfyUI's generator.

usage: python -m benchmarks.headless [--cut] [--images 16] [--batches 4 16] [--size 1024] [--comfyui FOLDER]

SDXL's layout at full size with random weights (--cut: a tiny one, to try the script on a CPU): 25 steps, guidance 5.0,
diffusers' default schedule, half precision on a GPU. Each way makes the same number of pictures without and with a LoRA, texts
encoded before, decoding included. Every line is printed as soon as it is known. --comfyui also times ComfyUI's generator, in a
process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from carlos_core.generator import LEADING, Generator, Job, LoraUse, Sampling

ROOT = Path(__file__).resolve().parents[1]
HAS_GPU = torch.cuda.is_available()
_STEPS, _CFG, _RANK = 25, 5.0, 16
_TEXTS = ("a red house on a hill", "a small boat on the sea", "a bowl of fruit on a table", "two children in a park")


def sampling(size: int, steps: int) -> Sampling:
    return Sampling(steps, _CFG, "euler", LEADING, size, size, zero_negative=True)


def jobs_of(images: int, lora: Path | None) -> list[Job]:
    uses = (LoraUse(lora, 1.0),) if lora is not None else ()
    return [Job(f"{_TEXTS[place % len(_TEXTS)]}, {place}", place, uses) for place in range(images)]


def timed(make: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and the peak of the GPU's memory in GiB (0 on the CPU)."""
    if HAS_GPU:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    make()
    if HAS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**30 if HAS_GPU else 0.0


def batches(jobs: list[Job], batch: int) -> Iterator[list[Job]]:
    return (jobs[start : start + batch] for start in range(0, len(jobs), batch))


def say(way: str, batch: int, images: int, seconds: dict[str, float], peak: float) -> float:
    """Print a line of the table; returns pictures a second, both sides together."""
    rate = images * len(seconds) / sum(seconds.values())
    sides = " ".join(f"{name} {images / value:7.3f}" for name, value in seconds.items())
    sys.stdout.write(f"{way:24s} batch {batch:2d}  {sides}  together {rate:7.3f} images/s  peak {peak:6.1f} GiB\n")
    sys.stdout.flush()
    return rate


def time_generator(way: str, generator: Generator, lora: Path, images: int, batch: int) -> float:
    seconds, peak = {}, 0.0
    for name, jobs in (("base", jobs_of(images, None)), ("lora", jobs_of(images, lora))):
        generator.prepare(jobs)
        generator.generate(jobs[:batch])
        seconds[name], taken = timed(lambda jobs=jobs: [generator.generate(part) for part in batches(jobs, batch)])  # type: ignore[misc]
        peak = max(peak, taken)
    return say(way, batch, images, seconds, peak)


def build_sdxl(cut: bool) -> Any:
    """A pipeline of SDXL's layout with random weights, on the GPU if there is one."""
    import diffusers
    import transformers

    device, dtype = ("cuda", torch.float16) if HAS_GPU else ("cpu", torch.float32)

    def made(build: Callable[[], Any]) -> Any:
        with torch.device("meta"):
            module = build()
        module = module.to_empty(device=device).to(dtype)
        random = torch.Generator(device).manual_seed(1)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.ndim > 1:
                    spread = parameter[0].numel() ** -0.5
                    parameter.copy_(torch.randn(parameter.shape, generator=random, device=device) * spread)
                else:
                    parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            for name, buffer in module.named_buffers():
                if name.endswith("position_ids"):
                    buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))
        return module.eval()

    def clip(width: int, layers: int, heads: int, act: str) -> Any:
        return transformers.CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            projection_dim=width,
            hidden_act=act,
        )

    widths = (32, 64) if cut else (320, 640, 1280)
    small, large = (32, 32) if cut else (768, 1280)
    unet = {
        "sample_size": 128,
        "block_out_channels": widths,
        "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * (len(widths) - 1)),
        "up_block_types": (*["CrossAttnUpBlock2D"] * (len(widths) - 1), "UpBlock2D"),
        "transformer_layers_per_block": (1, 2) if cut else (1, 2, 10),
        "attention_head_dim": (2, 4) if cut else (5, 10, 20),
        "norm_num_groups": 16 if cut else 32,
        "cross_attention_dim": small + large,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + large,
    }
    vae = {
        "block_out_channels": (8, 8, 8, 8) if cut else (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": 4 if cut else 32,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    }
    encoders = (clip(small, 2, 2, "quick_gelu"), clip(large, 2, 2, "gelu")) if cut else (
        clip(small, 12, 12, "quick_gelu"), clip(large, 32, 20, "gelu")
    )  # fmt: skip
    tokenizer = _tokenizer()
    return diffusers.StableDiffusionXLPipeline(
        vae=made(lambda: diffusers.AutoencoderKL(**vae)),
        text_encoder=made(lambda: transformers.CLIPTextModel(encoders[0])),
        text_encoder_2=made(lambda: transformers.CLIPTextModelWithProjection(encoders[1])),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=made(lambda: diffusers.UNet2DConditionModel(**unet)),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
        ),
    )


def _tokenizer() -> Any:
    """CLIP's numbers of tokens, letter by letter: what the words are does not matter to random weights."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {chr(code): code for code in range(32, 127)} | {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 49406), ("<|endoftext|>", 49407)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|endoftext|>", model_max_length=77
    )


def write_lora(unet: Any, path: Path) -> Path:
    """A random LoRA on all layers of attention, in diffusers' names."""
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(2)
    tensors = {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in ("to_q", "to_k", "to_v", "0") and ".attn" in name:
            rows, columns = module.weight.shape
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(_RANK, columns, generator=random) * columns**-0.5
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(rows, _RANK, generator=random) * 0.1
    save_file(tensors, path)
    return path


@torch.inference_mode()
def time_bare(pipe: Any, lora: Path, images: int, batch: int, size: int, steps: int) -> float:
    """diffusers' own pipeline in a loop, the LoRA fused into the weights as its documentation says."""
    seconds, peak = {}, 0.0
    pipe.set_progress_bar_config(disable=True)
    # All at once, the pictures of a large batch take more memory decoded than denoised.
    pipe.vae.enable_slicing()

    def embedded(jobs: list[Job]) -> tuple[Any, Any]:
        embeds, _, pooled, _ = pipe.encode_prompt(
            [job.prompt for job in jobs], device=pipe.device, do_classifier_free_guidance=False
        )
        return embeds, pooled

    def make(jobs: list[Job], embeds: Any, pooled: Any) -> None:
        shape = (1, 4, size // pipe.vae_scale_factor, size // pipe.vae_scale_factor)
        noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(job.seed)) for job in jobs])
        pipe(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            negative_prompt_embeds=torch.zeros_like(embeds),
            negative_pooled_prompt_embeds=torch.zeros_like(pooled),
            latents=noise.to(pipe.device, embeds.dtype),
            num_inference_steps=steps,
            guidance_scale=_CFG,
            height=size,
            width=size,
            output_type="pt",
        ).images.cpu()

    for name in ("base", "lora"):
        if name == "lora":
            pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
            pipe.fuse_lora()
            pipe.unload_lora_weights()
        jobs = jobs_of(images, None)
        parts = [(part, *embedded(part)) for part in batches(jobs, batch)]
        make(*parts[0])
        seconds[name], taken = timed(lambda parts=parts: [make(*part) for part in parts])  # type: ignore[misc, func-returns-value]
        peak = max(peak, taken)
    return say("bare diffusers", batch, images, seconds, peak)


def time_comfyui(options: argparse.Namespace) -> None:
    """ComfyUI's generator on the same layout; its code and its Python are on the path."""
    sys.path.insert(0, str(ROOT / "tests" / "gpu"))
    sys.argv = [sys.argv[0], *([] if HAS_GPU else ["--cpu"])]
    import comfyui_memory

    comfyui_memory.prepare(is_dynamic=False)
    import comfy.model_management

    from benchmarks import model_families
    from carlos_core.comfy.generator import ComfyGenerator

    with torch.inference_mode():
        model, clip, vae = model_families.build("sdxl", options.cut, comfy.model_management.get_torch_device())
        torch.manual_seed(2)
        lora = model_families.write_lora(model, Path(tempfile.mkdtemp()) / "lora.safetensors")
        generator = ComfyGenerator(model, clip, vae, sampling(options.size, options.steps))
        for batch in options.batches:
            time_generator("CARLoS on ComfyUI", generator, lora, options.images, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--python", default=sys.executable, help="ComfyUI's")
    parser.add_argument("--inside-comfyui", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside_comfyui:
        time_comfyui(options)
        return
    import diffusers

    from carlos_core.diffusers.families import FAMILIES
    from carlos_core.diffusers.generator import DiffusersGenerator
    from carlos_core.diffusers.model import DiffusersModel

    device = torch.cuda.get_device_name() if HAS_GPU else "CPU"
    sys.stdout.write(f"{device}, torch {torch.__version__}, diffusers {diffusers.__version__}, {options.size} px\n")
    lora = Path(tempfile.mkdtemp()) / "lora.safetensors"
    start = time.perf_counter()
    pipe = build_sdxl(options.cut)
    write_lora(pipe.unet, lora)
    model = DiffusersModel(pipe, FAMILIES["StableDiffusionXLPipeline"], torch.device("cuda" if HAS_GPU else "cpu"))
    generator = DiffusersGenerator(model, sampling(options.size, options.steps))
    sys.stdout.write(f"built in {time.perf_counter() - start:.0f} s, fingerprint {model.fingerprint}, {model.model_key}\n")
    start = time.perf_counter()
    fit = generator.check_lora(LoraUse(lora, 1.0))
    sys.stdout.write(f"LoRA: {fit.matched} of {fit.total} tensors, loaded in {time.perf_counter() - start:.1f} s\n")
    sys.stdout.write(f"suggested batch: {generator.suggest_batch_size()}\n")
    ours = {batch: time_generator("CARLoS on diffusers", generator, lora, options.images, batch) for batch in options.batches}
    before = generator.generate(jobs_of(1, None)).images
    seconds, _ = timed(lambda: generator.generate(jobs_of(1, lora)))
    again = generator.generate(jobs_of(1, None)).images
    sys.stdout.write(f"one picture with the LoRA put in: {seconds:.2f} s; base picture afterwards the same bit for bit: ")
    sys.stdout.write(f"{torch.equal(before, again)}\n")
    # A new one each time: the LoRA stays in its weights, and ours is left with the autoencoder in the type that it decodes in.
    for batch in options.batches:
        pipe = build_sdxl(options.cut)
        bare = time_bare(pipe, lora, options.images, batch, options.size, options.steps)
        sys.stdout.write(f"{'':24s} batch {batch:2d}  CARLoS / bare: {ours[batch] / bare:.3f}\n")
    sys.stdout.flush()
    if options.comfyui is not None:
        del pipe, model, generator
        if HAS_GPU:
            torch.cuda.empty_cache()
        paths = os.pathsep.join([str(options.comfyui), str(ROOT), os.environ.get("PYTHONPATH", "")])
        values = ["--images", options.images, "--size", options.size, "--steps", options.steps, "--batches", *options.batches]
        command = [options.python, "-m", "benchmarks.headless", "--inside-comfyui", *map(str, values)]
        subprocess.run([*command, *(["--cut"] if options.cut else [])], check=True, env={**os.environ, "PYTHONPATH": paths})


if __name__ == "__main__":
    main()
