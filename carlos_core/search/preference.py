"""Which of the LoRAs that answer a query about equally well comes first: one that was made for the loaded checkpoint.

What fits and whether anything does is decided before and without it. The published ranking is by cosine alone, and stays so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .calibration import CLEAR, LIKELY, p_values

ABOUT_EQUAL = 0.5
"""z-scores that differ by less are about equal: it is what the measurement leaves open. Two measurements of one LoRA, each as
exact as the preset "standard" promises, differ by 0.46 to 0.65 (one standard deviation, `studies/preference.py`)."""


@dataclass(frozen=True)
class Preference:
    """The LoRAs to prefer for a checkpoint."""

    line: str
    """Of the checkpoint (`loras.lines`)."""

    known_by: str
    """Whose word that is: the name of the checkpoint's file, or the user's choice."""

    closeness: Mapping[str, float]
    """lora_id -> how near it is to that line, in (0, 1]; LoRAs that are not in it are not near."""

    def order(self, lora_ids: Sequence[str], z: Tensor, allowed: Tensor) -> tuple[Tensor, dict[str, tuple[str, ...]]]:
        """Values to order rows by, highest first, instead of their z-scores, and which rows come before better ones.

        A LoRA of the checkpoint's line counts as `ABOUT_EQUAL` better than it is, but never as surer than a row whose match is
        called by a better word. Matches that are not at least likely keep their order: chance is not worth a preference.

        Args:
            lora_ids: [R].
            z: [R], NaN for rows without a direction.
            allowed: [R] bool, rows that may be found.

        Returns values [R], of which only those of allowed rows mean something, and lora_id -> ids of the better ones behind it.
        """
        rows = torch.nonzero(allowed).squeeze(1)
        scores, ids = z[rows], [lora_ids[row] for row in rows.tolist()]
        p = p_values(scores, len(rows))
        words = (p <= LIKELY).int() + (p <= CLEAR).int()
        near = torch.tensor([self.closeness.get(lora_id, 0.0) for lora_id in ids], dtype=z.dtype)
        wanted = torch.where(words > 0, scores + ABOUT_EQUAL * near, scores)
        by_wanted = torch.sort(wanted, descending=True, stable=True).indices
        order = by_wanted[torch.sort(words[by_wanted], descending=True, stable=True).indices]
        values = torch.zeros_like(z)
        values[rows[order]] = -torch.arange(len(rows), dtype=z.dtype)
        sure = order[: int((words > 0).sum())]
        return values, _better_behind([ids[row] for row in sure.tolist()], scores[sure].tolist())


def _better_behind(lora_ids: Sequence[str], z: Sequence[float]) -> dict[str, tuple[str, ...]]:
    """For each LoRA, in the order that was made, those behind it with a higher score, if there are any."""
    behind = {
        lora_id: tuple(other for other, other_z in zip(lora_ids[place + 1 :], z[place + 1 :], strict=True) if other_z > z[place])
        for place, lora_id in enumerate(lora_ids)
    }
    return {lora_id: others for lora_id, others in behind.items() if others}
