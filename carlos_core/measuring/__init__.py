"""Measuring what a LoRA does: which pictures, kept where, summed how."""
