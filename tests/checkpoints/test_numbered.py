"""States under numbers: the newest are kept, and a number is never without its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from fitbus.checkpoints import NumberedStates, named_arrays
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.train import TrainState

from .conftest import bits, hidden, refuses

LIKE: dict[str, Any] = {"w": np.zeros(())}


def write(states: NumberedStates, *numbers: int, add: float = 0.0) -> None:
    """A state for each number, which tells it."""
    for number in numbers:
        place = states.write(number, named_arrays({"w": np.array(number + add)}))
        assert place == states.directory / str(number)


def test_they_come_back_bit_for_bit(tmp_path: Path, state: TrainState) -> None:
    with NumberedStates(tmp_path / "made" / "for") as states:
        states.write(3, named_arrays(state))
        assert bits(states.load(state)) == bits(state)


def test_all_are_kept_unless_it_is_said_how_many(tmp_path: Path) -> None:
    with NumberedStates(tmp_path) as states:
        write(states, 1, 5, 3)
        assert states.numbers() == [1, 5, 3]
        assert states.load(LIKE)["w"] == 3
        assert [states.load(LIKE, number)["w"] for number in (1, 5, 3)] == [1, 5, 3]


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_are_kept_whatever_their_numbers(tmp_path: Path, keep: int) -> None:
    """Also of those that an earlier object wrote."""
    with NumberedStates(tmp_path) as states:
        write(states, 7, 8, 9)
    with NumberedStates(tmp_path, keep) as states:
        write(states, 0)
        assert states.numbers() == [9, 0][-keep:]
        write(states, 1)
        assert states.numbers() == [0, 1][-keep:]
        assert states.load(LIKE)["w"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"][-keep:]


def test_none_is_deleted_before_there_are_enough(tmp_path: Path) -> None:
    for keep in (2, 5):
        with NumberedStates(tmp_path / str(keep), keep) as states:
            write(states, 0, 1, 2)
            assert states.numbers() == [0, 1, 2][-keep:]


def test_one_of_the_same_number_is_replaced(tmp_path: Path) -> None:
    with NumberedStates(tmp_path) as states:
        write(states, 1, 2)
        write(states, 1, add=0.5)
        assert states.numbers() == [2, 1]
        assert states.load(LIKE)["w"] == 1.5
    assert hidden(tmp_path) == []


def test_a_kill_while_one_is_replaced_loses_nothing(tmp_path: Path) -> None:
    """It lies aside then: it is read there, and put back by who writes next."""
    with NumberedStates(tmp_path) as states:
        write(states, 1, 2)
    (tmp_path / "2").rename(tmp_path / ".2.previous")
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with NumberedStates(tmp_path) as states:
        assert states.numbers() == [1, 2]
        assert states.load(LIKE)["w"] == 2
        assert hidden(tmp_path) == [".2.previous"], "who reads changes nothing"
        states.open()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
        assert states.load(LIKE)["w"] == 2


def test_what_a_kill_left_beside_its_successor_is_removed(tmp_path: Path) -> None:
    with NumberedStates(tmp_path) as states:
        write(states, 1)
        (tmp_path / "1").rename(tmp_path / ".1.previous")
        write(states, 1, add=0.5)
    with NumberedStates(tmp_path) as states:
        assert states.load(LIKE)["w"] == 1.5
        states.open()
    assert hidden(tmp_path) == []


def test_reading_neither_makes_nor_changes_anything(tmp_path: Path) -> None:
    """A training may be writing there."""
    with NumberedStates(tmp_path / "none") as states:
        assert states.numbers() == []
        with pytest.raises(InvalidArgumentError, match=r"number: found None; .*none has \[\]"):
            states.load(LIKE)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "notes").mkdir()
    with NumberedStates(tmp_path) as states:
        assert states.numbers() == []
    assert len(list(tmp_path.iterdir())) == 2


def test_a_number_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with NumberedStates(tmp_path) as states:
        write(states, 1, 2)
        with pytest.raises(InvalidArgumentError, match=r"number: found 3; .* has \[1, 2\]"):
            states.load(LIKE, 3)


def test_damaged_ones_are_refused(tmp_path: Path) -> None:
    with NumberedStates(tmp_path) as states:
        write(states, 1)
        for file in (tmp_path / "1" / "default").rglob("*"):
            if file.is_file() and (whole := file.read_bytes()):
                file.write_bytes(whole[:-1])
                assert refuses(lambda _, like: states.load(like), tmp_path / "1", LIKE)
                file.write_bytes(whole)
        assert states.load(LIKE)["w"] == 1


def test_another_tree_is_refused_and_the_leaf_named(tmp_path: Path) -> None:
    with NumberedStates(tmp_path) as states:
        write(states, 1)
        with pytest.raises(InvalidArgumentError, match="like, leaf 'b': found 'float64"):
            states.load({"w": np.zeros(()), "b": np.zeros(())})


def test_orbax_itself_reads_them(tmp_path: Path) -> None:
    with NumberedStates(tmp_path) as states:
        write(states, 1, 2)
    with ocp.CheckpointManager(tmp_path) as manager:
        assert manager.latest_step() == 2
        found: Any = manager.restore(2, args=ocp.args.StandardRestore())
    assert found["w"] == 2


def test_arguments_out_of_range_and_files_are_refused(tmp_path: Path) -> None:
    for keep in (0, -1, 1.5, True):
        with pytest.raises(InvalidArgumentError, match=f"max_to_keep: found {keep!r}"):
            NumberedStates(tmp_path, keep)  # type: ignore[arg-type]  # refused
    with NumberedStates(tmp_path) as states:
        for number in (-1, 1.5, True, "1"):
            with pytest.raises(InvalidArgumentError, match=f"number: found {number!r}"):
                states.write(number, named_arrays(LIKE))  # type: ignore[arg-type]  # refused
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgumentError, match=r"directory: found '.*'; it is a file"):
        NumberedStates(tmp_path / "file")
    with NumberedStates(tmp_path / "file" / "in") as states:
        with pytest.raises(FitbusError, match=f"{tmp_path}/file/in couldn't be written: "):
            states.open()
        assert repr(states) == f"<NumberedStates in '{tmp_path}/file/in'>"


def test_closing_again_does_nothing(tmp_path: Path) -> None:
    states = NumberedStates(tmp_path)
    write(states, 1)
    states.close()
    states.close()
    write(states, 2)  # opens it anew
    assert states.numbers() == [1, 2]
    states.close()


def test_what_is_no_checkpoint_is_never_replaced_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("mine")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "thesis.txt").write_text("mine")
    (tmp_path / ".mine.previous").mkdir()
    with NumberedStates(tmp_path, 1) as states:
        for number, problem in ((1, "it is a file"), (2, "it is a directory with something else")):
            with pytest.raises(InvalidArgumentError) as raised:
                write(states, number)
            place = str(tmp_path / str(number))
            assert str(raised.value).startswith(f"directory: found {place!r}; {problem}")
        write(states, 3, 4)
        assert states.numbers() == [4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.previous", "1", "2", "4"]
    assert (tmp_path / "1").read_text() == (tmp_path / "2" / "thesis.txt").read_text() == "mine"
