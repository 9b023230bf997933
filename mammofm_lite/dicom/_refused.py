"""Why a file is not used, on its way to becoming a decision."""

__all__ = ["FileRefusedError"]


class FileRefusedError(Exception):
    """One file is not used; the study may still be. Never leaves this package.

    Parameters
    ----------
    reason
        The stable code of the decision.
    detail
        One sentence for a person, without path or patient data.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
