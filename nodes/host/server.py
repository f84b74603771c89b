"""ComfyUI's server, if there is one."""

import sys
from typing import Any

_MOST_PROMPTS = 200
"""Of the prompts that ran, so many of the last ones are looked at."""

_PROMPT = 2
"""Where the nodes are in an item of ComfyUI's queue: (number, id, prompt, ...)."""


def running() -> Any | None:
    """The server of this process, or None. Its module is loaded already if one runs; otherwise importing it fails."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def prompts() -> list[Any]:
    """The prompts that ran in this process, run now or wait: node id -> node, each. None where no server is."""
    queue = getattr(running(), "prompt_queue", None)
    if queue is None:
        return []
    with queue.mutex:
        # Other nodes put items of their own into the history.
        ran = [entry.get("prompt", ()) for entry in list(queue.history.values())[-_MOST_PROMPTS:]]
        items = [*ran, *queue.currently_running.values(), *queue.queue]
    return [item[_PROMPT] for item in items if len(item) > _PROMPT]


def others_wait() -> bool:
    """Whether another prompt waits for the one that runs."""
    queue = getattr(running(), "prompt_queue", None)
    return queue is not None and bool(queue.queue)


def is_watched() -> bool:
    """Whether somebody looks at the nodes of the prompt that runs: a browser, or another client."""
    return bool(getattr(running(), "client_id", None))


def forget_progress() -> None:
    """Let the frontend take the nodes of this prompt for ones that have not begun; the next progress tells it what has."""
    context = sys.modules["comfy_execution.utils"].get_executing_context()
    server = running()
    if server is not None and context is not None:
        server.send_sync("progress_state", {"prompt_id": context.prompt_id, "nodes": {}}, server.client_id)
