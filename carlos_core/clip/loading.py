"""From an encoder id to a loaded encoder."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from safetensors.torch import load_file

from ..errors import EncoderError
from ..progress import OnProgress
from ..storage import encoders_directory, short_hash
from .encoder import OpenClipEncoder
from .pixels import PixelFormat
from .weights import check_safetensors, ensure_weights, find_local_encoder

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class EncoderParts:
    """A model in memory and what is needed to run it."""

    model: nn.Module
    """An open_clip model on the CPU, float32."""
    tokenizer: object
    """Texts -> token ids [N, context], padded."""
    encoder_id: str
    pixel_format: PixelFormat
    dimension: int
    """Length of a feature."""


def load_encoder(
    encoder_id: str,
    folders: Sequence[str | Path] | None = None,
    *,
    device: str | None = None,
    on_progress: OnProgress | None = None,
) -> OpenClipEncoder:
    """Load an encoder. Raises EncoderError that says which file to put where.

    Args:
        encoder_id: "<open_clip model>/<tag>", or the id of a local one, "<name>@<12 hex>".
        folders: where to look for weights; what is fetched goes into the first one (default: CARLOS_HOME/encoders).
        device: where it runs, as torch names it; default is the first GPU if there is one, otherwise the CPU.
        on_progress: called while weights are fetched, in bytes.
    """
    parts = load_encoder_parts(encoder_id, folders, on_progress=on_progress)
    parts.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return OpenClipEncoder(parts.model, parts.tokenizer, parts.encoder_id, parts.pixel_format, parts.dimension)


def load_encoder_parts(
    encoder_id: str, folders: Sequence[str | Path] | None = None, *, on_progress: OnProgress | None = None
) -> EncoderParts:
    """The model of an encoder on the CPU, with tokenizer and pixel format. Raises EncoderError as `load_encoder` does."""
    search = [Path(folder) for folder in folders or (encoders_directory(),)]
    if "@" in encoder_id:
        return _load_local(encoder_id, search)
    if "/" not in encoder_id:
        raise EncoderError(f"{encoder_id!r} is not an encoder id.", 'Use "<open_clip model>/<tag>" or "<name>@<12 hex>".')
    return _load_pretrained(encoder_id, search, on_progress)


def encoder_dimension(encoder_id: str, folders: Sequence[str | Path] | None = None) -> int:
    """Length of an encoder's features, without loading its weights. Raises EncoderError for an unknown encoder."""
    search = [Path(folder) for folder in folders or (encoders_directory(),)]
    if "@" in encoder_id:
        return find_local_encoder(encoder_id, search).dimension
    return int(_model_config(encoder_id.partition("/")[0])["embed_dim"])


def _load_pretrained(encoder_id: str, folders: Sequence[Path], on_progress: OnProgress | None) -> EncoderParts:
    model_name, _, tag = encoder_id.partition("/")
    config = _model_config(model_name)
    pretrained = open_clip.get_pretrained_cfg(model_name, tag)
    if not pretrained:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model_name)) or "none"
        raise EncoderError(f"open_clip has no weights {tag!r} for {model_name}.", f"It has: {known}.")
    weights = ensure_weights(model_name, tag, pretrained, folders, on_progress)
    with _without_open_clips_log():
        model = open_clip.create_model(model_name, pretrained=None, force_quick_gelu=bool(pretrained.get("quick_gelu")))
    _load_weights(model, weights)
    return _parts(model, model_name, encoder_id, config, pretrained)


def _load_local(encoder_id: str, folders: Sequence[Path]) -> EncoderParts:
    local = find_local_encoder(encoder_id, folders)
    dimension = local.dimension
    config = local.read_config()
    # open_clip keeps configs in one registry by file name. A name of our own does not replace a built-in model.
    canonical = json.dumps(config, sort_keys=True)
    registered = f"carlos-{local.name}-{short_hash(canonical, 12)}"
    if registered not in open_clip.list_models():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{registered}.json"
            path.write_text(canonical, encoding="utf-8")
            open_clip.add_model_config(path)
    if registered not in open_clip.list_models():
        raise EncoderError(
            f"{local.config.name} is not an open_clip model config.", 'It needs "embed_dim", "vision_cfg" and "text_cfg".'
        )
    try:
        with _without_open_clips_log():
            model = open_clip.create_model(registered, pretrained=None)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise EncoderError(f"open_clip cannot build {local.config.name} ({error}).", "Check the config.") from error
    _load_weights(model, local.weights)
    return _parts(model, registered, encoder_id, config | {"embed_dim": dimension}, {})


def _model_config(model_name: str) -> dict[str, Any]:
    # "hf-hub:..." and "local-dir:..." would make open_clip fetch or open what a database file asks for.
    config = None if ":" in model_name else open_clip.get_model_config(model_name)
    if config is None:
        raise EncoderError(f"open_clip knows no model {model_name!r}.", "Check the encoder id, or update open_clip_torch.")
    return config


@contextmanager
def _without_open_clips_log() -> Iterator[None]:
    """Hide open_clip's log lines.

    It uses the root logger, and warns that the model has random weights; the real ones are loaded a moment later.
    """

    def is_not_open_clips(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root = logging.getLogger()
    root.addFilter(is_not_open_clips)
    try:
        yield
    finally:
        root.removeFilter(is_not_open_clips)


def _load_weights(model: nn.Module, path: Path) -> None:
    check_safetensors(path, path.name)
    state = load_file(path)
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    wrong = [name for name, tensor in state.items() if name in own and own[name].shape != tensor.shape]
    if missing or wrong:
        raise EncoderError(
            f"{path.name} does not fit its model: {len(missing)} tensors missing, {len(wrong)} of another shape"
            f" (first: {(missing + wrong)[0]}).",
            "Get the weights that belong to this model.",
        )
    model.load_state_dict({name: state[name] for name in own})
    model.float()


def _parts(
    model: nn.Module, model_name: str, encoder_id: str, config: dict[str, Any], pretrained: dict[str, Any]
) -> EncoderParts:
    with _without_open_clips_log():
        tokenizer = open_clip.get_tokenizer(model_name)
    size = model.visual.image_size  # type: ignore[union-attr]
    pixel_format = PixelFormat(
        size=int(size[0] if isinstance(size, (tuple, list)) else size),  # type: ignore[arg-type]
        mean=tuple(pretrained.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(pretrained.get("std") or open_clip.OPENAI_DATASET_STD),
    )
    return EncoderParts(model, tokenizer, encoder_id, pixel_format, int(config["embed_dim"]))
