"""The traced train step as a graph that TensorBoard can draw, and as a text."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from fitbus.callbacks._tensorboard_files import protos
from fitbus.callbacks._tensorboard_summaries import text_summary
from fitbus.callbacks._tensorboard_weights import keras_model

if TYPE_CHECKING:
    from fitbus.callbacks._tensorboard_writer import Writer

__all__ = ["graph_of", "program_text", "write_program"]

_logger = logging.getLogger("fitbus")

_MOST_CHARACTERS = 200_000


def write_program(writer: Writer, steps: Any, state: Any) -> bool:
    """Writes the train step as a graph and as a text, and the layers of a Keras model.

    Args:
        writer: Where to.
        steps: The trainer's steps.
        state: The state of the run.

    Returns:
        Whether it was traced already, and so could be written.
    """
    program = steps.program(state)
    if program is None:
        return False
    jaxpr, inputs, outputs = program
    writer.put("train", lambda: [text_summary("train_step", program_text(jaxpr))], 0)
    writer.put_graph(lambda: graph_of(jaxpr, inputs, outputs))
    model = keras_model(steps.task)
    if type(model).__name__ in ("Functional", "Sequential"):  # those that TensorBoard can draw
        try:
            layers = _layers_of(model)
        except Exception:  # a user's layer that can't be described
            _logger.exception("TensorBoard: the layers of the Keras model can't be drawn")
        else:
            writer.put("train", lambda: [layers], 0)
    return True


def program_text(jaxpr: Any) -> str:
    """The program as JAX spells it, in Markdown; cut where it gets longer than people read."""
    program = str(jaxpr)
    if len(program) > _MOST_CHARACTERS:
        left = len(program) - _MOST_CHARACTERS
        program = f"{program[:_MOST_CHARACTERS]}\n... and {left:,} characters more"
    return f"```\n{program}\n```"


def graph_of(jaxpr: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """A `GraphDef` with a node for each operation of a closed jaxpr.

    Operations lie in the scopes that `jax.named_scope` gave them, those of the gradient in a scope
    of that name, and calls of compiled functions in scopes of their names. Constants aren't drawn.

    Args:
        jaxpr: The program.
        inputs: Names of what it takes, in order, with slashes between their scopes.
        outputs: Names of what it returns, likewise.
    """
    return _Drawing().draw(jaxpr.jaxpr, inputs, outputs)


def _layers_of(model: Any) -> Any:
    """A Keras model's layers as a summary, from which TensorBoard draws its own graph of them."""
    from tensorboard.util import tensor_util

    parts = protos()
    described = parts.SummaryMetadata(
        plugin_data=parts.SummaryMetadata.PluginData(plugin_name="graph_keras_model", content=b"1")
    )
    shape = {"class_name": type(model).__name__, "config": model.get_config()}
    tensor = tensor_util.make_tensor_proto(json.dumps(shape))
    return parts.Summary.Value(tag="keras", metadata=described, tensor=tensor)


@final
class _Drawing:
    """A graph that is being drawn."""

    def __init__(self) -> None:
        from tensorboard.compat.proto import attr_value_pb2, graph_pb2

        self._parts: Any = attr_value_pb2
        made: Any = graph_pb2
        self._graph = made.GraphDef()
        self._names: Counter[str] = Counter()

    def draw(self, jaxpr: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        known: dict[Any, str] = {}
        for var, name in zip(jaxpr.invars, inputs, strict=True):
            known[var] = self._add(name, "Placeholder", [], [var])
        self._walk(jaxpr, "", known)
        for var, name in zip(jaxpr.outvars, outputs, strict=True):
            self._add(name, "Identity", self._sources([var], known), [var])
        return self._graph

    def _walk(self, jaxpr: Any, scope: str, known: dict[Any, str]) -> None:
        for equation in jaxpr.eqns:
            place = f"{scope}/{_scope(str(equation.source_info.name_stack))}"
            body = _body(equation)
            if body is None:
                sources = self._sources(equation.invars, known)
                op = equation.primitive.name
                name = self._add(f"{place}/{op}", op, sources, equation.outvars)
                known.update((var, name) for var in equation.outvars)
                continue
            called = equation.params.get("name") or equation.primitive.name
            inner = {
                mine: known[theirs]
                for mine, theirs in zip(body.invars, equation.invars, strict=True)
                if _is_known(theirs, known)
            }
            self._walk(body, self._unique(f"{place}/{called}"), inner)
            known.update(
                (theirs, inner[mine])
                for mine, theirs in zip(body.outvars, equation.outvars, strict=True)
                if _is_known(mine, inner)
            )

    def _add(self, name: str, op: str, sources: Sequence[str], made: Sequence[Any]) -> str:
        node = self._graph.node.add(name=self._unique(name), op=op, input=sources)
        shapes = node.attr["_output_shapes"].list
        for var in made:
            shape = shapes.shape.add()
            for size in getattr(var.aval, "shape", ()):
                shape.dim.add(size=size if isinstance(size, int) else -1)
        node.attr["type"].s = ", ".join(var.aval.str_short() for var in made).encode()
        added: str = node.name
        return added

    def _sources(self, wanted: Sequence[Any], known: Mapping[Any, str]) -> list[str]:
        return [known[var] for var in wanted if _is_known(var, known)]

    def _unique(self, name: str) -> str:
        """A name that TensorBoard takes, and nothing else has."""
        parts = (re.sub(r"[^A-Za-z0-9_.\-]+", "_", part).strip("_") for part in name.split("/"))
        name = "/".join(part for part in parts if part) or "value"
        count = self._names[name]
        self._names[name] += 1
        return f"{name}_{count}" if count else name


def _scope(stack: str) -> str:
    """The scope of an operation: of what belongs to the gradient one of its own."""
    place = re.sub(r"(transpose|jvp)\(|\)", "", stack)
    return f"gradient/{place}" if "transpose(" in stack else place


def _is_known(var: Any, known: Mapping[Any, str]) -> bool:
    return not hasattr(var, "val") and var in known  # literals have a value, and no hash


def _body(equation: Any) -> Any:
    """The one program that an operation is made of, if it takes and returns what that does."""
    found = [
        getattr(value, "jaxpr", value)
        for value in equation.params.values()
        if hasattr(value, "jaxpr") or hasattr(value, "eqns")
    ]
    if len(found) != 1:
        return None
    body = found[0]
    takes = len(body.invars) == len(equation.invars)
    return body if takes and len(body.outvars) == len(equation.outvars) else None
