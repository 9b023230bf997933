"""What the benchmark reports is this process's own."""

import subprocess
import sys

import numpy as np

from mammofm_lite.bench import peak_memory_mib

PROBE = "from mammofm_lite.bench import peak_memory_mib; print(peak_memory_mib())"


def test_peak_memory_is_not_inherited() -> None:
    """A child of a large process is small: getrusage would give it its parent's peak."""
    before = peak_memory_mib()
    large = np.ones(300 << 20, np.uint8)
    assert peak_memory_mib() > 250
    assert peak_memory_mib() >= before
    child = float(subprocess.check_output([sys.executable, "-c", PROBE], text=True))
    assert child < 250
    assert large[-1] == 1
