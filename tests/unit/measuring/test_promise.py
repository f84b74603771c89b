"""What names promise: an order to look in."""

from __future__ import annotations

from pathlib import Path

import pytest

from carlos_core.loras.lora_file import LoraFile
from carlos_core.measuring.promise import promise_of
from carlos_core.records import LoraMetadata


@pytest.mark.parametrize(
    ("name", "metadata", "promise"),
    [
        ("styles/oil_painting-v2.safetensors", LoraMetadata(), 1.0),
        ("x.safetensors", LoraMetadata(model_name="Thick Paintings"), 0.5),
        ("x.safetensors", LoraMetadata(trigger_words=("oil on canvas",)), 0.5),
        ("boiling.safetensors", LoraMetadata(), 0.0),
    ],
)
def test_words_of_the_query_in_names_and_trigger_words_count(name: str, metadata: LoraMetadata, promise: float) -> None:
    assert promise_of("oil painting", LoraFile(Path(name), name, "0" * 64, metadata)) == promise


def test_a_query_of_signs_promises_nothing() -> None:
    assert promise_of("油絵 ?!", LoraFile(Path("a"), "a.safetensors", "0" * 64, LoraMetadata())) == 0.0
