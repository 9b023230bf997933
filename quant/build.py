"""`mammofm-lite quantize`: a float bundle in, a measured INT8 bundle out, in five fixed phases.

The phases: read bundle and studies, answer with the float bundle, quantize graph by graph, judge
the answers, measure and write. In the phases that judge, precision goes back to where it is
needed until every gate is passed or the rounds are used up.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from mammofm_lite.bundle import DESCRIPTION, Bundle
from mammofm_lite.engine import Model
from mammofm_lite.errors import ExportError
from mammofm_lite.export.writing import check_output, file_records, whole_bundle, write_description
from mammofm_lite.results import StudyResult

from . import cost
from .control import QuantizedGraph
from .drift import HeadDrift, head_drifts
from .gates import Failure, Gates
from .lab import Lab, Run
from .layers import treatment
from .ptq import BiasCorrection, compress_weights, read_graph, save_graph
from .report import JSON_FILE, MARKDOWN_FILE, card_section, markdown, table_lines
from .studies import StudyChoice, StudySets, study_sets
from .truth import truth_scores

__all__ = ["QuantizeOptions", "quantize_bundle"]

Tell = Callable[[str], None]

PHASES: Final = 5
_CARD: Final = "MODEL_CARD.md"


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize.

    Parameters
    ----------
    studies
        What to calibrate on, and what to judge on.
    gates
        How much may change.
    bias_correction
        ``none``, ``fast`` or ``full``; see `ptq.quantize_graph`.
    rounds
        How often an encoder, and then the whole bundle, may give precision back.
    accept_drift
        Write even where a gate is not passed; the bundle then says so.
    force
        Replace an existing output.
    threads
        CPU threads; all that this process may use if not given.
    """

    studies: StudyChoice
    gates: Gates = field(default_factory=Gates)
    bias_correction: BiasCorrection = "fast"
    rounds: int = 4
    accept_drift: bool = False
    force: bool = False
    threads: int | None = None


def quantize_bundle(
    bundle: Path, output: Path, options: QuantizeOptions, *, tell: Tell | None = None
) -> Bundle:
    """Write the INT8 twin of a bundle, and open it again to prove that it is whole.

    Raises
    ------
    ExportError
        The bundle is INT8 already, the output exists, there is nothing to calibrate or judge on,
        or the answers drift above a gate and `accept_drift` is not set; nothing is written then.
    BundleError
        The bundle cannot be used.
    """
    say = tell or (lambda line: None)
    check_output(output, force=options.force)
    model = Model.load(bundle, threads=options.threads)
    _check_source(model.bundle)
    say(f"[1/{PHASES}] {model.bundle.name}: reading and preparing studies")
    studies = study_sets(options.studies, model, say)
    say(
        f"        {len(studies.calibration)} studies to calibrate on, "
        f"{len(studies.held_out)} held out"
    )
    with whole_bundle(output, force=options.force) as scratch:
        _Work(model, studies, options, scratch, say).do()
    return Bundle.open(output)


def _check_source(bundle: Bundle) -> None:
    if bundle.precision == "int8":
        raise ExportError(
            f"the bundle {bundle.name!r} is INT8 already; quantize the float one that it came from"
        )


class _Work:
    """One quantization from the float bundle to the finished folder."""

    def __init__(
        self, model: Model, studies: StudySets, options: QuantizeOptions, folder: Path, say: Tell
    ) -> None:
        self.bundle = model.bundle
        self.threads = model.threads
        self.studies = studies
        self.options = options
        self.folder = folder
        self.say = say
        self.description = json.loads((self.bundle.path / DESCRIPTION).read_text("utf-8"))
        self.treatments = _treatments(self.bundle)
        self.reasons: dict[str, str] = {}
        """Why a graph that could be quantized or compressed stays as it was."""
        self.graphs: dict[str, QuantizedGraph] = {}
        self.encoders = {entry["model"] for entry in self.description["encoders"].values()}

    def do(self) -> None:
        """All phases but the first."""
        self.say(f"[2/{PHASES}] answers of the float bundle")
        lab = Lab(self.bundle, self.threads)
        wanted = [file for file, kind in self.treatments.items() if kind == "quantize"]
        _, calibration = lab.listen(self.studies.calibration, wanted)
        expected, held_out = lab.listen(self.studies.held_out, wanted)
        self._copy()
        for file in wanted:
            self._quantize(file, calibration[file], held_out[file])
        for file, kind in self.treatments.items():
            if kind == "compress":
                self.say(f"[3/{PHASES}] {file}: weights to 8 bits")
                self._save(file, compress_weights(self.bundle.path / file))
        actual, drifts, failures = self._judge(expected)
        self._refuse_or_accept(failures)
        self.say(f"[5/{PHASES}] size, speed and memory beside the float bundle")
        report = self._report(expected, actual, drifts, failures)
        report["cost"] = self._cost(lab, held_out)
        self._write(report)
        for line in table_lines(report):
            self.say(f"        {line}")

    def _copy(self) -> None:
        """Every listed file; the signature of the float bundle is none of them."""
        for name in self.bundle.files:
            shutil.copyfile(self.bundle.path / name, self.folder / name)
        self._describe()

    def _describe(self) -> None:
        self.description["precision"] = "int8"
        self.description["files"] = file_records(self.folder)
        write_description(self.folder, self.description)

    def _save(self, file: str, model: Any) -> None:
        """Into files of their own: whoever has the old ones open keeps them."""
        for path in (self.folder / file, (self.folder / file).with_suffix(".bin")):
            path.unlink(missing_ok=True)
        half = self.bundle.precision == "f32_f16_weights"
        save_graph(model, self.folder / file, half_weights=half)

    # ---- graphs

    def _quantize(self, file: str, calibration: Sequence[Run], held_out: Sequence[Run]) -> None:
        """Quantize one graph; an encoder is held against the gates of its outputs at once."""
        graph = QuantizedGraph(
            self.bundle.path / file,
            calibration,
            held_out,
            self.options.bias_correction,
            self.threads,
        )
        self.graphs[file] = graph
        self._make(file)
        if file in self.encoders:
            for number in range(1, self.options.rounds + 1):
                failures = self.options.gates.of_outputs(file, graph.drifts)
                if not failures or not self._give_back(file, number, failures):
                    break
            self._refuse_or_accept(self.options.gates.of_outputs(file, graph.drifts))
        self._save(file, graph.model)

    def _make(self, file: str) -> None:
        graph = self.graphs[file]
        self.say(f"[3/{PHASES}] {file}: quantization")
        graph.quantize()
        if file in self.encoders:
            graph.measure()
            self.say("        " + ", ".join(f"{d.output} {d.cosine:.4f}" for d in graph.drifts))

    def _give_back(self, file: str, number: int, failures: list[Failure]) -> bool:
        """One round of accuracy control of an encoder; whether there was anything left to give."""
        self.say(f"        round {number} of {self.options.rounds}: {failures[0]}; ranking layers")
        layers = self.graphs[file].give_back()
        if not layers:
            return False
        self.say(f"        float again: {', '.join(layers)}")
        self._make(file)
        return True

    # ---- answers

    def _judge(
        self, expected: list[StudyResult]
    ) -> tuple[list[StudyResult], Mapping[str, HeadDrift], list[Failure]]:
        """The answers of the quantized bundle; rounds until they pass or nothing is left."""
        for number in range(1, self.options.rounds + 2):
            self.say(f"[4/{PHASES}] answers of the quantized bundle")
            self._describe()
            actual = Lab(Bundle.open(self.folder), self.threads).answers(self.studies.held_out)
            drifts = head_drifts(expected, actual)
            failures = self.options.gates.of_heads(drifts)
            for failure in failures:
                self.say(f"        {failure}")
            heads = {failure.where for failure in failures}
            if not heads or number > self.options.rounds or not self._mend(heads, number, failures):
                break
        return actual, drifts, self._output_failures() + failures

    def _output_failures(self) -> list[Failure]:
        return [
            failure
            for file in sorted(self.encoders & self.graphs.keys())
            for failure in self.options.gates.of_outputs(file, self.graphs[file].drifts)
        ]

    def _mend(self, heads: set[str], number: int, failures: list[Failure]) -> bool:
        """First the graphs of a head go back to float, whole; then its worst encoder, by runs."""
        mended = False
        for head in sorted(heads):
            entry = self.description["heads"][head]
            own = [name for name in _values(entry) if self.treatments.get(name, "keep") != "keep"]
            for file in own:
                self._restore(file, f"given back: the answers of {head} drifted")
            mended |= bool(own) or self._mend_encoder(entry, number, failures)
        return mended

    def _mend_encoder(self, entry: Any, number: int, failures: list[Failure]) -> bool:
        names = set(_values(entry)) & self.description["encoders"].keys()
        files = {self.description["encoders"][name]["model"] for name in names}
        ranked = sorted(
            files & self.graphs.keys(),
            key=lambda file: min(drift.cosine for drift in self.graphs[file].drifts),
        )
        for file in ranked:
            if self._give_back(file, number, failures):
                self._save(file, self.graphs[file].model)
                return True
        return False

    def _restore(self, file: str, reason: str) -> None:
        self.say(f"        {file}: float again")
        self.treatments[file] = "keep"
        self.reasons[file] = reason
        self.graphs.pop(file, None)
        for name in (file, Path(file).with_suffix(".bin").name):
            (self.folder / name).unlink()
            shutil.copyfile(self.bundle.path / name, self.folder / name)

    def _refuse_or_accept(self, failures: list[Failure]) -> None:
        if not failures:
            return
        told = "; ".join(str(failure) for failure in failures)
        if not self.options.accept_drift:
            raise ExportError(
                f"the quantized bundle drifts above the gate ({told}); nothing was written. Give "
                "more or other calibration studies, or --accept-drift if this is enough for you"
            )
        self.say(f"        accepted by --accept-drift: {told}")

    # ---- what it cost

    def _report(
        self,
        expected: list[StudyResult],
        actual: list[StudyResult],
        drifts: Mapping[str, HeadDrift],
        failures: list[Failure],
    ) -> dict[str, Any]:
        source = self.bundle
        held_out = self.studies.held_out
        return {
            "source": {
                "name": source.name,
                "version": source.version,
                "precision": source.precision,
                "sha256": source.sha256,
            },
            "studies": self.studies.to_json(),
            "settings": {
                "preset": "mixed",
                "overflow_fix": "enable",
                "bias_correction": self.options.bias_correction,
                "rounds": self.options.rounds,
            },
            "gates": asdict(self.options.gates),
            "failures": [failure.to_json() for failure in failures],
            "graphs": {file: self._graph_entry(file) for file in sorted(self.treatments)},
            "heads": {head: dict(drift) for head, drift in drifts.items()},
            "truth": {
                "float": truth_scores(held_out, expected),
                "int8": truth_scores(held_out, actual),
            },
            "machine": cost.machine(self.threads),
            "versions": dict(cost.versions()),
        }

    def _graph_entry(self, file: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"treatment": self.treatments[file]}
        if file in self.reasons:
            entry["reason"] = self.reasons[file]
        if file in self.graphs:
            graph = self.graphs[file]
            entry |= {
                "layers": graph.layers,
                "float_layers": graph.float_layers,
                "given_back": [name for name in graph.float_layers if name in graph.given_back],
                "calibration_runs": len(graph.calibration),
            }
            if graph.drifts:
                entry["outputs"] = [drift.to_json() for drift in graph.drifts]
        return entry

    def _cost(self, lab: Lab, held_out: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
        source, made = self.bundle.path, self.folder
        self._describe()
        quantized = Lab(Bundle.open(made), self.threads)
        return {
            "size": cost.sizes(self.bundle, quantized.bundle),
            "graphs": {
                file: cost.graph_speed(source / file, made / file, held_out[file][0], self.threads)
                for file in sorted(self.graphs)
            },
            "study": cost.study_speed(lab, quantized, self.studies.held_out[0]),
            "memory": cost.memory(source, made, self.threads),
        }

    def _write(self, report: Mapping[str, Any]) -> None:
        text = json.dumps(report, indent=2, sort_keys=True) + "\n"
        (self.folder / JSON_FILE).write_text(text, encoding="utf-8")
        (self.folder / MARKDOWN_FILE).write_text(markdown(report), encoding="utf-8")
        card = self.folder / _CARD
        before = card.read_text(encoding="utf-8") if card.is_file() else ""
        card.write_text(before + card_section(report), encoding="utf-8")
        kept = ("source", "studies", "settings")
        provenance = self.description.setdefault("provenance", {})
        provenance["quantization"] = {name: report[name] for name in kept}
        checks = ("gates", "failures", "graphs", "heads")
        self.description["self_check"]["quantization"] = {name: report[name] for name in checks}
        self.description["made_with"] = {
            name: report["versions"][name] for name in ("mammofm_lite", "openvino")
        }
        self._describe()


def _treatments(bundle: Bundle) -> dict[str, str]:
    """Per graph file what is done to it; see `layers.treatment`."""
    files = sorted(name for name in bundle.files if name.endswith(".xml"))
    return {file: treatment(read_graph(bundle.path / file)) for file in files}


def _values(entry: Any) -> Iterator[str]:
    """All texts in a piece of the description: graphs and encoders, however a head nests them."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, Mapping):
        for value in entry.values():
            yield from _values(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from _values(value)
