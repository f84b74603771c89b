"""Prompt sets: what a LoRA is measured on, what a query's signature is averaged over, what queries are compared with."""

from .prompt_set import (
    Prompt,
    PromptSet,
    default_effect_bank,
    default_index_prompts,
    default_signature_prompts,
    load_prompt_set,
)

__all__ = [
    "Prompt",
    "PromptSet",
    "default_effect_bank",
    "default_index_prompts",
    "default_signature_prompts",
    "load_prompt_set",
]
