"""Colours of the pictures on nodes. They bring their own dark ground, so that they read alike on light and dark canvases."""

from __future__ import annotations

GROUND = "#1f2329"
PANEL = "#2a2f37"
"""Behind a row or a card."""

TRACK = "#454c58"
"""What a bar does not fill, and lines that part things. Nothing is written on it."""

BAND = "#5d6675"
"""A part of a bar's ground that is marked."""

TEXT = "#f2f4f7"
QUIET = "#b6bfcb"
"""For what matters less: labels, numbers, notes."""

GOOD = "#82d996"
DOUBTFUL = "#f3c45a"
BAD = "#ff9d8f"
ACCENT = "#66b3f0"
"""Bars, and what stands out without being good or bad."""

INKS = (TEXT, QUIET, GOOD, DOUBTFUL, BAD, ACCENT)
"""Colours of words: each has a contrast of at least 4.5 with each of `PAPERS` (WCAG 2.2, 1.4.3)."""

PAPERS = (GROUND, PANEL)
