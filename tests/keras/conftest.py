"""What the tests against Keras share: one compiled model of each library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ._differential import Twins

if TYPE_CHECKING:
    from ._unmodified import Pair


@pytest.fixture(scope="session")
def twins() -> Twins:
    """The same problem for Keras and for fitbus, compiled once."""
    return Twins()


@pytest.fixture
def models() -> Pair:
    """Both models, compiled once, with the weights that they began with."""
    from ._unmodified import pair

    found = pair()
    found.reset()
    return found
