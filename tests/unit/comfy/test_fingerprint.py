"""Fingerprints of models: the same for the same model in another process, another one for whatever could change a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from carlos_core.comfy.fingerprint import Fingerprint


def of(value: Any) -> str:
    fingerprint = Fingerprint()
    fingerprint.add("value", value)
    return fingerprint.hexdigest()


def of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    fingerprint = Fingerprint()
    fingerprint.add_tensors(tensors.items())
    return fingerprint.hexdigest()


class Settings:
    f: Callable[[float], float]

    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)


class Described:
    """Holds something that nothing can be said about."""

    def __init__(self) -> None:
        self.handle: Iterator[int] = iter([])


def scaled_by(factor: float) -> Callable[[float], float]:
    return lambda value: value * factor


def small_model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.SiLU(), torch.nn.Linear(30, 5))


VALUES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: 3,
    lambda: [1, 2.5, "x", None, True],
    lambda: {"steps": 25, "nested": {"b": [1], "a": (2, 3)}},
    lambda: {"x", "y", "z"},
    lambda: torch.arange(200.0),
    lambda: Settings(shift=3.0, name="flow"),
    lambda: scaled_by(2.0),
    lambda: Settings(f=scaled_by(2.0)).f,
    small_model,
]


@pytest.mark.parametrize("make", VALUES)
def test_things_made_alike_have_the_same_fingerprint(make: Callable[[], Any]) -> None:
    assert of(make()) == of(make())
    assert len(of(make())) == 16


def test_things_that_differ_have_different_fingerprints() -> None:
    values = [
        None, 0, False, 0.0, "", "0", b"", [], [0], (0, 0), [[0], 0], {}, {"a": 1}, {"a": 2}, {"b": 1}, {1}, {1, 2},
        torch.zeros(3), torch.zeros(4), torch.zeros(3, dtype=torch.float16), torch.zeros(1, 3), torch.ones(3),
        Settings(a=1), Settings(a=2), Settings(b=1), scaled_by(2.0), scaled_by(3.0), small_model(0), small_model(1),
    ]  # fmt: skip
    assert len({of(value) for value in values}) == len(values)


def test_the_order_of_a_mapping_does_not_matter() -> None:
    assert of({"a": 1, "b": 2}) == of({"b": 2, "a": 1})
    tensors = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert of_tensors(tensors) == of_tensors(dict(reversed(tensors.items())))


def test_a_fine_tuned_model_has_a_fingerprint_of_its_own() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {f"layer {k}": torch.randn(64, 64, generator=generator) for k in range(4)}
    tuned = {name: tensor + 1e-3 * torch.randn(64, 64, generator=generator) for name, tensor in weights.items()}
    assert of_tensors(weights) != of_tensors(tuned)
    assert of_tensors(weights) != of_tensors({name: tensor.half() for name, tensor in weights.items()})
    assert of_tensors(weights) == of_tensors({name: tensor.clone() for name, tensor in weights.items()})


def test_a_thing_that_cannot_be_described_is_never_taken_for_another() -> None:
    assert of(Described()) != of(Described())


def test_weights_count_in_the_type_that_they_are_used_in() -> None:
    kept = torch.linspace(-1, 1, 300)
    used = kept.to(torch.bfloat16)
    plain, before, after = Fingerprint(), Fingerprint(), Fingerprint()
    plain.add_tensors([("w", kept)])
    before.add_tensors([("w", kept)], {"w": torch.bfloat16, "another": torch.float16})
    after.add_tensors([("w", used)], {"w": torch.bfloat16})
    assert before.hexdigest() == after.hexdigest() != plain.hexdigest()
    quantised = [("w", kept.to(torch.float8_e4m3fn))]
    as_they_are, cast = Fingerprint(), Fingerprint()
    as_they_are.add_tensors(quantised)
    cast.add_tensors(quantised, {"w": torch.bfloat16})
    assert as_they_are.hexdigest() == cast.hexdigest()
