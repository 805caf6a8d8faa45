"""Whole states come back bit for bit, and training goes on from them as it would have."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import fitbus
from fitbus.checkpoints import load_state, named_arrays, save_state, write_state
from fitbus.checkpoints._disk import moved_in
from fitbus.errors import InvalidArgumentError
from fitbus.testing import toy_problem
from fitbus.train import TrainState

from .conftest import DTYPES, array_of, bits, hidden

PROBLEM = toy_problem(64)


def test_a_state_comes_back_bit_for_bit(tmp_path: Path, state: TrainState) -> None:
    """With its random key, the optimizer's state and `extra`, in JAX' arrays."""
    state = dataclasses.replace(state, extra={"mean": jnp.ones(3, jnp.bfloat16), "none": None})
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s", state)
    assert bits(back) == bits(state)
    assert type(back) is TrainState
    assert type(back.opt_state) is type(state.opt_state)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(back))
    assert jax.random.bits(back.key) == jax.random.bits(state.key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back(tmp_path: Path, dtype: str) -> None:
    tree = [array_of(dtype), array_of(dtype, 2, 3), array_of(dtype, 0), {"a.b": array_of(dtype, 1)}]
    save_state(tmp_path / "s", tree)
    assert bits(load_state(tmp_path / "s", tree)) == bits(tree)


def test_training_goes_on_from_it_as_it_would_have(tmp_path: Path) -> None:
    """In a new trainer, made of a new task, with a momentum that must be kept too."""

    def trainer() -> fitbus.Trainer:
        task = fitbus.Supervised(
            apply=PROBLEM.task.apply,
            loss=PROBLEM.task.loss,
            optimizer=optax.adam,
            learning_rate=0.1,
        )
        return fitbus.Trainer(task, PROBLEM.params)

    def train(one: fitbus.Trainer) -> None:
        one.fit_sync(PROBLEM.x, PROBLEM.y, epochs=1, shuffle=False)

    first = trainer()
    train(first)
    save_state(tmp_path / "s", first.state)
    train(first)
    new = trainer()
    second = fitbus.Trainer(new.steps.task, load_state(tmp_path / "s", new.state))
    train(second)
    assert bits(second.state) == bits(first.state)
    assert int(second.state.step) == 4


@pytest.mark.anyio
async def test_it_can_be_called_on_an_event_loop(tmp_path: Path, state: TrainState) -> None:
    """Orbax, which runs loops of its own, does so elsewhere; AnyIO's threads go on working."""
    save_state(tmp_path / "s", state)
    assert bits(load_state(tmp_path / "s", state)) == bits(state)
    with anyio.fail_after(30):
        for _ in range(3):
            await anyio.to_thread.run_sync(save_state, tmp_path / "s", state)
        await anyio.to_thread.run_sync(anyio.from_thread.check_cancelled)


def test_a_snapshot_can_be_saved_and_loaded(tmp_path: Path, state: TrainState) -> None:
    """Where the random key is its data: into the state of a trainer, and into a snapshot."""
    snapshot = jax.tree.map(
        np.asarray, dataclasses.replace(state, key=jax.random.key_data(state.key))
    )
    save_state(tmp_path / "s", snapshot)
    assert bits(load_state(tmp_path / "s", state)) == bits(state)
    back = load_state(tmp_path / "s", snapshot)
    assert bits(back) == bits(snapshot)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(back))


def test_orbax_itself_reads_it(tmp_path: Path, state: TrainState) -> None:
    save_state(tmp_path / "s", state)
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "s")
    assert sorted(found) == ["key", "opt_state", "params", "step"]
    assert found["params"]["w"].tolist() == state.params["w"].tolist()


def test_what_orbax_wrote_is_read(tmp_path: Path) -> None:
    """Its lists too, and without our checksums."""
    tree = {"params": {"w": np.arange(3.0)}, "more": [np.ones(2, np.int8), np.zeros(())]}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "s", tree)
    assert bits(load_state(tmp_path / "s", tree)) == bits(tree)


def test_it_replaces_the_one_before_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "s"
    for value in (1.0, 2.0, 3.0):
        save_state(path, {"w": np.array(value)})
        assert load_state(str(path), {"w": np.zeros(())})["w"] == value
        assert list(path.parent.iterdir()) == [path]


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    """The one before was moved aside already: it is read, and the next save tidies up."""
    path, like = tmp_path / "s", {"w": np.zeros(())}
    save_state(path, {"w": np.array(1.0)})
    path.rename(tmp_path / ".s.previous")
    assert load_state(path, like)["w"] == 1
    save_state(path, {"w": np.array(2.0)})
    assert load_state(path, like)["w"] == 2
    assert hidden(tmp_path) == []


def test_if_the_new_one_can_not_be_moved_the_old_one_stays(tmp_path: Path) -> None:
    path, like = tmp_path / "s", {"w": np.zeros(())}
    save_state(path, {"w": np.array(1.0)})
    with pytest.raises(FileNotFoundError):
        moved_in(tmp_path / "none", path, lambda path: True)
    assert load_state(path, like)["w"] == 1
    assert hidden(tmp_path) == []


def test_copying_and_writing_are_two_steps(tmp_path: Path) -> None:
    """The second one may be another thread's, while the arrays are changed."""
    tree = {"w": np.zeros(3)}
    named = named_arrays(tree)
    tree["w"][:] = 1
    thread = threading.Thread(target=write_state, args=(tmp_path / "s", named))
    thread.start()
    thread.join()
    assert load_state(tmp_path / "s", tree)["w"].tolist() == [0, 0, 0]


DIFFERENT: dict[str, Any] = {
    "params.w": lambda state: dataclasses.replace(
        state, params={**state.params, "w": jnp.zeros(3)}
    ),
    "params.more": lambda state: dataclasses.replace(
        state, params={**state.params, "more": jnp.zeros(3)}
    ),
    "extra": lambda state: dataclasses.replace(state, extra=jnp.zeros(())),
    "key": lambda state: dataclasses.replace(state, key=jax.random.key(1, impl="rbg")),
    "step": lambda state: dataclasses.replace(state, step=jnp.zeros((), jnp.uint32)),
}


@pytest.mark.parametrize("leaf", DIFFERENT)
def test_a_state_of_another_kind_is_refused_and_the_leaf_named(
    tmp_path: Path, state: TrainState, leaf: str
) -> None:
    """Whichever of the two has what the other doesn't."""
    other = DIFFERENT[leaf](state)
    save_state(tmp_path / "a", state)
    save_state(tmp_path / "b", other)
    for path, like in (("a", other), ("b", state)):
        with pytest.raises(InvalidArgumentError, match=f"like, leaf '{leaf}': found ") as raised:
            load_state(tmp_path / path, like)
        assert str(tmp_path / path) in str(raised.value)
