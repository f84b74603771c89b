"""Pictures of several texts in one sampler call, where the model gets for each what a KSampler gives it for that picture alone.

A model makes its own inputs of a conditioning (ComfyUI's `extra_conds`): it pads the text, counts its tokens, runs a part of
itself over it. Here it does so for every picture by itself, and what comes of that is joined. Where it cannot be joined, since
texts of other lengths give inputs of other shapes, the pictures do not share a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import comfy.patcher_extension
import comfy.samplers
from torch import Tensor

from .conditioning import Conditioning, form_of

_EACH = "carlos_each"


class NotAlikeError(Exception):
    """The model makes inputs of several shapes of the texts of a batch. Nothing was sampled; `SharedBatches` knows more now."""


class SharedBatches:
    """Which texts may share a sampler call of a model, as far as it has shown.

    What it knows depends on the model alone: whatever was made before, the same pictures share a call if there is memory for it.
    """

    def __init__(self) -> None:
        self._kinds: dict[Any, Any] = {}

    def attach(self, model: Any) -> None:
        """Let a MODEL take conditionings of `conditioning_of`."""
        kind = comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE
        model.add_wrapper_with_key(kind, _EACH, self._sample)

    def conditioning_of(self, pictures: Sequence[Conditioning]) -> list[list[Any]]:
        """One conditioning for a batch: picture i is guided by entry i. One for a single picture is as a KSampler gets it."""
        tensor, extras = pictures[0]
        if len(pictures) == 1:
            return [[tensor, extras]]
        return [[tensor, {**extras, _EACH: list(pictures)}]]

    def groups(self, pictures: Sequence[Conditioning]) -> list[list[int]]:
        """Places of the pictures that may share a call, group by group. All may as long as one of them is not known."""
        kinds = [self._kinds.get(form_of(picture)) for picture in pictures]
        if None in kinds:
            return [list(range(len(pictures)))]
        found: dict[Any, list[int]] = {}
        for place, kind in enumerate(kinds):
            found.setdefault(kind, []).append(place)
        return list(found.values())

    def _sample(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, *rest: Any
    ) -> Any:
        """ComfyUI's sampling, with the inputs of each picture made by itself.

        The guider has its own copies of the conditionings for this call.
        """
        latent = rest[0] if rest else None
        guider.conds = {
            kind: [self._joined(guider.inner_model, cond, kind, (noise, latent), extra_args.get("seed")) for cond in conds]
            for kind, conds in guider.conds.items()
        }
        return executor(guider, sigmas, extra_args, callback, noise, *rest)

    def _joined(
        self, model: Any, cond: dict[str, Any], kind: str, latents: tuple[Tensor, Tensor | None], seed: int | None
    ) -> dict[str, Any]:
        pictures = cond.get(_EACH)
        if pictures is None:
            return cond
        made = list(_made(model, cond, kind, latents, seed))
        forms = [form_of(picture) for picture in pictures]
        self._kinds |= {form: _kind_of(inputs) for form, inputs in zip(forms, made, strict=True)}
        if any(inputs.keys() != made[0].keys() for inputs in made):
            raise NotAlikeError
        return {**cond, "model_conds": {key: _together([inputs[key] for inputs in made]) for key in made[0]}}


def _made(
    model: Any, cond: dict[str, Any], kind: str, latents: tuple[Tensor, Tensor | None], seed: int | None
) -> Iterator[dict[str, Any]]:
    """What a model makes of each picture's conditioning, as if the picture were alone in its sampler call."""
    noise, latent = latents
    shapes = getattr(model, "latent_shapes", None)
    known = {} if shapes is None else {"latent_shapes": shapes}
    # What is left of `cond` without the first picture's own facts, of which another picture may lack some.
    shared = {key: value for key, value in cond.items() if key != _EACH and key not in cond[_EACH][0][1]}
    for place, (tensor, extras) in enumerate(cond[_EACH]):
        own = {**shared, **extras, "cross_attn": tensor, "model_conds": {}}
        (encoded,) = comfy.samplers.encode_model_conds(
            model.extra_conds,
            [own],
            noise[place : place + 1],
            noise.device,
            kind,
            latent_image=None if latent is None else latent[place : place + 1],
            denoise_mask=None,
            seed=seed,
            **known,
        )
        yield encoded["model_conds"]


def _kind_of(inputs: Mapping[str, Any]) -> Any:
    return tuple((key, type(value).__name__, str(_size_of(value))) for key, value in sorted(inputs.items()))


def _size_of(value: Any) -> Any:
    """What of an input must be equal. A number, of tokens for example, is one for the whole call."""
    return value.cond if isinstance(getattr(value, "cond", None), (int, float)) else value.size()


def _together(inputs: Sequence[Any]) -> Any:
    """One input for all pictures. Raises NotAlikeError if theirs cannot be joined without changing one."""
    first, *others = inputs
    for other in others:
        # A text that is shorter would be repeated: not what its picture has alone.
        if type(other) is not type(first) or other.size() != first.size() or not first.can_concat(other):
            raise NotAlikeError
    return first._copy_with(first.concat(others))
