"""What configurations would take, recorded from launches that do not happen."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def test_launches_are_recorded_compiled_elsewhere_and_judged() -> None:
    """In a process where Triton compiles and believes in a GPU."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = (sys.executable, "-m", "fakes.recorded")
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["loads"] == {"BLOCK=2048 warps=4 stages=1": {"128": 1}}
    spills, words = (
        answer["refused"][f"BLOCK={n} stages=1"] for n in ("32768 warps=1", "1000 warps=4")
    )
    assert int(spills.removesuffix(" spills")) > 1000
    assert "power of 2" in words
