"""Report: fuse the views, decode greedily under the bundle's grammar, read the text into fields."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .._openvino import ov
from ..bundle import Bundle, ReportSpec
from ..contract import check_decoder, map_input
from ..errors import BundleError
from ..grammar import Grammar, TokenAutomaton
from ..graphs import Graph, GraphStore, Tensors
from ..progress import StageReporter
from ..report import Report, read_report
from ..tokenizer import Tokenizer
from ..views import STANDARD_VIEWS, ViewName

__all__ = ["ReportRunner", "decode_greedily"]

# Begins every report; fixed by the format of the bundle (token 0 of its tokenizer).
_BEGIN: Final = 0

NextLogits = Callable[[int, int], npt.NDArray[np.float32]]


class ReportRunner:
    """The report head of one bundle, compiled.

    Raises
    ------
    BundleError
        Tokenizer, grammar and graphs are unreadable or do not fit each other.
    """

    def __init__(
        self, bundle: Bundle, spec: ReportSpec, graphs: GraphStore, reporter: StageReporter
    ) -> None:
        self._spec = spec
        self._grammar = Grammar.open(bundle.file(spec.grammar))
        self._tokenizer = Tokenizer.open(bundle.file(spec.tokenizer))
        self._map_shape = bundle.encoders[spec.encoder].outputs["map"]
        models = graphs.model(spec.decoder), graphs.model(spec.fusion)
        check_decoder(spec.decoder, *models, self._tokenizer.size)
        self._fusion = graphs.graph(spec.fusion, reporter)
        self._decoder = _Decoder(graphs.compile(spec.decoder, reporter), self._fusion)

    def run(
        self, maps: Mapping[ViewName, npt.NDArray[np.float32]], reporter: StageReporter
    ) -> Report:
        """Write the report on the views at hand.

        Parameters
        ----------
        maps
            Per view the encoder's ``map``, float32 [1, C, h, w]; at least one view.
        reporter
            Asked before every token whether to go on.
        """
        language = self._grammar.language(tuple(maps))
        automaton = language.automaton(self._tokenizer.encode)
        if 1 + automaton.longest > self._spec.max_tokens:
            raise BundleError(
                f"{self._spec.grammar}: a report may have {1 + automaton.longest} tokens, the "
                f"decoder holds {self._spec.max_tokens}"
            )
        self._decoder.begin(self._fusion.run(self._fusion_inputs(maps)))

        def next_logits(token: int, position: int) -> npt.NDArray[np.float32]:
            reporter.check_cancelled()
            return self._decoder.step(token, position)

        tokens = decode_greedily(automaton, next_logits)
        return read_report(self._grammar, language, self._tokenizer.decode(tokens))

    def _fusion_inputs(self, maps: Mapping[ViewName, npt.NDArray[np.float32]]) -> Tensors:
        blank = np.zeros(self._map_shape, np.float32)
        inputs: Tensors = {map_input(view): maps.get(view, blank) for view in STANDARD_VIEWS}
        inputs["present"] = np.array([[view in maps for view in STANDARD_VIEWS]], np.float32)
        return inputs


def decode_greedily(automaton: TokenAutomaton, next_logits: NextLogits) -> list[int]:
    """The likeliest token that may come next, again and again until the report is complete.

    Parameters
    ----------
    automaton
        What may come next; acyclic, so decoding ends.
    next_logits
        Given a token and its position from 0, the logits float32 [vocabulary] of the next token.
        Called for every position in order.

    Returns
    -------
    Tokens without the begin token.
    """
    tokens: list[int] = []
    states, token = automaton.start, _BEGIN
    while allowed := automaton.allowed(states):
        logits = next_logits(token, len(tokens))
        token = allowed[int(np.argmax(logits[list(allowed)]))]
        tokens.append(token)
        states = automaton.after(states, token)
    return tokens


class _Decoder:
    """The decoding graph, its request, and its cache, which is state inside the request."""

    def __init__(self, compiled: Any, fusion: Graph) -> None:
        self._request = compiled.create_infer_request()
        self._memory = fusion.output_names
        self._token = np.zeros((1, 1), np.int64)
        self._position = np.zeros((1, 1), np.int64)
        for name, array in (("token", self._token), ("position", self._position)):
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))

    def begin(self, memory: Tensors) -> None:
        """Forget the last report and look at other views."""
        self._shared = memory  # its arrays are read in place until the next report
        for name in self._memory:
            self._request.set_tensor(name, ov.Tensor(memory[name], shared_memory=True))
        self._request.reset_state()

    def step(self, token: int, position: int) -> npt.NDArray[np.float32]:
        """Logits float32 [vocabulary] of the token after this one."""
        self._token[0, 0], self._position[0, 0] = token, position
        self._request.infer(share_outputs=True)
        logits: npt.NDArray[np.float32] = self._request.get_tensor("logits").data[0]
        if not np.isfinite(logits).all():
            raise BundleError("the report decoder gives values that are not finite")
        return logits
