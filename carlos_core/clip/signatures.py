"""Query signatures: what a text adds to CLIP's features, averaged over many prompts.

signature(q) = mean over prompts p of t(p + " " + q) - t(p), with raw text features t (arXiv 2512.08826). It depends only on
(encoder, prompt set, query) and is kept. The mean of the prompts' own features is kept too, and, on the CPU, their keys and
values.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..prompts.prompt_set import PromptSet
from ..storage import short_hash, write_atomically
from .encoder import Encoder, OpenClipEncoder
from .lazy_encoder import LazyEncoder
from .text_tower import Prefix

logger = logging.getLogger(__name__)

_PREFIX_SETS_KEPT = 2
"""A prompt set, and the few prompts of it that texts are looked at with first."""

_SIGNATURES_KEPT = 4096
_CHECKSUM_BYTES = 16


@dataclass(frozen=True, eq=False)
class _PromptState:
    """What is known about a prompt set under one encoder. mean: [D] float64, the mean of t(p)."""

    mean: np.ndarray
    prefixes: list[Prefix] | None = None


class SignatureCache:
    """Signatures and the prompts' mean features, in memory and, if a folder is given, on disk.

    Only one thread at a time may use it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._signatures: OrderedDict[str, Tensor] = OrderedDict()
        self._prompts: OrderedDict[tuple[str, str], _PromptState] = OrderedDict()

    def known(self, encoder_id: str, prompts: PromptSet, query: str) -> Tensor | None:
        """The signature if it was made before, which needs no encoder; otherwise None. [D] float32, raw CLIP units."""
        key = _key("signature", encoder_id, prompts.content_hash, query)
        if key not in self._signatures:
            found = self._read(key)
            if found is None:
                return None
            self._keep(key, torch.from_numpy(found.astype(np.float32)))
        self._signatures.move_to_end(key)
        return self._signatures[key]

    def signature(self, encoder: Encoder, prompts: PromptSet, query: str) -> Tensor:
        """The signature of a query. [D] float32, raw CLIP units."""
        found = self.known(encoder.encoder_id, prompts, query)
        if found is not None:
            return found
        if isinstance(encoder, LazyEncoder):
            encoder = encoder.loaded
        state = self._prompt_state(encoder, prompts)
        features = _features_with(encoder, prompts, state, query)
        # The mean of the differences is the difference of the means.
        signature = torch.from_numpy((features.double().mean(0).numpy() - state.mean).astype(np.float32))
        key = _key("signature", encoder.encoder_id, prompts.content_hash, query)
        self._keep(key, signature)
        self._write(key, signature.numpy())
        return signature

    def _prompt_state(self, encoder: Encoder, prompts: PromptSet) -> _PromptState:
        identity = (encoder.encoder_id, prompts.content_hash)
        if identity not in self._prompts:
            self._prompts[identity] = self._new_prompt_state(encoder, prompts)
            while len(self._prompts) > _PREFIX_SETS_KEPT:
                self._prompts.popitem(last=False)
        return self._prompts[identity]

    def _new_prompt_state(self, encoder: Encoder, prompts: PromptSet) -> _PromptState:
        tower = encoder.text_tower if isinstance(encoder, OpenClipEncoder) else None
        prefixes = None
        if tower is not None and isinstance(encoder, OpenClipEncoder):
            with torch.inference_mode():
                prefixes = tower.prefixes([ids[:-1] for ids in encoder.token_ids(prompts.texts)])
        key = _key("prompts", encoder.encoder_id, prompts.content_hash)
        mean = self._read(key)
        if mean is None:
            features = encoder.encode_texts(prompts.texts)
            mean = features.double().mean(0).numpy()
            self._write(key, mean)
        return _PromptState(mean=mean, prefixes=prefixes)

    def _keep(self, key: str, signature: Tensor) -> None:
        self._signatures[key] = signature
        while len(self._signatures) > _SIGNATURES_KEPT:
            self._signatures.popitem(last=False)

    def _read(self, key: str) -> np.ndarray | None:
        if self._folder is None:
            return None
        try:
            content = (self._folder / f"{key}.f64").read_bytes()
        except OSError:
            return None
        checksum, values = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if not values or len(values) % 8 or checksum != _checksum(values):
            return None
        return np.frombuffer(values, dtype="<f8").astype(np.float64)

    def _write(self, key: str, value: np.ndarray) -> None:
        """Keep a vector on disk. It can always be made again, so a full disk is only worth a line in the log."""
        if self._folder is None:
            return
        values = np.ascontiguousarray(value, dtype="<f8").tobytes()
        try:
            write_atomically(
                self._folder / f"{key}.f64", lambda file: file.write_bytes(_checksum(values) + values), is_cache=True
            )
        except OSError as error:
            logger.warning("carlos: the signature cache in %s cannot be written: %s", self._folder, error)


def _features_with(encoder: Encoder, prompts: PromptSet, state: _PromptState, query: str) -> Tensor:
    """t(p + " " + query) for every prompt. [P, D]."""
    texts = [f"{prompt} {query}" for prompt in prompts.texts]
    tower = encoder.text_tower if isinstance(encoder, OpenClipEncoder) else None
    if tower is None or state.prefixes is None or not isinstance(encoder, OpenClipEncoder):
        return encoder.encode_texts(texts)
    ids = encoder.token_ids(texts)
    # CLIP's BPE works word by word, so the longer text begins with the prompt's tokens. If cleaning or the end of the context
    # made that untrue, the complete text is run.
    shared = [
        text[: prefix.length] == prefix.token_ids and len(text) > prefix.length
        for text, prefix in zip(ids, state.prefixes, strict=True)
    ]
    whole = [index for index, is_shared in enumerate(shared) if not is_shared]
    continued = [index for index, is_shared in enumerate(shared) if is_shared]
    features = torch.empty(len(texts), encoder.dimension)
    with torch.inference_mode():
        if continued:
            prefixes = [state.prefixes[index] for index in continued]
            features[continued] = tower.continue_from(
                prefixes, [ids[index][state.prefixes[index].length :] for index in continued]
            ).cpu()
        if whole:
            features[whole] = tower.encode([ids[index] for index in whole]).cpu()
    return features


def _checksum(values: bytes) -> bytes:
    return hashlib.sha256(values).digest()[:_CHECKSUM_BYTES]


def _key(*parts: str) -> str:
    return short_hash("\0".join(parts), 32)
