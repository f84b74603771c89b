"""What became of one LoRA of an indexing run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loras.lora_file import LoraFile
from ..records import LoraRecord
from .contact_sheet import SmallPictures
from .labels import sheet_or_notice
from .protocol import has_effect
from .row_change import RowChange

INDEXED = "indexed"
ALREADY_INDEXED = "already indexed"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one LoRA."""

    lora: LoraFile
    status: str
    """INDEXED or ALREADY_INDEXED."""

    row: LoraRecord
    """The LoRA's row of the database."""

    model_evaluations: int
    """As in `measure.Measurement`; 0 if the row was there."""

    base_model_evaluations: int
    """Forward passes that this run spent on the base side, for the measurement and the scale sweep together."""

    notes: tuple[str, ...]
    sheet: Tensor | None
    """Pairs of pictures of what was measured just now, [1, H, W, 3] float in [0, 1]; None if their thumbnails are not here."""

    other_evaluations: int = 0
    """As in `measure.Measurement`."""

    sweep_evaluations: int = 0
    """`model_evaluations` of the `strength_curve.StrengthCurve`; 0 without a sweep in this run."""

    file_notes: tuple[str, ...] = ()
    """What is to be said of the file and its sidecars, as they are now; it is not in the row."""

    other_program: str = ""
    """The program that made the pictures of a row that stays, if it is another one than ours."""

    change: RowChange | None = None
    """What became of the row that was there before, if it was replaced, or is better and stays. It is among the notes, too."""

    earlier: SmallPictures = SmallPictures(())
    """Pairs of pictures of what was measured before. They are read when they are asked for: few of a library's are shown."""

    def pairs(self) -> Tensor | None:
        """Pairs of pictures, [1, H, W, 3] float in [0, 1]; None if their thumbnails are not here."""
        return self.earlier.sheet() if self.sheet is None else self.sheet

    @property
    def contact_sheet(self) -> Tensor:
        """[1, H, W, 3] float in [0, 1]: pairs of pictures, or words that say that there are none."""
        return sheet_or_notice(self.pairs())

    @property
    def is_new(self) -> bool:
        """Whether it was measured just now."""
        return self.status == INDEXED

    @property
    def has_effect(self) -> bool:
        """Whether the LoRA changes pictures, by its row."""
        return has_effect(self.row.measured)
