"""Trains a stand-in for few-step models: a LoRA with which the mini-world at cfg 1 makes the pictures that it makes at cfg 3.

usage: python -m studies.few_step_lora COMFYUI_FOLDER MINIWORLD OUTPUT.safetensors [--rounds 150] [--batch 64]

(inside ComfyUI's environment, best on a GPU: about two minutes on an H100)

Guidance is distilled into the weights, as in the models that are sold as turbo or lightning: what the model predicts with the
LoRA is pulled towards what it predicts with guidance without it, at the latents that sampling passes through. On top of that, a
cfg of 3 or 5 is as if the model were asked for 9 or 25, and its pictures burn.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .miniworld_pool import MiniWorld, conditionings_of, noise_of

RANK = 32
GUIDANCE = 3.0
STEPS = (4, 5, 6, 8, 12)


class LowRank:
    """A trainable low-rank difference on one linear layer. scale: 0 for the layer as it is."""

    def __init__(self, layer: Any) -> None:
        n_out, n_in = layer.weight.shape
        where = {"device": layer.weight.device, "dtype": torch.float32}
        self.down = torch.nn.Parameter(torch.randn(RANK, n_in, **where) / n_in**0.5)
        self.up = torch.nn.Parameter(torch.zeros(n_out, RANK, **where))
        self.scale = 1.0
        layer.register_forward_hook(lambda _layer, inputs, output: self.on(inputs[0], output))

    def on(self, given: Tensor, output: Tensor) -> Tensor:
        """What the layer gives with the difference added."""
        if not self.scale:
            return output
        return output + (given.float() @ self.down.T @ self.up.T).to(output.dtype)


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("miniworld", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--batch", type=int, default=64)
    return parser.parse_args()


class Distillation:
    """Pulls the model with a LoRA at cfg 1 towards the model without it at cfg 3."""

    def __init__(self, world: MiniWorld, texts: list[str], rounds: int) -> None:
        import comfy.model_management

        self.model = world.model.model
        comfy.model_management.load_models_gpu([world.model], force_full_load=True)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.layers = {
            name: LowRank(layer)
            for name, layer in self.model.diffusion_model.named_modules()
            if name.startswith("joint_blocks") and isinstance(layer, torch.nn.Linear)
        }
        self.weights = [weight for layer in self.layers.values() for weight in (layer.down, layer.up)]
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-3, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, rounds * max(STEPS), 1e-5)
        self.texts, self.device = texts, world.model.load_device
        with torch.inference_mode():
            self.encoded = {text: conditionings_of(world.clip, [text]) for text in texts}

    def predicted(self, x: Tensor, sigma: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        """The model's velocity at a noise level."""
        denoised = self.model.apply_model(x, sigma.expand(len(x)), c_crossattn=context, y=pooled)
        velocity: Tensor = (x - denoised) / sigma
        return velocity

    def conditionings(self, texts: list[str]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Context and pooled output with the texts, and without."""
        positives = [self.encoded[text][0][0] for text in texts]
        context = torch.cat([tensor.clone() for tensor, _ in positives]).to(self.device)
        pooled = torch.cat([extras["pooled_output"].clone() for _, extras in positives]).to(self.device)
        empty, extras = self.encoded[texts[0]][1][0]
        without = empty.clone().to(self.device).expand_as(context), extras["pooled_output"].clone().to(self.device)
        return (context, pooled), (without[0], without[1].expand_as(pooled))

    def turn(self, number: int, batch: int, chance: torch.Generator) -> float:
        """One sampling of a batch, with a step of training at each of its steps. Mean loss, of that without training."""
        import comfy.samplers

        picked = [self.texts[int(place)] for place in torch.randint(len(self.texts), (batch,), generator=chance)]
        with_text, without = self.conditionings(picked)
        sigmas = comfy.samplers.calculate_sigmas(self.model.model_sampling, "simple", STEPS[number % len(STEPS)]).to(self.device)
        x = noise_of(torch.randint(2**31, (batch,), generator=chance).tolist(), 128).to(self.device) * sigmas[0]
        losses = []
        for here, there in zip(sigmas[:-1], sigmas[1:], strict=True):
            with torch.no_grad():
                self._scale(0.0)
                plain = self.predicted(x, here, *with_text)
                wanted = GUIDANCE * plain - (GUIDANCE - 1) * self.predicted(x, here, *without)
                self._scale(1.0)
            with torch.enable_grad():
                loss = (self.predicted(x, here, *with_text) - wanted).square().mean()
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
                self.optimizer.step()
                self.schedule.step()
            losses.append(loss.item() / (plain - wanted).square().mean().item())
            x = (x + (there - here) * wanted).detach()
        return sum(losses) / len(losses)

    def _scale(self, scale: float) -> None:
        for layer in self.layers.values():
            layer.scale = scale

    def tensors(self) -> dict[str, Tensor]:
        """The LoRA as kohya names it."""
        found = {}
        for name, layer in self.layers.items():
            key = "lora_unet_" + name.replace(".", "_")
            found[f"{key}.lora_down.weight"] = layer.down.detach().half().cpu().contiguous()
            found[f"{key}.lora_up.weight"] = layer.up.detach().half().cpu().contiguous()
            found[f"{key}.alpha"] = torch.tensor(float(RANK)).half()
        return found


def main() -> None:
    options = options_of()
    torch.manual_seed(0)
    world = MiniWorld(options.comfyui, options.miniworld, dtype=torch.float32)
    from safetensors.torch import save_file

    from carlos_core.prompts.prompt_set import load_prompt_set

    sets = [load_prompt_set(options.miniworld / name) for name in ("prompts_index.json", "prompts_signature.json")]
    distillation = Distillation(world, [prompt.text for each in sets for prompt in each.prompts], options.rounds)
    begin, chance = time.time(), torch.Generator().manual_seed(0)
    for turn in range(options.rounds):
        loss = distillation.turn(turn, options.batch, chance)
        if turn % 5 == 0:
            print(f"{turn}: loss, of that without training {loss:.3f}, {time.time() - begin:.0f} s", flush=True)
    save_file(distillation.tensors(), str(options.output), {"modelspec.architecture": "stable-diffusion-3-medium/lora"})
    print(f"{options.output}: {options.output.stat().st_size / 2**20:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
