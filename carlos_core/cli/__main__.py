"""`carlos` and `python -m carlos_core.cli`: says what is missing where typer or rich is."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from .codes import FAILED


def main() -> int:
    """Run the command line. Returns the exit status."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"The command line needs {' and '.join(missing)}: pip install 'carlos-loras[cli]'\n")
        return FAILED
    status: int = import_module(".commands", __package__).run(sys.argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
