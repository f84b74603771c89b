"""What the command line asks of a ComfyUI: one request on stdin, answers as lines of JSON.

Each answer is an object with "event": "progress", "outcome" and "failure" while a run goes on; "result" is the last one, or
"error". The process ends when its stdin does, which is when its parent ends. Nothing here is a server: one request, one answer.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import IO, Any

from ..errors import CarlosError, GenerationError
from ..facts_text import facts_text
from ..foreign import printable, reason_of
from . import as_library

_LONGEST_REQUEST = 1 << 26
_GRACE_S = 15.0
_PROGRESS_EVERY_S = 0.2

INTERRUPTED = 130

_COMFYUIS_OWN = ("comfy", "comfyui_version", "folder_paths", "utils")


@dataclass(frozen=True, eq=False)
class Channel:
    """Where answers go."""

    stream: IO[bytes]
    _last: list[float] = field(default_factory=lambda: [0.0], init=False, repr=False)

    def send(self, event: str, **facts: Any) -> None:
        """Send an answer. Raises KeyboardInterrupt if nobody reads it any more."""
        try:
            self.stream.write(facts_text({"event": event, **facts}).encode() + b"\n")
        except BrokenPipeError:
            raise KeyboardInterrupt from None

    def send_progress(self, done: int, total: int, note: str, *, kept: int = 0) -> None:
        """Send how far it is, not too often. kept: pictures that were finished and kept by now."""
        now = time.monotonic()
        if note or now - self._last[0] >= _PROGRESS_EVERY_S:
            self._last[0] = now
            self.send("progress", done=done, total=total, note=note, kept=kept)


def serve(stream: IO[bytes], folder: Path) -> int:
    """Answer the request on stdin. Returns the exit status."""
    channel = Channel(stream)
    _end_when_told()
    try:
        event, facts = _answered(channel, folder)
    except KeyboardInterrupt:
        return INTERRUPTED
    # The parent will now close our stdin, and there is nothing left to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel.send(event, **facts)
    return 0 if event == "result" else 1


def _answered(channel: Channel, folder: Path) -> tuple[str, dict[str, Any]]:
    """The last event and its facts."""
    try:
        request = json.loads(_line_of_stdin())
        _end_with_stdin()
        _read_options()
        as_library.prepare_device()
        as_library.prepare_folders(folder)
        answer: Callable[[Channel, Mapping[str, Any]], dict[str, Any]]
        answer = import_module(f"carlos_core.comfy.requests_{request['command']}").answer
        return "result", answer(channel, request)
    except CarlosError as error:
        return "error", {"what": error.what, "hint": error.hint, "kind": type(error).__name__}
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.partition(".")[0] in _COMFYUIS_OWN:
            return _error(
                f"{folder} is no ComfyUI that CARLoS knows: it has no {missing}.", "Update ComfyUI, or name its folder."
            )
        hint = f"Install what CARLoS needs there: {sys.executable} -m pip install -r requirements.txt (in the folder of CARLoS)."
        return _error(f"ComfyUI's Python has no {missing}.", hint)
    # ComfyUI raises all kinds of errors.
    except Exception as error:
        has_no_gpu = any(word in str(error) for word in ("CUDA", "NVIDIA"))
        hint = "Add --comfyui-args=--cpu if this machine has no GPU." if has_no_gpu else "Check that ComfyUI itself runs."
        return _error(f"ComfyUI's code cannot be used ({reason_of(error)}).", hint)


def _error(what: str, hint: str) -> tuple[str, dict[str, Any]]:
    return "error", {"what": what, "hint": hint, "kind": GenerationError.__name__}


def _read_options() -> None:
    """Raises GenerationError for options that ComfyUI does not know: its parser would end the process, after a page of help."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            as_library.read_options()
    except SystemExit:
        reason = (said.getvalue().strip().splitlines() or ["no reason"])[-1].rpartition("error: ")[2]
        raise GenerationError(f"ComfyUI does not take its options: {printable(reason)}.", "Correct --comfyui-args.") from None
    sys.stderr.write(said.getvalue())


def _line_of_stdin() -> bytes:
    """The first line of stdin, past Python's buffers: the thread that waits for its end must not hold their lock."""
    line = bytearray()
    while (part := os.read(0, 1 << 16)) and len(line) < _LONGEST_REQUEST:
        line += part
        if part.endswith(b"\n"):
            break
    return bytes(line)


def _end_when_told() -> None:
    """Ctrl-C ends what is going on once; while that ends, further ones change nothing."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)


def _end_with_stdin() -> None:
    """End when stdin does: the parent wants no more, or is gone. What was finished is kept at any moment."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        signal.raise_signal(signal.SIGINT)
        time.sleep(_GRACE_S)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True, name="carlos-parent").start()
