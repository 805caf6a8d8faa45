"""Backups that are damaged, can't be written, or are of another state; random keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import EpochBegin
from fitbus.callbacks import BackupAndRestore, Callback
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.testing import EventRecorder, toy_problem

from ._damages import DAMAGES, flip
from ._interrupted import (
    TRAINER,
    Interrupted,
    X,
    Y,
    fail_after,
    interrupted,
    names,
    new_trainer,
)
from ._numbers import bits

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: files have nothing to do with it."""
    return "asyncio"


@pytest.mark.parametrize("damage", DAMAGES)
async def test_it_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """And ends the same bit for bit."""
    await new_trainer().fit(X, Y, batch_size=8, epochs=3)
    expected = bits(TRAINER.state)
    backup = BackupAndRestore(tmp_path)
    for after in (5, 5):  # each takes one backup: two are there
        with pytest.raises(Interrupted):
            await new_trainer().fit(
                X, Y, batch_size=8, epochs=3, callbacks=[backup, fail_after(after + 1)]
            )
    newest = tmp_path / "backup-2"
    damage(newest)
    seen = EventRecorder()
    with pytest.warns(RuntimeWarning, match=r"backup-2: .*goes on from the one before.*backup-1"):
        await new_trainer().fit(X, Y, batch_size=8, epochs=3, callbacks=[backup, seen])
    assert bits(TRAINER.state) == expected
    assert len(seen.of(EpochBegin)) == 2


async def test_if_none_is_good_the_error_names_the_path_and_what_to_do(tmp_path: Path) -> None:
    await interrupted(tmp_path, 6, epochs=3)
    flip(tmp_path / "backup-1")
    with pytest.raises(FitbusError, match=rf"{tmp_path}/backup-1: .*checksum.*delete {tmp_path}"):
        await new_trainer().fit(X, Y, epochs=3, callbacks=[BackupAndRestore(tmp_path)])
    assert names(tmp_path) == ["backup-1"]


async def test_a_directory_that_is_a_file_fails_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        await new_trainer().fit(X, Y, callbacks=[BackupAndRestore(tmp_path / "file")])
    assert int(TRAINER.state.step) == 0


async def test_a_backup_that_cant_be_written_fails_the_training_naming_the_path(
    tmp_path: Path,
) -> None:
    """Those before stay."""
    await interrupted(tmp_path, 6, epochs=3)

    def obstruct(event: EpochBegin) -> None:
        (tmp_path / ".backup-2.unfinished").mkdir(exist_ok=True)

    with pytest.raises(OSError, match="backup-2"):
        await new_trainer().fit(
            X, Y, batch_size=8, epochs=9, callbacks=[BackupAndRestore(tmp_path), obstruct]
        )
    assert "backup-1" in names(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"w": p["w"]}, r"\.params\['b'\].*where the trainer has \.params\['w'\]"),
        (lambda p: {**p, "w": p["w"][:2]}, r"\.params\['w'\] float32 \(3,\).*has .*\(2,\)"),
        (lambda p: {**p, "w": p["w"].astype(np.float16)}, r"float32 .*has .*float16"),
        (lambda p: {**p, "z": p["b"]}, r"\.opt_state.*|.*\.params\['z'\]"),
    ],
)
async def test_a_backup_of_another_model_is_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    await interrupted(tmp_path, 6, epochs=3)
    problem = toy_problem(40, 3)
    trainer = fitbus.Trainer(problem.task, change(problem.params))
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        await trainer.fit(X, Y, callbacks=[BackupAndRestore(tmp_path)])
    assert str(tmp_path / "backup-1") in str(caught.value)
    assert names(tmp_path) == ["backup-1"]


async def test_a_callback_that_remembers_what_cant_be_kept_is_named(tmp_path: Path) -> None:
    class Odd(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"odd": {1, 2}}

    with pytest.raises(FitbusError, match=r"can't hold set, at .*'callbacks'.*'odd'"):
        await new_trainer().fit(X, Y, callbacks=[BackupAndRestore(tmp_path), Odd()])


async def test_logs_that_cant_be_kept_are_left_out(tmp_path: Path) -> None:
    class Adds(Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["odd"] = object()
            logs["even"] = [epoch]

    await interrupted(tmp_path, 6, Adds(), epochs=2)
    history = await new_trainer().fit(
        X, Y, batch_size=8, epochs=2, callbacks=[BackupAndRestore(tmp_path)]
    )
    assert history.epoch == [0, 1]
    assert len(history.history["loss"]) == 2
    assert "odd" not in history.history


async def test_random_keys_wherever_they_are_and_small_types_come_back(tmp_path: Path) -> None:
    """In the optimizer's state, in `extra`, of other kinds; and types that NumPy doesn't know."""

    class Keys:
        def init(self, params: Any, key: Any) -> fitbus.TrainState:
            extra = {"key": jax.random.key(7, impl="rbg"), "old": jax.random.PRNGKey(1)}
            return fitbus.TrainState(
                0, params, optax.add_noise(0.1, 0.5, 3).init(params), key, extra
            )

        def train_step(self, state: fitbus.TrainState, batch: fitbus.Batch) -> Any:
            key, use = jax.random.split(state.extra["key"])
            noise = jax.random.normal(use, (3,)) + jax.random.normal(
                jax.random.fold_in(state.key, state.step), (3,)
            )
            w = state.params["w"] + noise.astype(state.params["w"].dtype)
            new = dataclasses.replace(state, params={"w": w}, extra={**state.extra, "key": key})
            return new, {"loss": jnp.sum(w).astype(float)}

        eval_step = train_step
        predict_step = train_step

    params = {"w": jnp.zeros(3, jnp.bfloat16)}
    trainer = fitbus.Trainer(Keys(), params)
    begin = trainer.state
    await trainer.fit(X, Y, batch_size=8, epochs=2)
    expected = trainer.state
    trainer.keeper.take_back(fitbus.Trainer(Keys(), begin).state)
    with pytest.raises(Interrupted):
        await trainer.fit(
            X, Y, batch_size=8, epochs=2, callbacks=[BackupAndRestore(tmp_path, 3), fail_after(8)]
        )
    trainer.keeper.take_back(fitbus.Trainer(Keys(), begin).state)
    await trainer.fit(X, Y, batch_size=8, epochs=2, callbacks=[BackupAndRestore(tmp_path, 3)])
    for one, other in zip(jax.tree.leaves(trainer.state), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(one) == jax.random.key_impl(other)
            one, other = jax.random.key_data(one), jax.random.key_data(other)  # noqa: PLW2901  # their data
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize(("double", "kept"), [(False, 2), (True, 3)])
async def test_double_checkpoint_keeps_one_more(tmp_path: Path, double: bool, kept: int) -> None:
    for epochs in (1, 2, 3, 4):  # each goes on for an epoch, and takes one backup
        backup = BackupAndRestore(tmp_path, "epoch", double, delete_checkpoint=False)
        await new_trainer().fit(X, Y, batch_size=8, epochs=epochs, callbacks=[backup])
    assert names(tmp_path) == [f"backup-{number}" for number in (1, 2, 3, 4)[-kept:]]
