"""What is attached to a model, in words that are the same next time, and never the same for two things that differ."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carlos_core.comfy.description import Description
from carlos_core.comfy.fingerprint import Fingerprint


class Shifted(torch.nn.Module):
    """As a sampling node puts it onto a model."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift
        self.register_buffer("sigmas", torch.arange(300) / 8)


class Mode(Enum):
    FAST = "fast"
    SLOW = "slow"


class Chain:
    """An object that knows another, which may know it."""

    def __init__(self, value: Any, other: Chain | None = None) -> None:
        self.value = value
        self.other = other or self

    def double(self, number: float) -> float:
        return self.value * number

    def halve(self, number: float) -> float:
        return self.value / number


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value


class HalfSlotted(Slotted):
    """Has a field that is not among its fields."""


class Marker:
    """Says nothing but that it is itself."""


class Notes(dict[str, int]):
    """A mapping that knows more than its items."""

    def __init__(self, scale: float) -> None:
        super().__init__(a=1)
        self.scale = scale


STRENGTH = 0.5


def strong(value: float) -> float:
    return value * STRENGTH


def before_it_is_there() -> Callable[[], float]:
    def late() -> float:
        return value

    if STRENGTH > 1:
        value = 1.0
    return late


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else "the end"


def of(value: Any) -> bytes:
    return Description().of(value)


ALIKE: list[Callable[[], Any]] = [
    lambda: partial(strong, 2.0),
    lambda: Chain(1.0, Chain([2.0])),
    lambda: Chain(1.0).double,
    lambda: nested(20),
    before_it_is_there,
    lambda: torch.nn.Sequential(torch.nn.SiLU()),
    lambda: {Mode.FAST: Chain, "b": len, "c": torch.nn.functional.silu},
    lambda: {Marker(): 1.0, Marker(): 2.0},
    lambda: np.arange(5),
    lambda: Path("/models/a.safetensors"),
    lambda: Notes(1.0),
]


@pytest.mark.parametrize("make", ALIKE)
def test_things_made_alike_are_described_alike(make: Callable[[], Any]) -> None:
    assert of(make()) == of(make())


DIFFERENT: list[tuple[Any, Any]] = [
    (partial(strong, 2.0), partial(strong, 3.0)),
    (partial(strong, 2.0), partial(strong, value=2.0)),
    (lambda value: value * 2.0, lambda value: value * 3.0),
    (lambda value: value.cos(), lambda value: value.sin()),
    (lambda value, *, scale=1.0: value, lambda value, *, scale=2.0: value),
    (Chain(1.0).double, Chain(1.0).halve),
    (Chain(1.0).double, Chain(2.0).double),
    (Chain(1.0), Chain(1.0, Chain(1.0))),
    (nested(20), nested(21)),
    (torch.nn.Sequential(torch.nn.SiLU()), torch.nn.Sequential(torch.nn.ReLU())),
    (torch.nn.Sequential(torch.nn.Softplus(1.0)), torch.nn.Sequential(torch.nn.Softplus(2.0))),
    (Mode.FAST, Mode.SLOW),
    (Chain, Slotted),
    (len, sum),
    (np.arange(5), np.arange(5.0)),
    (Notes(1.0), Notes(2.0)),
    ([torch.zeros(3)], [torch.zeros(3).half()]),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_things_that_differ_are_described_otherwise(one: Any, other: Any) -> None:
    assert of(one) == of(one)
    assert of(one) != of(other)


def test_a_hook_on_a_module_makes_it_another() -> None:
    plain, hooked = torch.nn.Sequential(torch.nn.SiLU()), torch.nn.Sequential(torch.nn.SiLU())
    hooked[0].register_forward_hook(lambda module, inputs, output: output * 2)
    assert of(plain) != of(hooked)


def test_which_marker_has_which_value_is_part_of_it() -> None:
    def of_markers(*, is_crossed: bool) -> bytes:
        one, other = Marker(), Marker()
        return of([[one, other], {other: 1.0, one: 2.0} if is_crossed else {one: 1.0, other: 2.0}])

    assert of_markers(is_crossed=False) == of_markers(is_crossed=False)
    assert of_markers(is_crossed=False) != of_markers(is_crossed=True)


def local_class() -> type:
    class Local:
        pass

    return Local


UNKNOWN: list[Callable[[], Any]] = [
    lambda: iter([]),
    lambda: Slotted(1.0),
    lambda: HalfSlotted(1.0),
    lambda: random.Random(1),
    lambda: [].append,
    local_class,
    lambda: torch.empty(3, device="meta"),
    lambda: np.array([object()]),
    lambda: nested(100),
]


@pytest.mark.parametrize("make", UNKNOWN)
def test_what_holds_more_than_can_be_described_is_unlike_everything(make: Callable[[], Any]) -> None:
    thing = make()
    assert of(thing) != of(thing)


def test_parts_of_the_model_itself_count_by_their_name_whatever_is_patched_into_them() -> None:
    layer = torch.nn.Linear(3, 3)
    known = {id(layer): "layer 0"}
    before = Description(known).of(Chain(layer))
    layer.weight.data += 1
    assert before == Description(known).of(Chain(layer))
    assert before != Description({id(layer): "layer 1"}).of(Chain(layer))
    assert before != of(Chain(layer))


FORMER = [
    ({"transformer_options": {}}, "5636a939ce0452de"),
    ({"a": [1, 2.5, None, True], "b": (b"x", {"y", 3})}, "e30518a53c134c5a"),
    ({"k": [(1.0, (torch.arange(200.0), torch.ones(2, 3).half(), 1.0, None), 0.5)]}, "8d8659091d0d59db"),
    (torch.ones(3).to(torch.float8_e4m3fn), "dc276ac776d2a627"),
    (Shifted(3.0), "3eaa2448e0fa802b"),
]


@pytest.mark.parametrize(("value", "expected"), FORMER)
def test_models_that_were_measured_before_keep_their_ids(value: Any, expected: str) -> None:
    fingerprint = Fingerprint()
    fingerprint.add("value", value)
    assert fingerprint.hexdigest() == expected
