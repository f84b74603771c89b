"""What the tests of the library share: the mini-world's CLIP and rows, and a home folder that is not the user's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import HealthCheck, settings

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.pixels import PixelFormat
from carlos_core.database.database import MetricsDatabase, load_database
from carlos_core.prompts.prompt_set import PromptSet, load_prompt_set
from tests.support import civitai_server, miniworld
from tests.support.bench import Bench
from tests.support.civitai_server import CivitaiServer

# The models here are so small that threads only wait for each other.
torch.set_num_threads(1)

# The same examples in each run, however busy the machine is.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _not_the_users_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARLOS_HOME", str(tmp_path_factory.mktemp("carlos-home")))
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty CARLOS_HOME of this test's own."""
    folder = tmp_path / "carlos-home"
    monkeypatch.setenv("CARLOS_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def encoder() -> OpenClipEncoder:
    """The mini CLIP as the library loads it."""
    return load_encoder(miniworld.encoder_id(), [miniworld.MINIWORLD])


@pytest.fixture(scope="session")
def open_clip_model() -> Any:
    """The mini CLIP as open_clip itself loads it: the reference that ours is compared with."""
    open_clip.add_model_config(miniworld.MINIWORLD / "mini_clip.json")
    return open_clip.create_model("mini_clip", pretrained=str(miniworld.MINIWORLD / "mini_clip.safetensors")).eval()


@pytest.fixture(scope="session")
def published() -> tuple[Any, OpenClipEncoder]:
    """The published encoder's architecture at its real size, with random weights: open_clip's model, and ours around it."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    return model, OpenClipEncoder(model, tokenizer, "random", PixelFormat(224, miniworld.CLIP_MEAN, miniworld.CLIP_STD), 512)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """open_clip's tokenizer, which the mini CLIP was trained with."""
    return open_clip.get_tokenizer("ViT-B-32")


@pytest.fixture(scope="session")
def signature_prompts() -> PromptSet:
    """The mini-world's 64 prompts for signatures."""
    return load_prompt_set(miniworld.MINIWORLD / "prompts_signature.json")


@pytest.fixture(scope="module")
def few_prompts() -> PromptSet:
    """A dozen of the mini-world's prompts, for what need not be exact."""
    return load_prompt_set(miniworld.MINIWORLD / "prompts_short.json")


@pytest.fixture
def database() -> MetricsDatabase:
    """The mini-world's 23 LoRAs as the reference evaluation measured them, not saved."""
    database = load_database(miniworld.MINIWORLD / "reference_metrics.parquet", encoder_id=miniworld.encoder_id())
    database.path = None
    return database


@pytest.fixture
def bench(tmp_path: Path, encoder: OpenClipEncoder) -> Bench:
    return Bench(tmp_path, encoder)


@pytest.fixture
def civitai() -> Iterator[CivitaiServer]:
    """An imitation of CivitAI with nothing published yet."""
    with civitai_server.serving() as server:
        yield server
