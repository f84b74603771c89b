"""Encoders: raw features like open_clip's own, found by id, refused when they are not what their id says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.loading import encoder_dimension, load_encoder
from carlos_core.clip.weights import local_encoders
from carlos_core.errors import EncoderError
from tests.support import miniworld

TEXTS = [
    "a cat",
    "",
    "a photograph of an old lighthouse on a cliff above the sea, in the style of a woodcut",
    "SNOWFALL!!! (cold:1.3), <lora:x>",
    "naïve café, 雪景色 ❄",
    "word " * 100,
]


def local_copy(folder: Path, name: str = "mini_clip") -> Path:
    """The mini CLIP's files under another name; returns the weights' path."""
    folder.mkdir(exist_ok=True)
    for suffix in (".json", ".safetensors"):
        shutil.copy(miniworld.MINIWORLD / f"mini_clip{suffix}", folder / f"{name}{suffix}")
    return folder / f"{name}.safetensors"


def id_of(folder: Path, name: str) -> str:
    return local_encoders([folder])[name].encoder_id


@torch.inference_mode()
def test_texts_have_the_features_of_open_clips_own_encode_text(
    encoder: OpenClipEncoder, open_clip_model: Any, tokenizer: Any
) -> None:
    expected = open_clip_model.encode_text(tokenizer(TEXTS))
    features = encoder.encode_texts(TEXTS)
    assert features.shape == (len(TEXTS), 64)
    assert features.dtype == torch.float32
    assert (torch.linalg.vector_norm(features - expected, dim=1) < 1e-5 * torch.linalg.vector_norm(expected, dim=1)).all()


@torch.inference_mode()
def test_texts_have_open_clips_features_at_the_published_encoders_size(
    published: tuple[Any, OpenClipEncoder], tokenizer: Any
) -> None:
    model, encoder = published
    expected = model.encode_text(tokenizer(TEXTS))
    error = torch.linalg.vector_norm(encoder.encode_texts(TEXTS) - expected, dim=1)
    assert (error < 1e-5 * torch.linalg.vector_norm(expected, dim=1)).all()


@torch.inference_mode()
def test_pictures_have_the_raw_features_of_open_clips_own_encode_image(encoder: OpenClipEncoder, open_clip_model: Any) -> None:
    bytes_ = torch.randint(0, 256, (3, 128, 128, 3), generator=torch.Generator().manual_seed(2))
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    expected = open_clip_model.encode_image(((bytes_ / 255.0 - mean) / std).permute(0, 3, 1, 2))
    torch.testing.assert_close(encoder.encode_images(bytes_ / 255.0), expected, rtol=1e-4, atol=1e-4)
    assert (torch.linalg.vector_norm(expected, dim=1) > 2).all(), "raw features are not of length 1"


def test_features_do_not_depend_on_what_shares_a_batch(encoder: OpenClipEncoder) -> None:
    images = torch.rand(70, 128, 128, 3, generator=torch.Generator().manual_seed(3))
    together = encoder.encode_images(images)
    for index in (0, 63, 64, 69):
        torch.testing.assert_close(together[index], encoder.encode_images(images[index : index + 1])[0], rtol=1e-4, atol=1e-4)
    together = encoder.encode_texts(TEXTS)
    for index, text in enumerate(TEXTS):
        torch.testing.assert_close(together[index], encoder.encode_texts([text])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(128, 128, 3), (1, 128, 128, 1), (1, 3, 128, 2)])
def test_something_that_is_no_batch_of_pictures_is_refused(encoder: OpenClipEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(EncoderError, match=r"Pictures have shape"):
        encoder.encode_images(torch.zeros(shape))


def test_a_local_encoder_is_found_by_its_name_and_the_hash_of_its_weights(encoder: OpenClipEncoder) -> None:
    found = local_encoders([miniworld.MINIWORLD])
    assert list(found) == ["mini_clip"], "other JSON and safetensors files there are no encoders"
    assert found["mini_clip"].encoder_id == miniworld.encoder_id() == encoder.encoder_id
    assert encoder.dimension == encoder_dimension(miniworld.encoder_id(), [miniworld.MINIWORLD]) == 64


def test_the_first_folder_with_a_name_wins(tmp_path: Path) -> None:
    local_copy(tmp_path / "first")
    local_copy(tmp_path / "second")
    folders = [tmp_path / "is not there", tmp_path / "first", tmp_path / "second"]
    assert local_encoders(folders)["mini_clip"].weights == tmp_path / "first" / "mini_clip.safetensors"


def test_other_weights_under_the_same_name_are_refused_and_both_ids_are_named() -> None:
    wanted = "mini_clip@0123456789ab"
    with pytest.raises(EncoderError) as caught:
        load_encoder(wanted, [miniworld.MINIWORLD])
    assert wanted in caught.value.what
    assert miniworld.encoder_id() in caught.value.what


def test_a_missing_encoder_is_named_with_its_files_and_where_to_put_them(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for attempt in (load_encoder, encoder_dimension):
        with pytest.raises(EncoderError) as caught:
            attempt("my_clip@0123456789ab", folders)
        assert "my_clip@0123456789ab" in caught.value.what
        for named in ("my_clip.json", "my_clip.safetensors", str(folders[0]), str(folders[1])):
            assert named in caught.value.hint


def test_a_config_without_its_weights_is_no_encoder(tmp_path: Path) -> None:
    local_copy(tmp_path).unlink()
    assert local_encoders([tmp_path]) == {}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda state: state.pop("text_projection"), "1 tensors missing.*text_projection"),
        (lambda state: state.update(text_projection=torch.zeros(96, 32)), "1 of another shape.*text_projection"),
        (lambda state: [state.pop(name) for name in list(state) if name.startswith("visual.")], "tensors missing"),
    ],
    ids=["missing tensor", "wrong shape", "no image tower"],
)
def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path, damage: Any, reason: str) -> None:
    state = load_file(local_copy(tmp_path, "damaged"))
    damage(state)
    save_file(state, tmp_path / "damaged.safetensors")
    with pytest.raises(EncoderError, match=rf"damaged\.safetensors does not fit its model.*{reason}"):
        load_encoder(id_of(tmp_path, "damaged"), [tmp_path])


def test_weights_that_are_no_safetensors_file_are_refused(tmp_path: Path) -> None:
    local_copy(tmp_path, "broken").write_bytes(b"<html>not found</html>")
    with pytest.raises(EncoderError, match=r"broken\.safetensors is not a safetensors file"):
        load_encoder(id_of(tmp_path, "broken"), [tmp_path])


@pytest.mark.parametrize(
    "config",
    [
        "no json",
        "[]",
        "{}",
        '{"embed_dim": 64}',
        '{"embed_dim": 64, "vision_cfg": {"no such setting": 1}, "text_cfg": {}}',
        '{"embed_dim": 64, "vision_cfg": 3, "text_cfg": 4}',
        pytest.param(f'{{"embed_dim": 64, "vision_cfg": {{}}, "text_cfg": {{}}, "more": "{"x" * (1 << 20)}"}}', id="too large"),
    ],
)
def test_a_config_that_is_none_is_refused_by_name(tmp_path: Path, config: str) -> None:
    # Weights of their own: open_clip remembers configs by the encoder's id.
    save_file({"config": torch.tensor(list(config.encode()))}, local_copy(tmp_path, "odd"))
    (tmp_path / "odd.json").write_text(config)
    with pytest.raises(EncoderError, match=r"odd\.json"):
        load_encoder(id_of(tmp_path, "odd"), [tmp_path])


def test_a_local_encoder_does_not_replace_open_clips_model_of_that_name(tmp_path: Path, encoder: OpenClipEncoder) -> None:
    local_copy(tmp_path, "ViT-B-32")
    namesake = load_encoder(id_of(tmp_path, "ViT-B-32"), [tmp_path])
    torch.testing.assert_close(namesake.encode_texts(TEXTS), encoder.encode_texts(TEXTS))
    assert open_clip.get_model_config("ViT-B-32")["embed_dim"] == 512


def test_a_changed_config_is_read_again(tmp_path: Path) -> None:
    local_copy(tmp_path, "changing")
    config = json.loads((tmp_path / "changing.json").read_text())
    good = (tmp_path / "changing.json").read_text()
    config["text_cfg"]["layers"] = 9
    (tmp_path / "changing.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="tensors missing"):
        load_encoder(id_of(tmp_path, "changing"), [tmp_path])
    (tmp_path / "changing.json").write_text(good)
    assert load_encoder(id_of(tmp_path, "changing"), [tmp_path]).dimension == 64


@pytest.mark.parametrize(
    ("encoder_id", "reason"),
    [
        ("NoSuchModel/openai", "knows no model 'NoSuchModel'"),
        ("ViT-B-32-quickgelu/nonsense", "no weights 'nonsense'.*It has:.*openai"),
        ("hf-hub:someone/model", "knows no model 'hf-hub:someone'"),
        ("gibberish", "is not an encoder id"),
        ("", "is not an encoder id"),
    ],
)
def test_an_encoder_nobody_knows_is_refused(tmp_path: Path, encoder_id: str, reason: str) -> None:
    with pytest.raises(EncoderError, match=reason):
        load_encoder(encoder_id, [tmp_path])


def test_the_dimension_of_the_published_encoder_needs_no_weights(tmp_path: Path) -> None:
    assert encoder_dimension("ViT-B-32-quickgelu/openai", [tmp_path]) == 512
    with pytest.raises(EncoderError, match="knows no model"):
        encoder_dimension("NoSuchModel/openai", [tmp_path])
