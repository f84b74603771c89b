"""Pictures from ComfyUI's own loaded model. One of the two places where ComfyUI is known."""

from .families import class_of_model, is_guidance_distilled, model_family, native_size
from .generator import ComfyGenerator
from .patching import apply_lora, load_lora

__all__ = [
    "ComfyGenerator",
    "apply_lora",
    "class_of_model",
    "is_guidance_distilled",
    "load_lora",
    "model_family",
    "native_size",
]
