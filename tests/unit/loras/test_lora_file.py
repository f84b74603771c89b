"""What a LoRA file says about itself: family and trigger words, and which files are none."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from carlos_core.errors import LoraError
from carlos_core.loras.family import FAMILIES, families_alike, family_of_header, family_of_name, fits
from carlos_core.loras.header import read_header
from carlos_core.loras.lora_file import read_lora_file
from tests.support import miniworld

DOWN = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"


def lora(path: Path, metadata: dict[str, str] | None = None, **shapes: tuple[int, ...]) -> Path:
    """Write a LoRA file with the given metadata and tensors of the given shapes."""
    save_file({name: np.ones(shape, np.float32) for name, shape in (shapes or {"x": (2, 3)}).items()}, path, metadata)
    return path


def test_the_header_has_the_files_words_names_and_shapes(tmp_path: Path) -> None:
    header = read_header(lora(tmp_path / "a.safetensors", {"ss_x": "ü"}, a=(2, 3), b=(4,), c=()))
    assert header.metadata == {"ss_x": "ü"}
    assert header.shapes == {"a": (2, 3), "b": (4,), "c": ()}
    assert read_header(lora(tmp_path / "b.safetensors")).metadata == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"<html>404: not found, but long enough for a length to be read from it</html>",
        b"PK\x03\x04" + b"\0" * 200,
        struct.pack("<Q", 1000) + b'{"x":',
        struct.pack("<Q", 12) + b"no JSON here",
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 9) + b'{"x": 12}',
        struct.pack("<Q", 11) + b'{"x": "y"} ',
        struct.pack("<Q", 19) + b'{"x": {"shape": 3}}',
        struct.pack("<Q", 37) + b'{"x": {"shape": [], "data_offsets": [' + b"0]}}",
    ],
)
def test_a_file_that_is_no_safetensors_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(LoraError, match=r"bad\.safetensors is not a safetensors file") as caught:
        read_lora_file(tmp_path / "bad.safetensors")
    assert caught.value.hint


def test_a_file_of_which_a_part_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", x=(1000,))
    whole = path.read_bytes()
    for size in (len(whole) - 1, 30):
        path.write_bytes(whole[:size])
        with pytest.raises(LoraError, match=r"a\.safetensors is not a safetensors file, or a part of it is missing"):
            read_lora_file(path)


def test_a_file_that_is_not_there_is_an_error_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(LoraError, match=f"The LoRA {path.name} cannot be read"):
            read_lora_file(path)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("SD 1.4", "SD 1.5"), ("SD 1.5", "SD 1.5"), ("SD 1.5 LCM", "SD 1.5"), ("sd_v1", "SD 1.5"), ("1.5", "SD 1.5"),
        ("stable-diffusion-v1/lora", "SD 1.5"), ("runwayml/stable-diffusion-v1-5", "SD 1.5"),
        ("SD 2.0", "SD 2"), ("SD 2.1 768", "SD 2"), ("sd_v2_v", "SD 2"), ("stable-diffusion-v2-768-v/lora", "SD 2"),
        ("SDXL 1.0", "SDXL"), ("SDXL Turbo", "SDXL"), ("SDXL Lightning", "SDXL"), ("SDXL", "SDXL"), ("sdxl_base_v1-0", "SDXL"),
        ("stable-diffusion-xl-v1-base/lora", "SDXL"), ("sd_xl_base_1.0.safetensors", "SDXL"),
        ("Pony", "Pony"), ("ponyDiffusionV6XL.safetensors", "Pony"),
        ("Illustrious", "Illustrious"), ("NoobAI", "Illustrious"), ("Illustrious-XL-v1.0", "Illustrious"),
        ("SD 3", "SD 3"), ("SD 3.5 Large", "SD 3"), ("stable-diffusion-3-medium/lora", "SD 3"), ("sd3-mini-world", "SD 3"),
        ("Flux.1 D", "Flux"), ("Flux.1 S", "Flux"), ("flux-1-dev/lora", "Flux"), ("flux1", "Flux"),
        ("Flux.2 D", "Flux.2"), ("Flux.2 Klein 9B", "Flux.2"), ("flux2_klein_9b", "Flux.2"), ("Flux.1 Krea", "Flux"),
        ("Krea 2 Turbo", "Krea 2"), ("ZImageTurbo", "Z-Image"), ("Z-Image Base", "Z-Image"), ("zimage", "Z-Image"),
        ("Qwen-Image-Edit 2509", "Qwen-Image"), ("Qwen", "Qwen-Image"), ("Chroma", "Chroma"), ("Anima", "Anima"),
        ("Animagine XL", "SDXL"), ("Lumina 2", "Lumina 2"), ("NetaYume Lumina", "Lumina 2"), ("Pony V7", "AuraFlow"),
        ("AuraFlow", "AuraFlow"), ("HiDream", "HiDream"), ("Ernie-Image", "Ernie-Image"), ("LTXV2", "LTXV"), ("LTXV 2.3", "LTXV"),
        ("Wan Video 14B t2v", "Wan"), ("Wan Video 2.2 T2V-A14B", "Wan"), ("Hunyuan Video", "Hunyuan Video"), ("Kolors", "Kolors"),
        # As people type them and files are called.
        ("Stable Diffusion 1.5", "SD 1.5"), ("v1-5-pruned-emaonly.safetensors", "SD 1.5"), ("sd15", "SD 1.5"),
        ("Stable Diffusion 2.1", "SD 2"), ("v2-1_768-ema-pruned.safetensors", "SD 2"), ("SD Turbo", "SD 2"),
        ("Stable Diffusion XL", "SDXL"), ("stable_diffusion_xl", "SDXL"), ("juggernautXL_v9", "SDXL"), ("animagineXL40", "SDXL"),
        ("SSD-1B", "SDXL"), ("segmind-vega", "SDXL"), ("KOALA-700M", "SDXL"), ("CosXL", "SDXL"), ("Playground v2.5", None),
        ("Stable Diffusion 3.5 Medium", "SD 3"), ("StableDiffusion3.5", "SD 3"), ("sd3.5_large", "SD 3"),
        ("ponyRealism_V22", "Pony"), ("PDXL", "Pony"), ("NoobAI-XL vpred", "Illustrious"), ("illustriousXL_v01", "Illustrious"),
        ("ILXL", "Illustrious"), ("waiNSFWIllustrious_v140", "Illustrious"), ("noobaiXLNAIXL_vPred10Version", "Illustrious"),
        ("FLUX.1 [dev]", "Flux"), ("flux_dev", "Flux"), ("FLUX.1-Kontext-dev", "Flux"), ("flux1-dev-t5xxl", "Flux"),
        ("Flux.2-dev", "Flux.2"), ("flux2-klein-4b", "Flux.2"), ("FLUX.2-klein-base-9B", "Flux.2"), ("Klein 4B", "Flux.2"),
        ("Z Image Turbo", "Z-Image"), ("z_image_base", "Z-Image"), ("Tongyi-MAI/Z-Image-Turbo", "Z-Image"),
        ("Qwen-Image-Edit-2511", "Qwen-Image"), ("qwen_image", "Qwen-Image"), ("Qwen 2", "Qwen-Image"),
        ("Krea2 RAW", "Krea 2"), ("krea-2-turbo", "Krea 2"), ("Chroma1-HD", "Chroma"), ("ChromaRadiance", "Chroma"),
        ("anima_v1", "Anima"), ("Lumina-Image-2.0", "Lumina 2"), ("NetaYumeLumina_v35", "Lumina 2"), ("Lumina", "Lumina 2"),
        ("ponyDiffusionV7", "AuraFlow"), ("pony-v7-base", "AuraFlow"), ("aura flow", "AuraFlow"), ("HiDream-I1-Full", "HiDream"),
        ("ERNIE Image Turbo", "Ernie-Image"), ("LTX-2", "LTXV"), ("ltx-2-19b-dev", "LTXV"), ("Wan2.2 I2V A14B", "Wan"),
        ("wan_i2v_14B", "Wan"), ("wan22", "Wan"), ("wanvideo", "Wan"), ("HunyuanImage 2.1", "Hunyuan Video"),
        ("HunyuanVideo 1.5", "Hunyuan Video"), ("PixArt-Sigma-XL-2-1024-MS", "PixArt"), ("Cosmos-Predict2", "Cosmos"),
        ("Kandinsky-5.0-T2I", "Kandinsky 5"),
        # Names in which another family's is only a part of a word, and kinds that are none of ours.
        ("zavychromaxl_v80", "SDXL"), ("illuminatiDiffusionV1_v11", None), ("chromatic aberration", None), ("Bernie", None),
        ("ponytail", None), ("noobie", None), ("PixlArt", None), ("taiwan 2", None), ("Upscaler", None), ("Kandinsky 2.2", None),
        ("Hunyuan 1", None), ("Stable Cascade", None), ("SVD XT", None), ("CogVideoX", None), ("OmniGen2", None),
        ("Swan Lake", None), ("Other", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_a_family_is_known_by_the_names_people_and_trainers_use(name: str | None, family: str | None) -> None:
    assert family_of_name(name) == family


def test_a_family_is_known_by_its_own_name() -> None:
    assert [family_of_name(family) for family in FAMILIES] == list(FAMILIES)


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sd_v1"}, "SD 1.5"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "Flux"),
        ({"ss_sd_model_name": "sd_xl_base_1.0.safetensors"}, "SDXL"),
        ({"ss_base_model_version": "who knows", "modelspec.architecture": "stable-diffusion-v1/lora"}, "SD 1.5"),
        ({"ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "ponyDiffusionV6XL.safetensors"}, "Pony"),
        ({"ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "Illustrious-XL-v0.1.safetensors"}, "Illustrious"),
        # There was a Pony for SD 1.5.
        ({"ss_base_model_version": "sd_v1", "ss_sd_model_name": "pony-diffusion-v4.ckpt"}, "SD 1.5"),
        ({"ss_sd_model_name": "ponyDiffusionV6XL.safetensors"}, "Pony"),
        ({"ss_base_model_version": "flux2_klein_9b"}, "Flux.2"),
        ({"modelspec.architecture": "chroma/lora"}, "Chroma"),
        ({"ss_base_model_version": "zimage"}, "Z-Image"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora", "ss_sd_model_name": "noobaiXL_v11"}, "Illustrious"),
        ({"ss_sd_model_name": "zavychromaxl_v80.safetensors"}, "SDXL"),
        ({}, None),
    ],
)
def test_a_file_names_its_family_in_its_metadata(tmp_path: Path, metadata: dict[str, str], family: str | None) -> None:
    assert read_lora_file(lora(tmp_path / "a.safetensors", metadata)).metadata.base_model == family


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        ({DOWN: (8, 768)}, "SD 1.5"),
        ({DOWN: (8, 768, 1, 1)}, "SD 1.5"),
        ({DOWN: (8, 1024)}, "SD 2"),
        ({DOWN: (8, 2048)}, "SDXL"),
        ({"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (8, 2048)}, "SDXL"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 1280)}, "SDXL"),
        ({"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": (8, 1536)}, "SD 3"),
        ({"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (8, 1536)}, "SD 3"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (8, 3072)}, "Flux"),
        (
            {
                "transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (8, 3072),
                "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (8, 3072),
            },
            "Flux",
        ),
        ({f"{DOWN.partition('.')[0]}.hada_w1_b": (8, 2048)}, "SDXL"),
        ({"diffusion_model.blocks.0.cross_attn.k.lora_A.weight": (8, 5120)}, "Wan"),
        ({"diffusion_model.blocks.0.cross_attn.q_proj.lora_A.weight": (8, 2048)}, "Anima"),
        ({"diffusion_model.layers.3.attention.qkv.lora_A.weight": (8, 3840)}, "Z-Image"),
        ({"lora_unet_layers_3_attention_to_q.lora_down.weight": (8, 3840)}, "Z-Image"),
        ({"diffusion_model.layers.3.attention.qkv.lora_A.weight": (8, 2304)}, "Lumina 2"),
        ({"diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": (8, 6144)}, "Flux.2"),
        ({"transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight": (8, 3072)}, "Flux.2"),
        ({"transformer_blocks.0.img_mlp.net.2.lora_A.weight": (8, 12288)}, "Qwen-Image"),
        ({"diffusion_model.distilled_guidance_layer.in_proj.lora_A.weight": (8, 64)}, "Chroma"),
        # LTXV is as wide as SDXL and has no U-Net.
        ({"transformer.transformer_blocks.0.attn2.to_k.lora_A.weight": (8, 2048)}, None),
        # Qwen-Image
        ({"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": (8, 3072)}, None),
    ],
)
def test_a_file_without_metadata_shows_its_family_in_its_tensors(shapes: dict[str, tuple[int, ...]], family: str | None) -> None:
    assert family_of_header({}, shapes) == family


FLUX_LIKE = {"diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": (8, 3072)}
SDXL_LIKE = {DOWN: (8, 2048)}


@pytest.mark.parametrize(
    ("said", "shapes"),
    [
        ("Chroma", FLUX_LIKE), ("LTXV2", SDXL_LIKE), ("Flux.2 Klein 4B", FLUX_LIKE), ("Kolors", SDXL_LIKE), ("Pony", SDXL_LIKE),
        ("LongCat-Image", FLUX_LIKE),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".civitai.info", ".metadata.json", ".json", "header"])
def test_what_a_sidecar_or_header_says_counts_for_more_than_shapes(
    tmp_path: Path, said: str, shapes: dict[str, tuple[int, ...]], suffix: str
) -> None:
    metadata = {"modelspec.architecture": said} if suffix == "header" else {}
    path = lora(tmp_path / "a.safetensors", metadata, **shapes)
    if suffix != "header":
        key = {".civitai.info": "baseModel", ".metadata.json": "base_model", ".json": "sd version"}[suffix]
        path.with_suffix(suffix).write_text(json.dumps({key: said}))
    assert read_lora_file(path).metadata.base_model == (family_of_name(said) or (None if suffix == "header" else said))
    # It is not offered for the family that it looks like.
    assert family_of_name(said) is None or not fits(said, "Flux" if shapes is FLUX_LIKE else "SDXL")


@pytest.mark.parametrize("said", ["Other", "Unknown", "unknown", " "])
def test_a_sidecar_that_does_not_know_says_nothing_against_the_shapes(tmp_path: Path, said: str) -> None:
    path = lora(tmp_path / "a.safetensors", None, **FLUX_LIKE)
    path.with_suffix(".json").write_text(json.dumps({"sd version": said}))
    assert read_lora_file(path).metadata.base_model == "Flux"


def test_a_pony_for_sd_15_is_not_taken_for_the_one_of_sdxl(tmp_path: Path) -> None:
    metadata = {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "pony-diffusion-v4.ckpt"}
    assert read_lora_file(lora(tmp_path / "a.safetensors", metadata, **{DOWN: (8, 768)})).metadata.base_model == "SD 1.5"


def test_an_architecture_that_is_none_of_ours_is_not_taken_for_one_by_its_tensors_names() -> None:
    shapes = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (8, 3072)}
    assert family_of_header({"modelspec.architecture": "hunyuan-video"}, shapes) == "Hunyuan Video"
    assert family_of_header({"modelspec.architecture": "something new"}, shapes) is None
    # A checkpoint's own name says nothing against its tensors.
    assert family_of_header({"ss_sd_model_name": "my_merge.safetensors"}, shapes) == "Flux"


def test_loras_fit_their_family_and_unknown_ones_fit_everywhere() -> None:
    names = (
        "SD 1.5",
        "SD 2.1",
        "SDXL 1.0",
        "Pony",
        "Illustrious",
        "NoobAI",
        "SD 3.5",
        "Flux.1 D",
        "Flux.2 D",
        "something new",
        None,
    )
    expected = {
        "SD 1.5": {"SD 1.5"},
        "SD 2": {"SD 2.1"},
        "SDXL": {"SDXL 1.0"},
        "Pony": {"Pony"},
        "Illustrious": {"Illustrious", "NoobAI"},
        "SD 3": {"SD 3.5"},
        "Flux": {"Flux.1 D"},
        "Flux.2": {"Flux.2 D"},
    }
    assert expected.keys() <= set(FAMILIES)
    for family, own in expected.items():
        assert {name for name in names if fits(name, family)} == own | {"something new", None}
    # What a model's shapes tell: SDXL or one of those made from it.
    alike = {name for name in names if fits(name, families_alike("SDXL"))}
    assert alike == {"SDXL 1.0", "Pony", "Illustrious", "NoobAI", "something new", None}
    assert families_alike("Flux") == {"Flux"}


@pytest.mark.parametrize("name", miniworld.labels())
def test_the_mini_worlds_files_are_read_for_what_they_are(name: str) -> None:
    path = miniworld.MINIWORLD / "loras" / name
    read = read_lora_file(path, f"styles\\{name}")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.metadata.base_model == "SD 3"
    if miniworld.labels()[name]["format"] == "kohya":
        assert family_of_header({}, {key: value.shape for key, value in load_file(path).items()}) == "SD 3"
    assert read.trigger_words == tuple(miniworld.labels()[name]["trigger_words"])
    assert (read.sha256, read.lora_id, read.name) == (sha256, f"sha256:{sha256[:16]}", f"styles/{name}")


def test_a_trigger_phrase_is_split_at_commas_and_counts_more_than_tags(tmp_path: Path) -> None:
    metadata = {
        "modelspec.trigger_phrase": " snw style,, cold breath , snw style",
        "ss_tag_frequency": json.dumps({"10_x": {"something else": 10}}),
    }
    assert read_lora_file(lora(tmp_path / "a.safetensors", metadata)).trigger_words == ("snw style", "cold breath")


@pytest.mark.parametrize(
    ("tags", "folders", "expected"),
    [
        ({"10_x": {"snw": 20, "always": 18, "nearly": 17}}, {"10_x": {"n_repeats": 10, "img_count": 20}}, ("snw", "always")),
        ({"10_x": {"snw": 20, "always": 18, "nearly": 17}}, None, ("snw", "always")),
        ({"10_x": {"snw": 17}}, {"10_x": {"img_count": 20}}, ()),
        ({"1_a": {"snw": 10, "dog": 10}, "1_b": {" snw": 9}}, {"1_a": {"img_count": 10}, "1_b": {"img_count": 10}}, ("snw",)),
        ({"1_a": {"": 10, "snw": 10}}, None, ("snw",)),
        # A few captions have everything in common.
        ({"1_a": {f"tag {k}": 1 for k in range(60)}}, {"1_a": {"img_count": 1}}, ()),
        ({"1_a": {"snw": 9, "dog": 9}}, {"1_a": {"img_count": 9}}, ()),
        ({}, None, ()),
        ({"1_a": {}}, {"1_a": {"img_count": 10}}, ()),
        ([1], None, ()),
        ({"1_a": 3}, None, ()),
        ({"1_a": {"snw": "many"}}, None, ()),
    ],
)
def test_trigger_words_are_the_tags_in_at_least_90_percent_of_the_captions(
    tmp_path: Path, tags: object, folders: object, expected: tuple[str, ...]
) -> None:
    metadata = {"ss_tag_frequency": json.dumps(tags)} | ({"ss_dataset_dirs": json.dumps(folders)} if folders else {})
    assert read_lora_file(lora(tmp_path / "a.safetensors", metadata)).trigger_words == expected


def test_tags_that_cannot_be_read_are_no_trigger_words(tmp_path: Path) -> None:
    assert read_lora_file(lora(tmp_path / "a.safetensors", {"ss_tag_frequency": "{"})).trigger_words == ()


def test_a_file_that_changed_is_hashed_again(tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors", x=(2,))
    first = read_lora_file(path).sha256
    save_file({"x": np.full(2, 7, np.float32)}, path)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert read_lora_file(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != first


@pytest.mark.parametrize("said", ['["snw style", "icy, cold"]', "snw style"])
def test_words_that_a_tool_has_written_into_the_file_count_more_than_tags(tmp_path: Path, said: str) -> None:
    metadata = {"trained_words": said, "ss_tag_frequency": json.dumps({"10_x": {"something else": 10}})}
    words = read_lora_file(lora(tmp_path / "a.safetensors", metadata)).trigger_words
    assert words == (("snw style", "icy, cold") if "[" in said else ("snw style",))
