"""`Model`: one bundle, loaded once, that answers any number of studies."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from . import __version__
from ._openvino import OPENVINO_VERSION
from .ahead import PixelsTaker, PreparedViews
from .ask import ASK_NOTICES, ASK_SCHEMA_VERSION, Asker, AskResult
from .bundle import (
    Bundle,
    DiagnosisMember,
    LocalizationMember,
    PrognosisMember,
    ReportSpec,
    demo_bundle_path,
)
from .dicom import FileDecision, Study, read_study
from .errors import StudyError, UsageError
from .graphs import GraphStore, Tensors
from .heads.agreement import report_flags
from .heads.diagnosis import interpret_diagnosis, recall_basis
from .heads.localization import by_view, marks_of_view
from .heads.prognosis import PROJECTIONS, interpret_prognosis, usable_projections
from .heads.report import ReportRunner
from .native import instruction_set
from .progress import Cancelled, Observer, StageReporter
from .report import Report
from .results import (
    SCHEMA_VERSION,
    DiagnosisResult,
    HeadOutcome,
    LocalizationResult,
    Mark,
    ModelInfo,
    PrognosisResult,
    Recall,
    ReportResult,
    SoftwareInfo,
    StudyResult,
    ViewInfo,
    VoiPolicy,
)
from .views import HEADS, STANDARD_VIEWS, ViewName

__all__ = ["InferOptions", "Model"]

Features = Mapping[ViewName, Tensors]


@dataclass(frozen=True)
class InferOptions:
    """What to compute: the heads asked for; ``None`` means all that the bundle has.

    Raises
    ------
    UsageError
        A head is not one of `bundle.HEADS`, or none is named.
    """

    heads: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.heads is None:
            return
        unknown = [name for name in self.heads if name not in HEADS]
        if unknown or not self.heads:
            named = f"unknown head {unknown[0]!r}" if unknown else "no head named"
            raise UsageError(f"{named}; heads are {', '.join(HEADS)}")


@dataclass(frozen=True)
class _PreparedStudy:
    study: Study
    views: PreparedViews

    @property
    def decisions(self) -> tuple[FileDecision, ...]:
        failures = self.views.failures
        return tuple(_after_failure(decision, failures) for decision in self.study.decisions)

    @property
    def missing(self) -> tuple[ViewName, ...]:
        return tuple(view for view in STANDARD_VIEWS if view not in self.views)


class Model:
    """A loaded bundle. Not for use by two threads at once: make one per thread.

    Examples
    --------
    >>> model = Model.load()                              # doctest: +SKIP
    >>> result = model.infer("study/")                    # doctest: +SKIP
    >>> result.diagnosis.study[0].probabilities["yes"]    # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, threads: int, tiled: bool = True) -> None:
        self.bundle = bundle
        self.threads = threads
        self._graphs = GraphStore(bundle, threads, tiled)
        self._report: ReportRunner | None = None
        self._asker: Asker | None = None

    @classmethod
    def load(
        cls,
        bundle: str | Path | None = None,
        *,
        threads: int | None = None,
        signed_by: str | Path | None = None,
        tiled: bool = True,
    ) -> "Model":
        """Open and verify a bundle; graphs are compiled when first needed.

        Parameters
        ----------
        bundle
            A ``.mfm`` directory; the demonstration bundle of the package if not given.
        threads
            CPU threads per study; all that this process may use if not given.
        signed_by
            PEM file of the public key that must have signed the bundle; no signature is asked for
            if not given. Needs the extra ``sign``.
        tiled
            Run INT8 encoders by our kernels where they are faster; false: OpenVINO's own alone.

        Raises
        ------
        BundleError
            The bundle is missing, altered or malformed, or not signed by the key.
        UsageError
            `threads` is out of range, or the key cannot be read.
        """
        available = len(os.sched_getaffinity(0))
        if threads is not None and not 1 <= threads <= 1024:
            raise UsageError(f"threads must be from 1 to 1024, not {threads}")
        opened = Bundle.open(bundle or demo_bundle_path())
        if signed_by is not None:
            from .signature import verify_bundle

            verify_bundle(opened, Path(signed_by))
        return cls(opened, threads or available, tiled)

    def infer(
        self,
        study: Study | str | Path,
        options: InferOptions | None = None,
        *,
        observer: Observer | None = None,
        cancelled: Cancelled | None = None,
        take_pixels: PixelsTaker | None = None,
    ) -> StudyResult:
        """Answer one study.

        Parameters
        ----------
        study
            A DICOM file, a folder, a zip, a study already read, or one of numpy arrays
            (`arrays.array_study`).
        options
            Which heads; all by default.
        observer
            Called at the begin and end of every stage, by the calling thread only.
        cancelled
            Asked between stages and between the tokens of a report, by the calling thread only;
            true ends the call.
        take_pixels
            Called once per usable view with its instance, stored pixels and prepared view, so that
            nobody needs to decode it again (`writers.folder.ResultFolder.take_pixels` draws it).
            Calls come from other threads, perhaps two at once.

        Raises
        ------
        CancelledError
            `cancelled` said so; the model can be used again.
        StudyError
            The study holds nothing that can be used.
        UsageError
            `options` ask for something unknown.
        """
        reporter = StageReporter(observer, cancelled)
        asked = (options or InferOptions()).heads or self.bundle.heads
        self._check_graphs(asked, reporter)
        with self.prepare(study, reporter, take_pixels) as prepared:
            answers = self._answers(asked, prepared, reporter)
        outcomes = {name: self._outcome(name, answers, prepared) for name in HEADS if name in asked}
        outcomes = self._with_flags(outcomes)
        return self._result(prepared, outcomes, self._files(answers))

    def ask(
        self,
        study: Study | str | Path,
        texts: Sequence[str],
        *,
        observer: Observer | None = None,
    ) -> AskResult:
        """Score free texts against the views of one study; see `mammofm_lite.ask`.

        Parameters
        ----------
        study
            As `infer` takes it.
        texts
            1 to 32 short descriptions, such as ``"spiculated mass"``.
        observer
            As for `infer`; it never sees a text.

        Raises
        ------
        BundleError
            The bundle carries no text encoder.
        StudyError
            The study holds nothing that can be used.
        UsageError
            A text is empty or too long, or the text encoder cannot read it.
        """
        reporter = StageReporter(observer)
        if self._asker is None:
            self._asker = Asker(self.bundle, self._graphs)
        queries = self._asker.read(texts)
        with self.prepare(study, reporter) as prepared:
            answers = self._asker.answer(queries, prepared.views, reporter)
        return AskResult(
            schema_version=ASK_SCHEMA_VERSION,
            study_instance_uid=prepared.study.study_instance_uid,
            notices=ASK_NOTICES + self.bundle.notices + _failure_notices(prepared),
            model=self._model_info(),
            software=self._software_info(self._asker.files),
            files=prepared.decisions,
            views=tuple(_view_info(view, prepared) for view in prepared.views),
            missing_views=prepared.missing,
            text_encoder=self._asker.spec.architecture,
            agreement_kind=self._asker.spec.agreement,
            texts=answers,
        )

    def _check_graphs(self, heads: tuple[str, ...], reporter: StageReporter) -> None:
        """Hold all graphs of the asked-for heads against the description, before any is run."""
        for member in (m for name in heads for m in self.bundle.members(name)):
            self._graphs.check(self.bundle.encoders[member.encoder].model)
            if not isinstance(member, ReportSpec):
                self._graphs.check(member.model)
            elif self._report is None:
                self._report = ReportRunner(self.bundle, member, self._graphs, reporter)

    @contextmanager
    def prepare(
        self,
        study: Study | str | Path,
        reporter: StageReporter,
        take_pixels: PixelsTaker | None = None,
    ) -> Iterator[_PreparedStudy]:
        """Read a study; its views are decoded and prepared while the block uses them."""
        if not isinstance(study, Study):
            with reporter.stage("read"):
                study = read_study(Path(study))
        spec = self.bundle.preprocessing
        with PreparedViews(study, spec, self.threads, reporter, take_pixels) as views:
            if next(iter(views), None) is None:
                whys = iter(views.failures.values())
                raise StudyError(next(whys, "the study holds no standard view"))
            yield _PreparedStudy(study, views)

    def _answers(
        self, heads: tuple[str, ...], prepared: _PreparedStudy, reporter: StageReporter
    ) -> Mapping[str, list[Any]]:
        """What every member of the asked-for heads answers, in the bundle's order of members.

        One encoder after another, each once per view, then all members that need it: the features
        of one encoder at a time are in memory, and its working memory only while it runs.
        """
        members = {
            name: self.bundle.members(name)
            for name in HEADS
            if name in heads and _can_answer(name, prepared.study.views)
        }
        needed = {member.encoder for own in members.values() for member in own}
        found: dict[str, dict[int, Any]] = {name: {} for name in members}
        for encoder in sorted(needed):
            features = self._encode(encoder, prepared, reporter, release=len(needed) > 1)
            for name, own in members.items():
                if not _can_answer(name, features):  # a view turned out to be unusable
                    continue
                run = getattr(self, f"_run_{name}")
                for i, member in enumerate(own):
                    if member.encoder == encoder:
                        found[name][i] = run(member, features, prepared, reporter)
            del features
        return {name: [own[i] for i in sorted(own)] for name, own in found.items() if own}

    def _encode(
        self, encoder: str, prepared: _PreparedStudy, reporter: StageReporter, *, release: bool
    ) -> Features:
        graph = self._graphs.graph(self.bundle.encoders[encoder].model, reporter)
        per_view: dict[ViewName, Tensors] = {}
        for view, item in prepared.views.items():
            with reporter.stage("encode", f"{encoder} {view}"):
                per_view[view] = graph.run({"image": item.image[None, None]})
        if release:
            graph.release_memory()
        return per_view

    def _run_diagnosis(
        self,
        member: DiagnosisMember,
        features: Features,
        _: _PreparedStudy,
        reporter: StageReporter,
    ) -> dict[ViewName, npt.NDArray[np.float32]]:
        graph = self._graphs.graph(member.model, reporter)
        with reporter.stage("diagnosis"):
            return {
                view: graph.run({"pooled": tensors["pooled"]})["probabilities"]
                for view, tensors in features.items()
            }

    def _run_localization(
        self,
        member: LocalizationMember,
        features: Features,
        prepared: _PreparedStudy,
        reporter: StageReporter,
    ) -> list[Mark]:
        graph = self._graphs.graph(member.model, reporter)
        marks: list[Mark] = []
        with reporter.stage("localization"):
            for view, tensors in features.items():
                outputs = graph.run({name: tensors[name] for name in ("c3", "c4", "c5")})
                found = (outputs["boxes"], outputs["scores"], outputs["labels"])
                marks.extend(marks_of_view(member, view, prepared.views[view].geometry, found))
        return marks

    def _run_prognosis(
        self,
        member: PrognosisMember,
        features: Features,
        _: _PreparedStudy,
        reporter: StageReporter,
    ) -> Tensors:
        used = usable_projections(features)
        graph = self._graphs.graph(member.model, reporter)
        blank = np.zeros_like(next(iter(features.values()))["map"])
        inputs: Tensors = {"usable": np.array([p in used for p in PROJECTIONS], dtype=np.float32)}
        for projection in PROJECTIONS:
            pair = projection in used
            for side, word in (("L", "left"), ("R", "right")):
                name = f"{projection.lower()}_{word}"
                view: Any = f"{side}-{projection}"
                inputs[name] = features[view]["map"] if pair else blank
        with reporter.stage("prognosis"):
            return graph.run(inputs)

    def _run_report(
        self, _: ReportSpec, features: Features, __: _PreparedStudy, reporter: StageReporter
    ) -> Report:
        assert self._report is not None  # made by _check_graphs
        with reporter.stage("report"):
            maps = {view: tensors["map"] for view, tensors in features.items()}
            return self._report.run(maps, reporter)

    def _outcome(
        self, name: str, answers: Mapping[str, list[Any]], prepared: _PreparedStudy
    ) -> HeadOutcome:
        if getattr(self.bundle, name) is None:
            return _unanswered(
                "not_in_bundle", f"the bundle {self.bundle.name!r} has no {name} head"
            )
        if name not in answers:
            have = ", ".join(prepared.views)
            return _unanswered(
                "missing_views",
                f"{name} compares left with right and needs both CC or both MLO views; "
                f"the study has {have}",
            )
        result = getattr(self, f"_{name}_result")(answers[name], prepared)
        return HeadOutcome("answered", None, None, result)

    def _diagnosis_result(self, answers: list[Any], _: _PreparedStudy) -> DiagnosisResult:
        assert self.bundle.diagnosis is not None
        return interpret_diagnosis(self.bundle.diagnosis, answers)

    def _localization_result(
        self, answers: list[list[Mark]], prepared: _PreparedStudy
    ) -> LocalizationResult:
        assert self.bundle.localization is not None
        thresholds = self.bundle.localization.thresholds
        marks = by_view(mark for found in answers for mark in found)
        lowest = min(thresholds.values())
        return LocalizationResult(
            lowest, tuple(prepared.views), marks, MappingProxyType(dict(thresholds))
        )

    def _prognosis_result(
        self, answers: list[Tensors], prepared: _PreparedStudy
    ) -> PrognosisResult:
        assert self.bundle.prognosis is not None
        geometries = {view: item.geometry for view, item in prepared.views.items()}
        return interpret_prognosis(self.bundle.prognosis, answers, geometries)

    def _report_result(self, answers: list[Report], prepared: _PreparedStudy) -> ReportResult:
        return ReportResult(answers[0], tuple(prepared.views), ())

    def _with_flags(self, outcomes: dict[str, HeadOutcome]) -> dict[str, HeadOutcome]:
        """Compare the report with the other answers, once all are there."""
        outcome = outcomes.get("report")
        if outcome is None or not isinstance(outcome.result, ReportResult):
            return outcomes
        flags = report_flags(self.bundle, outcome.result, outcomes)
        result = ReportResult(outcome.result.report, outcome.result.views_used, flags)
        return {**outcomes, "report": HeadOutcome("answered", None, None, result)}

    def _files(self, heads: Iterable[str]) -> set[str]:
        """The graphs that the answers of these heads come from."""
        files: set[str] = set()
        for member in (m for name in heads for m in self.bundle.members(name)):
            files.add(self.bundle.encoders[member.encoder].model)
            if isinstance(member, ReportSpec):
                files |= {member.fusion, member.decoder}
            else:
                files.add(member.model)
        return files

    def _result(
        self, prepared: _PreparedStudy, outcomes: dict[str, HeadOutcome], files: set[str]
    ) -> StudyResult:
        return StudyResult(
            schema_version=SCHEMA_VERSION,
            study_instance_uid=prepared.study.study_instance_uid,
            notices=self.bundle.notices + _failure_notices(prepared),
            model=self._model_info(),
            software=self._software_info(files),
            files=prepared.decisions,
            views=tuple(_view_info(view, prepared) for view in prepared.views),
            missing_views=prepared.missing,
            recall=self._recall(outcomes),
            heads=MappingProxyType(outcomes),
        )

    def _recall(self, outcomes: Mapping[str, HeadOutcome]) -> Recall | None:
        basis: list[str] = []
        suggestions: list[bool] = []
        diagnosis = outcomes.get("diagnosis")
        if self.bundle.diagnosis and diagnosis and isinstance(diagnosis.result, DiagnosisResult):
            labels = recall_basis(self.bundle.diagnosis, diagnosis.result)
            if labels is not None:
                suggestions.append(bool(labels))
                basis.append(f"diagnosis: {', '.join(labels) or 'nothing'} above threshold")
        report = outcomes.get("report")
        if report and isinstance(report.result, ReportResult):
            suggestions.append(report.result.report.recall)
            basis.append(f"report: {'recall' if report.result.report.recall else 'no recall'}")
        return Recall(any(suggestions), tuple(basis)) if suggestions else None

    def _model_info(self) -> ModelInfo:
        bundle = self.bundle
        return ModelInfo(
            name=bundle.name,
            version=bundle.version,
            sha256=bundle.sha256,
            precision=bundle.precision,
            weights_licence=bundle.weights.licence,
            weights_synthetic=bundle.weights.synthetic,
            intended_use=bundle.intended_use,
            file_sha256=MappingProxyType({k: v.sha256 for k, v in sorted(bundle.files.items())}),
        )

    def _software_info(self, files: set[str]) -> SoftwareInfo:
        return SoftwareInfo(
            mammofm_lite=__version__,
            openvino=OPENVINO_VERSION,
            instruction_set=instruction_set(),
            attention=self._graphs.attention(files),
            cpu=self._graphs.cpu_name,
            threads=self.threads,
            kernels=self._graphs.kernels(files),
        )


def _can_answer(head: str, views: Mapping[ViewName, object]) -> bool:
    """Only prognosis lacks something when a view is missing: it compares left with right."""
    return head != "prognosis" or bool(usable_projections(views))


def _unanswered(reason: str, detail: str) -> HeadOutcome:
    return HeadOutcome("not_answered", reason, detail, None)


def _after_failure(decision: FileDecision, failures: Mapping[ViewName, str]) -> FileDecision:
    view = decision.view
    if view is None or not decision.used or view not in failures:
        return decision
    return replace(decision, used=False, reason="pixels_unusable", detail=failures[view])


def _failure_notices(prepared: _PreparedStudy) -> tuple[str, ...]:
    return tuple(
        f"{decision.view} was found but not used: {decision.detail}"
        for decision in prepared.decisions
        if decision.reason == "pixels_unusable"
    )


def _view_info(view: ViewName, prepared: _PreparedStudy) -> ViewInfo:
    instance = prepared.study.views[view]
    return ViewInfo(
        view=view,
        sop_instance_uid=instance.sop_instance_uid,
        rows=instance.rows,
        columns=instance.columns,
        pixel_spacing_source=instance.pixel_spacing_source,
        geometry=prepared.views[view].geometry,
        deviations=instance.deviations + prepared.views[view].deviations,
        voi=VoiPolicy(instance.voi),
    )
