"""ComfyUI's server, where there is one."""

import sys
from typing import Any


def running() -> Any | None:
    """The server of this process. Its module is there already if one runs; importing it elsewhere fails."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
