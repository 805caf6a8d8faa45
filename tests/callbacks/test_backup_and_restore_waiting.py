"""Controls that wait at the boundary at which a backup is taken: they act when it is gone on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus import (
    BatchEnd,
    Control,
    ControlApplied,
    Pause,
    ScaleLearningRate,
    SetLearningRate,
    StopTraining,
    UpdateState,
)
from fitbus.callbacks import BackupAndRestore
from fitbus.testing import EventRecorder

from ._interrupted import Interrupted, X, Y, new_trainer

pytestmark = pytest.mark.anyio


class Unheard(Control):
    """One of which no task knows."""


class Sends(fitbus.Callback):
    """Sends when training stands at the boundary of a step, and has looked at its inbox."""

    def __init__(self, *controls: Control) -> None:
        self.controls = controls

    def attach(self, run: fitbus.Run[Any]) -> None:
        super().attach(run)

        def visit(engine: Any) -> None:
            if engine.updates == 4:
                for control in self.controls:
                    run.inbox.post(control, "me")
                self.controls = ()

        run.preparation.boundaries.append(visit)


@fitbus.handler(BatchEnd, wait=True)
def dies(event: BatchEnd) -> None:
    if event.step == 5:
        raise Interrupted


async def resumed(folder: Path, *controls: Control) -> EventRecorder:
    """A training that died after it was backed up at step 4, and went on."""
    options: Any = {"batch_size": 8, "epochs": 2}
    backup = BackupAndRestore(folder, save_freq=4)
    with pytest.raises(Interrupted):
        await new_trainer().fit(X, Y, callbacks=[Sends(*controls), backup, dies], **options)
    recorder = EventRecorder()
    backup = BackupAndRestore(folder, save_freq=4)
    await new_trainer().fit(X, Y, callbacks=[backup, recorder], **options)
    return recorder


async def test_what_waited_acts_at_once(tmp_path: Path) -> None:
    """In the order in which it was sent, and from the same senders."""
    recorder = await resumed(tmp_path, ScaleLearningRate(0.5), SetLearningRate(0.03))
    applied = recorder.of(ControlApplied)
    assert [(e.step, e.control, e.source) for e in applied] == [
        (4, ScaleLearningRate(0.5), "me"),
        (4, SetLearningRate(0.03), "me"),
    ]


async def test_stops_and_pauses_are_of_the_process_that_died(tmp_path: Path) -> None:
    """Nobody would be there to resume it."""
    recorder = await resumed(tmp_path, Pause(), ScaleLearningRate(0.5), StopTraining("enough"))
    assert [type(event.control) for event in recorder.of(ControlApplied)] == [ScaleLearningRate]
    assert recorder.of(fitbus.TrainEnd)[0].reason == "completed"


async def test_what_cannot_be_kept_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A function, when it is taken; a control that nobody knows, when it would act."""
    recorder = await resumed(tmp_path, UpdateState(lambda state: state), Unheard())
    assert recorder.of(ControlApplied) == []
    assert "a backup can't hold UpdateState(" in caplog.text
    lost = next(text for text in caplog.messages if "waited when a backup was taken" in text)
    assert ".Unheard'" in lost
