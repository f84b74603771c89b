"""What kind of model ComfyUI has loaded, and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import GenerationError
from ..measuring.chosen_sampling import SampledModel

_T = TypeVar("_T")

_NATIVE_SIZES = {"SD15": 512, "SD20": 768, "SD21UnclipL": 768, "SD21UnclipH": 768, "SDXL": 1024, "SD3": 1024, "Flux": 1024}
_DEFAULT_NATIVE_SIZE = 1024

_FAMILIES = {
    **{"SD15": "SD 1.5", "SD15_instructpix2pix": "SD 1.5", "SD20": "SD 2", "SD21UnclipL": "SD 2", "SD21UnclipH": "SD 2"},
    **{"SD3": "SD 3", "AuraFlow": "AuraFlow"},
    **dict.fromkeys(("SDXL", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B", "SDXL_instructpix2pix"), "SDXL"),
    **dict.fromkeys(("Flux", "FluxInpaint", "FluxSchnell"), "Flux"),
    **{"Flux2": "Flux.2", "ZImage": "Z-Image", "ZImagePixelSpace": "Z-Image", "Lumina2": "Lumina 2", "Anima": "Anima"},
    **{"Krea2": "Krea 2", "HiDream": "HiDream"},
    **dict.fromkeys(("Chroma", "ChromaRadiance"), "Chroma"),
    **{"QwenImage": "Qwen-Image", "ErnieImage": "Ernie-Image", "LTXV": "LTXV", "LTXAV": "LTXV"},
    **dict.fromkeys(("Kandinsky5", "Kandinsky5Image"), "Kandinsky 5"),
    **dict.fromkeys(("PixArtAlpha", "PixArtSigma"), "PixArt"),
    **dict.fromkeys(("CosmosT2V", "CosmosI2V", "CosmosT2IPredict2", "CosmosI2VPredict2"), "Cosmos"),
}
"""ComfyUI's class of a model's configuration -> our name (`loras.family.FAMILIES`). A class by its own name: ComfyUI derives
Flux.2's from Flux's, and Z-Image's from Lumina's."""

_FEW_STEP_CLASSES = ("FluxSchnell",)
"""ComfyUI's classes of models that exist only distilled to few steps. Others (Z-Image, Krea 2, Flux.2 Klein) are the same class
with and without."""

_FEW_STEP_SAMPLINGS = ("LCM", "ModelSamplingDiscreteDistilled")
"""Classes of a model's sampling that stand for distilled models."""

_OF_VIDEOS = ("WAN", "LTXV", "HunyuanVideo", "CosmosT2V", "GenmoMochi", "CogVideoX_T2V")
"""Beginnings of classes of models that make videos from a text. A video of one frame is a picture."""

_NEED_MORE_THAN_TEXT = {
    **dict.fromkeys(("I2V", "img2vid", "Zero123"), "begins with a picture"),
    **dict.fromkeys(("Inpaint", "instructpix2pix", "Upscaler", "SeedVR2", "SR_Distilled", "LotusD"), "changes a picture"),
    **dict.fromkeys(("FunControl", "Camera", "Vace", "FlowRVS"), "follows a video or a movement"),
    **dict.fromkeys(("HuMo", "S2V", "WanDancer", "LTXAV"), "goes with sound"),
    **dict.fromkeys(("Animate", "SCAIL"), "moves a given character"),
    **dict.fromkeys(("StableAudio", "ACEStep", "MiniMaxMusic"), "makes sound"),
    **dict.fromkeys(("Hunyuan3D", "Trellis", "TripoSplat"), "makes solids"),
}
"""Part of a class's name -> why its models make no picture from a text alone."""

_FAMILIES_BY_BEGINNING = {"WAN": "Wan", "HunyuanVideo": "Hunyuan Video", "HunyuanImage": "Hunyuan Video"}


def native_size(model: Any) -> int:
    """Side in pixels of the square pictures that a model's family was trained on."""
    return _of_class(model, _NATIVE_SIZES) or _DEFAULT_NATIVE_SIZE


def class_of_model(model: Any) -> str:
    """ComfyUI's own name for the kind of a loaded model, such as "SDXL" or "SD3"."""
    return type(model.model.model_config).__name__


def model_family(model: Any) -> str | None:
    """Family of a ComfyUI MODEL, one of `loras.family.FAMILIES`; None for a kind of model that is not among them.

    Pony and Illustrious have SDXL's shapes and count as SDXL: nothing in the model tells them apart.
    """
    name = class_of_model(model)
    by_beginning = (family for beginning, family in _FAMILIES_BY_BEGINNING.items() if name.startswith(beginning))
    return _FAMILIES.get(name) or next(by_beginning, None)


def is_guidance_distilled(model: Any) -> bool:
    """Whether a model takes its guidance as an input and needs no CFG, such as Flux."""
    return bool(model.model.model_config.unet_config.get("guidance_embed", False))


def wants_few_steps(model: Any) -> str:
    """What in a model itself says that it is distilled to few steps without guidance, in words; empty if nothing does."""
    if class_of_model(model) in _FEW_STEP_CLASSES:
        return f"models of the class {class_of_model(model)} are"
    sampling = type(model.get_model_object("model_sampling"))
    name = next((base.__name__ for base in sampling.__mro__ if base.__name__ in _FEW_STEP_SAMPLINGS), None)
    return f"its sampling is {name}" if name else ""


def sampled_model(model: Any) -> SampledModel:
    """What of a MODEL decides how it is sampled."""
    return SampledModel(class_of_model(model), is_guidance_distilled(model), wants_few_steps(model))


def check_makes_pictures(model: Any) -> None:
    """Raises GenerationError for a model that makes no picture from a text alone, before anything is loaded."""
    name = class_of_model(model)
    reason = next((reason for part, reason in _NEED_MORE_THAN_TEXT.items() if part in name), None)
    if reason is not None:
        raise GenerationError(
            f"A {name} model makes no pictures from text alone: it {reason}.",
            "Measure the LoRA on the text-to-image or text-to-video model of its family.",
        )


def makes_videos(model: Any) -> bool:
    """Whether a model makes videos, of which one frame is taken for a picture."""
    return class_of_model(model).startswith(_OF_VIDEOS)


def _of_class(model: Any, table: Mapping[str, _T]) -> _T | None:
    """The entry for the class of a model's configuration, otherwise for its nearest base class; None if there is none."""
    names = (base.__name__ for base in type(model.model.model_config).__mro__)
    return next((table[name] for name in names if name in table), None)
