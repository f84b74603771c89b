"""A few pairs of pictures of each LoRA, for people to look at: what stays when the cache of pictures is cleared.

One JPEG file a LoRA, which any program shows: a column for each pair, without the LoRA above and with it below. What the pictures
are stands in the file's comment, as JSON. Files may come from strangers, like databases: they are read within limits, and one
that is odd is as good as none.
"""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..civitai.file_names import safe_name
from ..counting import counted
from ..drawing.pair import Pair
from ..drawing.tensors import DAMAGE
from ..errors import GalleryError
from ..foreign import ForeignFacts, printable, reason_of, whole_text
from ..records import LoraRecord
from ..storage import bytes_within, write_atomically
from .telling_pairs import KINDS, MOST, Candidate, Telling, telling

logger = logging.getLogger(__name__)

MOST_BYTES = 150_000
"""Of a file that is written."""

MOST_READ = 1 << 20
"""Bytes of a file that is read."""

_MOST_SIDE = 512
"""Pixels of a picture that is read; 256 are written."""

_LONGEST_PROMPT = 1000
_MOST_SCANS = 3
"""Of a JPEG file: a small file of very many scans would take hours."""

_QUALITIES = (90, 82, 74, 66, 58)
_DIGITS = 12
"""Of the content's hash, in the file's name."""

_LONGEST_STEM = 80
_VERSION = 1

_SETTLED_S = 2.5
"""How old a folder's time must be to say that nothing has come since: file systems count in steps of up to 2 s."""

_TRUSTED_S = 30.0
"""How long a folder that seems unchanged is not looked through again: not all file systems change its time."""

_SCAN, _END = b"\xff\xda", b"\xff\xd9"
"""Of a JPEG file: what each part of the pixels begins with, and the end of all. Neither is found within the pixels."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """What is kept of one LoRA."""

    sha256: str
    """Of the LoRA's file."""

    shown: tuple[Telling, ...]
    """At most four pairs, all pictures of one size."""

    chosen_among: int
    """How many pairs they were chosen among."""

    protocol_id: str | None = None
    """How the pictures were made; None if it is not known."""

    weight: float | None = None
    """The LoRA's weight in them."""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(each.pair for each in self.shown)

    def about(self, record: LoraRecord) -> str:
        """Where the pictures come from, in a line. record: the LoRA's row now."""
        weight = "" if self.weight is None else f" LoRA weight {self.weight:g}."
        other = "" if self.protocol_id == record.protocol_id else " They are of another measurement than the numbers."
        return f"Chosen by their effect among {counted(self.chosen_among, 'pair')}.{weight}{other}"


class Gallery:
    """Pictures of LoRAs in a folder, by the content of the LoRAs' files.

    They are no cache: nothing makes them again. But nothing needs them either, so that whatever goes wrong with them is a line in
    the log.
    """

    def __init__(self, folder: Path, *others: Path) -> None:
        """folder: where pictures are kept; it is made with the first. others: where they are looked for, too."""
        self.folder = folder
        self._folders = tuple(map(_Folder, (folder, *others)))

    def keep(self, record: LoraRecord, found: Sequence[Candidate], weight: float) -> bool:
        """Keep the telling ones among pairs of pictures, in place of what was kept of this LoRA. Returns whether they are kept.

        Args:
            record: the LoRA's row; one that does not know its content keeps nothing.
            found: pairs of its measurement, all of one size.
            weight: the LoRA's weight in them.
        """
        chosen = telling(found)
        if not chosen or record.sha256 is None:
            return False
        sheet = Sheet(record.sha256.lower(), chosen, len(found), record.protocol_id, weight)
        path = self.folder / _name_of(record)
        try:
            content = _packed(sheet, record)
            earlier = self._folders[0].files_of(sheet.sha256)
            write_atomically(path, lambda file: file.write_bytes(content))
            self._folders[0].forget()
            for other in earlier:
                # The LoRA's name was another one. Where names are equal in other cases, too, it may be the file just written.
                if other.exists() and not other.samefile(path):
                    other.unlink(missing_ok=True)
        except (*DAMAGE, MemoryError) as error:
            logger.warning("carlos: pictures of %s cannot be kept in %s: %s", printable(record.name), self.folder, error)
            return False
        return True

    def sheet(self, record: LoraRecord) -> Sheet | None:
        """What is kept of a row's LoRA; None if there is nothing that can be read."""
        for path in self._files_of(record):
            try:
                found = read_sheet(path)
            except GalleryError as error:
                logger.warning("carlos: %s", error)
                continue
            if found.sha256 == str(record.sha256).lower():
                return found
        return None

    def is_of(self, record: LoraRecord) -> bool:
        """Whether pictures of the very measurement that a row is made of are kept. The pictures themselves are not looked at."""
        for path in self._files_of(record):
            try:
                with _opened(path) as picture:
                    facts = _facts_of(picture)
            except GalleryError:
                continue
            if facts.text("sha256") == str(record.sha256).lower():
                return facts.text("protocol_id") == record.protocol_id
        return False

    def pairs(self, record: LoraRecord) -> tuple[Pair, ...]:
        """The pairs that are kept of a row's LoRA; empty if there are none."""
        found = self.sheet(record)
        return () if found is None else found.pairs

    def state(self) -> str:
        """Changes when a file is added, replaced or removed."""
        return "|".join(str(_time_of(folder)) for folder in self.places)

    @property
    def places(self) -> tuple[Path, ...]:
        """The folders where pictures are looked for."""
        return tuple(folder.path for folder in self._folders)

    def _files_of(self, record: LoraRecord) -> Iterator[Path]:
        for folder in self._folders if record.sha256 else ():
            yield from folder.files_of(str(record.sha256).lower())


class _Folder:
    """A folder of pictures. It is looked through once, and again when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

        self._files: Mapping[str, list[Path]] = {}
        """By the digits in their names."""

        self._changed = 0
        """The folder's time when it was looked through."""

        self._trusted_until = 0.0

    def files_of(self, sha256: str) -> list[Path]:
        """The files for a content, by their names. Where the folder cannot be looked through, there are none."""
        changed, now = _time_of(self.path), time.monotonic()
        if changed != self._changed or now >= self._trusted_until:
            self._files, self._changed = _by_digits(self.path), changed
            is_settled = changed / 1e9 < time.time() - _SETTLED_S
            self._trusted_until = now + (_TRUSTED_S if is_settled else 0.0)
        return self._files.get(sha256[:_DIGITS], [])

    def forget(self) -> None:
        """Look it through again the next time."""
        self._trusted_until = 0.0


def read_sheet(path: Path) -> Sheet:
    """The pictures of a file, and what it says of them. Raises GalleryError for a file that is not one of ours, or too large."""
    with _opened(path) as picture:
        return _unpacked(picture)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A file as a picture whose pixels are not decoded yet. What is wrong with it or found wrong then is a GalleryError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no ordinary file")
        content = bytes_within(path, MOST_READ)
        if content is None:
            raise ValueError("it is too large")
        if content.count(_SCAN) > _MOST_SCANS:
            raise ValueError("it has too many parts")
        if content.rfind(_END) < content.rfind(_SCAN):
            raise ValueError("its end is missing")
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as picture:
            yield picture
    except DAMAGE as error:
        raise GalleryError(
            f"The pictures {printable(path.name)} cannot be read ({reason_of(error)}).",
            "Delete the file. The next measurement of the LoRA keeps new pictures.",
        ) from error


def _facts_of(picture: Image.Image) -> ForeignFacts:
    """What a file says of its pictures. Raises ValueError for a comment that is none of ours."""
    comment = picture.info.get("comment")
    if not isinstance(comment, bytes):
        raise ValueError("it does not say what it shows")
    try:
        facts = ForeignFacts(json.loads(comment))
    except RecursionError as error:
        raise ValueError("it does not say what it shows") from error
    if facts.number("carlos_pictures", 32) != _VERSION:
        raise ValueError("it does not say what it shows")
    return facts


def _unpacked(picture: Image.Image) -> Sheet:
    """Raises ValueError for facts that make no sense, and what Pillow raises."""
    facts = _facts_of(picture)
    columns = list(facts.parts("pairs"))
    sha256, among = facts.text("sha256") or "", facts.number("chosen_among", 32) or 0
    if not sha256 or not 1 <= len(columns) <= MOST:
        raise ValueError("it does not say what it shows")
    width, height = picture.width // len(columns), picture.height // 2
    if not (0 < width <= _MOST_SIDE and 0 < height <= _MOST_SIDE) or (width * len(columns), 2 * height) != picture.size:
        raise ValueError(f"it has {picture.width} x {picture.height} pixels")
    whole = picture.convert("RGB")
    shown = []
    for place, column in enumerate(columns):
        above = (place * width, 0, (place + 1) * width, height)
        without, with_lora = whole.crop(above), whole.crop((above[0], height, above[2], 2 * height))
        prompt, kind = (column.text("prompt") or "")[:_LONGEST_PROMPT], column.text("kind")
        pair = Pair(prompt, column.number("seed") or 0, without, with_lora)
        shown.append(Telling(pair, kind if kind in KINDS else KINDS[0]))
    known = facts.decimal("weight")
    return Sheet(sha256, tuple(shown), max(among, len(shown)), facts.text("protocol_id"), None if known is None else float(known))


def _packed(sheet: Sheet, record: LoraRecord) -> bytes:
    """A sheet as a file of at most `MOST_BYTES`: of lower quality, then smaller, if it must be."""
    facts = {
        "carlos_pictures": _VERSION,
        "sha256": sheet.sha256,
        "lora_id": record.lora_id[:_LONGEST_PROMPT],
        "name": record.name[:_LONGEST_PROMPT],
        "above": "without the LoRA",
        "below": "with the LoRA",
        "weight": sheet.weight,
        "protocol_id": None if sheet.protocol_id is None else sheet.protocol_id[:_LONGEST_PROMPT],
        "measured": record.indexed_at,
        "chosen_among": sheet.chosen_among,
        "pairs": [{"prompt": pair.prompt[:_LONGEST_PROMPT], "seed": pair.seed, "kind": kind} for pair, kind in sheet.shown],
    }
    comment = whole_text(json.dumps(facts, ensure_ascii=False)).encode()
    width, height = sheet.pairs[0].without.size
    while True:
        whole = Image.new("RGB", (width * len(sheet.shown), 2 * height))
        for place, (pair, _kind) in enumerate(sheet.shown):
            for row, picture in enumerate((pair.without, pair.with_lora)):
                fitting = picture if picture.size == (width, height) else picture.resize((width, height))
                whole.paste(fitting, (place * width, row * height))
        for quality in _QUALITIES:
            file = io.BytesIO()
            # Colours in full: a LoRA may change nothing else.
            whole.save(file, "JPEG", quality=quality, subsampling=0, comment=comment)
            if file.tell() <= MOST_BYTES:
                return file.getvalue()
        width, height = max(1, width // 2), max(1, height // 2)


def _name_of(record: LoraRecord) -> str:
    """A name for people, and the content by which it is found."""
    stem = Path(safe_name(record.file_name or record.name)).stem.encode()[:_LONGEST_STEM].decode(errors="ignore")
    return f"{stem}-{str(record.sha256).lower()[:_DIGITS]}.jpg"


def _by_digits(folder: Path) -> Mapping[str, list[Path]]:
    """The files of a folder by the digits that their names end in."""
    found: dict[str, list[Path]] = defaultdict(list)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, point, ending = entry.name.rpartition(".")
                digits = stem.rpartition("-")[2]
                if point and ending == "jpg" and len(digits) == _DIGITS:
                    found[digits].append(Path(entry.path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        logger.warning("carlos: %s cannot be looked through: %s", folder, error)
        return {}
    return {digits: sorted(paths) for digits, paths in found.items()}


def _time_of(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
