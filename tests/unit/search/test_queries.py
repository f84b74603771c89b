"""Asking by another LoRA, by pictures, and by several searches at once."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.errors import RetrievalError
from carlos_core.prompts.prompt_set import PromptSet
from carlos_core.search.queries import but_not, combined, like_images, like_lora
from tests.support import miniworld
from tests.support.searches import find, signature_of

LIMITS: dict[str, Any] = {"max_strength": 9.8, "min_consistency": 0.041}


def effects(database: MetricsDatabase, signature: torch.Tensor, top_k: int = 3, **choice: Any) -> list[str]:
    """What the LoRAs found for a signature do, best first."""
    found = find(database, signature, top_k, **LIMITS, **choice)  # type: ignore[arg-type]
    return [match.record.extra["label"] for match in found.items]


def test_a_lora_is_most_like_its_duplicate(database: MetricsDatabase) -> None:
    ids = dict(zip(database.column("file_name"), database.column("lora_id"), strict=True))
    for name, facts in miniworld.labels().items():
        if facts["kind"] == "duplicate":
            own = ids[name]
            assert effects(database, like_lora(database, f" {own} "), 1, exclude={own}) == [facts["label"]]


def test_rows_of_an_unknown_encoder_can_be_searched_by_a_lora() -> None:
    unknown = load_database(miniworld.MINIWORLD / "reference_metrics.parquet")
    assert unknown.encoder_id is None
    pixels = next(row["lora_id"] for row in unknown.table.to_pylist() if row["label"] == "pixel art")
    assert effects(unknown, like_lora(unknown, pixels), 2) == ["pixel art", "pixel art"]


def test_a_lora_that_is_not_there_or_does_nothing_is_named(database: MetricsDatabase) -> None:
    with pytest.raises(RetrievalError, match="has no LoRA 'nobody'"):
        like_lora(database, "nobody")
    noop = next(match for match in database.table.to_pylist() if match["kind"] == "noop")
    with pytest.raises(RetrievalError, match=f"{noop['file_name']} has no measurable effect"):
        like_lora(database, noop["lora_id"])


def test_pictures_are_compared_by_their_mean(encoder: OpenClipEncoder) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures, others = torch.rand(3, 128, 128, 3, generator=generator), torch.rand(2, 128, 128, 3, generator=generator)
    one_by_one = [encoder.encode_images(picture[None])[0].double().numpy() for picture in pictures]
    without = np.mean([encoder.encode_images(picture[None])[0].double().numpy() for picture in others], axis=0)
    mean = np.mean(one_by_one, axis=0)
    base = torch.from_numpy(np.arange(64.0))
    np.testing.assert_allclose(like_images(encoder, pictures).numpy(), mean, atol=1e-4)
    np.testing.assert_allclose(like_images(encoder, pictures, base_mean=base).numpy(), mean - np.arange(64.0), atol=1e-4)
    np.testing.assert_allclose(like_images(encoder, pictures, without=others).numpy(), mean - without, atol=1e-4)
    assert not like_images(encoder, pictures, without=pictures).any()


def test_searches_add_up_whatever_their_lengths() -> None:
    x, y = torch.tensor([5.0, 0.0, 0.0]), torch.tensor([0.0, 0.01, 0.0])
    torch.testing.assert_close(combined([x, y], [1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(combined([x, y], [1.0, 0.5]), torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(combined([x, y], [1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))


def test_a_negative_weight_takes_a_search_away() -> None:
    diagonal, x = torch.tensor([3.0, 3.0]), torch.tensor([2.0, 0.0])
    half = float(np.sqrt(0.5))
    torch.testing.assert_close(combined([diagonal, x], [1.0, -1.0]), torch.tensor([0.0, half]))
    torch.testing.assert_close(combined([diagonal, x], [1.0, -0.5]), torch.tensor([half / 2, half]))
    torch.testing.assert_close(combined([-x, x], [1.0, -1.0]), torch.tensor([-1.0, 0.0]))


def test_what_is_left_of_a_query_knows_nothing_of_the_negative() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        signature, negative = torch.randn(16, generator=generator), torch.randn(16, generator=generator)
        left = but_not(signature, negative)
        if signature @ negative > 0:
            assert float(left @ negative) == pytest.approx(0, abs=1e-5)
            # Nothing else of it is touched.
            gone = (signature - left).numpy()
            np.testing.assert_allclose(abs(gone @ negative.numpy()), np.linalg.norm(gone) * np.linalg.norm(negative), rtol=1e-5)
        else:
            torch.testing.assert_close(left, signature)


def test_nothing_is_found_by_the_rounding_errors_of_a_query_without_itself() -> None:
    signature = torch.randn(16, generator=torch.Generator().manual_seed(2))
    with pytest.raises(RetrievalError, match="all that was looked for"):
        but_not(signature, 3 * signature)
    with pytest.raises(RetrievalError, match="all that was looked for"):
        combined([signature, signature], [1.0, -1.0])
    assert float(combined([signature, signature], [1.0, -0.5]) @ signature) > 0


def test_only_negative_or_empty_searches_are_refused() -> None:
    x = torch.tensor([1.0, 0.0])
    with pytest.raises(RetrievalError, match="No search has a weight above 0"):
        combined([x], [-1.0])
    with pytest.raises(RetrievalError, match="No search has a weight above 0"):
        combined([], [])
    with pytest.raises(RetrievalError, match="changes nothing"):
        combined([x, 0 * x], [1.0, 1.0])


def test_in_the_mini_world_two_effects_but_not_one_of_them_finds_the_other(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet
) -> None:
    asked = json.loads((miniworld.MINIWORLD / "queries.json").read_text())
    cache = SignatureCache()

    def signature(query: str) -> torch.Tensor:
        return signature_of(database, query, encoder, signature_prompts, cache)

    first, plain_first, n = 0, 0, 0
    for entry in asked["compound"]:
        wanted, unwanted = (miniworld.labels()[file]["label"] for file in entry["files"])
        both = signature(entry["query"])
        for label, other in ((wanted, unwanted), (unwanted, wanted)):
            found = effects(database, but_not(both, signature(other)), 1)
            assert found != [other], entry
            first += found == [label]
            plain_first += effects(database, both, 1) == [label]
            n += 1
    assert first > 0.8 * n > 1.5 * plain_first


def test_in_the_mini_world_two_searches_together_find_the_loras_of_both(
    database: MetricsDatabase, encoder: OpenClipEncoder, signature_prompts: PromptSet
) -> None:
    cache = SignatureCache()
    labels = [facts["label"] for facts in miniworld.labels().values() if facts["kind"] == "ordinary"][:8]
    signatures = {label: signature_of(database, label, encoder, signature_prompts, cache) for label in labels}
    for a, b in itertools.combinations(labels, 2):
        found = list(dict.fromkeys(effects(database, combined([signatures[a], signatures[b]], [1.0, 1.0]), 4)))
        assert set(found[:2]) == {a, b}
