"""A step of fitbus, of loops by hand, and of other trainers, with 0 and with 10 callbacks.

All train the same network from the same weights, in float32, with SGD at one rate, on the same
batches of 64 in the same order, and end with the same weights: that is checked. `linear` is one
layer, 784 to 10; `mlp` has a hidden layer of 128. Each callback has one hook a batch, which adds up
the loss, and must have seen every batch. An epoch is timed from its begin to its end as the trainer
itself tells them, when all is computed and the last callback has had its last batch; what `fit`
sets up before and after isn't counted.

Each peer lives in a process of its own, started once, and they take turns epoch by epoch. Progress
bars, loggers, checkpoints, summaries and validation are off. Of each the fast form that its own
documentation gives was chosen:

- `JAX by hand`: one jitted step with Optax, its state donated, in a plain `for`.
- `Flax`: NNX, its modules split once and merged inside a step jitted by JAX, the state donated.
- `Keras`: `fit` over NumPy arrays, compiled, on JAX. `async_safe` callbacks allow Keras to call
  them from its thread pool, which it does by itself only where no callback has a hook by batch.
- `PyTorch by hand`, `Ignite`, `Lightning`: eager, the fused SGD, slices of a tensor without a
  DataLoader, threads as PyTorch sets them. Ignite: `create_supervised_trainer`. Lightning:
  `Trainer(barebones=True)`, its mode without anything that isn't the training itself.
- `fitbus`: `fit` over NumPy arrays; 10 concurrent `async def` subscribers, or 10 `def` handlers
  that training waits for.

A loop by hand reads nothing back without callbacks; with them it reads each loss once for all ten.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _harness import Row, interleaved, parser, ratios, show

TITLES = {
    "bare": "JAX by hand",
    "flax": "Flax",
    "keras": "Keras",
    "torch": "PyTorch by hand",
    "ignite": "Ignite",
    "lightning": "Lightning",
    "fitbus": "fitbus",
}
KINDS = {
    "keras": ["0 callbacks", "10 callbacks", "10 async_safe callbacks"],
    "fitbus": ["0 callbacks", "10 concurrent", "10 waiting"],
}
NEEDED = ["bare", "keras", "fitbus"]
INSTALL = {
    "flax": "flax",
    "keras": "'keras>=3.10' jax",
    "torch": "torch numpy",
    "ignite": "torch numpy pytorch-ignite",
    "lightning": "torch numpy lightning",
}
MODELS = ["linear", "mlp"]
KERAS = 2.0  # the least that counts, with 10 callbacks on the linear layer
CLOSE = 1e-4  # of the way that the weights went; another order of sums differs by 1e-8


class Child:
    """A peer in its own process."""

    def __init__(self, name: str, python: str, loop: str) -> None:
        script = Path(__file__).with_name("_peer.py")
        self.name = name
        self._process = subprocess.Popen(  # noqa: S603  # the interpreters are the user's choice
            [python, str(script), name, loop], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def answer(self) -> dict[str, Any]:
        """The next line that it sends."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self._process.wait()}")
        return dict(json.loads(line))

    def epoch(self, **request: Any) -> dict[str, Any]:
        """Trains an epoch there."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """Lets it end."""
        self._process.communicate()


def told(text: str) -> None:
    """Beside the rows, which alone go to the standard output."""
    print(text, file=sys.stderr, flush=True)


def start(names: Sequence[str], pythons: dict[str, str], loop: str) -> list[Child]:
    """Starts the peers one after the other, and says which are missing and how to get them."""
    children: list[Child] = []
    for name in names:
        python = pythons.get(name, sys.executable)
        child = Child(name, python, loop)
        answer = child.answer()
        if "version" in answer:
            told(f"{TITLES[name]}: {answer['version']}")
            children.append(child)
            continue
        child.close()
        told(
            f"{TITLES[name]} is left out: {answer['missing']} in {python}. To have it:\n"
            f"    python -m venv ~/peers/{name} && ~/peers/{name}/bin/pip install {INSTALL[name]}\n"
            f"    python benchmarks/peers.py --peer {name}=$HOME/peers/{name}/bin/python"
        )
        if name in NEEDED:
            raise SystemExit(f"without {name} there is nothing to compare")
    return children


def measure(children: list[Child], model: str, steps: int, pairs: int) -> dict[str, list[float]]:
    """Microseconds a step by case, after each peer was seen to train as the others do."""
    moved = {
        child.name: float(child.epoch(model=model, steps=steps)["moved"]) for child in children
    }
    if max(moved.values()) - min(moved.values()) > CLOSE * moved["bare"]:
        raise SystemExit(f"the peers don't compute the same: their weights moved by {moved}")

    def case(child: Child, callbacks: str) -> Callable[[], float]:
        def us() -> float:
            answer = child.epoch(model=model, steps=steps, callbacks=callbacks)
            return float(answer["seconds"]) / steps * 1e6

        return us

    cases = {
        f"{TITLES[child.name]}, {kind}": case(child, kind)
        for child in children
        for kind in KINDS.get(child.name, ["0 callbacks", "10 callbacks"])
    }
    return interleaved(cases, pairs)


def against_fitbus(us: dict[str, list[float]], model: str) -> list[Row]:
    """Each of the others by fitbus with as many callbacks, of either kind."""
    rows: list[Row] = []
    for case in us:
        bases = ["fitbus, 10 concurrent", "fitbus, 10 waiting"]
        if case.startswith("fitbus"):
            continue
        if case.endswith(", 0 callbacks"):
            bases = ["fitbus, 0 callbacks"]
        for base in bases:
            row = Row.of(f"{case} ÷ {base}", ratios(us, case, base), "x")
            asked = model == "linear" and case == "Keras, 10 callbacks" and base == bases[0]
            rows.append(dataclasses.replace(row, at_least=KERAS if asked else None))
    return rows


def main() -> None:
    """Measures both networks."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help=f"the interpreter of the environment of {', '.join(INSTALL)}; else this one",
    )
    arguments.add_argument("--steps", type=int, default=937, help="in an epoch; MNIST has 937")
    arguments.add_argument("--model", choices=MODELS, action="append")
    options = arguments.parse_args()
    pythons: dict[str, str] = {}
    for peer in options.peer:
        name, _, python = str(peer).partition("=")
        pythons[name] = python
    if wrong := set(pythons) - set(INSTALL):
        arguments.error(f"--peer: found {sorted(wrong)}; give one of {', '.join(INSTALL)}")
    if options.smoke:
        options.pairs, options.steps = 1, 20
    children = start(NEEDED if options.smoke else list(TITLES), pythons, options.loop)
    for model in options.model or MODELS:
        us = measure(children, model, options.steps, options.pairs)
        show(f"{model}: a step", [Row.of(case, us[case], "us") for case in us], options)
        bare = [Row.of(case, ratios(us, case, "JAX by hand, 0 callbacks"), "x") for case in us]
        show(f"{model}: a step ÷ JAX by hand", bare, options)
        show(f"{model}: a step ÷ one of fitbus", against_fitbus(us, model), options)
    for child in children:
        child.close()


if __name__ == "__main__":
    main()
