"""Fuzz the readers of foreign bytes.

usage: python -m fuzz [TARGET ...] [--executions 10000] [--seconds S] [--seed 0] [--found fuzz/found] [--atheris]

Without a target, all of them in turn. The seeds are in fuzz/corpus/<target>. What was found is kept in the folder of --found, and
the exit status is 1: exceptions outside CarlosError, answers that no caller expects, executions of more than a second, and more
than 256 MB of memory above the start. Prints Markdown.

--atheris lets libFuzzer choose the inputs to change, by which code they reach (pip install atheris): one TARGET for each call.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import types
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
_WATCHED = {"carlos_core", "carlos_nodes_alone", "json", "zipfile"}
"""Packages of what libFuzzer is told to have been reached."""


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


def _empty_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


def _peak_mb() -> float:
    """The most memory that this process has had; 0 where that is not told (Windows)."""
    if resource is None:
        return 0.0
    # In kB, but on macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


@dataclass
class Run:
    """The executions of one target, with what came of them. found: inputs on which something is wrong are kept there."""

    name: str
    folder: Path
    found: Path
    slow_s: float = SLOW_S
    """What an execution may take."""

    tally: Tally = field(default_factory=Tally)
    memory_mb: float = field(default_factory=_peak_mb)

    def execute(self, content: bytes) -> bool:
        """Whether the target has answered."""
        answered = self.tally.answered
        wrong = run_one(TARGETS[self.name], content, self.folder, self.tally, self.slow_s)
        if not wrong and _peak_mb() - self.memory_mb > MOST_MB:
            self.memory_mb, wrong = _peak_mb(), f"more than {MOST_MB} MB"
        if wrong:
            self.tally.found[wrong] += 1
            if self.tally.found[wrong] <= 3:
                where = self.found / self.name / hashlib.sha256(content).hexdigest()[:16]
                where.parent.mkdir(parents=True, exist_ok=True)
                where.write_bytes(content)
        return self.tally.answered > answered


def fuzz(name: str, executions: int, seconds: float, seed: int, found: Path, slow_s: float = SLOW_S) -> Tally:
    """Run one target on changed seeds, and keep the inputs on which something is wrong. slow_s: what an execution may take."""
    end = time.monotonic() + seconds
    seeds, chance = seeds_of(name), random.Random(seed)
    # What is answered is changed further; of what is refused, most is refused for what was changed first.
    kept = list(seeds)
    with _empty_folder() as folder:
        run = Run(name, Path(folder), found, slow_s)
        while run.tally.executions < executions and time.monotonic() < end:
            place = run.tally.executions
            content = seeds[place] if place < len(seeds) else changed(chance.choice(kept), seeds, chance)
            if run.execute(content) and len(content) < _LONGEST_SEED and place >= len(seeds):
                kept[len(seeds) :] = [*kept[len(seeds) :], content][-_MOST_KEPT:]
    return run.tally


def guided(name: str, executions: int, seconds: float, seed: int, found: Path) -> Tally:
    """Like `fuzz`, but libFuzzer chooses which inputs are changed, by the code that they reach. Once in a process.

    Half of the changes are its own, the others those of `mutations`: hardly any of its own leaves a header that can be read.
    """
    import atheris

    seeds = seeds_of(name)
    with _empty_folder() as folder, _empty_folder() as reached:
        run = Run(name, Path(folder), found)
        for content in seeds:
            # Loads what is loaded on first use.
            run.execute(content)
        for thing in gc.get_objects():
            # Of all that is loaded (torch, too), what reads; the rest would take minutes.
            if type(thing) is types.FunctionType and (thing.__module__ or "").split(".")[0] in _WATCHED:
                atheris.instrument_func(thing)
        run.memory_mb = _peak_mb()

        def one(content: bytes) -> None:
            run.execute(content)

        def change(content: bytes, longest: int, number: int) -> bytes:
            if number % 2:
                return atheris.Mutate(content, longest)
            return changed(content, seeds, random.Random(number))[:longest]

        # What is found here does not end the run. What hangs or ends the process does, and libFuzzer keeps it.
        (found / name).mkdir(parents=True, exist_ok=True)
        options = [
            f"-atheris_runs={executions}",
            f"-seed={seed + 1}",
            f"-max_len={_LONGEST_SEED}",
            "-timeout=60",
            "-rss_limit_mb=4096",
        ]
        if seconds < float("inf"):
            options.append(f"-max_total_time={int(seconds)}")
        atheris.Setup(
            [sys.argv[0], *options, f"-artifact_prefix={found / name}/", reached, str(CORPUS / name)],
            one,
            custom_mutator=change,
        )
        try:
            atheris.Fuzz()
        except SystemExit as end:
            if end.code:
                raise
        # Its alarm would end Python on the way out.
        signal.setitimer(signal.ITIMER_REAL, 0)
    return run.tally


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
    if options.atheris and len(names) > 1:
        parser.error("--atheris takes one TARGET.")
    sys.stdout.write("| target | executions | answered | slowest | wrong |\n|---|---|---|---|---|\n")
    is_good = True
    for name in names:
        way = guided if options.atheris else fuzz
        tally = way(name, options.executions, options.seconds, options.seed, options.found)
        wrong = "; ".join(f"{words} ({count})" for words, count in tally.found.most_common()) or "nothing"
        sys.stdout.write(f"| {name} | {tally.row} | {wrong} |\n")
        sys.stdout.flush()
        is_good &= not tally.found
    if options.atheris:
        # On the usual way out, libFuzzer says that all is well.
        os._exit(0 if is_good else 1)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
