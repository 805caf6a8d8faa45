"""Fused steps over a mesh of devices: the same events, values, and places of the parameters."""

from __future__ import annotations

import pytest

from ._devices import run_on_devices

pytestmark = pytest.mark.slow

PROGRAM = """
    import warnings
    warnings.simplefilter("error")
    import jax, numpy as np, fitbus
    from jax.sharding import NamedSharding, PartitionSpec as P
    from fitbus.testing import EventRecorder, toy_problem

    assert jax.device_count() == 2
    problem = toy_problem(60, 4)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    params = {
        "w": jax.device_put(problem.params["w"], split),
        "b": jax.device_put(problem.params["b"], whole),
    }
    starts = range(0, 56, 8)
    batches = [(problem.x[start : start + 8], problem.y[start : start + 8]) for start in starts]
    sharded = [tuple(jax.device_put(leaf, split) for leaf in batch) for batch in batches]
    arrays = (problem.x, problem.y)  # the last batch is a short one
    DATA = {"arrays": arrays, "host batches": (batches,), "sharded batches": (sharded,)}

    def train(trainer, data, steps, wait):
        begin = trainer.state
        recorder = EventRecorder()
        listening = fitbus.handler(fitbus.Event, wait=wait)(recorder)
        trainer.fit_sync(
            *data, batch_size=8, epochs=2, steps_per_execution=steps, callbacks=[listening]
        )
        state = trainer.state
        trainer.keeper.take_back(fitbus.Trainer(problem.task, begin).state)
        events = [{**event, "run": ""} for event in recorder.without_time()]
        return events, state

    for name, data in DATA.items():
        trainer = fitbus.Trainer(problem.task, params, seed=1)
        single, plain = train(trainer, data, 1, True)
        for steps, wait in ((3, True), (3, False)):
            fused, state = train(trainer, data, steps, wait)
            assert len(fused) == len(single)
            for one, other in zip(fused, single, strict=True):
                for key, value in other.items():
                    if isinstance(value, dict):
                        assert one[key].keys() == value.keys()
                        for log, number in value.items():
                            np.testing.assert_allclose(one[key][log], number, rtol=1e-6)
                    else:
                        assert one[key] == value, (name, key, one, other)
            for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(plain), strict=True):
                assert one.sharding == other.sharding, (one.sharding, other.sharding)
            assert state.params["w"].sharding.spec == P("data")
            for part in params:
                np.testing.assert_allclose(state.params[part], plain.params[part], rtol=1e-6)
"""


def test_over_two_devices_fused_steps_come_to_the_same() -> None:
    """Of host arrays with a short last batch, host batches, and batches that are sharded."""
    run_on_devices(2, PROGRAM)
