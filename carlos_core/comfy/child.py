"""Started by the command line with ComfyUI's own Python: python child.py COMFYUI [ComfyUI's options]. `service` does the work.

It is a script, so that it finds ComfyUI's modules and not those of wherever CARLoS is installed. Of CARLoS it takes the package
that it lies in, by its place.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

_CORE = Path(__file__).resolve().parents[1]


def main() -> int:
    """Answer the request on stdin. Returns the exit status."""
    # Answers go to where stdout led; whatever else is printed in this process goes to stderr.
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    folder, *arguments = sys.argv[1:]
    # Beside this script are modules whose names others have, too.
    sys.path[0] = folder
    sys.argv = [str(Path(folder) / "main.py"), *arguments]
    spec = importlib.util.spec_from_file_location("carlos_core", _CORE / "__init__.py", submodule_search_locations=[str(_CORE)])
    assert spec is not None, "it is a package"
    assert spec.loader is not None, "it is a file"
    package = importlib.util.module_from_spec(spec)
    sys.modules["carlos_core"] = package
    spec.loader.exec_module(package)
    status: int = importlib.import_module("carlos_core.comfy.service").serve(channel, Path(folder))
    return status


if __name__ == "__main__":
    sys.exit(main())
