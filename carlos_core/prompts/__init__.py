"""Prompt sets: what a LoRA is measured on, and what a query's signature is averaged over."""

from .prompt_set import Prompt, PromptSet, default_index_prompts, default_signature_prompts, load_prompt_set

__all__ = ["Prompt", "PromptSet", "default_index_prompts", "default_signature_prompts", "load_prompt_set"]
