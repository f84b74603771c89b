"""Words on contact sheets."""

from __future__ import annotations

import pytest
import torch

from carlos_core.measuring.labels import labelled, notice, sheet_or_notice, stacked

SHEET = torch.full((1, 20, 300, 3), 0.25)


def test_a_name_stands_above_its_sheet_which_stays_as_it_is() -> None:
    shown = labelled(SHEET, "pixel_art.safetensors")
    line, below = shown[:, :-20], shown[:, -20:]
    assert torch.equal(below, SHEET)
    assert (float(line.min()), float(line.max())) == (0.0, 1.0)
    # Other names look otherwise, and end on white.
    assert not torch.equal(shown, labelled(SHEET, "pencil_sketch.safetensors"))
    assert float(line[:, :, 260:].min()) == 1.0


@pytest.mark.parametrize("name", ["", "a" * 500, "new\nline", "no text \udcff", "水彩画", "שלג 🧜"])
def test_whatever_a_name_holds_it_is_drawn_in_one_line(name: str) -> None:
    shown = labelled(SHEET, name)
    assert shown.shape == (1, 50, 300, 3)
    assert torch.equal(shown[:, 30:], SHEET)


def test_sheets_of_unequal_size_are_all_shown() -> None:
    small, large = torch.zeros(1, 20, 100, 3), torch.zeros(1, 30, 50, 3)
    batch = stacked([small, large])
    assert batch.shape == (2, 30, 100, 3)
    assert torch.equal(batch[0, :20], small[0])
    assert float(batch[0, 20:].min()) == float(batch[1, :, 50:].min()) == 1.0


def test_where_there_is_no_sheet_words_say_so() -> None:
    assert sheet_or_notice(SHEET) is SHEET
    said = sheet_or_notice(None)
    assert said.shape[0] == 1
    assert (float(said.min()), float(said.max())) == (0.0, 1.0)
    assert not torch.equal(said, notice("Something else, in about as many words, so that it takes as many lines as that."))
