"""An inbox that senders use already while its publisher is being made."""

from __future__ import annotations

import threading

from fitbus import Bus, Publisher, StopEpoch
from fitbus.control import Inbox


def test_senders_meet_no_half_made_publisher() -> None:
    """A thread sends without a pause while many publishers take the inbox over."""
    inbox, over = Inbox(), threading.Event()
    errors: list[BaseException] = []

    def send() -> None:
        try:
            while not over.is_set():
                inbox.post(StopEpoch(), "a thread")
                inbox.take()
        except BaseException as error:  # noqa: BLE001  # told below
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for _ in range(2_000):
            publisher = Publisher(Bus(), run="r", inbox=inbox)
            publisher.bus.runs.forget("r")
    finally:
        over.set()
        thread.join()
    assert errors == []
