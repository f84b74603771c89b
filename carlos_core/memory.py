"""When memory runs out: how that is recognised, and work done in smaller parts."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_WORDS = ("defaultcpuallocator", "could not create a primitive", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there is too little memory, on a GPU or on the CPU.

    Only CUDA has an error of its own in torch. Other devices, and the CPU's allocator, say it in words; oneDNN, which allocates
    by itself, says that it could not create a primitive.
    """
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def halved(count: int, noun: str = "items") -> int:
    """How many to compute at a time where `count` at a time were too many for the memory; also frees what the attempt has left.

    To be called when the error is no longer handled: until then, its frames hold what was computed so far.
    noun: what is counted, for the log.
    """
    half = (count + 1) // 2
    logger.warning("carlos: out of memory with %d %s at a time, going on with %d", count, noun, half)
    # An error that was handed to a function which raised it again, as in ComfyUI's VAE, is in a cycle with that function's frame.
    gc.collect()
    return half


def unless_too_many(compute: Callable[[], Tensor], count: int) -> Tensor | None:
    """What `compute` gives for `count` items together; None if that was too much for the memory.

    The error passes through if there is too little for a single one.
    """
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if count == 1 or not is_out_of_memory(error):
            raise
    return None


def in_parts(compute: Callable[[Tensor], Tensor], items: Tensor, limit: int, fewer: Callable[[int], int] = halved) -> Tensor:
    """Compute something for each of the items, [N, ...] -> [N, ...], and keep it on the CPU.

    At most `limit` items are computed at a time; fewer from where memory ran out: too many -> how many then. The error passes
    through if there is too little for a single one.
    """

    def on_cpu(part: Tensor) -> Tensor:
        return compute(part).cpu()

    parts: list[Tensor] = []
    place = 0
    while place < len(items):
        part = items[place : place + limit]
        made = unless_too_many(partial(on_cpu, part), len(part))
        if made is None:
            limit = fewer(len(part))
            continue
        parts.append(made)
        place += len(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts)
