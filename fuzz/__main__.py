"""Fuzz the readers of foreign bytes.

usage: python -m fuzz [TARGET ...] [--executions 10000] [--seconds S] [--seed 0] [--found fuzz/found] [--atheris]

Without a target, all of them in turn. The seeds are in fuzz/corpus/<target>. What was found is kept in the folder of --found, and
the exit status is 1: exceptions outside CarlosError, answers that no caller expects, executions of more than a second, and more
than 256 MB of memory above the start. Prints Markdown.

--atheris lets libFuzzer choose the changes, by which code they reach (pip install atheris); it ends at the first find.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from carlos_core.errors import CarlosError

from .mutations import changed
from .targets import TARGETS, Target

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CORPUS = Path(__file__).parent / "corpus"
SLOW_S = 1.0
MOST_MB = 256
_LONGEST_SEED = 1 << 16
_MOST_KEPT = 200


def seeds_of(target: str) -> list[bytes]:
    """What a target's inputs are made of."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


@dataclass
class Tally:
    """What came of the executions of one target."""

    executions: int = 0
    answered: int = 0
    """Those that ended without an error."""

    slowest_s: float = 0.0
    found: Counter[str] = field(default_factory=Counter)
    """What is wrong, in words, and how often."""

    @property
    def row(self) -> str:
        return f"{self.executions:,} | {self.answered:,} | {self.slowest_s * 1000:.0f} ms"


def run_one(target: Target, content: bytes, folder: Path, tally: Tally, slow_s: float = SLOW_S) -> str:
    """One execution. Returns what is wrong, in words; empty if nothing is."""
    begin, wrong = time.perf_counter(), ""
    try:
        target(content, folder)
        tally.answered += 1
    except CarlosError:
        pass
    # Whatever it is: that is what is looked for.
    except Exception as error:  # noqa: BLE001
        frame = next(
            (frame for frame in reversed(traceback.extract_tb(error.__traceback__)) if "carlos_core" in frame.filename), None
        )
        where = f" in {Path(frame.filename).name}, {frame.name}" if frame is not None else ""
        wrong = f"{type(error).__name__}{where}"
    seconds = time.perf_counter() - begin
    tally.executions += 1
    tally.slowest_s = max(tally.slowest_s, seconds)
    return wrong or (f"more than {slow_s:g} s" if seconds > slow_s else "")


def fuzz(name: str, executions: int, seconds: float, seed: int, found: Path, slow_s: float = SLOW_S) -> Tally:
    """Run one target on changed seeds, and keep the inputs on which something is wrong. slow_s: what an execution may take."""
    tally, end = Tally(), time.monotonic() + seconds
    seeds, chance = seeds_of(name), random.Random(seed)
    # What is answered is changed further; of what is refused, most is refused for what was changed first.
    kept, before = list(seeds), _peak_mb()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        while tally.executions < executions and time.monotonic() < end:
            place = tally.executions
            content = seeds[place] if place < len(seeds) else changed(chance.choice(kept), seeds, chance)
            answered = tally.answered
            wrong = run_one(TARGETS[name], content, Path(folder), tally, slow_s)
            if tally.answered > answered and len(content) < _LONGEST_SEED and place >= len(seeds):
                kept[len(seeds) :] = [*kept[len(seeds) :], content][-_MOST_KEPT:]
            if not wrong and _peak_mb() - before > MOST_MB:
                before, wrong = _peak_mb(), f"more than {MOST_MB} MB"
            if wrong:
                tally.found[wrong] += 1
                if tally.found[wrong] <= 3:
                    where = found / name / hashlib.sha256(content).hexdigest()[:16]
                    where.parent.mkdir(parents=True, exist_ok=True)
                    where.write_bytes(content)
    return tally


def _peak_mb() -> float:
    """The most memory that this process has had; 0 where that is not told (Windows)."""
    if resource is None:
        return 0.0
    # In kB, but on macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def guided(name: str, executions: int) -> None:
    """Run one target by libFuzzer, until it has found something."""
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        options = [f"-atheris_runs={executions}", f"-timeout={int(SLOW_S)}", "-rss_limit_mb=2048", "-verbosity=1"]
        atheris.instrument_all()

        def one(content: bytes) -> None:
            try:
                TARGETS[name](content, Path(folder))
            except CarlosError:
                return

        atheris.Setup([sys.argv[0], *options, str(CORPUS / name)], one)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET")
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--found", type=Path, default=Path("fuzz/found"))
    parser.add_argument("--atheris", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    names = options.targets or list(TARGETS)
    if options.atheris:
        guided(names[0], options.executions)
        return
    sys.stdout.write("| target | executions | answered | slowest | wrong |\n|---|---|---|---|---|\n")
    is_good = True
    for name in names:
        tally = fuzz(name, options.executions, options.seconds, options.seed, options.found)
        wrong = "; ".join(f"{words} ({count})" for words, count in tally.found.most_common()) or "nothing"
        sys.stdout.write(f"| {name} | {tally.row} | {wrong} |\n")
        sys.stdout.flush()
        is_good &= not tally.found
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
