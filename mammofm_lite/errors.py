"""The closed set of failures this package raises on purpose.

Every message is one line that says what was found, what is allowed and what to do. None carries
a patient's name or identifier, nor the path of a study file: a message may end up in a log that
leaves the hospital. A SOP Instance UID may appear, so that the file can be found again.
"""

__all__ = [
    "BundleError",
    "CancelledError",
    "ExportError",
    "KernelError",
    "MammoFMError",
    "StudyError",
    "UsageError",
]


class MammoFMError(Exception):
    """Base of every deliberate error; ``exit_status`` is what the command line returns."""

    exit_status = 1


class UsageError(MammoFMError):
    """The call itself is wrong: an unknown head, an option out of range."""

    exit_status = 2


class CancelledError(MammoFMError):
    """The caller's own ``cancelled`` said so; the model can be used again."""

    exit_status = 130


class StudyError(MammoFMError):
    """The study cannot be used: no mammogram in it, a truncated file, contradicting attributes."""

    exit_status = 3


class BundleError(MammoFMError):
    """The bundle cannot be used: missing, altered, truncated, or made for another version."""

    exit_status = 4


class ExportError(MammoFMError):
    """A recipe or checkpoint cannot be turned into a bundle."""

    exit_status = 4


class KernelError(MammoFMError):
    """The compiled extension is missing or cannot run on this CPU as asked."""

    exit_status = 1
