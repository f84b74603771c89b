"""Tables as text that spreadsheets open."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from ...carlos_core.foreign import printable

_FORMULA = ("=", "+", "-", "@")


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as comma separated values, one line each. Numbers that are undefined, and None, are empty.

    Names come from files that strangers made: a text that a spreadsheet would take for a formula gets a ' before it.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if not isinstance(value, str):
        return str(value)
    shown = printable(value)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown
