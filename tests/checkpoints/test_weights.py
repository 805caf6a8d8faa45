"""Weights come back bit for bit, under readable names, and only into a tree like theirs."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from fitbus.checkpoints import (
    load_state,
    load_weights,
    named_arrays,
    save_state,
    save_weights,
)
from fitbus.errors import InvalidArgumentError

from .conftest import DTYPES, array_of, bits

Array = np.ndarray[Any, Any]


class Pair(NamedTuple):
    """A node with attributes."""

    left: Any
    right: Any


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0,), (2, 0)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    path, array = tmp_path / "w.safetensors", array_of(dtype, *shape)
    save_weights(path, [array])
    (back,) = load_weights(path, [np.zeros_like(array)])
    assert isinstance(back, np.ndarray)
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, shape, array.tobytes())


def test_names_are_the_paths_and_other_tools_read_them(tmp_path: Path) -> None:
    tree = {
        "mlp/~/linear_0": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)},
        "layers": [Pair(np.int8(1), (jnp.ones((), jnp.bfloat16),)), {7: np.ones(2)}],
        "none": None,
        "empty": (),
    }
    path = tmp_path / "w.safetensors"
    save_weights(path, tree)
    names = ["layers.0.left", "layers.0.right.0", "layers.1.7"]
    names += ["mlp/~/linear_0.b", "mlp/~/linear_0.w"]
    assert list(named_arrays(tree)) == names
    found = load_file(path)
    assert sorted(found) == names
    assert found["mlp/~/linear_0.w"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert found["layers.0.right.0"].dtype == jnp.bfloat16
    back = load_weights(path, jax.tree.map(np.zeros_like, tree))
    assert bits(back) == bits(tree)
    assert str(jax.tree.structure(back)) == str(jax.tree.structure(tree))


def test_a_tree_that_is_one_array_is_called_value(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", np.arange(3))
    assert list(load_file(tmp_path / "w")) == ["value"]
    assert load_weights(tmp_path / "w", np.zeros(3, int)).tolist() == [0, 1, 2]


def test_leaves_come_back_as_what_the_tree_has_there(tmp_path: Path) -> None:
    """On its devices, in NumPy, or as numbers."""
    tree: dict[str, Any] = {
        "jax": jnp.arange(3.0),
        "committed": jax.device_put(jnp.ones(2), jax.devices()[0]),
        "numpy": np.arange(2),
        "scalar": np.float16(0.5),
        "int": 3,
        "float": 0.1,
        "bool": True,
        "key": jax.random.key(5),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
    }
    save_weights(tmp_path / "w", tree)
    back = load_weights(tmp_path / "w", tree)
    assert {name: type(leaf) for name, leaf in back.items()} == {
        name: type(leaf) for name, leaf in tree.items()
    }
    assert bits(back) == bits(tree)
    assert not back["jax"].committed
    assert back["committed"].committed
    assert jax.random.normal(back["keys"][0]) == jax.random.normal(tree["keys"][0])
    back["numpy"][0] = 5  # its own


def test_arrays_on_a_mesh_come_back_on_it(tmp_path: Path) -> None:
    mesh = jax.make_mesh((1,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    tree = {"w": jax.device_put(jnp.arange(4.0), sharding)}
    save_weights(tmp_path / "w", tree)
    back = load_weights(tmp_path / "w", tree)
    assert back["w"].sharding == sharding
    assert bits(back) == bits(tree)


def test_shapes_are_enough_to_load_by(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", {"w": jnp.arange(3.0)})
    like = jax.eval_shape(lambda: {"w": jnp.zeros(3)})
    assert load_weights(tmp_path / "w", like)["w"].tolist() == [0, 1, 2]


def test_arrays_in_other_orders_are_written_in_the_usual_one(tmp_path: Path) -> None:
    """Transposed, strided, and big-endian ones."""
    tree: dict[str, Array] = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10)[::3],
        "big": np.arange(4, dtype=">i4"),
    }
    save_weights(tmp_path / "w", tree)
    like = {"transposed": np.zeros((3, 2)), "strided": np.zeros(4, int), "big": np.zeros(4, "<i4")}
    back = load_weights(tmp_path / "w", like)
    for name, array in tree.items():
        assert back[name].tolist() == array.tolist()
    again = load_weights(tmp_path / "w", tree)  # by the tree itself: in the machine's byte order
    assert again["big"].tolist() == tree["big"].tolist()
    assert again["big"].dtype == np.dtype("=i4")
    save_state(tmp_path / "s", tree)
    assert load_state(tmp_path / "s", tree)["big"].tolist() == tree["big"].tolist()


LIKE: dict[str, Any] = {"a": np.zeros(2, np.float32), "b": {"c": np.zeros((), np.int32)}}
FLOATS = np.zeros(2, np.float32)
DIFFERENT: dict[str, tuple[Any, str]] = {
    "another shape": (
        {"a": np.zeros(3, np.float32), "b": LIKE["b"]},
        "like, leaf 'a': found 'float32[2]'; PATH has float32[3]",
    ),
    "another dtype": (
        {"a": FLOATS.astype(np.float16), "b": LIKE["b"]},
        "like, leaf 'a': found 'float32[2]'; PATH has float16[2]",
    ),
    "the second one differs": (
        {"a": FLOATS, "b": {"c": np.zeros(1, np.int32)}},
        "like, leaf 'b.c': found 'int32[]'; PATH has int32[1]",
    ),
    "one is missing": ({"a": FLOATS}, "like, leaf 'b.c': found 'int32[]'; PATH has no such leaf"),
    "one too many": ({**LIKE, "d": FLOATS}, "like, leaf 'd': found None; PATH has float32[2]"),
    "other names": (
        {"x": FLOATS, "b": LIKE["b"]},
        "like, leaf 'a': found 'float32[2]'; PATH has no such leaf, but 'b.c', 'x'",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_differs_is_refused_and_the_first_place_named(tmp_path: Path, case: str) -> None:
    tree, expected = DIFFERENT[case]
    path = tmp_path / "w"
    save_weights(path, tree)
    with pytest.raises(InvalidArgumentError) as raised:
        load_weights(path, LIKE)
    assert str(raised.value).startswith(expected.replace("PATH", str(path)))


REFUSED: dict[str, tuple[Any, str]] = {
    "an empty tree": ({}, "tree: found {}; give a pytree with at least one array"),
    "nothing": (None, "tree: found None; give a pytree with at least one array"),
    "a text": ({"a": [1, "b"]}, "tree, leaf 'a.1': found 'b'; give arrays or numbers"),
    "an array of texts": ({"a": np.array(["b"])}, "tree, leaf 'a': found array(['b']"),
    "an array of objects": ({"a": np.array([None])}, "tree, leaf 'a': found array([None]"),
    "a dtype that the format lacks": (
        {"a": np.ones(2, complex)},
        "tree, leaf 'a': found 'complex128'; a safetensors file holds bool, int8,",
    ),
    "a name that the format has for itself": (
        {"a": 1, "__metadata__": FLOATS},
        "tree, leaf '__metadata__': found '__metadata__'; safetensors has that name for itself",
    ),
    "two of one name": ({"a": {"b": 1}, "a.b": 2}, "tree: found ['a.b', 'a.b']; leaves are named"),
    "one within another": ({"a": 1, "a.b": 2, "a0": 1}, "tree: found ['a', 'a.b']; leaves are"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_kept_is_refused_and_named(tmp_path: Path, case: str) -> None:
    tree, expected = REFUSED[case]
    with pytest.raises(InvalidArgumentError) as raised:
        save_weights(tmp_path / "w", tree)
    assert str(raised.value).startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_and_nothing_else_is_left_in_them(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "w.safetensors"
    for value in (1.0, 2.0):
        save_weights(path, {"w": value})
        assert load_weights(str(path), {"w": 0.0}) == {"w": value}
        assert list(path.parent.iterdir()) == [path]


def test_a_file_has_the_permissions_of_other_new_files(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save_weights(tmp_path / "w", {"w": 1.0})
    mode = stat.S_IMODE((tmp_path / "w").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_what_is_copied_is_separate_from_the_tree() -> None:
    """So that it can be written while the arrays are changed."""
    array = np.zeros(3)
    named = named_arrays({"w": array})
    array[:] = 1
    assert named["w"].tolist() == [0, 0, 0]
