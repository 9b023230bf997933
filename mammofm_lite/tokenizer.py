"""A bundle's tokenizer: text to numbers and back, every failure told as one of its file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import tokenizers

from ._jsonread import read_regular_file
from .errors import BundleError

__all__ = ["Tokenizer"]

_MAX_TOKENIZER_BYTES: Final = 16 << 20  # with 100,000 tokens it has about 4 MB


class Tokenizer:
    """The bundle's tokenizer. Its library's failures, of which some are no `Exception`, are told
    as failures of the file."""

    def __init__(self, library: Any, name: str) -> None:
        self._library = library
        self._name = name

    @classmethod
    def open(cls, path: Path) -> "Tokenizer":
        """Read ``tokenizer.json``; what it says of cutting or padding texts is not done.

        Raises
        ------
        BundleError
            The file is missing, too large, or no tokenizer.
        """
        data = read_regular_file(path, _MAX_TOKENIZER_BYTES)
        with _tokenizing(path.name):
            library = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
            library.no_truncation()
            library.no_padding()
            return cls(library, path.name)

    @property
    def size(self) -> int:
        """Tokens in the vocabulary."""
        with _tokenizing(self._name):
            return int(self._library.get_vocab_size())

    @property
    def unknown(self) -> int | None:
        """The token that stands for every piece that the vocabulary lacks, if there is one."""
        with _tokenizing(self._name):
            name = getattr(self._library.model, "unk_token", None)
            token: int | None = None if name is None else self._library.token_to_id(name)
            return token

    def encode(self, text: str) -> Sequence[int]:
        """Tokens of a text, without those that mark its begin and end."""
        ids = self._encode(text, special=False)
        if ids and max(ids) >= self.size:
            raise BundleError(f"{self._name} numbers tokens beyond its own vocabulary")
        return ids

    def encode_whole(self, text: str) -> Sequence[int]:
        """Tokens of a text with those that mark its begin and end, as a text encoder reads it."""
        return self._encode(text, special=True)

    def _encode(self, text: str, *, special: bool) -> Sequence[int]:
        with _tokenizing(self._name):
            ids: list[int] = self._library.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        with _tokenizing(self._name):
            return str(self._library.decode(tokens))


@contextmanager
def _tokenizing(name: str) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is not an Exception
        raise BundleError(f"{name} is not a usable tokenizer; export the bundle anew") from error
