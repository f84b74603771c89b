"""Without typer and rich the command line says what to install."""

from __future__ import annotations

import subprocess
import sys


def test_what_is_missing_is_said_in_one_sentence() -> None:
    code = (
        "import sys; sys.modules.update(typer=None); import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name in ('typer', 'rich') else find(name, *rest)\n"
        "from carlos_core.cli.__main__ import main; sys.exit(main())"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == "The command line needs typer and rich: pip install 'carlos-loras[cli]'\n"
