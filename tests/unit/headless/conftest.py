"""Models of diffusers for the tests of this folder, each made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from carlos_core.demo.miniworld_diffusers import diffusers_folder
from carlos_core.diffusers.loading import load_model
from carlos_core.diffusers.model import DiffusersModel
from tests.support.miniworld import MINIWORLD
from tests.support.tiny_diffusers import make_folder


@pytest.fixture(scope="session")
def miniworld_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini-world in diffusers' layout."""
    return diffusers_folder(MINIWORLD, tmp_path_factory.mktemp("miniworld") / "miniworld")


@pytest.fixture(scope="session")
def miniworld_model(miniworld_folder: Path) -> DiffusersModel:
    return load_model(miniworld_folder, "cpu")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model with random weights, by its kind."""
    return cache(lambda kind: make_folder(kind, tmp_path_factory.mktemp("tiny") / kind))


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Callable[[str], Path]) -> Callable[[str], DiffusersModel]:
    """A tiny model with random weights, by its kind."""
    return cache(lambda kind: load_model(tiny_folder(kind), "cpu"))
