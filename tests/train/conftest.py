"""What the tests of training share: the trainer of each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fitbus


@pytest.fixture
def trainer(request: pytest.FixtureRequest) -> Iterator[fitbus.Trainer]:
    """The file's `SHARED`, one for all of its tests, so that its steps are compiled once."""
    shared: fitbus.Trainer = request.module.SHARED
    yield shared
    assert shared.bus.statistics().subscriptions == ()
