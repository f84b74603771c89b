"""`carlos demo`: three LoRAs measured here and now, and found by what they do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..counting import counted, number
from ..errors import IndexingError
from . import options
from .app import TRYING, command
from .diffusers_run import measuring_with_diffusers
from .draw import card_of, save, save_text
from .index_run import IndexRun
from .output import Answer, Table
from .places import Places
from .progress import showing

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..drawing.answers import Answered
    from ..measuring.gallery import Gallery
    from ..records import LoraRecord

LORAS = ("mystery_12.safetensors", "mystery_06.safetensors", "mystery_10.safetensors")
"""Of the mini-world: their names say nothing."""

SENTENCES = ("snow falling", "thick oil paint", "seen through a fisheye lens", "a neon sign at night")
"""What is asked for. Nothing fits the last one."""

_IN_CLONE = Path(__file__).resolve().parents[2] / "tests" / "assets" / "miniworld"
_FILES = ("mini_diffusion.safetensors", "mini_clip.safetensors", "mini_clip.json", "prompts_short.json", "prompts_signature.json")
_ENCODER = "mini_clip"
_HEADER = ("sentence", "LoRA", "match", "score", "strength", "consistency", "what it really does")
_NUMBERS = ("score", "strength", "consistency")

Assets = Annotated[
    Path | None,
    typer.Option(
        "--assets",
        metavar="DIR",
        help="tests/assets/miniworld of the repository (37 MB). Default: that of the clone which this runs from.",
        show_default=False,
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Where pictures, table and database go. A second run goes on there.")
]


@command("demo", TRYING, "demo", "demo --out /tmp/carlos-demo --json", "demo --assets ~/ComfyUI-CARLoS/tests/assets/miniworld")
def demo(out: Out = Path("carlos-demo"), assets: Assets = None, as_json: options.Json = False) -> Answer:
    """Measure three LoRAs of a tiny text-to-image world here and now, and find them by sentences, in a minute or two."""
    from ..measuring.headless import check_installed

    start = time.monotonic()
    miniworld = _miniworld(assets)
    check_installed()
    indexed = _indexed(miniworld, out)
    run = _Demo(miniworld, out)
    answers = [run.answer(sentence) for sentence in SENTENCES]
    files = run.save(answers)
    seconds = time.monotonic() - start
    pictures = indexed.result["pictures_made"]
    made = f"{counted(pictures, 'picture')} made here" if pictures else "measured in an earlier run"
    shown: list[str | Table] = [
        f"{len(run.database)} LoRAs whose names say nothing: {made}",
        Table(_HEADER, [each.cells for each in answers], _NUMBERS),
        *(each.reason for each in answers if each.row is None),
        f"written: {', '.join(str(file) for file in files)}",
        f"{seconds:.0f} s in all",
    ]
    result = {
        "folder": str(out),
        "files": [str(file) for file in files],
        "indexed": indexed.result,
        "answers": [each.facts for each in answers],
        "seconds": round(seconds, 1),
    }
    return Answer(result, shown, indexed.notes, indexed.code)


def _miniworld(named: Path | None) -> Path:
    """The mini-world's folder, by default the clone's. Raises IndexingError where something of it is missing."""
    folder = named or _IN_CLONE
    lacking = [name for name in (*_FILES, "labels.json", *(f"loras/{name}" for name in LORAS)) if not (folder / name).is_file()]
    if lacking:
        raise IndexingError(
            f"The demo's model and LoRAs are not {'here' if named is None else f'in {named}'}: {lacking[0]} is missing.",
            "They come with the repository, not with the package: git clone https://github.com/carlos-loras/ComfyUI-CARLoS, "
            "then carlos demo --assets ComfyUI-CARLoS/tests/assets/miniworld",
        )
    return folder.absolute()


def _places(miniworld: Path, out: Path) -> Places:
    """Everything that is kept is in the demo's own folder."""
    loras = tuple((name, miniworld / "loras" / name) for name in LORAS)
    return Places((miniworld,), (out / "pictures",), out / "cache", out / "loras.sqlite", loras=loras)


def _indexed(miniworld: Path, out: Path) -> Answer:
    """Measure the LoRAs, unless the folder's database has them."""
    from ..demo.miniworld_diffusers import miniworld_model
    from ..measuring.settings import AS_PRESET

    places = _places(miniworld, out)
    with showing() as shown:
        shown.say("loading the diffusion model")
        model = miniworld_model(miniworld)
    # How many steps this model needs is known.
    settings = {"preset": "quick", "prompts": str(miniworld / "prompts_short.json"), "sampling": AS_PRESET}
    run = IndexRun(measuring_with_diffusers(model, None, places), places, "", settings, describe=False)
    return run.answer(str(out / "demo.parquet"), _ENCODER, places.loras)


@dataclass(frozen=True)
class _Found:
    """What came of a sentence."""

    query: str
    row: LoraRecord | None
    """None: nothing fits."""

    match: str = ""
    """How sure it is, in a word."""

    score: float | None = None
    reason: str = ""
    really: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        if self.row is None:
            return (self.query, "nothing fits", *("-" for _ in _HEADER[2:]))
        measured = (number(self.score), number(self.row.strength, 2), number(self.row.consistency))
        return (self.query, self.row.name, self.match, *measured, self.really)

    @property
    def facts(self) -> dict[str, Any]:
        lora = self.row.name if self.row is not None else None
        return {
            "query": self.query,
            "fits": self.row is not None,
            "lora": lora,
            "confidence": self.match or None,
            "score": self.score,
            "really": self.really or None,
            "reason": self.reason,
        }


class _Demo:
    """Sentences asked of the LoRAs that were measured."""

    def __init__(self, miniworld: Path, out: Path) -> None:
        import json

        from ..database.database import load_database
        from ..measuring.gallery import Gallery

        places = _places(miniworld, out)
        self._out = out
        self.database: MetricsDatabase = load_database(out / "demo.parquet")
        self._searcher = places.searcher(self.database, miniworld / "prompts_signature.json")
        self._gallery: Gallery = Gallery(*places.pictures)
        self._labels: dict[str, Any] = json.loads((miniworld / "labels.json").read_text(encoding="utf-8"))

    def answer(self, query: str) -> _Found:
        with showing() as shown:
            selection = self._searcher.choose(query, on_progress=shown)
        if not selection.picks:
            return _Found(query, None, reason=selection.reason)
        pick = selection.picks[0]
        row, sure = pick.match.record, pick.match.confidence
        really = str(self._labels.get(row.file_name or row.name, {}).get("label", ""))
        return _Found(query, row, sure.word if sure is not None else "", pick.score, selection.reason, really)

    def save(self, answers: Sequence[_Found]) -> list[Path]:
        """Write pictures and table. Returns the files."""
        from ..drawing.answers import picture_of_answers

        rows = [self.database.row_at(place) for place in range(len(self.database))]
        overview, table = self._out / "demo.png", self._out / "demo.md"
        cards = {self._out / f"card_{Path(row.name).stem}.png": card_of(row, self.database, self._gallery)[0] for row in rows}
        title = f"{len(rows)} LoRAs, measured and then found by what they do"
        for path, picture in {overview: picture_of_answers(title, [self._drawn(each) for each in answers]), **cards}.items():
            save(picture, path)
        save_text(_markdown(answers), table)
        return [overview, table, *cards]

    def _drawn(self, found: _Found) -> Answered:
        from ..drawing import theme
        from ..drawing.answers import Answered
        from ..drawing.card import short_name
        from ..drawing.listing import Said

        if found.row is None:
            # The sentence and that nothing fits it stand above.
            why = found.reason.removeprefix(f"Nothing fits {found.query!r}: ")
            return Answered(found.query, "nothing fits", [Said(f"{why[:1].upper()}{why[1:]}", theme.QUIET)])
        measured = f"strength {number(found.row.strength, 2)}, consistency {number(found.row.consistency)}"
        said = [Said(f"{found.match} match", theme.GOOD), Said(measured, theme.QUIET)]
        return Answered(found.query, short_name(found.row.name), said, self._gallery.pairs(found.row))


def _markdown(answers: Sequence[_Found]) -> str:
    lines = [_HEADER, ["--:" if name in _NUMBERS else "---" for name in _HEADER], *(each.cells for each in answers)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
