"""A run of `carlos index`: which files, what ComfyUI's process says of each, and the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..counting import counted, number
from ..errors import CarlosError, DatabaseError, EncoderError, GenerationError, IndexingError
from ..loras.library import survey
from ..loras.listed import is_named
from ..loras.same_file import by_file
from ..measuring.failures import Failure, alike
from ..storage import short_hash
from .app import GO_ON, Interrupted, Usage
from .codes import DONE, SOME_FAILED
from .comfyui import ComfyUI, answers
from .facts import database_facts, database_line, posix
from .output import Answer, Table
from .places import BUNDLED, Places, files_in
from .progress import showing

if TYPE_CHECKING:
    from .progress import Shown

Files = Sequence[tuple[str, Path]]
Measure = Callable[[Mapping[str, Any], Callable[[Mapping[str, Any]], None]], None]
"""Does what a request says, and tells each event: (request, tell)."""


class Shard(NamedTuple):
    """The `part`-th of `of` parts, from 1."""

    part: int
    of: int

    def holds(self, key: str) -> bool:
        """Whether a key (hex digits) is in this part; it is in exactly one."""
        return int(key, 16) % self.of == self.part - 1


def shard_of(text: str) -> Shard:
    """A shard from "i/n". Raises Usage."""
    part, _, of = text.partition("/")
    if not (part.isdigit() and of.isdigit() and 1 <= int(part) <= int(of) <= 10_000):
        raise Usage(f"{text!r} is not a part.", "Write --shard 1/4 for the first of four parts, up to 4/4.")
    return Shard(int(part), int(of))


_NAME_IT = "Name your ComfyUI: --comfyui DIR, or the variable CARLOS_COMFYUI"


def this_comfyui(comfyui: ComfyUI | None) -> ComfyUI:
    """Raises GenerationError where no ComfyUI was named."""
    if comfyui is None:
        raise GenerationError("This needs a ComfyUI, and none is named.", f"{_NAME_IT}.")
    return comfyui


def measuring_with(comfyui: ComfyUI | None) -> Measure:
    """Measuring by a ComfyUI's process. Raises GenerationError where no ComfyUI was named."""
    if comfyui is None:
        why, hint = "Nothing makes the pictures to measure with.", f"{_NAME_IT}; or a model of diffusers: --diffusers MODEL."
        raise GenerationError(why, hint)
    host = comfyui

    def measure(request: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> None:
        with answers(host, request) as events:
            for event in events:
                tell(event)

    return measure


def chosen_files(
    places: Places, names: Sequence[str] | None, folder: Path | None = None, name_filter: str = ""
) -> list[tuple[str, Path]]:
    """(name, path) of the files to measure, each file once. A file that ComfyUI lists has its name there: rows are shared.

    Args:
        places: with ComfyUI's list.
        names: paths or listed names; None for all of `folder`.
        folder: None for all that ComfyUI lists.
        name_filter: part of the names, or a pattern for them; empty for all.

    Raises IndexingError if there is none, LoraError for a folder that is not there.
    """
    listed = {path: name for name, path in places.loras}
    by_name = {posix(name): path for name, path in places.loras}
    if names is not None:
        paths = [by_name.get(posix(name)) or Path(name).absolute() for name in names]
        return [(listed.get(path, path.name), path) for path in paths]
    found = places.loras if folder is None else [(listed.get(path, name), path) for name, path in files_in(folder)]
    files = [(name, path) for name, path in found if is_named(name, name_filter)]
    if not files:
        where = "ComfyUI's list" if folder is None else str(folder)
        said = f"No LoRA of {where} is called {name_filter!r}." if name_filter.strip() else f"There is no LoRA in {where}."
        raise IndexingError(said, "Check the folder and --filter: parts of names, with commas between them.")
    first = {group[0].name for group in by_file(survey(files))}
    return [(name, path) for name, path in files if name in first]


def own_database(places: Places, name: str, encoder: str) -> Path:
    """Path of the user's own database, which is made if it is not there. Raises DatabaseError, EncoderError.

    encoder: of a new one.
    """
    from ..clip.loading import encoder_dimension
    from ..clip.weights import local_encoders
    from ..database.database import MetricsDatabase, create_database

    if name == BUNDLED:
        raise DatabaseError("The bundled database is read-only.", "Name one of your own: carlos import bundled my_loras.parquet")
    path = places.database_path(name)
    is_plain = name == Path(name).name and "." not in name
    if not path.exists() and is_plain and places.listing is not None:
        path = places.listing.own_folder / f"{name}.parquet"
    path = path.absolute()
    if path.exists():
        return path
    local = local_encoders(places.encoders)
    encoder_id = local[encoder].encoder_id if encoder in local else encoder
    if "/" not in encoder_id and "@" not in encoder_id:
        raise EncoderError(
            f"There is no encoder {encoder}.", f"Give open_clip's MODEL/TAG, or one of {', '.join(local) or 'none'}."
        )
    create_database(MetricsDatabase.empty(encoder_id, encoder_dimension(encoder_id, places.encoders)), path)
    return path


@dataclass(frozen=True)
class IndexRun:
    """LoRAs to be measured."""

    measure: Measure
    places: Places
    checkpoint: str
    settings: Mapping[str, Any]
    """`measuring.settings.MeasureSettings`."""

    guidances: tuple[float, ...] = ()
    describe: bool = True

    def answer(self, database: str, encoder: str, files: Files, shard: Shard | None = None) -> Answer:
        """Measure files. database: path or name. encoder: of a new database. shard: only that part of the files.

        Raises CarlosError for what would meet every LoRA, and Interrupted for Ctrl-C; what was finished is kept.
        """
        path = own_database(self.places, database, encoder)
        seen = RunSeen()
        with showing() as shown:
            if shard is not None and shard.of > 1:
                files = self._part(files, shard, shown)
            request = {
                "command": "index",
                "checkpoint": self.checkpoint,
                "settings": dict(self.settings),
                "database": str(path),
                "loras": [(name, str(file)) for name, file in files],
                "guidances": self.guidances,
                "describe": self.describe,
            }
            try:
                self.measure(request, lambda event: seen.take(event, shown))
            except KeyboardInterrupt:
                raise Interrupted(f"Interrupted: {seen.kept}.", GO_ON) from None
            except CarlosError as error:
                saved = f" So far: {seen.kept}; run again to go on." if seen.is_any else ""
                raise type(error)(error.what, f"{error.hint}{saved}".strip()) from error
        return self._answer_of(seen, path)

    def _answer_of(self, seen: RunSeen, path: Path) -> Answer:
        from ..database.database import load_database

        opened = load_database(path)
        failures = [Failure(each["file"], each["reason"]) for each in seen.failures if not each["is_for_another_model"]]
        others = [Failure(each["file"], each["reason"]) for each in seen.failures if each["is_for_another_model"]]
        words = seen.result.get("described_as", {})
        result = {
            "indexed": [
                {**outcome, "described_as": words.get(outcome["lora_id"])} for outcome in seen.outcomes if outcome["is_new"]
            ],
            "skipped": [outcome["file"] for outcome in seen.outcomes if not outcome["is_new"]],
            "failed": [vars(failure) for failure in failures],
            "for_other_models": [vars(failure) for failure in others],
            "pictures_made": seen.pictures,
            "protocol_id": seen.protocol_id,
            "settings": seen.result.get("settings"),
            "database": database_facts(opened),
        }
        rows = [
            (
                "measured" if outcome["is_new"] else "known",
                outcome["file"],
                number(outcome["strength"], 2),
                number(outcome["consistency"]),
                str(outcome["n_images"]),
                number(outcome["alignment"]),
                *([words.get(outcome["lora_id"], "-")] if words else []),
            )
            for outcome in seen.outcomes
        ]
        header = ("status", "LoRA", "strength", "consistency", "images", "alignment", *(["nearest phrases"] if words else []))
        total = f"{len(seen.outcomes)} of {counted(len(seen.outcomes) + len(seen.failures), 'LoRA')} are in the database, "
        others_made = Counter(outcome["measured_with"] for outcome in seen.outcomes if outcome.get("measured_with"))
        said = [
            *(f"{counted(n, 'LoRA')} measured with {by} on a model of this shape: kept" for by, n in others_made.items()),
            *(
                f"{word}: {', '.join(group.files)}: {group.reason}"
                for word, all_ in (("failed", failures), ("left out", others))
                for group in alike(all_)
            ),
        ]
        shown = [
            f"{total}{len(failures)} failed, {len(others)} are for other models",
            Table(header, rows, ("strength", "consistency", "images", "alignment")),
            *said,
            *seen.result.get("plan", []),
            database_line(opened),
        ]
        return Answer(result, shown, seen.result.get("notes", []), SOME_FAILED if failures else DONE)

    def _part(self, files: Files, shard: Shard, shown: Shown) -> list[tuple[str, Path]]:
        """The files of a shard, by content: whatever they are called and wherever they are, each content is in one shard."""
        from ..loras.library import scan

        shown.say(f"reading {counted(len(files), 'file')} whole, once, to know which are in part {shard.part} of {shard.of}")
        entries = scan(files, self.places.library_file, shown).entries
        keys = {entry.name: entry.sha256 or short_hash(posix(entry.name), 16) for entry in entries}
        return [(name, path) for name, path in files if shard.holds(keys[name])]


class RunSeen:
    """What was said of a run so far, by the process that makes the pictures."""

    def __init__(self) -> None:
        self.outcomes: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {}
        self.protocol_id = ""
        self.pictures = 0

    @property
    def is_any(self) -> bool:
        return bool(self.pictures or self.outcomes)

    @property
    def kept(self) -> str:
        """What a run that ends now has kept, in words."""
        n_new = sum(outcome["is_new"] for outcome in self.outcomes)
        return f"{counted(n_new, 'LoRA')} measured, {counted(self.pictures, 'picture')} kept"

    def take(self, event: Mapping[str, Any], shown: Shown) -> None:
        """Take in an event, and show it."""
        facts = {name: value for name, value in event.items() if name != "event"}
        match event["event"]:
            case "progress":
                self.pictures = max(self.pictures, facts.get("kept", 0))
                shown.tell(facts["done"], facts["total"], facts["note"])
            case "plan":
                self.protocol_id = facts["protocol_id"]
                for line in facts["lines"]:
                    shown.say(line)
            case "outcome":
                self.outcomes.append(facts)
                shown.say(f"{'measured' if facts['is_new'] else 'known'}: {facts['file']}")
            case "failure":
                self.failures.append(facts)
                shown.say(f"{'left out' if facts['is_for_another_model'] else 'failed'}: {facts['file']}: {facts['reason']}")
            case "result":
                self.result = facts
