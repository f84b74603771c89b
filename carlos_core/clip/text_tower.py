"""CLIP's causal text tower, run only on the tokens that matter.

The tower is causal. What comes after the end-of-text token has no influence on it, so the context can be cut there. The keys and
values of a prompt's tokens do not depend on what follows, so they can be kept while only a query's tokens are run. Both are
exact. open_clip's own `encode_text` runs all 77 positions of every text. Many texts that follow the same prompts are run
together, as a `token_tree`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .token_tree import TokenTree, trees_of

_PAD_LIMIT = 2

_TREE_TOKENS = 128
"""The most tokens of a tree: each looks at all the others."""

_BATCH_TOKENS = 4096
"""The most tokens that are run at a time: about 100 MB for ViT-B/32, 350 MB for the largest CLIP."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of the first `length` tokens of a text. keys, values: one [heads, length, width/heads] for each layer."""

    token_ids: tuple[int, ...]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        return len(self.token_ids)


class TextTower:
    """The text half of an open_clip `CLIP`. `supports` says whether a model is built the way this class runs it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._blocks: Sequence[Any] = tuple(model.transformer.resblocks)

    @property
    def context(self) -> int:
        """The most tokens of a text."""
        return int(self._model.positional_embedding.shape[0])

    @staticmethod
    def supports(model: nn.Module) -> bool:
        """Whether the text tower is OpenAI's: causal, pre-norm blocks, the feature taken at the end-of-text token."""
        blocks = getattr(getattr(model, "transformer", None), "resblocks", None)
        return (
            blocks is not None
            and getattr(model, "text_pool_type", None) == "argmax"
            and getattr(model, "attn_mask", None) is not None
            and isinstance(getattr(model, "text_projection", None), nn.Parameter)
            and all(
                type(block).__name__ == "ResidualAttentionBlock"
                and isinstance(block.attn, nn.MultiheadAttention)
                and block.attn.in_proj_weight is not None
                for block in blocks
            )
        )

    def encode(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Features of complete texts, [N, D] float32. texts: token ids up to and including the end-of-text token."""
        features = torch.empty(0)
        for indices in _groups_of_like_length([len(text) for text in texts]):
            found, _ = self._run([texts[index] for index in indices], None, keep=False)
            if features.numel() == 0:
                features = found.new_empty(len(texts), found.shape[1])
            features[indices] = found
        return features

    def prefixes(self, texts: Sequence[tuple[int, ...]]) -> list[Prefix]:
        """Keys and values of texts that others will continue. texts: token ids from the start, without the end-of-text token."""
        prefixes: list[Prefix | None] = [None] * len(texts)
        for indices in _groups_of_like_length([len(text) for text in texts]):
            _, layers = self._run([texts[index] for index in indices], None, keep=True)
            for place, index in enumerate(indices):
                length = len(texts[index])
                prefixes[index] = Prefix(
                    token_ids=texts[index],
                    keys=tuple(keys[place, :, :length].clone() for keys, _ in layers),
                    values=tuple(values[place, :, :length].clone() for _, values in layers),
                )
        return [prefix for prefix in prefixes if prefix is not None]

    def continue_from(self, prefixes: Sequence[Prefix], suffixes: Sequence[tuple[int, ...]]) -> Tensor:
        """Features of prefix + suffix, [N, D]; only the suffixes' tokens are run. Suffixes end with the end-of-text token."""
        features = torch.empty(0)
        for indices in _groups_of_like_length([prefix.length for prefix in prefixes]):
            found, _ = self._run([suffixes[index] for index in indices], [prefixes[index] for index in indices], keep=False)
            if features.numel() == 0:
                features = found.new_empty(len(prefixes), found.shape[1])
            features[indices] = found
        return features

    def continue_each(self, prefixes: Sequence[Prefix], suffixes: Sequence[tuple[int, ...]]) -> Tensor:
        """Features of every prefix with every suffix, [prefixes, suffixes, D]. Each must fit the context.

        What suffixes share at their beginning is run once, and large parts of it all at a time.
        """
        trees = trees_of(suffixes, _TREE_TOKENS)
        step = max(1, _BATCH_TOKENS // max(len(tree) for tree in trees))
        projection = self._model.text_projection
        features = projection.new_empty(len(prefixes), len(suffixes), projection.shape[1])
        for start in range(0, len(prefixes), step):
            for tree in trees:
                features[start : start + step, tree.texts] = self._run_tree(prefixes[start : start + step], tree)
        return features

    def _run_tree(self, prefixes: Sequence[Prefix], tree: TokenTree) -> Tensor:
        """Features of every prefix with every text of a tree, [prefixes, texts, D]."""
        model = self._model
        device = model.positional_embedding.device
        lengths = [prefix.length for prefix in prefixes]
        starts, past = torch.tensor(lengths, device=device), max(lengths)
        positions = starts[:, None] + torch.tensor(tree.depths, device=device)
        hidden = model.token_embedding(torch.tensor(tree.tokens, device=device)) + model.positional_embedding[positions]
        mask = _attention_mask(starts, past, tree.sees().to(device), hidden.dtype)
        for layer, block in enumerate(self._blocks):
            hidden, _, _ = _block(block, hidden, mask, _past(prefixes, layer, past))
        return model.ln_final(hidden[:, tree.ends]) @ model.text_projection

    def _run(
        self, texts: Sequence[tuple[int, ...]], prefixes: Sequence[Prefix] | None, *, keep: bool
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Run the tower over texts of similar length.

        Returns features [N, D] at each text's last token, and, if `keep`, keys and values of all layers.
        """
        model = self._model
        device = model.positional_embedding.device
        n = len(texts)
        lengths = torch.tensor([len(text) for text in texts], device=device)
        width = max(map(len, texts))
        ids = torch.zeros(n, width, dtype=torch.long)
        for place, text in enumerate(texts):
            ids[place, : len(text)] = torch.tensor(text)
        before = [prefix.length for prefix in prefixes or ()] or [0] * n
        starts, past = torch.tensor(before, device=device), max(before)
        positions = starts[:, None] + torch.arange(width, device=device)
        positions = positions.clamp(max=model.positional_embedding.shape[0] - 1)
        hidden = model.token_embedding(ids.to(device)) + model.positional_embedding[positions]
        mask = _attention_mask(starts, past, torch.ones(width, width, dtype=torch.bool, device=device).tril(), hidden.dtype)
        layers: list[tuple[Tensor, Tensor]] = []
        for layer, block in enumerate(self._blocks):
            old = _past(prefixes, layer, past) if prefixes else None
            hidden, keys, values = _block(block, hidden, mask, old)
            if keep:
                layers.append((keys, values))
        last = hidden[torch.arange(n, device=device), lengths - 1]
        features = model.ln_final(last) @ model.text_projection
        return features, layers


def _block(block: Any, hidden: Tensor, mask: Tensor, old: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Run one residual block. hidden [N, L, W]; mask [N or 1, 1, L, past + L]; old: keys and values [N, heads, past, W/heads]."""
    attention: nn.MultiheadAttention = block.attn
    n, length, width = hidden.shape
    heads = attention.num_heads
    joined = functional.linear(block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias)
    queries, keys, values = (part.view(n, length, heads, -1).transpose(1, 2) for part in joined.chunk(3, dim=-1))
    if old is not None:
        keys, values = torch.cat((old[0], keys), dim=2), torch.cat((old[1], values), dim=2)
    mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    mixed = attention.out_proj(mixed.transpose(1, 2).reshape(n, length, width))
    hidden = hidden + block.ls_1(mixed)
    hidden = hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
    return hidden, keys, values


def _attention_mask(starts: Tensor, past: int, sees: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, 1, L, past + L]: a token sees its prefix (not the padding after it) and those of the new tokens that `sees` says.

    Args:
        starts: lengths of the prefixes, [N].
        past: the longest of them.
        sees: which new tokens each new token sees, [L, L] bool.
        dtype: that of the tower.
    """
    n, length = len(starts), len(sees)
    sees_past = torch.arange(past, device=starts.device)[None, :] < starts[:, None]
    seen = torch.cat(
        (sees_past[:, None, None, :].expand(n, 1, length, past), sees[None, None].expand(n, 1, length, length)), dim=3
    )
    return torch.zeros(seen.shape, dtype=dtype, device=starts.device).masked_fill_(~seen, float("-inf"))


def _past(prefixes: Sequence[Prefix], layer: int, length: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer, [N, heads, length, width/heads] each."""
    return _padded([prefix.keys[layer] for prefix in prefixes], length), _padded(
        [prefix.values[layer] for prefix in prefixes], length
    )


def _padded(parts: Sequence[Tensor], length: int) -> Tensor:
    """[heads, l, w] each -> [N, heads, length, w], with zeros after the shorter ones."""
    return torch.stack([functional.pad(part, (0, 0, 0, length - part.shape[1])) for part in parts])


def _groups_of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in groups whose lengths differ by at most `_PAD_LIMIT`: little is padded, and batches stay large."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    groups: list[list[int]] = []
    for index in order:
        if groups and lengths[index] - lengths[groups[-1][0]] <= _PAD_LIMIT:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
