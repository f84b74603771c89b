"""Which pictures a LoRA is measured on, in which order, and when there are enough."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..errors import IndexingError
from ..prompts.prompt_set import Prompt, PromptSet
from .presets import Preset
from .stopping import StoppingRule, picture_order

PAPER_IMAGES = 4480
"""Pairs of pictures of the published protocol: 280 prompts x 16 seeds (arXiv 2512.08826)."""

TYPICAL_IMAGES = 150
"""Pictures that an adaptive preset is expected to take. The median over the published rows is 120 to 186, depending on the shape
of the noise (`studies/stopping_rule.py`)."""

OWN_SEED_RULE = "sha256(prompt) + k, each prompt its own"

OWN_PROMPT = "own prompt"
"""Topic of a prompt of the user's."""

_REPEAT_EVERY = 14


@dataclass(frozen=True)
class Shot:
    """One pair of pictures: a prompt and a seed."""

    prompt: Prompt
    seed: int


@dataclass(frozen=True)
class Plan:
    """Pictures in the order in which they are taken."""

    shots: tuple[Shot, ...]
    """All pictures that may be taken."""

    seed_rule: str
    """Where the seeds come from, in words; part of the protocol."""

    rule: StoppingRule | None = None
    """Ends the measurement when the direction of the full protocol is known. None: all pictures are taken."""

    n_full: int = 0
    """Pictures of the full protocol."""

    expected: int = 0
    """How many pictures are likely to be taken, for estimates of time; 0 for all."""

    at_least: int = 0
    """Pictures that are taken whatever the rule says: as many as the row has that is to be replaced."""

    @classmethod
    def all(cls, prompts: PromptSet, *, seeds: int = 1, first_seed: int = 0, max_prompts: int = 0) -> Plan:
        """All prompts once, in stratified order, then all with the next seed, and so on.

        Args:
            prompts: the prompt set.
            seeds: how many for each prompt: first_seed, first_seed + 1 and so on.
            first_seed: the seed of the first round.
            max_prompts: take only so many prompts; 0 for all.

        Raises IndexingError for seeds < 1 or max_prompts < 0.
        """
        if seeds < 1 or max_prompts < 0:
            raise IndexingError(
                f"{seeds} seeds and {max_prompts} prompts make no plan.", "Use at least 1 seed; 0 prompts means all."
            )
        chosen = prompts.stratified()[: max_prompts or None]
        shots = tuple(Shot(prompt, first_seed + k) for k in range(seeds) for prompt in chosen)
        return cls(shots, f"{first_seed} + k, shared by all prompts")

    @classmethod
    def of_preset(cls, preset: Preset, prompts: PromptSet, evaluations_per_image: int) -> Plan:
        """All prompts once, in stratified order, then all with the next seed, and so on, as far as the preset's budget allows.

        In an adaptive preset a few second seeds come early: they show the stopping rule how much seeds matter.
        evaluations_per_image: forward passes of the diffusion model. Raises IndexingError if the budget does not suffice for two
        pictures.
        """
        order = prompts.stratified()
        limit = preset.max_evaluations // evaluations_per_image if preset.max_evaluations else len(order) * preset.seeds
        if limit < 2:
            raise IndexingError(
                f"One picture takes {evaluations_per_image} model evaluations, {preset.name} has {preset.max_evaluations}.",
                "Choose the preset 'standard'.",
            )
        repeat_every = _REPEAT_EVERY if preset.is_adaptive else 0
        pairs = picture_order(len(order), preset.seeds, repeat_every=repeat_every, spread_seeds=False)
        shots = tuple(Shot(order[prompt], own_seed(order[prompt].text, k)) for prompt, k in pairs[:limit])
        if not preset.is_adaptive:
            return cls(shots, OWN_SEED_RULE, n_full=PAPER_IMAGES)
        return cls(shots, OWN_SEED_RULE, StoppingRule(), PAPER_IMAGES, TYPICAL_IMAGES)

    @classmethod
    def of_prompt(cls, text: str, images: int) -> Plan:
        """One prompt of the user's with many seeds, for a race on it.

        images: how many at most. Raises IndexingError for fewer than two, or an empty prompt.
        """
        if images < 2 or not text.strip():
            raise IndexingError("There is nothing to race on.", "Give a prompt and at least two pictures.")
        prompt = Prompt(text, OWN_PROMPT, OWN_PROMPT)
        return cls(tuple(Shot(prompt, own_seed(text, k)) for k in range(images)), OWN_SEED_RULE)


def own_seed(prompt: str, k: int) -> int:
    """Seed of the k-th picture of a prompt, k from 0. It comes from the text, so that the place in a list does not matter."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big") + k
