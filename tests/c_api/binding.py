"""``mammofm.h`` by ctypes, for tests: the structs, and a few calls put together."""

import ctypes as c
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mammofm_lite import ArrayView
from mammofm_lite.background import HiddenPixels
from mammofm_lite.native import embedding_folder
from mammofm_lite.views import HEADS

OK, INTERNAL, USAGE, STUDY, BUNDLE, CANCELLED, MEMORY, KERNEL, NOT_FOUND, UNSUPPORTED = range(10)

size_t, text, i32, u32, f64 = c.c_size_t, c.c_char_p, c.c_int32, c.c_uint32, c.c_double


class Progress(c.Structure):
    _fields_ = [("struct_size", size_t), ("stage", text), ("detail", text), ("seconds", f64)]


ON_PROGRESS = c.CFUNCTYPE(None, c.c_void_p, c.POINTER(Progress))
ON_CANCELLED = c.CFUNCTYPE(c.c_int, c.c_void_p)
ON_LOG = c.CFUNCTYPE(None, c.c_void_p, i32, text)


class ModelOptions(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("threads", i32), ("bundle_sha256", text), ("log", ON_LOG),
        ("log_user", c.c_void_p), ("no_tiled", i32),
    ]  # fmt: skip


class RunOptions(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("heads", u32), ("progress", ON_PROGRESS),
        ("cancelled", ON_CANCELLED), ("user", c.c_void_p),
    ]  # fmt: skip


class View(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("pixels", c.c_void_p), ("rows", i32), ("columns", i32),
        ("stride_bytes", size_t), ("bits_allocated", i32), ("bits_stored", i32),
        ("is_signed", i32), ("laterality", i32), ("projection", i32), ("photometric", i32),
        ("rescale_slope", f64), ("rescale_intercept", f64), ("row_spacing_mm", f64),
        ("column_spacing_mm", f64), ("sop_instance_uid", text), ("has_padding", i32),
        ("padding_low", i32), ("padding_high", i32), ("hidden", c.c_void_p),
        ("hidden_stride_bytes", size_t),
    ]  # fmt: skip


class Study(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("study_instance_uid", text),
        ("views", c.POINTER(c.POINTER(View))), ("view_count", size_t),
    ]  # fmt: skip


class Box(c.Structure):
    _fields_ = [("x1", f64), ("y1", f64), ("x2", f64), ("y2", f64)]

    def values(self) -> list[float]:
        return [self.x1, self.y1, self.x2, self.y2]


class ModelInfo(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("name", text), ("version", text), ("sha256", text),
        ("precision", text), ("intended_use", text), ("weights_licence", text),
        ("weights_synthetic", i32), ("heads", u32), ("threads", i32), ("height", i32),
        ("width", i32), ("notice_count", size_t),
    ]  # fmt: skip


class Summary(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("recall", i32), ("views_used", u32), ("heads_asked", u32),
        ("heads_answered", u32), ("notice_count", size_t), ("recall_basis_count", size_t),
    ]  # fmt: skip


class HeadOutcome(c.Structure):
    _fields_ = [("struct_size", size_t), ("answered", i32), ("reason", text), ("detail", text)]


class Score(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("label", text), ("value", text), ("threshold", f64),
        ("probability_count", size_t),
    ]  # fmt: skip


class Mark(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("view", i32), ("label", text), ("score", f64), ("box_px", Box),
        ("box_mm", Box), ("has_mm", i32), ("threshold", f64),
    ]  # fmt: skip


class Year(c.Structure):
    _fields_ = [("struct_size", size_t), ("year", i32), ("score", f64), ("risk", f64)]


class Peak(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("year", i32), ("projection", i32), ("left_box_px", Box),
        ("right_box_px", Box),
    ]  # fmt: skip


class Report(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("text", text), ("lexicon_name", text), ("lexicon_edition", text),
        ("composition", text), ("recall", i32), ("birads_estimate", text), ("management", text),
        ("section_count", size_t), ("finding_count", size_t), ("flag_count", size_t),
    ]  # fmt: skip


class ReportSection(c.Structure):
    _fields_ = [("struct_size", size_t), ("name", text), ("title", text), ("text", text)]


class ReportFinding(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("side", i32), ("kind", text), ("descriptor_count", size_t),
    ]  # fmt: skip


class ViewResult(c.Structure):
    _fields_ = [
        ("struct_size", size_t), ("view", i32), ("sop_instance_uid", text), ("rows", i32),
        ("columns", i32), ("mirrored", i32), ("deviation_count", size_t),
    ]  # fmt: skip


STRUCTS: dict[str, type[c.Structure]] = {
    "mfm_progress": Progress, "mfm_model_options": ModelOptions, "mfm_run_options": RunOptions,
    "mfm_view": View, "mfm_study": Study, "mfm_box": Box, "mfm_model_info": ModelInfo,
    "mfm_summary": Summary, "mfm_head_outcome": HeadOutcome, "mfm_score": Score, "mfm_mark": Mark,
    "mfm_year": Year, "mfm_peak": Peak, "mfm_report": Report, "mfm_report_section": ReportSection,
    "mfm_report_finding": ReportFinding, "mfm_view_result": ViewResult,
}  # fmt: skip


def made(kind: type[c.Structure], **fields: Any) -> Any:
    """A struct with its size set."""
    return kind(struct_size=c.sizeof(kind), **fields)


def load() -> c.CDLL:
    library = c.CDLL(str(embedding_folder() / "lib" / "libmammofm.so"))
    for name in ("last_error", "version", "openvino_version", "status_name"):
        getattr(library, f"mfm_{name}").restype = text
    return library


LIBRARY = load()


def last_error() -> str:
    return LIBRARY.mfm_last_error().decode()


class RefusedError(Exception):
    """A call that failed: its status and line."""

    def __init__(self, status: int) -> None:
        super().__init__(last_error())
        self.status = status


def check(status: int) -> None:
    if status != OK:
        raise RefusedError(status)


def c_view(view: ArrayView) -> View:
    """The struct that says what an `ArrayView` says; it must outlive the struct."""
    pixels, padding = view.pixels, view.background.padding
    assert pixels.strides[1] == pixels.itemsize
    hidden = next((s.hidden for s in view.background.shutters if isinstance(s, HiddenPixels)), None)
    struct = made(
        View,
        pixels=pixels.ctypes.data,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        stride_bytes=pixels.strides[0],
        bits_allocated=8 * pixels.itemsize,
        bits_stored=view.bits_stored or 0,
        is_signed=int(pixels.dtype.kind == "i"),
        laterality=1 if view.view.startswith("L") else 2,
        projection=1 if view.view.endswith("CC") else 2,
        photometric=int(view.photometric_interpretation[-1]),
        rescale_slope=view.rescale_slope,
        rescale_intercept=view.rescale_intercept,
        sop_instance_uid=view.sop_instance_uid.encode() or None,
    )
    if view.pixel_spacing_mm is not None:
        struct.row_spacing_mm, struct.column_spacing_mm = view.pixel_spacing_mm
    if padding is not None:
        struct.has_padding, struct.padding_low, struct.padding_high = 1, padding.low, padding.high
    if hidden is not None:
        assert hidden.strides[1] == 1
        struct.hidden, struct.hidden_stride_bytes = hidden.ctypes.data, hidden.strides[0]
    return struct


def c_study(views: Sequence[View], uid: str = "") -> Study:
    pointers = (c.POINTER(View) * len(views))(*(c.pointer(view) for view in views))
    return made(
        Study, study_instance_uid=uid.encode() or None, views=pointers, view_count=len(views)
    )


class CResult:
    def __init__(self, handle: c.c_void_p) -> None:
        self.handle = handle

    def json(self) -> str:
        found, length = text(), size_t()
        check(LIBRARY.mfm_result_json(self.handle, c.byref(found), c.byref(length)))
        assert found.value is not None
        assert len(found.value) == length.value
        return found.value.decode()

    def get(self, kind: type[c.Structure], *where: int) -> Any:
        """The struct that ``mfm_result_...`` of this kind fills."""
        names = {Summary: "summary", HeadOutcome: "head", Score: "score", Mark: "mark",
                 Year: "year", Peak: "peak", Report: "report", ReportSection: "report_section",
                 ReportFinding: "report_finding", ViewResult: "view"}  # fmt: skip
        struct = made(kind)
        function = getattr(LIBRARY, f"mfm_result_{names[kind]}")
        check(function(self.handle, *_whole(where), c.byref(struct)))
        return struct

    def count(self, what: str, *where: int) -> int:
        found = size_t()
        check(getattr(LIBRARY, f"mfm_result_{what}_count")(self.handle, *where, c.byref(found)))
        return found.value

    def words(self, what: str, count: int, *where: int) -> list[str]:
        """The texts that ``mfm_result_...`` gives through out-parameters."""
        found = [text() for _ in range(count)]
        function = getattr(LIBRARY, f"mfm_result_{what}")
        check(function(self.handle, *_whole(where), *(c.byref(word) for word in found)))
        return [word.value.decode() for word in found if word.value is not None]

    def probability(self, scope: int, score: int, index: int) -> tuple[str, float]:
        name, value = text(), f64()
        check(
            LIBRARY.mfm_result_probability(
                self.handle, scope, size_t(score), size_t(index), c.byref(name), c.byref(value)
            )
        )
        assert name.value is not None
        return name.value.decode(), value.value

    def __del__(self) -> None:
        LIBRARY.mfm_result_destroy(self.handle)


def _whole(where: Sequence[int]) -> list[Any]:
    """Numbers as arguments: a size_t also where an int32 is asked for, whose register it shares."""
    return [size_t(number) for number in where]


class CModel:
    def __init__(self, bundle: Path, **options: Any) -> None:
        self.handle = c.c_void_p()
        chosen = made(ModelOptions, **options)
        check(LIBRARY.mfm_model_open(str(bundle).encode(), c.byref(chosen), c.byref(self.handle)))

    def run_struct(self, study: Study, **options: Any) -> CResult:
        handle = c.c_void_p()
        chosen = made(RunOptions, **options)
        status = LIBRARY.mfm_model_run(
            self.handle, c.byref(study), c.byref(chosen), c.byref(handle)
        )
        assert (handle.value is None) == (status != OK)
        check(status)
        return CResult(handle)

    def run(
        self,
        views: Sequence[ArrayView],
        uid: str = "",
        heads: Sequence[str] = (),
        **options: Any,
    ) -> CResult:
        bits = sum(1 << HEADS.index(head) for head in heads)
        return self.run_struct(c_study([c_view(v) for v in views], uid), heads=bits, **options)

    def info(self) -> Any:
        struct = made(ModelInfo)
        check(LIBRARY.mfm_model_get_info(self.handle, c.byref(struct)))
        return struct

    def close(self) -> None:
        LIBRARY.mfm_model_destroy(self.handle)
        self.handle = c.c_void_p()

    def __del__(self) -> None:
        self.close()
