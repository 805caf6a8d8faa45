"""Going on with parameters that are sharded over a mesh of devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from ._devices import run_on_devices

pytestmark = pytest.mark.slow

PROGRAM = """
    import sys, warnings
    warnings.simplefilter("error")
    import jax, numpy as np, fitbus
    from jax.sharding import NamedSharding, PartitionSpec as P
    from fitbus.callbacks import BackupAndRestore
    from fitbus.testing import toy_problem

    assert jax.device_count() == 4
    problem = toy_problem(64, 4)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    params = {
        "w": jax.device_put(problem.params["w"], split),
        "b": jax.device_put(problem.params["b"], whole),
    }

    def train(*callbacks):
        trainer = fitbus.Trainer(problem.task, params)
        try:
            trainer.fit_sync(problem.x, problem.y, batch_size=16, epochs=3, callbacks=callbacks)
        except ZeroDivisionError:
            pass
        return trainer.state

    @fitbus.handler(fitbus.BatchEnd, wait=True)
    def fail(event):
        1 / (event.step - 7)

    plain = train()
    failed = train(BackupAndRestore(sys.argv[1], 3), fail)
    assert int(failed.step) == 7
    again = train(BackupAndRestore(sys.argv[1], 3))
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        assert one.sharding == other.sharding, (one.sharding, other.sharding)
    assert again.params["w"].sharding.spec == P("data")
    for name in params:
        one, other = np.asarray(again.params[name]), np.asarray(plain.params[name])
        assert one.tobytes() == other.tobytes()
"""


def test_what_is_gone_on_with_is_sharded_as_before_and_ends_the_same(tmp_path: Path) -> None:
    run_on_devices(4, PROGRAM, str(tmp_path))
