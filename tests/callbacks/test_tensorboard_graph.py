"""The traced train step, as a graph and as a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitbus
from fitbus import Batch, Supervised, TrainState
from fitbus.callbacks import TensorBoard
from fitbus.callbacks._tensorboard_graph import graph_of, program_text
from fitbus.testing import ToyProblem

from ._tensorboard_reading import Records, Toy

pytestmark = pytest.mark.anyio


class Counted:
    """The toy's task in a scope of its own; counts how often it is traced."""

    def __init__(self, task: Supervised) -> None:
        self.task = task
        self.optimizer = task.optimizer
        self.traced = 0

    def train_step(self, state: TrainState, batch: Batch) -> Any:
        self.traced += 1
        with jax.named_scope("outer"), jax.named_scope("inner"):
            return self.task.train_step(state, batch)

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return self.task.eval_step(state, batch)

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return self.task.predict_step(state, batch)


class CountedToy(Toy):
    """A toy that knows how often it was traced."""

    def __init__(self) -> None:
        super().__init__(self._make)

    def _make(self, problem: ToyProblem) -> fitbus.Trainer:
        self.task = Counted(problem.task)
        return fitbus.Trainer(self.task, problem.params)


@pytest.fixture(scope="module")
def toy() -> CountedToy:
    """One trainer for all."""
    return CountedToy()


async def test_the_step_is_drawn_with_what_it_takes_and_returns(
    toy: CountedToy, tmp_path: Path
) -> None:
    await toy.fit(TensorBoard(tmp_path))
    (graph,) = Records(tmp_path / "train").graphs
    nodes = {node.name: node for node in graph.node}
    assert len(nodes) == len(graph.node)
    taken = {name for name, node in nodes.items() if node.op == "Placeholder"}
    assert {"state/params/w", "state/params/b", "batch/x", "batch/y", "batch/weight"} <= taken
    returned = {name for name, node in nodes.items() if node.op == "Identity"}
    assert {"new_state/params/w", "metrics/loss/0"} <= returned
    assert {source for node in graph.node for source in node.input} <= set(nodes)
    product = nodes["outer/inner/dot_general"]
    assert sorted(product.input) == ["batch/x", "state/params/w"]
    assert product.attr["type"].s == b"float32[16]"
    assert [size.size for size in product.attr["_output_shapes"].list.shape[0].dim] == [16]
    assert "gradient/outer/inner/dot_general" in nodes


async def test_from_each_result_a_path_leads_to_the_batch(toy: CountedToy, tmp_path: Path) -> None:
    await toy.fit(TensorBoard(tmp_path))
    (graph,) = Records(tmp_path / "train").graphs
    sources = {node.name: list(node.input) for node in graph.node}
    for result in ("new_state/params/w", "new_state/params/b", "metrics/mean_absolute_error/0"):
        seen: set[str] = set()
        left = [result]
        while left:
            name = left.pop()
            if name not in seen:
                seen.add(name)
                left += sources[name]
        assert {"batch/x", "batch/y", "batch/weight", "state/params/w"} <= seen


async def test_the_step_is_a_text_too(toy: CountedToy, tmp_path: Path) -> None:
    await toy.fit(TensorBoard(tmp_path))
    (text,) = Records(tmp_path / "train").tags["train_step"]
    assert (text.step, text.plugin) == (0, "text")
    words = text.value.item().decode()
    assert words.startswith("```\n")
    assert words.endswith("\n```")
    assert "dot_general" in words


async def test_it_is_written_once_and_traced_not_once_more(tmp_path: Path) -> None:
    toy, board = CountedToy(), TensorBoard(tmp_path)
    await toy.fit(board)
    await toy.fit(board)
    assert len(Records(tmp_path / "train").graphs) == 1
    assert toy.task.traced == 1


async def test_it_is_left_out_where_asked_for(toy: CountedToy, tmp_path: Path) -> None:
    await toy.fit(TensorBoard(tmp_path, write_graph=False))
    found = Records(tmp_path / "train")
    assert found.graphs == []
    assert "train_step" not in found.tags


def drawn(function: Any, *arguments: Any) -> dict[str, Any]:
    """The nodes of a function's graph."""
    jaxpr = jax.make_jaxpr(function)(*arguments)
    inputs = [f"in/{index}" for index in range(len(jaxpr.jaxpr.invars))]
    outputs = [f"out/{index}" for index in range(len(jaxpr.jaxpr.outvars))]
    return {node.name: node for node in graph_of(jaxpr, inputs, outputs).node}


def test_calls_and_loops_are_scopes_and_branches_are_one_node() -> None:
    @jax.jit
    def twice(x: Any) -> Any:
        return jnp.tanh(x) * 2

    def function(x: Any, flag: Any) -> Any:
        x = twice(x)
        x = jax.lax.scan(lambda carry, _: (jnp.sin(carry), None), x, None, length=3)[0]
        return jax.lax.cond(flag, jnp.exp, lambda v: v * 3.0, x)

    nodes = drawn(function, np.ones(4, np.float32), True)
    assert list(nodes["twice/tanh"].input) == ["in/0"]
    assert list(nodes["scan/sin"].input) == ["twice/mul"]
    assert "scan/sin" in nodes["cond"].input
    assert list(nodes["out/0"].input) == ["cond"]


def test_what_is_returned_as_it_came_and_constants_are_drawn_without_harm() -> None:
    table = np.arange(3.0)
    nodes = drawn(lambda x, key: (x, 1.0, jnp.asarray(table) + x, key), 2.0, jax.random.key(0))
    assert list(nodes["out/0"].input) == ["in/0"]
    assert list(nodes["out/1"].input) == []
    assert list(nodes["out/3"].input) == ["in/1"]


def test_a_long_program_is_cut_and_says_so() -> None:
    text = program_text("x" * 300_000)
    assert text.endswith("... and 100,000 characters more\n```")
    assert len(text) < 201_000
