"""Facts as strict JSON of one line, for scripts: reports of nodes end with it, and the command line answers with it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What JSON may hold as it is, and other readers take for the end of a line, or cannot write."""


def facts_text(facts: Mapping[str, Any]) -> str:
    """Facts as one line of strict JSON. Undefined numbers are null."""
    content = json.dumps(_strict(facts), ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", content)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
