"""What `fitbus.keras` says where Keras, its backend or what its callbacks need isn't there."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow  # fresh interpreters, most of which import JAX and Keras


def run(program: str, **environment: str) -> str:
    """What a program in a fresh interpreter prints."""
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_neither_import_imports_keras() -> None:
    """`import fitbus` and `import fitbus.keras` stay light, JAX included."""
    printed = run("""
        import sys
        import fitbus
        import fitbus.keras
        print(sorted(dir(fitbus.keras)), fitbus.keras.__all__)
        print([name for name in ("keras", "jax", "tensorflow") if name in sys.modules])
    """)
    names = "['KerasCallback', 'KerasTask', 'PublishEvents']"
    assert printed.splitlines() == [f"{names} {names}", "[]"]


def test_without_keras_it_says_what_to_install() -> None:
    """For each name, and for a callback in the list of a run."""
    printed = run("""
        import sys
        sys.modules["keras"] = None
        import fitbus
        for name in fitbus.keras.__all__:
            try:
                getattr(fitbus.keras, name)
            except fitbus.errors.FitbusError as error:
                print(error)
        try:
            fitbus.keras.Nothing
        except AttributeError as error:
            print(error)
    """)
    *lines, last = printed.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert 'pip install "fitbus[keras]"' in line
        assert "KERAS_BACKEND=jax" in line
    assert last == "module 'fitbus.keras' has no attribute 'Nothing'"


def test_another_backend_is_named() -> None:
    """NumPy's needs nothing more installed. An object of its callbacks in a run is refused too."""
    printed = run(
        """
        import fitbus, keras
        from fitbus.testing import toy_problem
        assert keras.backend.backend() == "numpy"
        try:
            fitbus.keras.KerasTask
        except fitbus.errors.FitbusError as error:
            print(error)
        problem = toy_problem(8, 2)
        trainer = fitbus.Trainer(problem.task, problem.params)
        try:
            trainer.fit_sync(problem.x, problem.y, callbacks=[keras.callbacks.History()])
        except fitbus.errors.FitbusError as error:
            print(error)
        """,
        KERAS_BACKEND="numpy",
    )
    lines = printed.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "Keras runs on its 'numpy' backend" in line
        assert "set KERAS_BACKEND=jax in the environment before anything imports keras" in line


def test_a_backend_that_cannot_be_imported_is_no_missing_keras() -> None:
    """Its own error is told, with what to set."""
    printed = run(
        """
        import sys
        sys.modules["torch"] = None
        import fitbus
        try:
            fitbus.keras.KerasTask
        except fitbus.errors.FitbusError as error:
            print(error)
        """,
        KERAS_BACKEND="torch",
    )
    assert "torch" in printed
    assert "KERAS_BACKEND=jax" in printed


@pytest.mark.parametrize(
    ("name", "module", "missing"),
    [("TensorBoard", "tensorflow", "TensorFlow"), ("RemoteMonitor", "requests", "requests")],
)
def test_callbacks_that_need_more_say_so_in_one_sentence(
    name: str, module: str, missing: str
) -> None:
    """Before the first step, on any task."""
    printed = run(f"""
        import sys
        sys.modules["{module}"] = None
        import fitbus, keras, numpy as np
        from fitbus.testing import toy_problem
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        problem = toy_problem(8, 2)
        tasks = [fitbus.Trainer(fitbus.keras.KerasTask(model))]
        if "{name}" == "RemoteMonitor":
            tasks.append(fitbus.Trainer(problem.task, problem.params))
        for trainer in tasks:
            try:
                callbacks = [keras.callbacks.{name}()]
                trainer.fit_sync(problem.x, problem.y, callbacks=callbacks)
            except fitbus.errors.FitbusError as error:
                print(error)
            assert trainer.state.step == 0
    """)
    sentence = (
        f"keras.callbacks.{name} needs {missing}, which isn't installed; use"
        f" fitbus.callbacks.{name}, which does without"
    )
    assert printed.splitlines() == [sentence] * (2 if name == "RemoteMonitor" else 1)


def test_remote_monitor_works_where_requests_is_there() -> None:
    """It is Keras' own: a post at each epoch's end, and a warning where nobody answers."""
    printed = run("""
        import importlib.util
        import fitbus, keras, warnings
        from fitbus.testing import toy_problem
        problem = toy_problem(8, 2)
        trainer = fitbus.Trainer(problem.task, problem.params)
        monitor = keras.callbacks.RemoteMonitor(root="http://127.0.0.1:9")
        there = importlib.util.find_spec("requests") is not None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                trainer.fit_sync(problem.x, problem.y, epochs=2, callbacks=[monitor])
            except fitbus.errors.FitbusError as error:
                print("refused", not there)
            else:
                print("warned", there and len(caught) == 2)
    """)
    assert printed.split()[1] == "True"
