"""The inbox: the order of sending, what supersedes what, and the end."""

from __future__ import annotations

import threading

import pytest

from fitbus.control import (
    Applied,
    Control,
    Inbox,
    Rejected,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StopTraining,
)
from fitbus.errors import InvalidArgumentError


def test_controls_are_numbered_and_taken_in_the_order_of_sending() -> None:
    inbox = Inbox()
    sent = [inbox.post(StopTraining(str(n + 1)), f"sender {n}") for n in range(3)]
    assert [receipt.id for receipt in sent] == [0, 1, 2]
    assert [receipt.source for receipt in sent] == ["sender 0", "sender 1", "sender 2"]
    assert inbox.take() == [(receipt, None) for receipt in sent]
    assert inbox.take() == []
    assert inbox.post(StopTraining()).id == 3


def test_of_controls_for_one_thing_the_last_wins() -> None:
    inbox = Inbox()
    first = inbox.post(SetLearningRate(0.1))
    scale = inbox.post(ScaleLearningRate(0.5))
    other = inbox.post(SetHyperparameter("b1", 0.9))
    second = inbox.post(SetHyperparameter("learning_rate", 0.2))
    last = inbox.post(SetLearningRate(0.3))
    assert inbox.take() == [
        (first, last),
        (scale, None),
        (other, None),
        (second, last),
        (last, None),
    ]


def test_at_another_boundary_nothing_is_superseded() -> None:
    inbox = Inbox()
    first = inbox.post(SetLearningRate(0.1))
    assert inbox.take() == [(first, None)]
    second = inbox.post(SetLearningRate(0.2))
    assert inbox.take() == [(second, None)]


def test_closing_hands_back_what_waits_and_refuses_what_comes() -> None:
    inbox = Inbox()
    waiting = inbox.post(StopTraining())
    assert inbox.close("over") == [waiting]
    assert waiting.outcome is None  # whoever closes it settles it, and tells of it
    late = inbox.post(StopTraining())
    assert late.outcome == Rejected("over")
    assert inbox.close("over again") == []
    assert inbox.post(StopTraining()).outcome == Rejected("over")
    assert len(inbox) == 0


def test_whoever_waits_is_told_of_each_that_comes_in() -> None:
    inbox = Inbox()
    told: list[int] = []
    inbox.on_post = lambda: told.append(len(inbox))
    inbox.post(StopTraining())
    inbox.post(StopTraining())
    inbox.close("over")
    inbox.post(StopTraining())
    assert told == [1, 2]


def test_what_is_no_control_is_refused_at_the_door() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Inbox().post("stop")  # type: ignore[arg-type]  # that is the test
    assert str(caught.value) == (
        "control: found 'stop'; give a Control, such as StopTraining() or SetLearningRate(1e-3)"
    )
    with pytest.raises(InvalidArgumentError, match="control: found <class"):
        Inbox().post(StopTraining)  # type: ignore[arg-type]  # the class, not a control


def test_it_knows_what_waits() -> None:
    inbox = Inbox()
    assert not inbox.holds(StopTraining)
    inbox.post(SetLearningRate(0.1))
    assert not inbox.holds(StopTraining)
    inbox.post(StopTraining())
    assert inbox.holds(StopTraining)
    assert inbox.holds(Control)
    assert len(inbox) == 2
    assert repr(inbox) == "<Inbox: 2 sent, 2 waiting>"
    inbox.close("over")
    assert repr(inbox) == "<Inbox: 2 sent, closed>"


def test_senders_in_many_threads_lose_nothing_and_share_no_number() -> None:
    """Each control is taken by a boundary, handed back by the end, or refused: one of these."""
    inbox = Inbox()
    start = threading.Barrier(5)
    sent: list[list[int]] = [[] for _ in range(4)]
    refused: list[int] = []

    def send(mine: list[int]) -> None:
        start.wait()
        for _ in range(500):
            receipt = inbox.post(StopTraining())
            mine.append(receipt.id)
            if receipt.outcome is not None:
                refused.append(receipt.id)

    threads = [threading.Thread(target=send, args=(mine,)) for mine in sent]
    for thread in threads:
        thread.start()
    start.wait()
    taken: list[int] = []
    while len(taken) < 1000:
        for receipt, _ in inbox.take():
            assert receipt.settle(Applied(step=0, epoch=0))
            taken.append(receipt.id)
    back = [receipt.id for receipt in inbox.close("over")]
    for thread in threads:
        thread.join()
    assert taken == sorted(taken)
    assert sorted([*taken, *back, *refused]) == list(range(2000))
    assert sorted(id for mine in sent for id in mine) == list(range(2000))
    assert all(mine == sorted(mine) for mine in sent)
