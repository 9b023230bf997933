"""From the files of a study to its views: which ones are used, and why the others are not."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ..deviations import DEVIATIONS
from ..errors import StudyError
from ..views import STANDARD_VIEWS, ViewName, laterality
from ._codes import KEY_OBJECT, RADIOGRAPHY, sop_class_refusal
from ._header import Header, read_header
from ._mammogram import Identity, Mammogram, describe, identity, is_quality_control, shown_view
from ._pixels import PixelLocation
from ._refused import FileRefusedError
from ._sources import Entry, Source, listing
from ._types import FileDecision, Instance, ReadOptions, Study

__all__ = ["read_study"]

# Key objects that withdraw what they refer to: for quality or safety, a wrong worklist entry, or
# its time of keeping over (CID 7011; IHE IOCM).
_REJECTIONS: Final = frozenset({"113001", "113037", "113038", "113039"})

# How many of a reason are told in one line: singular, plural.
_WORDS: Final = {
    "not_dicom": ("not DICOM", "not DICOM"),
    "for_processing": ("For Processing", "For Processing"),
    "truncated": ("truncated", "truncated"),
    "damaged": ("damaged", "damaged"),
    "encrypted": ("encrypted", "encrypted"),
    "unreadable": ("unreadable", "unreadable"),
    "no_laterality": ("without laterality", "without laterality"),
    "no_view": ("without view", "without view"),
    "link": ("symbolic link", "symbolic links"),
    "archive": ("zip inside the study", "zips inside the study"),
}


@dataclass(frozen=True)
class _File:
    """One file on its way to a decision: refused, or a candidate."""

    index: int
    sop_instance_uid: str | None = None
    refused: FileRefusedError | None = None
    view: ViewName | None = None
    mammogram: Mammogram | None = None
    location: PixelLocation | None = None
    identity: Identity | None = None
    rejects: frozenset[str] = frozenset()

    def refuse(self, reason: str, detail: str) -> "_File":
        return replace(self, refused=FileRefusedError(reason, detail))


def read_study(path: Path, options: ReadOptions | None = None) -> Study:
    """Read a DICOM file, a folder of any depth, or a zip, and choose the four standard views.

    Only attributes before the pixel data are read; nothing is decoded and nothing unpacked to
    disk. Every file seen gets a decision.

    Parameters
    ----------
    path
        Of the file, folder or zip. Symbolic links inside a folder are not followed.
    options
        What to accept beyond For Presentation mammograms; nothing by default.

    Returns
    -------
    The chosen instances and the decisions.

    Raises
    ------
    StudyError
        Nothing is there or nothing can be used, or the mammograms are of several studies or
        patients. The message names neither path nor patient.
    """
    with listing(Path(path)) as entries:
        files = [
            _examine(index, entry, options or ReadOptions())
            for index, entry in enumerate(entries, start=1)
        ]
    _check_one_study(files)
    files = _without_rejected(files)
    files = _without_duplicates(files)
    chosen = {view: best for view in STANDARD_VIEWS if (best := _best(files, view))}
    if not chosen:
        raise StudyError(_nothing_usable(files))
    return Study(
        study_instance_uid=next(iter(chosen.values())).identity.study_instance_uid,
        views=MappingProxyType({view: _instance(files, chosen[view]) for view in chosen}),
        decisions=tuple(_decision(file, chosen) for file in files),
    )


# -------------------- one file


def _examine(index: int, entry: Entry, options: ReadOptions) -> _File:
    if entry.source is None:
        return _File(index, refused=entry.refusal)
    try:
        with entry.source.open() as opened:
            header = read_header(opened)
            file = _File(index, header.sop_instance_uid or None, rejects=_rejected(header))
            other_kind = _other_kind(header, options)
            if other_kind is not None:
                return replace(file, refused=other_kind)
            return _classified(file, header, entry.source, opened.stamp)
    except FileRefusedError as refused:
        return _File(index, refused=refused)


def _other_kind(header: Header, options: ReadOptions) -> FileRefusedError | None:
    """Why this kind of object is not read; ``None`` where it is."""
    known = sop_class_refusal(header.sop_class_uid)
    if known is None:
        return None
    reason, what = known
    if header.sop_class_uid not in RADIOGRAPHY:
        return FileRefusedError(reason, f"{what}; only For Presentation mammograms are used")
    if header.text("BodyPartExamined") != "BREAST":
        return FileRefusedError(reason, f"{what}, and BodyPartExamined is not BREAST")
    if options.allow_cr:
        return None
    return FileRefusedError(reason, f"{what} of the breast; used only where that is allowed")


def _classified(file: _File, header: Header, source: Source, stamp: tuple[int, ...]) -> _File:
    try:
        if not is_quality_control(header):
            file = replace(file, identity=identity(header), view=shown_view(header))
        mammogram = describe(header)
    except FileRefusedError as refused:
        return replace(file, refused=refused)
    location = PixelLocation(
        source=source,
        stamp=stamp,
        transfer_syntax=header.transfer_syntax,
        coding=mammogram.coding,
        deflated_at=header.deflated_at,
        fragments=mammogram.pixels.fragments,
        vr=mammogram.pixels.vr,
        format=mammogram.form,
    )
    return replace(file, mammogram=mammogram, location=location)


def _rejected(header: Header) -> frozenset[str]:
    """SOP Instance UIDs that a key object withdraws."""
    if header.sop_class_uid != KEY_OBJECT:
        return frozenset()
    titles = {text for item in header.items("ConceptNameCodeSequence")
              for text in item.texts("CodeValue")}  # fmt: skip
    if titles.isdisjoint(_REJECTIONS):
        return frozenset()
    return frozenset(
        uid
        for study in header.items("CurrentRequestedProcedureEvidenceSequence")
        for series in study.items("ReferencedSeriesSequence")
        for reference in series.items("ReferencedSOPSequence")
        for uid in reference.texts("ReferencedSOPInstanceUID")
    )


# -------------------- all files


def _check_one_study(files: Iterable[_File]) -> None:
    """All For Presentation mammograms count, also those not used; phantoms do not.

    Raises
    ------
    StudyError
        They are of several studies or patients.
    """
    who = {file.identity for file in files if file.identity is not None}
    studies = {one.study_instance_uid for one in who}
    if len(studies) > 1:
        raise StudyError(
            f"the mammograms are of {len(studies)} studies (Study Instance UIDs); give one study"
        )
    patients = _distinct(one.patient_id for one in who)
    if not patients:
        patients = _distinct(one.patient_name for one in who)
    count = max(len(patients), len(_distinct(one.birth_date for one in who)))
    if count > 1:
        raise StudyError(
            f"the mammograms are of {count} patients by their attributes; give one patient's study"
        )


def _distinct(values: Iterable[str]) -> set[str]:
    """What is given: an attribute emptied in some files contradicts nothing."""
    return set(values) - {""}


def _without_rejected(files: Sequence[_File]) -> list[_File]:
    rejected = frozenset().union(*(file.rejects for file in files))
    return [
        file.refuse("rejected", "withdrawn by a key object of the study (rejection note)")
        if file.mammogram and file.sop_instance_uid in rejected
        else file
        for file in files
    ]


def _without_duplicates(files: Sequence[_File]) -> list[_File]:
    """Of equal copies the first stays; of unequal ones none, for nothing says which is right."""
    copies: dict[str, list[Mammogram]] = {}
    result = []
    for file in files:
        if file.mammogram is not None and file.refused is None:
            copies.setdefault(file.mammogram.sop_instance_uid, []).append(file.mammogram)
    seen: set[str] = set()
    for file in files:
        uid = file.mammogram.sop_instance_uid if file.mammogram else None
        if uid is None or file.refused is not None:
            result.append(file)
        elif any(copy != copies[uid][0] for copy in copies[uid]):
            result.append(
                file.refuse(
                    "duplicate_contradiction",
                    "several files have this SOP Instance UID and contradict each other",
                )
            )
        elif uid in seen:
            result.append(file.refuse("duplicate", "a copy of a file that is already listed"))
        else:
            seen.add(uid)
            result.append(file)
    return result


def _candidates(files: Iterable[_File], view: ViewName) -> list[Mammogram]:
    return [
        file.mammogram
        for file in files
        if file.mammogram and file.refused is None and file.mammogram.view == view
    ]


def _best(files: Iterable[_File], view: ViewName) -> Mammogram | None:
    """By what matters most.

    Made for mammography, implant displaced, not synthetic, newest, largest, lowest UID.
    """
    return max(_candidates(files, view), key=_preference, default=None)


def _preference(mammogram: Mammogram) -> tuple[bool, bool, bool, str, int, list[int]]:
    uid = [-int(part) for part in mammogram.sop_instance_uid.split(".")]
    return (
        not mammogram.radiography,
        mammogram.implant_displaced,
        not mammogram.synthetic,
        mammogram.acquired,
        mammogram.form.pixels,
        uid,
    )


# -------------------- results


def _instance(files: Iterable[_File], mammogram: Mammogram) -> Instance:
    location = next(file.location for file in files if file.mammogram is mammogram)
    assert location is not None  # set together with the mammogram
    return Instance(
        sop_instance_uid=mammogram.sop_instance_uid,
        view=mammogram.view,
        laterality=laterality(mammogram.view),
        rows=mammogram.form.rows,
        columns=mammogram.form.columns,
        photometric_interpretation=mammogram.photometric_interpretation,
        rescale_slope=mammogram.rescale[0],
        rescale_intercept=mammogram.rescale[1],
        pixel_spacing_mm=mammogram.pixel_spacing_mm,
        pixel_spacing_source=mammogram.pixel_spacing_source,
        background=mammogram.background,
        voi=mammogram.voi,
        deviations=mammogram.deviations,
        pixels=location,
        patient_orientation=mammogram.patient_orientation,
    )


def _decision(file: _File, chosen: dict[ViewName, Mammogram]) -> FileDecision:
    uid, view = file.sop_instance_uid, file.view
    if file.refused is not None:
        return FileDecision(file.index, uid, False, view, file.refused.reason, file.refused.detail)
    assert file.mammogram is not None  # a file is refused or a candidate
    best = chosen[file.mammogram.view]
    if best is file.mammogram:
        return FileDecision(file.index, uid, True, view, "used", _used_detail(best))
    reason, why = _lost_by(file.mammogram, best)
    detail = f"{why}; {best.sop_instance_uid} is used for {best.view}"
    return FileDecision(file.index, uid, False, view, reason, detail)


def _used_detail(mammogram: Mammogram) -> str:
    parts = [f"used for {mammogram.view}"]
    if mammogram.synthetic:
        parts.append("synthesised from tomosynthesis, no full-field image of this view")
    if mammogram.implant_displaced:
        parts.append("the implant is displaced")
    elif mammogram.implant_present:
        parts.append("an implant is present, no implant-displaced image of this view")
    parts += [DEVIATIONS[code] for code in mammogram.deviations]
    return "; ".join(parts)


_LOSSES: Final[tuple[tuple[Callable[[Mammogram], object], str, str], ...]] = (
    (lambda m: m.radiography, "repeat", "a digital mammogram of this view exists"),
    (lambda m: m.implant_displaced, "implant_full_view", "one with the implant displaced exists"),
    (lambda m: m.synthetic, "repeat", "synthesised, and a full-field image exists"),
    (lambda m: m.acquired, "repeat", "a newer image of this view exists"),
    (lambda m: m.form.pixels, "repeat", "a larger image of this view, equally new, exists"),
)  # fmt: skip


def _lost_by(mammogram: Mammogram, best: Mammogram) -> tuple[str, str]:
    """The first preference in which a candidate differs from the chosen one."""
    for value, reason, why in _LOSSES:
        if value(mammogram) != value(best):
            return reason, why
    return "repeat", "an image of this view that is equal in time and size exists"


def _nothing_usable(files: Sequence[_File]) -> str:
    """One line with the counts per reason, the most frequent first."""
    counts = Counter(file.refused.reason for file in files if file.refused is not None)
    told = ", ".join(f"{count} {_words(reason, count)}" for reason, count in counts.most_common())
    noun = "file" if len(files) == 1 else "files"
    return f"no usable mammogram among {len(files)} {noun}: {told}"


def _words(reason: str, count: int) -> str:
    singular, plural = _WORDS.get(reason, (reason.replace("_", " "),) * 2)
    return singular if count == 1 else plural
