"""`await fit()` leaves the event loop to others."""

from __future__ import annotations

import pytest

from fitbus.examples import beside_other_work

pytestmark = pytest.mark.anyio


async def test_the_heart_beats_while_training_runs_and_each_epoch_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heartbeat = await beside_other_work.show()
    assert heartbeat.beats >= 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:5]] == [f"epoch {n}" for n in range(5)]
    assert lines[4].endswith("after 640 steps")
    assert lines[5].startswith("<History of 5 epochs")
