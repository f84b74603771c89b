"""A query is read alike wherever the encoder lies."""

from __future__ import annotations

import json
import logging

from tests.gpu.gpu_models import HAS_GPU, Run

logger = logging.getLogger(__name__)


def test_queries_choose_on_a_gpu_what_they_choose_on_the_cpu(run: Run) -> None:
    n = 120 if HAS_GPU else 10
    printed = run("query_run.py", n)
    logger.info("\n%s", printed)
    loaded, reference, facts = map(json.loads, printed.splitlines())
    assert (loaded["is_on_gpu"], reference["is_on_gpu"]) == (HAS_GPU, False)
    assert facts["queries"] == n
    assert facts["chosen"] > n / 2
    assert facts["difference"] < 1e-3
    assert facts["different"] == []
