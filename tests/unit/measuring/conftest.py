"""What the tests of measuring share."""

from __future__ import annotations

import pytest

from tests.support.replayed import Pool


@pytest.fixture(scope="session")
def pool() -> Pool:
    """Pictures of the mini-world's LoRAs that were made once."""
    return Pool.of_tests()
