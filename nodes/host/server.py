"""ComfyUI's server, if there is one."""

import sys
from typing import Any


def running() -> Any | None:
    """The server of this process, or None. Its module is loaded already if one runs; otherwise importing it fails."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
