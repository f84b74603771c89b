"""How long a model takes here, tried on a few steps, and what that is kept as."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import torch

from ..foreign import reason_of
from ..measuring.speed import ModelSpeed
from .families import check_makes_pictures, native_size
from .layers import model_key
from .texts import Texts

logger = logging.getLogger(__name__)

_STEPS = 3
_LONG_S = 10.0
"""A first step that takes so long is not repeated: what loading the model adds to it then matters little."""

_failed: set[str] = set()
"""`ModelSpeed.key` of the models whose trial failed in this process."""

_FLAT = 8
"""Pixels of a side to one of the latent's, where a model's format does not say."""


def speed_of(model: Any, folder: Path) -> ModelSpeed:
    """What is known of the time that a MODEL takes for pictures of its native size.

    folder: the cache, where features and speeds are kept.
    """
    side = native_size(model)
    return ModelSpeed(folder, model_key(model), (side, side))


def tried_speed(model: Any, clip: Any, folder: Path, say: Callable[[str], None]) -> float | None:
    """Seconds that one evaluation of a MODEL takes; tried once for each shape of models and device, and kept.

    None for a model that makes no pictures from a text, or where the trial failed: a speed is no reason to end a search. One that
    failed is not repeated in this process.

    Args:
        model: ComfyUI's MODEL.
        clip: its CLIP; None: nothing is tried, and only what is kept counts.
        folder: the cache, where features and speeds are kept.
        say: is told that a trial begins.
    """
    speed = speed_of(model, folder)
    known = speed.seconds_per_evaluation
    if known is not None or clip is None or speed.key in _failed:
        return known
    try:
        check_makes_pictures(model)
        say("trying how fast this model is here, once")
        seconds = _tried(model, clip)
    except comfy.model_management.InterruptProcessingException:
        raise
    # Models and nodes of others raise all kinds of errors.
    except Exception as error:
        _failed.add(speed.key)
        logger.info("carlos: how fast the model is could not be tried: %s", reason_of(error))
        return None
    speed.keep(seconds)
    return seconds


def _tried(model: Any, clip: Any) -> float:
    """Seconds of one evaluation of one picture of the native size, without guidance."""
    side, form = native_size(model), model.get_model_object("latent_format")
    flat = side // int(getattr(form, "spacial_downscale_ratio", _FLAT))
    latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, flat, flat))
    tensor, extras = Texts(clip).conditioning("")
    noise, conditioning = comfy.sample.prepare_noise(latent, 0), [[tensor, extras]]

    def seconds(steps: int) -> float:
        begin = time.monotonic()
        settings = (steps, 1.0, "euler", "simple", conditioning, conditioning, torch.zeros_like(noise))
        comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=0, callback=_may_be_cancelled)
        return (time.monotonic() - begin) / steps

    first = seconds(1)
    return first if first > _LONG_S else seconds(_STEPS)


def _may_be_cancelled(*_told: object) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
