"""An event and a control of one's own, from the handler that publishes to the wire and back."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

import fitbus
from fitbus.errors import InvalidArgumentError
from fitbus.examples.custom_event_and_control import LossHalved, ShrinkWeights, build, show

pytestmark = pytest.mark.anyio


async def test_each_event_is_answered_by_the_control_at_the_next_boundary() -> None:
    shown = await show()
    events = list(shown.events)
    assert [type(event).__name__ for event in events] == ["LossHalved", "ControlApplied"] * 2
    for published, applied in zip(events[::2], events[1::2], strict=True):
        assert isinstance(published, LossHalved)
        assert isinstance(applied, fitbus.ControlApplied)
        assert (applied.control, applied.source) == (ShrinkWeights(0.9), "forget")
        assert (applied.step, applied.epoch) == (published.step, published.epoch)
        assert applied.seq == published.seq + 1
    first, second = events[0], events[2]
    assert isinstance(first, LossHalved)
    assert isinstance(second, LossHalved)
    assert second.loss <= first.loss / 2


async def test_the_codec_carries_both_in_json_and_messagepack() -> None:
    shown = await show()
    assert shown.decoded == list(shown.events)
    assert msgspec.json.decode(shown.lines[0])["type"] == "example.LossHalved"
    codec = fitbus.Codec(LossHalved, ShrinkWeights)
    for message in (*shown.events, ShrinkWeights(0.5)):
        assert codec.from_json(codec.to_json(message)) == message
        assert codec.from_msgpack(codec.to_msgpack(message)) == message


async def test_a_codec_that_wasnt_told_the_types_keeps_their_fields() -> None:
    shown = await show()
    event = fitbus.Codec().from_json(shown.lines[0])
    assert isinstance(event, fitbus.UnknownEvent)
    assert (event.tag, list(event.fields)) == ("example.LossHalved", ["loss"])
    assert (event.run, event.seq) == (shown.events[0].run, shown.events[0].seq)
    applied = fitbus.Codec().from_json(shown.lines[1])
    assert isinstance(applied, fitbus.ControlApplied)
    assert applied.control == fitbus.UnknownControl("example.ShrinkWeights", {"factor": 0.9})


async def test_the_control_multiplies_the_weights() -> None:
    trainer = build()
    run = trainer.run(np.ones((4, 4), np.float32), np.ones(4, np.float32), epochs=0)
    receipt = run.post(ShrinkWeights(0.25))
    async with run:
        assert await receipt == fitbus.Applied(step=0, epoch=0)
    assert trainer.state.params["w"].tolist() == [0.25] * 4


@pytest.mark.parametrize("factor", [0, 1.5, -1, float("nan")])
def test_a_wrong_factor_meets_who_made_it(factor: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"ShrinkWeights\.factor: .* above 0, at most 1"):
        ShrinkWeights(factor)
