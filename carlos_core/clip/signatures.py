"""Query signatures: what a text adds to CLIP's features, averaged over many prompts.

signature(q) = mean over prompts p of t(p + " " + q) - t(p), with raw text features t (arXiv 2512.08826). It depends only on
(encoder, prompt set, query) and is kept. The mean of the prompts' own features is kept too, and, on the CPU, their keys and
values. Signatures of many queries are made together.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..prompts.prompt_set import PromptSet
from ..storage import short_hash, write_atomically
from .encoder import Encoder, OpenClipEncoder
from .lazy_encoder import LazyEncoder
from .text_tower import Prefix, TextTower

logger = logging.getLogger(__name__)

_PREFIX_SETS_KEPT = 3
"""A prompt set, and the few and the few more prompts of it that texts are looked at with first."""

_SIGNATURES_KEPT = 4096
_CHECKSUM_BYTES = 16

_TEXTS_AT_A_TIME = 16384
"""So many texts, prompts times queries, are encoded together: for ViT-B/32, their features are 34 MB."""

_PROMPTS_AT_A_TIME = 32
"""So many prompts have their keys and values made at a time where these are not kept: for ViT-B/32, 25 MB."""

_PLAIN = re.compile(r"[A-Za-z0-9 ,.;:!?()\[\]'\"/+*#%=_-]*")
"""What CLIP's cleaning leaves as it is, but for blanks and capitals: such texts do not change each other."""


@dataclass(frozen=True, eq=False)
class _PromptState:
    """What is known about a prompt set under one encoder."""

    mean: np.ndarray
    """The mean of t(p), [D] float64."""

    token_ids: list[tuple[int, ...]]
    """Those of each prompt without the end-of-text token; empty if the encoder has no tower that can continue."""

    prefixes: list[Prefix] | None = None
    """Their keys and values, if these are kept."""

    is_plain: bool = False
    """Whether a plain text that follows adds its own tokens and changes none."""


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
        return self.signatures(encoder, prompts, [query])[0]

    def signatures(self, encoder: Encoder, prompts: PromptSet, queries: Sequence[str]) -> list[Tensor]:
        """The signatures of queries, each [D] float32, raw CLIP units; those that are not known are made together."""
        found = {query: self.known(encoder.encoder_id, prompts, query) for query in queries}
        missing = [query for query, known in found.items() if known is None]
        if missing and isinstance(encoder, LazyEncoder):
            encoder = encoder.loaded
        step = max(1, _TEXTS_AT_A_TIME // len(prompts))
        for start in range(0, len(missing), step):
            part = missing[start : start + step]
            state = self._prompt_state(encoder, prompts)
            # The mean of the differences is the difference of the means.
            for query, mean in zip(part, _means_with(encoder, prompts, state, part), strict=True):
                signature = torch.from_numpy((mean.numpy() - state.mean).astype(np.float32))
                key = _key("signature", encoder.encoder_id, prompts.content_hash, query)
                self._keep(key, signature)
                self._write(key, signature.numpy())
                found[query] = signature
        return [known for query in queries if (known := found[query]) is not None]

    def _prompt_state(self, encoder: Encoder, prompts: PromptSet) -> _PromptState:
        identity = (encoder.encoder_id, prompts.content_hash)
        if identity not in self._prompts:
            self._prompts[identity] = self._new_prompt_state(encoder, prompts)
            while len(self._prompts) > _PREFIX_SETS_KEPT:
                self._prompts.popitem(last=False)
        return self._prompts[identity]

    def _new_prompt_state(self, encoder: Encoder, prompts: PromptSet) -> _PromptState:
        key = _key("prompts", encoder.encoder_id, prompts.content_hash)
        mean = self._read(key)
        if mean is None:
            features = encoder.encode_texts(prompts.texts)
            mean = features.double().mean(0).numpy()
            self._write(key, mean)
        if not isinstance(encoder, OpenClipEncoder) or encoder.text_tower is None:
            return _PromptState(mean, [])
        token_ids = [ids[:-1] for ids in encoder.token_ids(prompts.texts)]
        with torch.inference_mode():
            prefixes = encoder.text_tower.prefixes(token_ids) if encoder.keeps_prefixes else None
        is_plain = encoder.reads_word_by_word and all(map(_is_plain, prompts.texts))
        return _PromptState(mean, token_ids, prefixes, is_plain)

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


def _means_with(encoder: Encoder, prompts: PromptSet, state: _PromptState, queries: Sequence[str]) -> Tensor:
    """The mean of t(p + " " + query) over the prompts, for each query. [N, D] float64."""
    tower = encoder.text_tower if isinstance(encoder, OpenClipEncoder) else None
    if tower is None or not isinstance(encoder, OpenClipEncoder):
        features = encoder.encode_texts([f"{prompt} {query}" for query in queries for prompt in prompts.texts])
        return features.double().view(len(queries), len(prompts), -1).mean(1)
    suffixes = [_suffix(encoder, tower, prompts, state, query) for query in queries]
    means = torch.empty(len(queries), encoder.dimension, dtype=torch.float64)
    together = [index for index, suffix in enumerate(suffixes) if suffix is not None]
    if together:
        means[together] = _means_after(tower, state, [suffix for suffix in suffixes if suffix is not None])
    for index, suffix in enumerate(suffixes):
        if suffix is None:
            means[index] = _features_with(encoder, tower, prompts, state, queries[index]).double().mean(0)
    return means


def _is_plain(text: str) -> bool:
    return bool(text.strip()) and _PLAIN.fullmatch(text) is not None


def _suffix(
    encoder: OpenClipEncoder, tower: TextTower, prompts: PromptSet, state: _PromptState, query: str
) -> tuple[int, ...] | None:
    """The token ids that a query adds to every prompt, up to the end-of-text token; None if they are not the same for all."""
    if state.is_plain and _is_plain(query):
        suffix = encoder.token_ids([query])[0][1:]
    else:
        ids = encoder.token_ids([f"{prompt} {query}" for prompt in prompts.texts])
        suffix = ids[0][len(state.token_ids[0]) :]
        if not suffix or any(text != (*prompt, *suffix) for text, prompt in zip(ids, state.token_ids, strict=True)):
            return None
    return suffix if max(map(len, state.token_ids)) + len(suffix) <= tower.context else None


@torch.inference_mode()
def _means_after(tower: TextTower, state: _PromptState, suffixes: Sequence[tuple[int, ...]]) -> Tensor:
    """The mean feature of the prompts with each suffix. [N, D] float64."""
    total = torch.zeros(())
    for prefixes in _prefixes(tower, state):
        # Not every device has float64.
        total = total + tower.continue_each(prefixes, suffixes).float().cpu().sum(0, dtype=torch.float64)
    return total / len(state.token_ids)


def _prefixes(tower: TextTower, state: _PromptState) -> Iterator[Sequence[Prefix]]:
    """The prompts' keys and values, in parts where they are not kept."""
    if state.prefixes is not None:
        yield state.prefixes
        return
    for start in range(0, len(state.token_ids), _PROMPTS_AT_A_TIME):
        yield tower.prefixes(state.token_ids[start : start + _PROMPTS_AT_A_TIME])


@torch.inference_mode()
def _features_with(encoder: OpenClipEncoder, tower: TextTower, prompts: PromptSet, state: _PromptState, query: str) -> Tensor:
    """t(p + " " + query) for every prompt, where a query does not add the same tokens to all. [P, D]."""
    texts = [f"{prompt} {query}" for prompt in prompts.texts]
    if state.prefixes is None:
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
