"""`carlos` and `python -m carlos_core.cli`: says what is missing where typer or rich is."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper

from .codes import FAILED


def main() -> int:
    """Run the command line. Returns the exit status."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"The command line needs {' and '.join(missing)}: pip install 'carlos-loras[cli]'\n")
        return FAILED
    for stream in (sys.stdout, sys.stderr):
        # JSON is UTF-8 whatever a pipe's encoding is; a terminal shows escaped what it cannot write.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    status: int = import_module(".commands", __package__).run(sys.argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
