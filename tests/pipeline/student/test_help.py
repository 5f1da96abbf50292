"""The help of the student's programs: it is shown at once, because it does not import torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("program", ["ask", "export"])
def test_help_needs_no_torch(program: str) -> None:
    code = (
        f"import sys; sys.argv = ['{program}', '--help']\n"
        "import runpy\n"
        f"try:\n    runpy.run_module('pipeline.student.{program}', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "CHECKPOINT" in out.upper()
    assert out.rstrip().endswith("False")
