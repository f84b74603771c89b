"""The user's ComfyUI in a process of its own Python, started here as a child.

It is asked by one line of JSON on its stdin, and answers by lines of JSON on its stdout (`comfy.service`). What it logs goes to
our stderr. It ends when its stdin does: also if this process is killed.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .. import errors
from ..errors import CarlosError, GenerationError

_CHILD = Path(__file__).resolve().parents[1] / "comfy" / "child.py"
_LONGEST_LINE = 1 << 26
_GRACE_S = 20.0
"""So long the child may take to end once it was told to: a batch of pictures on a CPU takes a while."""

_PYTHONS = (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe")
_BESIDE = ("python_embeded/python.exe", ".venv/bin/python", "venv/bin/python")


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI that is installed here, and how it is started."""

    folder: Path
    python: Path
    arguments: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, folder: Path | None, python: Path | None = None, base_directory: Path | None = None, arguments: str = ""
    ) -> ComfyUI | None:
        """The one that options name; None if they name none. Raises GenerationError where there is none."""
        if folder is None:
            return None
        folder = folder.expanduser().absolute()
        if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
            raise GenerationError(f"There is no ComfyUI in {folder}.", "Give the folder that holds its main.py.")
        if base_directory is not None and not base_directory.expanduser().is_dir():
            raise GenerationError(f"There is no folder {base_directory}.", "Give ComfyUI's own --base-directory, or none.")
        further = ["--base-directory", str(base_directory.expanduser().absolute())] if base_directory is not None else []
        return cls(folder, _python_of(folder, python), (*further, *_split(arguments)))


@dataclass(frozen=True)
class Listing:
    """What a ComfyUI lists."""

    version: str
    encoders: tuple[Path, ...]
    pictures: tuple[Path, ...]
    cache: Path
    library_file: Path
    databases: Mapping[str, Path]
    checkpoints: tuple[str, ...]
    loras: tuple[tuple[str, Path], ...]
    """(name as listed, path)."""

    lora_folders: tuple[Path, ...]
    own_folder: Path
    """models/carlos, where new databases go."""


def listing_of(comfyui: ComfyUI) -> Listing:
    """What a ComfyUI lists; no model is loaded. Raises CarlosError if it cannot be started."""
    with answers(comfyui, {"command": "list"}) as events:
        found = last_of(events)
    return Listing(
        str(found["version"]),
        tuple(map(Path, found["encoders"])),
        tuple(map(Path, found["pictures"])),
        Path(found["cache"]),
        Path(found["library_file"]),
        {name: Path(path) for name, path in found["databases"]},
        tuple(found["checkpoints"]),
        tuple((name, Path(path)) for name, path in found["loras"]),
        tuple(map(Path, found["lora_folders"])),
        Path(found["own_folder"]),
    )


@contextmanager
def answers(comfyui: ComfyUI, request: Mapping[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
    """Ask a ComfyUI, and read its answers as they come. It has ended when this ends, whatever happens in between.

    The events are those of `comfy.service`; one that is an error is raised as the CarlosError that it was. Raises GenerationError
    for a process that ends without an answer.
    """
    command = [str(comfyui.python), "-u", str(_CHILD), str(comfyui.folder), *comfyui.arguments]
    try:
        child = subprocess.Popen(command, cwd=comfyui.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise GenerationError(
            f"{comfyui.python} cannot be started ({error.strerror or error}).", "Give ComfyUI's Python with --python."
        ) from error
    assert child.stdin is not None, "it is a pipe"
    assert child.stdout is not None, "it is a pipe"
    try:
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
        yield _events(child, child.stdout)
    finally:
        _end(child, child.stdin)


def last_of(events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The last event, which is the result of a request."""
    found: dict[str, Any] = {}
    for event in events:
        found = event
    return found


def _events(child: subprocess.Popen[bytes], stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    while line := stream.readline(_LONGEST_LINE):
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise GenerationError(
                "ComfyUI's process answers with something else than was asked for.", "Update CARLoS and ComfyUI, and run again."
            ) from None
        if kind == "error":
            raise _error_of(event)
        yield event
        if kind == "result":
            return
    status = child.wait()
    raise GenerationError(
        f"ComfyUI's process ended without an answer (status {status}).",
        "What it wrote above says why. What was finished is kept: run again to go on.",
    )


def _error_of(event: Mapping[str, Any]) -> CarlosError:
    found = getattr(errors, str(event.get("kind")), CarlosError)
    kind = found if isinstance(found, type) and issubclass(found, CarlosError) else CarlosError
    return kind(str(event.get("what", "")), str(event.get("hint", "")))


def _end(child: subprocess.Popen[bytes], stdin: IO[bytes]) -> None:
    """End the child: its stdin ends, and it does not outlive that for long."""
    with suppress(OSError):
        stdin.close()
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _python_of(folder: Path, python: Path | None) -> Path:
    if python is not None:
        # Not resolved: a virtual environment's python is a link that must be called by its own name.
        return python.expanduser().absolute()
    places = [*(folder / name for name in _PYTHONS), *(folder.parent / name for name in _BESIDE)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise GenerationError(
            f"It is not known which Python runs the ComfyUI in {folder}.",
            "Give it with --python, for example that of its conda environment.",
        )
    return found


def _split(arguments: str) -> list[str]:
    """Options in one text, as a shell would tell them apart; paths of files that are there become absolute."""
    parts = shlex.split(arguments, posix=sys.platform != "win32")
    return [str(Path(part).absolute()) if not part.startswith("-") and Path(part).exists() else part for part in parts]
