"""Measuring what a LoRA does: which pictures, kept where, summed how."""

from .protocol import Protocol, protocol_covers
from .runner import Measurement, measure_lora
from .work import Progress

__all__ = ["Measurement", "Progress", "Protocol", "measure_lora", "protocol_covers"]
