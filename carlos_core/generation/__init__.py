"""Making pictures with and without a LoRA."""

from .base import Generated, Generator, Job, LoraFit, LoraUse

__all__ = ["Generated", "Generator", "Job", "LoraFit", "LoraUse"]
