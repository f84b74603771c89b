"""A folder of LoRAs as people have them after years: many good ones, and odd ones of every kind that is known of the field."""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from tests.support import miniworld
from tests.support.miniworld import MINIWORLD

N_GOOD = 240

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Odd:
    """An odd file: its kind, its name in reports, and a pattern of what is to be said of it."""

    kind: str
    file: str
    says: str


@lru_cache(maxsize=32)
def _original(name: str) -> tuple[Tensors, dict[str, str]]:
    path = MINIWORLD / "loras" / f"{name}.safetensors"
    with safe_open(path, framework="numpy") as file:
        return load_file(path), file.metadata() or {}


def variant(name: str, seed: int) -> Tensors:
    """The tensors of one of the mini-world's LoRAs with a little noise: another content with about the same effect."""
    numbers = np.random.default_rng(seed)
    tensors, _ = _original(name)
    return {
        key: np.asarray(value * (1 + 0.01 * numbers.standard_normal(value.shape)), value.dtype) for key, value in tensors.items()
    }


def write_good(path: Path, name: str, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(variant(name, seed), path, _original(name)[1])
    return path


FINE_NAMES = (
    "new\nline", 'quo"ted\'', "emoji 🧜🏽\u200d♀️", "שלג קר", "\u202egnihton", "-rf", "trailing   ", "..a..b..", "%s {0} $HOME",
    "<lora:x:1>", "line\u2028end", "ｆｕｌｌ", "é" * 121 + "a", "back\\slash", "tab\there", "CON", "#1; DROP TABLE files",
)  # fmt: skip
"""Names that are odd and valid. Each is one of the good ones."""

_FINE_SIDECARS: dict[str, bytes] = {
    "bom": b"\xef\xbb\xbf" + b'{"modelId": 9, "model": {"name": "with a mark"}}',
    "utf-16": '{"modelId": 10, "model": {"name": "sixteen"}}'.encode("utf-16"),
    "nothing": b"{}",
    "unknown-id": b'{"id": -1, "modelId": 0}',
    "half-emoji": b'{"model": {"name": "half \\ud83d"}}',
    "blanks": json.dumps({"model": {"name": "a" + " " * 200_000 + "b"}}).encode(),
}
"""Sidecars that are odd and can be read. Each is beside one of the good ones."""


def add_good(first: Path, second: Path) -> dict[str, str]:
    """Put the good LoRAs into two roots. Returns their names as in reports, and for each whose variant it is."""
    kinds = ("ordinary", "duplicate", "inconsistent", "weak")
    originals = [name.removesuffix(".safetensors") for name in miniworld.labels(*kinds)]
    names = [f"names/{name}.safetensors" for name in FINE_NAMES]
    names += [f"styles/{name}.safetensors" for name in _FINE_SIDECARS]
    names += [f"styles/other forms/{name}.safetensors" for name in _OTHER_FORMS]
    names += [f"people/20{place % 20:02}/{place}_v1.5.safetensors" for place in range(N_GOOD - len(names))]
    for place, name in enumerate(names):
        root = second if place % 3 == 2 else first
        path = write_good(root / name, originals[place % len(originals)], place)
        if path.stem in _FINE_SIDECARS:
            path.with_suffix(".civitai.info").write_bytes(_FINE_SIDECARS[path.stem])
        if path.parent.name == "other forms":
            tensors = {key: torch.from_numpy(value) for key, value in variant("pixel_art", place).items()}
            save_torch_file(_OTHER_FORMS[path.stem](tensors), path)
    return {name.replace("\\", "/"): originals[place % len(originals)] for place, name in enumerate(names)}


TorchTensors = dict[str, torch.Tensor]


def _layers(tensors: TorchTensors) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Layer, up and down of a LoRA in kohya's form."""
    for key in tensors:
        if key.endswith(".lora_up.weight"):
            stem = key.removesuffix(".lora_up.weight")
            yield stem, tensors[key], tensors[f"{stem}.lora_down.weight"]


def _loha(tensors: TorchTensors) -> TorchTensors:
    made: TorchTensors = {}
    for stem, up, down in _layers(tensors):
        ones = torch.ones_like(up), torch.full_like(down, 1 / len(down))
        parts = {"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": ones[0], "hada_w2_b": ones[1]}
        made |= {f"{stem}.{part}": value for part, value in parts.items()}
    return made


def _lokr(tensors: TorchTensors) -> TorchTensors:
    made: TorchTensors = {}
    for stem, up, down in _layers(tensors):
        made |= {f"{stem}.lokr_w1": torch.ones(1, 1, dtype=up.dtype), f"{stem}.lokr_w2": up @ down}
    return made


def _oft(tensors: TorchTensors) -> TorchTensors:
    """Rotations of blocks of 8 outputs, by small angles."""
    made: TorchTensors = {}
    for stem, up, _down in _layers(tensors):
        blocks = up.float().repeat(1, 2)[:, :8].reshape(-1, 8, 8)
        made |= {f"{stem}.oft_blocks": (blocks - blocks.transpose(1, 2)) / 10, f"{stem}.alpha": torch.tensor(1.0)}
    return made


def _dora(tensors: TorchTensors) -> TorchTensors:
    return tensors | {f"{stem}.dora_scale": torch.ones(len(up), 1) for stem, up, _down in _layers(tensors)}


def _eight_bits(tensors: TorchTensors) -> TorchTensors:
    return {key: value.to(torch.float8_e4m3fn) if value.ndim else value for key, value in tensors.items()}


def _whole_alpha(tensors: TorchTensors) -> TorchTensors:
    return {key: torch.tensor([4]) if key.endswith(".alpha") else value for key, value in tensors.items()}


_OTHER_FORMS: dict[str, Callable[[TorchTensors], TorchTensors]] = {
    "loha": _loha,
    "lokr": _lokr,
    "oft": _oft,
    "dora": _dora,
    "eight bits": _eight_bits,
    "alpha in a list of one whole number": _whole_alpha,
}


def _changed(tensors: Tensors, part: str, change: Callable[[np.ndarray, int], Any]) -> Tensors:
    """Tensors with those of one part of their names changed: change(value, which of them it is)."""
    place, made = 0, {}
    for key, value in tensors.items():
        made[key] = value
        if part in key:
            made[key] = np.array(change(value, place), value.dtype)
            place += 1
    return made


def _wider(value: np.ndarray, place: int) -> np.ndarray:
    return np.concatenate([value] * 2, axis=1)


def _file(header: Any, body: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _tensor(dtype: str = "F16", shape: tuple[int, ...] = (2, 2), offsets: tuple[int, int] = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


_NO_FILE = "is not a safetensors file, or a part of it is missing"
_NO_LORA = "LoRA does not fit: 0 of"
_KEY = "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"


def add_odd(first: Path, second: Path, checkpoint: Path) -> list[Odd]:
    """Put odd files into two roots. checkpoint: a full one, in safetensors."""
    folder = first / "odd"
    folder.mkdir()
    return [*_no_loras(folder), *_headers(folder), *_other_weights(folder, checkpoint), *_places(folder, second), *_facts(folder)]


def _no_loras(folder: Path) -> list[Odd]:
    """What is no safetensors file, or only a part of one."""
    whole = write_good(folder / "whole.safetensors", "pixel_art", 9000).read_bytes()
    (folder / "whole.safetensors").unlink()
    contents = [
        ("empty", "empty.safetensors", b"", "is not a safetensors file but empty"),
        ("cut in the length", "five bytes.safetensors", whole[:5], _NO_FILE),
        ("cut in the header", "cut header.safetensors", whole[:2000], _NO_FILE),
        ("cut in the tensors", "cut tensors.safetensors", whole[:-1000], _NO_FILE),
        ("page of the web", "page.safetensors", b"<!DOCTYPE html><title>Sign in</title>" * 9, "but a web page"),
        ("message in JSON", "message.safetensors", b'{"error":"Unauthorized","message":"log in"}', "but a text in JSON"),
        ("pickle", "old.ckpt", pickle.dumps({"state_dict": {}}), "but a pickle"),
        ("pickle renamed", "renamed.safetensors", pickle.dumps({"a": 1}), "but a pickle"),
        ("pointer of Git LFS", "lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "of Git LFS"),
        ("noise", "noise.safetensors", np.random.default_rng(1).bytes(5000), _NO_FILE),
    ]
    found = []
    for kind, name, content, says in contents:
        (folder / name).write_bytes(content)
        found.append(Odd(kind, f"odd/{name}", says))
    for name in ("archive.safetensors", "torch.pt", "torch.bin"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}))
        found.append(Odd("archive or file of PyTorch", f"odd/{name}", "but a ZIP archive or a file of PyTorch"))
    for place, end in enumerate((".aria2", ".part", ".crdownload")):
        path = write_good(folder / f"loading{end[1:]}.safetensors", "pixel_art", 9100 + place)
        path.with_name(path.name + end).touch()
        found.append(Odd("being downloaded", f"odd/{path.name}", "is not downloaded completely"))
    return found


def _no_tensors(number: int) -> dict[str, Any]:
    return {f"lora_{place:032}": _tensor(shape=(0,), offsets=(0, 0)) for place in range(number)}


def _four_bits() -> bytes:
    """A LoRA of which each number has four bits, two in a byte: torch can hold it and not calculate with it."""
    header, end = {}, 0
    for name, value in variant("pixel_art", 9150).items():
        size = -(-value.size // 2) if value.ndim else 2
        header[name] = _tensor("F4" if value.ndim else "F16", value.shape, (end, end + size))
        end += size
    return _file(header, np.random.default_rng(2).bytes(end))


def _headers(folder: Path) -> list[Odd]:
    """Headers that make no sense."""
    nothing = {"dtype": "F16", "shape": [0, 4], "data_offsets": [0, 0]}
    contents = [
        ("offsets below zero", _file(b'{"x": {"dtype": "F16", "shape": [2, 2], "data_offsets": [-8, 8]}}', bytes(16)), _NO_FILE),
        ("tensors on each other", _file({"x": _tensor(), "y": _tensor(offsets=(4, 12))}, bytes(12)), _NO_FILE),
        ("offsets that overflow", _file({"x": _tensor(shape=(2**40, 2**40), offsets=(0, 2**63))}, bytes(8)), _NO_FILE),
        ("type that is not known", _file({"x": _tensor("F3")}, bytes(8)), _NO_FILE),
        ("numbers of four bits", _four_bits(), "numbers of less than eight bits"),
        ("no tensors", _file({}), "0 of 0 keys"),
        ("tensors without size", _file({_KEY: nothing, _KEY.replace("down", "up"): nothing}), ""),
        ("key twice", _file(b'{"x": %b, "x": %b}' % ((json.dumps(_tensor()).encode(),) * 2), bytes(8)), ""),
        ("nested without end", _file(b"[" * 100_000 + b"]" * 100_000), _NO_FILE),
        ("header of 72 MB", _file(_no_tensors(780_000)), "has a header of 72 MB"),
        ("many tensors", _file(_no_tensors(60_000)), "has 60,000 tensors"),
    ]
    found = []
    for kind, content, says in contents:
        (folder / f"{kind}.safetensors").write_bytes(content)
        found.append(Odd(kind, f"odd/{kind}.safetensors", says))
    return found


def _other_weights(folder: Path, checkpoint: Path) -> list[Odd]:
    """Files of safetensors that are no LoRA for this model, or one that does harm or nothing."""
    whole = load_file(checkpoint)
    vae = {key: value for key, value in whole.items() if key.startswith("first_stage_model.")}
    base = variant("pixel_art", 9200)
    first_up = next(key for key in base if key.endswith("lora_up.weight"))
    contents: list[tuple[str, Tensors, str]] = [
        ("checkpoint", whole, _NO_LORA),
        ("VAE", vae, _NO_LORA),
        ("embedding", {"clip_l": np.ones((4, 768), np.float32)}, _NO_LORA),
        ("ControlNet", {f"controlnet_blocks.{k}.weight": np.ones((8, 8), np.float16) for k in range(9)}, _NO_LORA),
        ("LoRA for a wider model", _changed(base, ".lora_down.", _wider), "other shapes"),
        (
            "every second layer wider",
            _changed(
                variant("pixel_art", 9201), ".lora_down.", lambda value, place: _wider(value, place) if place % 2 else value
            ),
            "layers match this model",
        ),
        ("up without down", {key: value for key, value in base.items() if ".lora_down." not in key}, "incomplete|does not fit"),
        ("NaN", _changed(base, first_up, lambda value, place: np.full_like(value, np.nan)), "NaN or infinity"),
        (
            "infinity",
            _changed(base, first_up, lambda value, place: np.where(value == value.max(), np.inf, value)),
            "NaN or infinity",
        ),
        (
            "rank 0",
            {
                key: value[:, :0] if ".lora_up." in key else value[:0] if ".lora_down." in key else value
                for key, value in base.items()
            },
            "make no sense",
        ),
        ("alpha NaN", _changed(base, ".alpha", lambda value, place: np.nan), "NaN or infinity"),
        ("zero", _changed(variant("pixel_art", 9202), ".lora_up.", lambda value, place: 0 * value), "no measurable effect"),
    ]
    found = []
    for kind, tensors, says in contents:
        save_file(tensors, folder / f"{kind}.safetensors")
        found.append(Odd(kind, f"odd/{kind}.safetensors", says))
    return found


def _places(folder: Path, second: Path) -> list[Odd]:
    """Links, copies, and what is no file."""
    good = write_good(folder / "plain.safetensors", "dark_vignette", 9300)
    (folder / "symlink.safetensors").symlink_to(good)
    os.link(good, folder / "hard link.safetensors")
    (folder / "copy.safetensors").write_bytes(good.read_bytes())
    (second / "other root").mkdir(parents=True)
    (second / "other root" / "plain 2.safetensors").write_bytes(good.read_bytes())
    write_good(folder / "round" / "in a circle of folders.safetensors", "dark_vignette", 9301)
    (folder / "round" / "again").symlink_to(folder / "round", target_is_directory=True)
    (folder / "dangling.safetensors").symlink_to(folder / "a drive that is off" / "x.safetensors")
    (folder / "circle.safetensors").symlink_to(folder / "circle.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    # A path of a socket has a hundred bytes at most.
    before = Path.cwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.safetensors")
    finally:
        os.chdir(before)
    write_good(folder / "no text \udcff.safetensors", "dark_vignette", 9302)
    # ComfyUI lists no folder, but what is in it.
    write_good(folder / "folder.safetensors" / "inside.safetensors", "dark_vignette", 9303)
    found = [
        Odd(
            "symbolic link and hard link",
            "odd/plain.safetensors",
            "also listed as .*hard link.*symlink|also listed as .*symlink.*hard link",
        ),
        Odd("copy", "odd/copy.safetensors|odd/plain.safetensors", "has the same content as odd/"),
        Odd("copy in another root", "other root/plain 2.safetensors", "has the same content as odd/"),
        Odd(
            "folders in a circle",
            "odd/round/in a circle of folders.safetensors",
            "also listed as odd/round/again/.* and \\d+ more",
        ),
        Odd("link to nothing", "odd/dangling.safetensors", "is a link to a file that is not there"),
        Odd("link to itself", "odd/circle.safetensors", "is a link to a file that is not there"),
        Odd("pipe", "odd/pipe.safetensors", "is not an ordinary file"),
        Odd("socket", "odd/socket.safetensors", "is not an ordinary file"),
        Odd("name that is no text", "odd/no text \\udcff.safetensors", "is not valid text"),
    ]
    if os.geteuid() != 0:
        write_good(folder / "secret.safetensors", "dark_vignette", 9304).chmod(0)
        found.append(Odd("not readable", "odd/secret.safetensors", "cannot be read"))
    return found


def _facts(folder: Path) -> list[Odd]:
    """Sidecars and metadata of LoRAs that can be measured."""
    sidecars = [
        ("sidecar cut", b'{"id": 12', "cannot be read"),
        ("sidecar of bytes", b"\xff\xfe\x00\x01\x02", "cannot be read"),
        ("sidecar with a list", b"[1, 2]", "holds no facts"),
        ("sidecar of 50 MB", b'{"id": 77, "x": "' + b"a" * (50 << 20) + b'"}', "it has 50 MB"),
        ("sidecar nested", b"[" * 100_000 + b"]" * 100_000, "cannot be read"),
        ("id too large", json.dumps({"id": 2**63}).encode(), "id is a number that makes no sense"),
        ("id a fraction", b'{"id": 7.5}', "id is not a whole number"),
        ("id a text", b'{"id": "seven"}', "id is str"),
        ("id yes", b'{"id": true}', "id is bool"),
        ("id NaN", b'{"id": NaN}', "id is a number that makes no sense"),
        ("words without end", json.dumps({"trainedWords": ["red " * 10_000]}).encode(), "are too long for a prompt"),
        ("level too high", json.dumps({"nsfwLevel": 2**31}).encode(), "nsfwLevel is a number that makes no sense"),
    ]
    found = []
    for place, (kind, content, says) in enumerate(sidecars):
        path = write_good(folder / f"{kind}.safetensors", "red_balloons", 9400 + place)
        path.with_suffix(".civitai.info").write_bytes(content)
        found.append(Odd(kind, f"odd/{path.name}", says))
    for name in ("version a", "version b"):
        path = write_good(folder / f"{name}.safetensors", "red_balloons", 9500 + len(name) + ord(name[-1]))
        path.with_suffix(".civitai.info").write_text('{"id": 4242}')
    found.append(Odd("version of another", "odd/version b.safetensors", "another file than odd/version a"))
    counts = {
        "counts without end": '{"a": {"x": 1e999}}',
        "counts of another kind": "[1, 2]",
        "counts nested": "[" * 100_000 + "]" * 100_000,
    }
    for place, (kind, text) in enumerate(counts.items()):
        path = folder / f"{kind}.safetensors"
        save_file(variant("red_balloons", 9600 + place), path, {"ss_tag_frequency": text})
        found.append(Odd(kind, f"odd/{path.name}", "the counts of tags in its metadata"))
    return found
