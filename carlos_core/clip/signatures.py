"""Query signatures: what a text adds to CLIP's features, averaged over many prompts.

signature(q) = mean over prompts p of t(p + " " + q) - t(p), with raw text features t (arXiv 2512.08826). It depends only on
(encoder, prompt set, query) and is kept. The mean of the prompts' own features is kept too, and, on the CPU, their keys and
values. Signatures of many queries are made together.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..prompts.prompt_set import PromptSet
from ..storage import short_hash
from .encoder import Encoder, OpenClipEncoder
from .lazy_encoder import LazyEncoder
from .signature_file import SignatureFile
from .text_tower import Prefix, TextTower

_PREFIX_SETS_KEPT = 3
"""A prompt set, and the few and the few more prompts of it that texts are looked at with first."""

_SIGNATURES_KEPT = 4096
"""In memory."""

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
        self._file = SignatureFile(folder) if folder is not None else None
        self._signatures: OrderedDict[str, Tensor] = OrderedDict()
        self._prompts: OrderedDict[tuple[str, str], _PromptState] = OrderedDict()

    def known(self, encoder_id: str, prompts: PromptSet, query: str) -> Tensor | None:
        """The signature if it was made before, which needs no encoder; otherwise None. [D] float32, raw CLIP units."""
        return self._known(encoder_id, prompts, [query]).get(query)

    def missing(self, encoder_id: str, prompts: PromptSet, queries: Sequence[str]) -> list[str]:
        """Those of the queries whose signatures were not made before, in their order. The others are read, all at once."""
        known = self._known(encoder_id, prompts, queries)
        return [query for query in queries if query not in known]

    def signature(self, encoder: Encoder, prompts: PromptSet, query: str) -> Tensor:
        """The signature of a query. [D] float32, raw CLIP units."""
        return self.signatures(encoder, prompts, [query])[0]

    def signatures(self, encoder: Encoder, prompts: PromptSet, queries: Sequence[str]) -> list[Tensor]:
        """The signatures of queries, each [D] float32, raw CLIP units; those that are not known are made together."""
        found = self._known(encoder.encoder_id, prompts, queries)
        missing = [query for query in dict.fromkeys(queries) if query not in found]
        if missing and isinstance(encoder, LazyEncoder):
            encoder = encoder.loaded
        step = max(1, _TEXTS_AT_A_TIME // len(prompts))
        for start in range(0, len(missing), step):
            part = missing[start : start + step]
            state = self._prompt_state(encoder, prompts)
            # The mean of the differences is the difference of the means.
            for query, mean in zip(part, _means_with(encoder, prompts, state, part), strict=True):
                found[query] = torch.from_numpy((mean.numpy() - state.mean).astype(np.float32))
            made = {_key("signature", encoder.encoder_id, prompts.content_hash, query): found[query] for query in part}
            self._keep(made)
            self._write({key: signature.numpy() for key, signature in made.items()})
        return [found[query] for query in queries]

    def _known(self, encoder_id: str, prompts: PromptSet, queries: Sequence[str]) -> dict[str, Tensor]:
        """The signatures that were made before, by query."""
        keys = {query: _key("signature", encoder_id, prompts.content_hash, query) for query in queries}
        here = {key: self._signatures[key] for key in keys.values() if key in self._signatures}
        read = self._read([key for key in keys.values() if key not in here])
        here |= {key: torch.from_numpy(values.astype(np.float32)) for key, values in read.items()}
        self._keep(here)
        return {query: here[key] for query, key in keys.items() if key in here}

    def _prompt_state(self, encoder: Encoder, prompts: PromptSet) -> _PromptState:
        identity = (encoder.encoder_id, prompts.content_hash)
        if identity not in self._prompts:
            self._prompts[identity] = self._new_prompt_state(encoder, prompts)
            while len(self._prompts) > _PREFIX_SETS_KEPT:
                self._prompts.popitem(last=False)
        return self._prompts[identity]

    def _new_prompt_state(self, encoder: Encoder, prompts: PromptSet) -> _PromptState:
        key = _key("prompts", encoder.encoder_id, prompts.content_hash)
        mean = self._read([key]).get(key)
        if mean is None:
            features = encoder.encode_texts(prompts.texts)
            mean = features.double().mean(0).numpy()
            self._write({key: mean})
        if not isinstance(encoder, OpenClipEncoder) or encoder.text_tower is None:
            return _PromptState(mean, [])
        token_ids = [ids[:-1] for ids in encoder.token_ids(prompts.texts)]
        with torch.inference_mode():
            prefixes = encoder.text_tower.prefixes(token_ids) if encoder.keeps_prefixes else None
        is_plain = encoder.reads_word_by_word and all(map(_is_plain, prompts.texts))
        return _PromptState(mean, token_ids, prefixes, is_plain)

    def _keep(self, signatures: Mapping[str, Tensor]) -> None:
        """Keep signatures in memory, as the ones that were used last."""
        for key, signature in signatures.items():
            self._signatures[key] = signature
            self._signatures.move_to_end(key)
        while len(self._signatures) > _SIGNATURES_KEPT:
            self._signatures.popitem(last=False)

    def _read(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        return self._file.read(keys) if self._file is not None and keys else {}

    def _write(self, vectors: Mapping[str, np.ndarray]) -> None:
        if self._file is not None:
            self._file.write(vectors)


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


def _key(*parts: str) -> str:
    return short_hash("\0".join(parts), 32)
