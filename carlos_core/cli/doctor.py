"""`carlos doctor`: what is wrong here, and what to do about it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..counting import counted
from ..errors import CarlosError, GenerationError
from ..measuring.caches import cache_usage
from ..measuring.failures import Failure, alike
from . import options
from .app import KEEPING, command
from .codes import DONE, FAILED
from .comfyui import ComfyUI, answers, last_of
from .facts import posix
from .output import Answer, Table
from .places import BUNDLED, Places, places_of

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

FINE, ODD, WRONG = "ok", "look", "wrong"

_OLDEST = (0, 3, 64)
_LITTLE_SPACE = 5e9


@dataclass(frozen=True)
class Finding:
    """What was found of one thing."""

    about: str
    status: str
    """FINE, ODD (works, but look at it) or WRONG."""

    said: str
    do: str = ""
    """What to do; empty if there is nothing to do."""


@command(
    "doctor",
    KEEPING,
    "doctor",
    "doctor --comfyui ~/ComfyUI -d my_loras --checkpoint sd_xl_base_1.0.safetensors",
    'doctor --comfyui ~/ComfyUI --json | jq -r ".result.findings[] | select(.status != \\"ok\\") | .do"',
)
def doctor(
    database: options.Database = BUNDLED,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="NAME", help="Also say which LoRAs fit it.", show_default=False)
    ] = None,
    loras: options.Loras = None,
    comfyui: options.ComfyUI = None,
    python: options.Python = None,
    base_directory: options.BaseDirectory = None,
    comfyui_args: options.ComfyUIArguments = "",
    as_json: options.Json = False,
) -> Answer:
    """Look at torch, CLIP, ComfyUI, the database, caches and LoRA folders, and say what to do about what is wrong."""
    findings = list(_tried("Python", _own_torch))
    host, places = None, places_of(None)
    try:
        host = ComfyUI.of(comfyui, python, base_directory, comfyui_args)
        if host is not None:
            findings += _comfyui(host)
        places = places_of(host, loras)
    except CarlosError as error:
        findings.append(Finding("ComfyUI" if host is not None or comfyui else "LoRA files", WRONG, error.what, error.hint))
    findings += _tried("database", lambda: _database(places, database))
    findings += _tried("cache", lambda: _cache(places))
    findings += _tried("LoRA files", lambda: _files(places))
    if checkpoint is not None and host is not None:
        findings += _tried("what fits", lambda: _fitting(host, places, checkpoint))
    findings = list(dict.fromkeys(findings))
    n_wrong = sum(finding.status == WRONG for finding in findings)
    result = {"healthy": n_wrong == 0, "findings": [vars(finding) for finding in findings]}
    rows = [(finding.status, finding.about, f"{finding.said} {finding.do}".strip()) for finding in findings]
    end = "Nothing is wrong." if not n_wrong else f"{counted(n_wrong, 'thing is', 'things are')} wrong."
    return Answer(result, [Table(("", "about", "what was found, and what to do"), rows), end], code=FAILED if n_wrong else DONE)


def _tried(about: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Findings of one kind; an error is a finding, too."""
    try:
        yield from look()
    except CarlosError as error:
        yield Finding(about, WRONG, error.what, error.hint)
    except (OSError, ImportError) as error:
        yield Finding(about, WRONG, f"It cannot be looked at ({error}).", "Check the installation and the permissions.")


def _own_torch() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_name(0)
    else:
        device = "mps" if torch.backends.mps.is_available() else "the CPU"
    yield Finding("Python", FINE, f"torch {torch.__version__} on {device}, for texts and searches.")


def _comfyui(host: ComfyUI) -> Iterator[Finding]:
    try:
        with answers(host, {"command": "about"}) as events:
            found = last_of(events)
    except GenerationError as error:
        yield Finding("ComfyUI", WRONG, error.what, error.hint)
        return
    version = found["version"]
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    said = f"ComfyUI {version} in {host.folder}, Python {found['python']}, torch {found['torch']}"
    if numbers < _OLDEST:
        yield Finding("ComfyUI", WRONG, f"{said}.", "Update ComfyUI: 0.3.64 is the oldest that CARLoS works with.")
    else:
        has_pack = "with" if found["has_pack"] else "without"
        yield Finding("ComfyUI", FINE, f"{said}, {has_pack} the nodes of CARLoS.")
    if found["is_cpu"]:
        yield Finding(
            "device", ODD, "ComfyUI makes pictures on the CPU.", "Measuring takes hours there: use a GPU if there is one."
        )
    else:
        yield Finding("device", FINE, f"{found['device']}, {found['memory_bytes'] / 1e9:.0f} GB.")
    if found["missing"]:
        what = f"ComfyUI's Python lacks {', '.join(found['missing'])}."
        yield Finding("ComfyUI", WRONG, what, f"Run {host.python} -m pip install -r requirements.txt in the folder of CARLoS.")
    n_checkpoints = len(found["checkpoints"])
    if n_checkpoints:
        yield Finding("checkpoints", FINE, f"ComfyUI lists {counted(n_checkpoints, 'checkpoint')}.")
    else:
        yield Finding("checkpoints", ODD, "ComfyUI lists no checkpoint.", "Check --base-directory and extra_model_paths.yaml.")


def _database(places: Places, name: str) -> Iterator[Finding]:
    from ..database.target import DatabaseFile

    opened = places.open_database(name)
    if not opened.read_only:
        DatabaseFile.of(opened).check_writable()
    read_only = ", read-only" if opened.read_only else ""
    if not len(opened):
        yield Finding("database", ODD, f"{opened.name} is empty{read_only}.", "Index some LoRAs: carlos index-folder.")
    else:
        yield Finding("database", FINE, f"{opened.name}: {counted(len(opened), 'LoRA')}{read_only}, encoder {opened.encoder_id}.")
    yield from _tried("CLIP weights", lambda: _encoder(places, opened))
    if places.loras:
        yield from _indexed(places, opened)


def _encoder(places: Places, database: MetricsDatabase) -> Iterator[Finding]:
    from ..clip.loading import encoder_dimension
    from ..clip.weights import find_local_encoder, weights_path

    encoder_id = database.check_encoder()
    if "@" in encoder_id:
        local = find_local_encoder(encoder_id, places.encoders)
        yield Finding("CLIP weights", FINE, f"{local.weights}")
        return
    dimension = encoder_dimension(encoder_id)
    if dimension != database.dimension:
        what = f"{encoder_id} has {dimension} numbers, the rows {database.dimension}."
        yield Finding("CLIP weights", WRONG, what, "The file names a wrong encoder: get it again.")
        return
    model, _, tag = encoder_id.partition("/")
    there = next((path for folder in places.encoders if (path := weights_path(model, tag, folder)).is_file()), None)
    if there is not None:
        yield Finding("CLIP weights", FINE, f"{there}")
    else:
        target = weights_path(model, tag, places.encoders[0])
        what = f"The weights of {encoder_id} are not here; they are fetched when they are first needed."
        yield Finding("CLIP weights", ODD, what, f"Without a network, put them at {target}.")


def _indexed(places: Places, database: MetricsDatabase) -> Iterator[Finding]:
    known = set(places.installed(database).values())
    usable = [entry.name for entry in places.library.entries if entry.is_usable]
    missing = [name for name in usable if name not in known]
    said = f"{len(usable) - len(missing)} of {counted(len(usable), 'LoRA file')} have a row in {database.name}."
    do = f"carlos index-folder measures the others, such as {posix(missing[0])}." if missing else ""
    yield Finding("indexed", ODD if missing else FINE, said, do)


def _cache(places: Places) -> Iterator[Finding]:
    usage = cache_usage(places.cache)
    size, limit = sum(part.size for part in usage.parts), usage.limit
    limited = "no limit" if math.isinf(limit) else f"limit {limit / 1e9:g} GB"
    folder = next(each for each in (places.cache, *places.cache.parents) if each.exists())
    free = shutil.disk_usage(folder).free
    said = f"{size / 1e6:.1f} MB in {places.cache}, {limited}; {free / 1e9:.0f} GB are free there."
    if free < _LITTLE_SPACE:
        yield Finding("cache", ODD, said, "Make room, or clear it: carlos cache --clear everything.")
    else:
        yield Finding("cache", FINE, said)


def _files(places: Places) -> Iterator[Finding]:
    if not places.loras:
        yield Finding("LoRA files", ODD, "No LoRA file is known.", "Name a folder with --loras, or your ComfyUI with --comfyui.")
        return
    entries = places.library.entries
    broken = [Failure(posix(entry.name), entry.problem) for entry in entries if not entry.is_usable]
    odd = [Failure(posix(entry.name), entry.problem) for entry in entries if entry.is_usable and entry.problem]
    yield Finding("LoRA files", FINE, f"{counted(len(entries) - len(broken), 'LoRA')} can be read.")
    for status, said in ((WRONG, broken), (ODD, odd)):
        for group in alike(said):
            yield Finding("LoRA files", status, f"{', '.join(group.files)}: {group.reason}")


def _fitting(host: ComfyUI, places: Places, checkpoint: str) -> Iterator[Finding]:
    request: dict[str, Any] = {
        "command": "fits",
        "checkpoint": checkpoint,
        "loras": [(name, str(path)) for name, path in places.loras],
    }
    with answers(host, request) as events:
        found = last_of(events)
    n_fitting = sum(fit is not None and fit["fits"] for _name, fit in found["fits"])
    said = f"{n_fitting} of {counted(len(found['fits']), 'LoRA file')} fit {checkpoint} ({found['class']})."
    yield Finding("what fits", FINE if n_fitting else ODD, said, "" if n_fitting else "Choose a checkpoint of the LoRAs' family.")
