"""Programs that run where the CPU counts as several devices: in a process of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

__all__ = ["run_on_devices"]


def run_on_devices(count: int, program: str, *arguments: str) -> None:
    """Runs a program, which may be indented; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
