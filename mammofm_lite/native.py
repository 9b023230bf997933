"""The compiled extension: where it is and what it runs on this CPU.

The environment variable ``MAMMOFM_ISA`` (``portable``, ``avx2``, ``avx512`` or ``avx512_vnni``)
overrides the choice of kernels, ``MAMMOFM_ATTENTION`` (``float32`` or ``int8``) that of what
attention computes in; both are read once per process.
"""

import ctypes
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from .errors import KernelError

__all__ = [
    "attention_precision",
    "compiled_library",
    "embedding_folder",
    "extension_path",
    "instruction_set",
    "mbconv_kernel",
    "supported_instruction_sets",
]

_DISTRIBUTION: Final = "mammofm-lite"
_LIBRARY: Final = Path("mammofm_lite", "lib", "libmammofm_openvino.so")
_HEADER: Final = Path("mammofm_lite", "include", "mammofm.h")


@cache
def extension_path() -> Path:
    """The OpenVINO extension that holds our operations.

    Raises
    ------
    KernelError
        The extension is not there: the package was not installed, or only copied.
    """
    for candidate in _candidates():
        if candidate.is_file():
            return candidate
    raise KernelError(
        f"the compiled extension {_LIBRARY.name} is missing; install the package "
        "(pip install . builds it) instead of running from a copy of its sources"
    )


def embedding_folder() -> Path:
    """The folder with ``include/mammofm.h``, ``lib/libmammofm.so`` and ``cmake/``: what another
    program builds against.

    Raises
    ------
    KernelError
        It is not there: the package was not installed, or only copied.
    """
    for candidate in _candidates(_HEADER):
        if candidate.is_file():
            return candidate.parents[1]
    raise KernelError(
        f"{_HEADER.name} is missing; install the package (pip install . builds it) instead of "
        "running from a copy of its sources"
    )


def _candidates(file: Path = _LIBRARY) -> list[Path]:
    """Beside this file in a wheel; where the files of the distribution lie in an editable install,
    whose Python sources stay in the checkout."""
    beside = Path(__file__).resolve().parents[1] / file
    try:
        installed = Path(str(metadata.distribution(_DISTRIBUTION).locate_file(file)))
    except metadata.PackageNotFoundError:
        return [beside]
    return [beside, installed.resolve()]


def instruction_set() -> str:
    """Name of the instruction set that the kernels use in this process.

    Raises
    ------
    KernelError
        The extension is missing or cannot be loaded, or ``MAMMOFM_ISA`` holds a name that the build
        does not know or that this CPU lacks.
    """
    library = compiled_library()
    error: bytes | None = library.mammofm_instruction_set_error()
    if error is not None:
        raise KernelError(error.decode())
    name: bytes = library.mammofm_instruction_set()
    return name.decode()


def attention_precision(asked: str = "float32") -> str:
    """What an attention of many queries computes in here: ``float32`` or ``int8``.

    Parameters
    ----------
    asked
        The attribute ``precision`` of the operation. INT8 runs where it is asked for and the CPU
        gains by it, unless ``MAMMOFM_ATTENTION`` decides.

    Raises
    ------
    KernelError
        The extension is missing or cannot be loaded, or ``MAMMOFM_ATTENTION`` holds another word.
    """
    library = compiled_library()
    error: bytes | None = library.mammofm_attention_precision_error()
    if error is not None:
        raise KernelError(error.decode())
    name: bytes = library.mammofm_attention_precision(asked.encode())
    return name.decode()


def mbconv_kernel() -> str:
    """Name of the kernels that TiledMBConv uses in this process: ``portable``, ``avx2`` or
    ``avx512vnni``.

    Raises
    ------
    KernelError
        As `instruction_set`.
    """
    instruction_set()
    name: bytes = compiled_library().mammofm_mbconv_kernel()
    return name.decode()


def supported_instruction_sets() -> tuple[str, ...]:
    """Names of all instruction sets that this CPU can run, lowest first.

    Raises
    ------
    KernelError
        The extension is missing or cannot be loaded.
    """
    names: bytes = compiled_library().mammofm_supported_instruction_sets()
    return tuple(names.decode().split(","))


@cache
def compiled_library() -> ctypes.CDLL:
    """The extension with its C functions declared.

    Raises
    ------
    KernelError
        It is missing or cannot be loaded.
    """
    # The extension links libopenvino, which importing the Python package loads. Not at the top:
    # _openvino itself needs extension_path.
    from . import _openvino  # noqa: F401

    path = extension_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelError(
            f"the compiled extension {path.name} cannot be loaded: {error}"
        ) from error
    for name in ("", "_error"):
        getattr(library, f"mammofm_instruction_set{name}").restype = ctypes.c_char_p
        getattr(library, f"mammofm_attention_precision{name}").restype = ctypes.c_char_p
    library.mammofm_supported_instruction_sets.restype = ctypes.c_char_p
    library.mammofm_mbconv_kernel.restype = ctypes.c_char_p
    return library
