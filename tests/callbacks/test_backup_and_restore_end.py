"""When backups are deleted, what they hold up, and which arguments are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import BatchEnd, EpochBegin, EpochEnd
from fitbus.callbacks import BackupAndRestore, Callback, Logs
from fitbus.errors import InvalidArgumentError
from fitbus.testing import Gate

from ._interrupted import (
    TRAINER,
    Interrupted,
    X,
    Y,
    interrupted,
    names,
    new_trainer,
)
from ._numbers import bits

pytestmark = pytest.mark.anyio


# When it is deleted.


def stop(event: EpochEnd) -> fitbus.StopTraining:
    return fitbus.StopTraining("enough")


@pytest.mark.parametrize("callbacks", [[], [stop]], ids=["completed", "stopped"])
async def test_it_is_deleted_when_training_ended_well(tmp_path: Path, callbacks: Any) -> None:
    """But never other files of the directory."""
    (tmp_path / "other").write_text("mine")
    backup = BackupAndRestore(tmp_path)
    await new_trainer().fit(X, Y, batch_size=8, epochs=2, callbacks=[backup, *callbacks])
    assert names(tmp_path) == ["other"]


async def test_unless_asked_to_it_is_kept(tmp_path: Path) -> None:
    backup = BackupAndRestore(tmp_path, delete_checkpoint=False)
    await new_trainer().fit(X, Y, batch_size=8, epochs=4, callbacks=[backup])
    found = names(tmp_path)
    assert 1 <= len(found) <= 2  # the newest, and the one before; fast ones may be left out
    assert all(name.startswith("backup-") for name in found)


async def test_it_is_kept_when_training_was_cancelled(tmp_path: Path) -> None:
    gate = Gate()

    async def hold(event: EpochBegin) -> None:
        if event.epoch == 1:
            await gate.pass_async()

    options: Any = {"batch_size": 8, "epochs": 2}
    await new_trainer().fit(X, Y, **options)
    expected = bits(TRAINER.state)
    backup = BackupAndRestore(tmp_path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: new_trainer().fit(X, Y, callbacks=[backup, hold], **options))
        await gate.wait_arrived()
        tasks.cancel_scope.cancel()
        gate.open()
    assert names(tmp_path) == ["backup-1"]
    await new_trainer().fit(X, Y, callbacks=[backup], **options)
    assert bits(TRAINER.state) == expected


@pytest.mark.parametrize("first", [True, False])
async def test_it_is_kept_when_the_end_of_another_callback_failed(
    tmp_path: Path, first: bool
) -> None:
    """Whatever their order: what that one was to save may be lost."""

    class Fails(Callback):
        def on_train_end(self, logs: Logs | None = None) -> None:
            raise Interrupted

    callbacks = [BackupAndRestore(tmp_path), Fails()]
    with pytest.raises(Interrupted):
        await new_trainer().fit(
            X, Y, batch_size=8, callbacks=callbacks if first else callbacks[::-1]
        )
    assert names(tmp_path) == ["backup-1"]


async def test_an_evaluation_with_the_same_object_touches_nothing(tmp_path: Path) -> None:
    await interrupted(tmp_path, 8, epochs=3)
    backup = BackupAndRestore(tmp_path)
    await TRAINER.evaluate(X, Y, callbacks=[backup])
    await TRAINER.predict(X, callbacks=[backup])
    assert names(tmp_path) == ["backup-1"]


async def test_it_holds_no_batch_up(tmp_path: Path) -> None:
    """It subscribes to no batch, so steps go on running ahead."""
    backup = BackupAndRestore(tmp_path, 3)
    async with new_trainer().run(X, Y, batch_size=8, callbacks=[backup]) as run:
        await run.wait()
        found = [s.name for s in run.statistics().subscriptions]
    assert run.driver.engine is not None
    assert not run.driver.engine.publisher.waits(BatchEnd)
    assert found == []


# Arguments.


async def test_two_of_one_directory_are_refused_before_the_first_step(tmp_path: Path) -> None:
    """By whatever names; each with one of its own works."""
    (tmp_path / "link").symlink_to(tmp_path / "one", target_is_directory=True)
    pair = [BackupAndRestore(tmp_path / "one"), BackupAndRestore(tmp_path / "link", 2)]
    options: Any = {"batch_size": 8, "epochs": 2}
    with pytest.raises(InvalidArgumentError, match=r"Restore'; both write .*link"):
        await new_trainer().fit(X, Y, callbacks=pair, **options)
    assert int(TRAINER.state.step) == 0
    pair[1] = BackupAndRestore(tmp_path / "two", 2)
    history = await new_trainer().fit(X, Y, callbacks=pair, **options)
    assert history.epoch == [0, 1]


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"backup_dir": ""}, "backup_dir"),
        ({"backup_dir": None}, "backup_dir"),
        ({"save_freq": True}, "save_freq"),
        ({"save_freq": False}, "save_freq"),
        ({"save_freq": 0}, "save_freq"),
        ({"save_freq": 1.5}, "save_freq"),
        ({"save_freq": "batch"}, "save_freq"),
        ({"double_checkpoint": 2}, "double_checkpoint"),
        ({"delete_checkpoint": None}, "delete_checkpoint"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_an_argument_out_of_range_is_refused(given: Any, argument: str) -> None:
    arguments: dict[str, Any] = {"backup_dir": "somewhere", **given}
    with pytest.raises(InvalidArgumentError, match=f"BackupAndRestore.{argument}"):
        BackupAndRestore(**arguments)
