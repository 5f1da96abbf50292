"""Other processes that work on one store at the same time."""

import subprocess
import sys

from pipeline.artifacts.paths import PROJECT


def at_once(script: str, *arguments: str, processes: int = 3) -> list[str]:
    """Run a script in several processes that begin together. Returns the output of each; fails if one fails.

    The script finds its arguments in `sys.argv[1:]`, calls `begin()` when it is ready, and prints its result.
    """
    head = "import sys\ndef begin():\n    print('ready', flush=True); sys.stdin.readline()\n"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", head + script, *arguments],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes
    return outputs
