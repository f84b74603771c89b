"""Which pictures a LoRA is measured on, in which order."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import IndexingError
from ..prompts.prompt_set import Prompt, PromptSet


@dataclass(frozen=True)
class Shot:
    """One pair of pictures: a prompt and a seed."""

    prompt: Prompt
    seed: int


def all_shots(prompts: PromptSet, *, seeds: int, first_seed: int, max_prompts: int = 0) -> tuple[Shot, ...]:
    """All prompts once, in stratified order, then all with the next seed, and so on.

    seeds: how many for each prompt; they are first_seed, first_seed + 1, ... max_prompts: take only so many, 0 for all.
    Raises IndexingError for seeds < 1 or max_prompts < 0.
    """
    if seeds < 1 or max_prompts < 0:
        raise IndexingError(f"{seeds} seeds and {max_prompts} prompts make no plan.", "Use at least 1 seed; 0 prompts means all.")
    chosen = prompts.stratified()[: max_prompts or None]
    return tuple(Shot(prompt, first_seed + k) for k in range(seeds) for prompt in chosen)
