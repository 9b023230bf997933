"""Models come and go in any order, and signals still find a stack to be handled on."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, faulthandler, gc, os, runpy, signal, sys, threading
from mammofm_lite import Model
from mammofm_lite.bundle import demo_bundle_path

class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def stack():
    found = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found.sp, found.flags, found.size

seen = []
faulthandler.enable()  # which asks for such a stack, as Go, .NET and Java do
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
before = stack()
if sys.argv[1] == "python":
    load = lambda: Model.load(threads=1)
else:
    binding = runpy.run_path(sys.argv[1])
    load = lambda: binding["CModel"](demo_bundle_path(), threads=1)
first, second = load(), load()
assert stack() == before, "while they are there"
del first
gc.collect()
del second
gc.collect()
assert stack() == before, "when they are gone"
models = [load()]
thread = threading.Thread(target=models.clear)
thread.start()
thread.join()
gc.collect()
assert stack() == before, "when another thread drops them"
os.kill(os.getpid(), signal.SIGUSR1)
assert seen == [1]
"""


@pytest.mark.parametrize("runtime", ["python", "c"])
def test_signals_are_handled_where_they_were(runtime: str) -> None:
    binding = Path(__file__).parents[1] / "c_api" / "binding.py"
    argument = runtime if runtime == "python" else str(binding)
    command = [sys.executable, "-c", PROGRAM, argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
