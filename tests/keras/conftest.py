"""What the tests against Keras share: one compiled model of each library."""

from __future__ import annotations

import pytest

from ._differential import Twins


@pytest.fixture(scope="session")
def twins() -> Twins:
    """The same problem for Keras and for fitbus, compiled once."""
    return Twins()
