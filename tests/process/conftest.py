"""What tests of child processes share: where they find their factories, and one event loop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # where a child finds its factory


@pytest.fixture
def anyio_backend() -> Any:
    """One loop for most of them: a child takes a second, and the bus is tested on all three."""
    return "asyncio", {}
