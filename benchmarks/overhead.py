"""Wall time of indexing against a bare loop of ComfyUI's own parts over the same latents, at several batch sizes.

usage: python -m benchmarks.overhead COMFYUI_FOLDER MINIWORLD [--sdxl] [--cut] [--batches 1 4 16 0] [--images 64] [--steps 12]
       python -m benchmarks.overhead COMFYUI_FOLDER MINIWORLD --checkpoint FILE LORA [--static] [--size 1024] [--cfg 5] [...]

Without --sdxl and --checkpoint: the mini-world. The bare loop is text encoding, sampler, VAE decode and one CLIP pass over
the same pictures. With --sdxl: a full-size SDXL-shaped model with random weights at 1024 px (speed does not depend on them;
--cut makes it tiny, to try the script); the bare loop is sampler and VAE alone. So it is with --checkpoint: a file, loaded as
ComfyUI's node does (`tests/gpu/random_checkpoint.py` writes one), with dynamic VRAM where ComfyUI has it, unless --static.
Batch 0 is the automatic choice. Both sides of a LoRA are made in each, `images` pictures a side, one LoRA loaded once. The
bare loop is timed before and after indexing, and the two averaged (--once: before). What is found out once a model, the noise
floor, is timed by itself. How often and how long ComfyUI loads models (those that are loaded already, too) is told of each.
--free: all but so many GiB of the GPU are held by a block of ours, as another program would.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch


@dataclass
class Loads:
    """What ComfyUI's loading of models took."""

    times: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.times} in {self.seconds:.2f} s"


@contextlib.contextmanager
def loads_counted() -> Iterator[Loads]:
    """Count ComfyUI's loading of models. The GPU is not waited for."""
    import comfy.model_management

    loads, load = Loads(), comfy.model_management.load_models_gpu

    def counted(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return load(*args, **kwargs)
        finally:
            loads.times += 1
            loads.seconds += time.perf_counter() - begin

    comfy.model_management.load_models_gpu = counted
    try:
        yield loads
    finally:
        comfy.model_management.load_models_gpu = load


class Models:
    """What is measured: MODEL, CLIP, VAE, a LoRA and the CLIP that looks at the pictures."""

    def __init__(self, model: Any, clip: Any, vae: Any, lora: Any, encoder: Any, size: int, scheduler: str, cfg: float) -> None:
        self.model, self.clip, self.vae, self.lora, self.encoder = model, clip, vae, lora, encoder
        self.size, self.scheduler, self.cfg = size, scheduler, cfg

    def generator(self, steps: int) -> Any:
        from carlos_core.comfy.generator import ComfyGenerator
        from carlos_core.generator import Sampling

        sampling = Sampling(steps, self.cfg, "euler", self.scheduler, self.size, self.size)
        return ComfyGenerator(self.model, self.clip, self.vae, sampling)


def miniworld(folder: Path, work: Path) -> Models:
    import subprocess

    import comfy.sd

    from carlos_core.clip.weights import local_encoders
    from carlos_core.comfy.encoder import load_comfy_encoder
    from carlos_core.loras.lora_file import read_lora_file

    checkpoint = work / "miniworld.safetensors"
    subprocess.run([sys.executable, folder / "build_checkpoint.py", checkpoint], check=True, stdout=subprocess.DEVNULL)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint), output_vae=True, output_clip=True)
    encoder = load_comfy_encoder(local_encoders([folder])["mini_clip"].encoder_id, [folder])
    return Models(model, clip, vae, read_lora_file(folder / "loras" / "sepia_toned.safetensors"), encoder, 128, "simple", 3.0)


def sdxl(folder: Path, work: Path, cut: bool) -> Models:
    import comfy.model_management

    from benchmarks.model_families import build, write_lora
    from carlos_core.clip.weights import local_encoders
    from carlos_core.comfy.encoder import load_comfy_encoder
    from carlos_core.loras.lora_file import read_lora_file

    model, clip, vae = build("sdxl", cut, comfy.model_management.get_torch_device())
    encoder = load_comfy_encoder(local_encoders([folder])["mini_clip"].encoder_id, [folder])
    lora = read_lora_file(write_lora(model, work / "sdxl.safetensors"))
    return Models(model, clip, vae, lora, encoder, 64 if cut else 1024, "normal", 5.0)


def of_file(folder: Path, checkpoint: str, lora: str, size: int, scheduler: str, cfg: float) -> Models:
    import comfy.sd

    from benchmarks.model_families import TEXT_ENCODER_OPTIONS
    from carlos_core.clip.weights import local_encoders
    from carlos_core.comfy.encoder import load_comfy_encoder
    from carlos_core.loras.lora_file import read_lora_file

    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(checkpoint, te_model_options=dict(TEXT_ENCODER_OPTIONS))
    encoder = load_comfy_encoder(local_encoders([folder])["mini_clip"].encoder_id, [folder])
    return Models(model, clip, vae, read_lora_file(Path(lora)), encoder, size, scheduler, cfg)


def plan_of(images: int) -> Any:
    from carlos_core.measuring.plan import Plan
    from carlos_core.prompts.prompt_set import default_index_prompts

    prompts = default_index_prompts()
    n_prompts = min(images, len(prompts.prompts))
    plan = Plan.all(prompts, seeds=-(-images // n_prompts), max_prompts=n_prompts)
    return replace(plan, shots=plan.shots[:images])


def hold_all_but(gib: float) -> torch.Tensor:
    """A block of the GPU's memory, as long as the caller keeps it, that leaves so many GiB free."""
    free, _ = torch.cuda.mem_get_info()
    return torch.empty(max(0, free - int(gib * 2**30)), dtype=torch.uint8, device="cuda")


def finished() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def bare(models: Models, images: int, batch: int, steps: int, whole: bool) -> float:
    """Seconds of ComfyUI's own functions. whole: with text encoding and CLIP, else one conditioning for all, made before."""
    import comfy.sample
    import comfy.sd
    import comfy.utils

    def encode(clip: Any, text: str) -> Any:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    empty = torch.zeros(1, 4, models.size // 8, models.size // 8)
    empty = comfy.sample.fix_empty_latent_channels(models.model, empty)
    shots = plan_of(images).shots
    ready = None if whole else encode(models.clip, "a house by a lake")
    start = finished()
    with_lora = comfy.sd.load_lora_for_models(
        models.model, models.clip, comfy.utils.load_torch_file(str(models.lora.path)), 1.0, 1.0
    )
    for model, clip in ((models.model, models.clip), with_lora):
        negative = ready or encode(clip, "")
        for place in range(0, images, batch):
            part = shots[place : place + batch]
            if ready is None:
                texts = [encode(clip, shot.prompt.text)[0] for shot in part]
                pooled = torch.cat([extras["pooled_output"] for _, extras in texts])
                positive = [[torch.cat([tensor for tensor, _ in texts]), {**texts[0][1], "pooled_output": pooled}]]
            else:
                positive = ready
            noise = torch.cat([comfy.sample.prepare_noise(empty, shot.seed) for shot in part])
            latents = comfy.sample.sample(
                model,
                noise,
                steps,
                models.cfg,
                "euler",
                models.scheduler,
                positive,
                negative,
                torch.zeros_like(noise),
                disable_pbar=True,
                seed=0,
            )
            pictures = models.vae.decode(latents)
            if whole:
                models.encoder.encode_images(pictures)
    return finished() - start


def indexing(models: Models, images: int, batch: int, steps: int, work: Path) -> tuple[float, float]:
    """Seconds of measuring the LoRA from nothing, to the finished row, and those of encoding texts among them.

    The noise floor in `work`, if there is one, is not measured again.
    """
    from carlos_core.measuring.measure import measure
    from carlos_core.measuring.presets import TRIGGERS_ON_LORA_SIDE
    from carlos_core.measuring.protocol import Protocol
    from carlos_core.measuring.studio import Studio
    from carlos_core.prompts.prompt_set import default_index_prompts

    texts = 0.0
    start = finished()
    generator = models.generator(steps)
    prepare = generator.prepare

    def timed(jobs: Any) -> None:
        nonlocal texts
        begin = finished()
        prepare(jobs)
        texts += finished() - begin

    generator.prepare = timed
    hashed = default_index_prompts().content_hash
    plan = plan_of(images)
    protocol = Protocol("custom", hashed, plan.seed_rule, 1.0, TRIGGERS_ON_LORA_SIDE, generator.settings)
    measure(Studio(generator, models.encoder, work, batch), models.lora, protocol, plan)
    return finished() - start, texts


def noise_seconds(models: Models, steps: int, work: Path) -> float:
    """Seconds of measuring the noise floor, which is kept in `work`."""
    from carlos_core.measuring.noise_floor import noise_floor
    from carlos_core.measuring.studio import Studio

    studio = Studio(models.generator(steps), models.encoder, work)
    start = finished()
    noise_floor(studio, (studio.without_lora(), studio.with_lora(models.lora, 1.0, ())), plan_of(16).shots)
    return finished() - start


def row(models: Models, images: int, batch: int, options: argparse.Namespace, work: Path) -> str:
    """The cells of the table for a batch size, from the third on. The noise floor is in `work`."""
    is_whole = not (options.sdxl or options.checkpoint)
    with loads_counted() as bare_loads:
        before = bare(models, images, batch, options.steps, is_whole)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        shutil.copy(work / "noise_floors.json", folder)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with loads_counted() as our_loads:
            ours, texts = indexing(models, images, batch, options.steps, Path(folder))
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    after = before if options.once else bare(models, images, batch, options.steps, is_whole)
    rate, mean = 2 * images, (before + after) / 2
    return (
        f"{rate / ours:.3f} | {rate / before:.3f}, {rate / after:.3f} | {ours / mean:.3f} | {texts:.2f} | "
        f"{(ours - texts) / mean:.3f} | {our_loads} / {bare_loads} | {peak:.1f} |"
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("--sdxl", action="store_true")
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16, 0])
    parser.add_argument("--images", type=int, nargs="*", default=[64], help="one number, or one for each batch size")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--checkpoint", nargs=2, metavar=("FILE", "LORA"))
    parser.add_argument("--static", action="store_true", help="without dynamic VRAM")
    parser.add_argument("--free", type=float, metavar="GIB")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--scheduler", default="normal")
    parser.add_argument("--cfg", type=float, default=5.0)
    options = parser.parse_args()
    sys.argv = [sys.argv[0], *([] if torch.cuda.is_available() else ["--cpu"])]
    sys.path[:0] = [str(options.comfyui), str(Path(__file__).resolve().parents[1] / "tests" / "gpu")]
    import comfyui_memory

    comfyui_memory.prepare(is_dynamic=options.checkpoint is not None and not options.static and torch.cuda.is_available())
    from carlos_core.generator import LoraUse

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if options.checkpoint:
            checkpoint, lora = options.checkpoint
            models = of_file(options.miniworld, checkpoint, lora, options.size, options.scheduler, options.cfg)
        else:
            models = sdxl(options.miniworld, work, options.cut) if options.sdxl else miniworld(options.miniworld, work)
        held = hold_all_but(options.free) if options.free else None
        auto = models.generator(options.steps).suggest_batch_size()
        bare(models, 2, 1, 2, not (options.sdxl or options.checkpoint))  # first use: kernels are chosen, memory is asked for
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{where}, torch {torch.__version__}, {models.size} px, {options.steps} steps, auto batch {auto}:\n")
        if held is not None:
            print(f"all but {options.free} GiB of the GPU held by another\n")
        generator = models.generator(options.steps)
        start = finished()
        _ = generator.fingerprint
        fingerprinted = finished()
        generator.check_lora(LoraUse(models.lora.path, 1.0))
        print(f"of which once a run: fingerprint {fingerprinted - start:.2f} s, LoRA check {finished() - fingerprinted:.2f} s")
        print(f"once a model: noise floor {noise_seconds(models, options.steps, work):.1f} s\n")
        print(
            "| batch | pictures | indexing, images/s | bare loop, images/s (before, after) | wall, indexing / bare | "
            "seconds of texts | ratio without them | loading models, indexing / bare | peak, GiB |\n"
            "|---|---|---|---|---|---|---|---|---|"
        )
        sizes = options.images * (len(options.batches) if len(options.images) == 1 else 1)
        for asked, images in zip(options.batches, sizes, strict=True):
            batch = asked or auto
            label = f"{batch}{'' if asked else ' (auto)'}"
            print(f"| {label} | {2 * images} |", row(models, images, batch, options, work), flush=True)


if __name__ == "__main__":
    main()
