"""Bundles: a directory with the graphs, labels, thresholds and constants of one model.

`Bundle.open` believes nothing: the description is parsed field by field, every file must have the
size and SHA-256 written in ``bundle.json``, and only then may anything be compiled.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from ._jsonread import MAX_JSON_BYTES, Fields, parse_json_object, read_regular_file
from .errors import BundleError
from .prepare import PreprocessingSpec
from .views import HEADS

__all__ = [
    "DESCRIPTION",
    "FORMAT",
    "SCHEMA_VERSION",
    "SIGNATURE",
    "Bundle",
    "DiagnosisMember",
    "DiagnosisSpec",
    "EncoderSpec",
    "FileRecord",
    "LabelSpec",
    "LocalizationMember",
    "LocalizationSpec",
    "Member",
    "PrognosisMember",
    "PrognosisSpec",
    "ReportSpec",
    "TextSpec",
    "WeightsInfo",
    "demo_bundle_path",
    "file_record",
]

DESCRIPTION: Final = "bundle.json"
SIGNATURE: Final = "bundle.sig"
FORMAT: Final = "mammofm-bundle"
SCHEMA_VERSION: Final = 2  # 2: diagnosis, localization and prognosis are lists of members
CHUNK: Final = 1 << 22
_PLAIN_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,199}"
_RESERVED_NAMES: Final = (DESCRIPTION, SIGNATURE)
_MOST_CELLS: Final = 1 << 20  # of one dimension of a feature map; the largest of B5 has 2048


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) that a file of the bundle must have."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class WeightsInfo:
    """Where the numbers come from and what their licence allows.

    `restricted` weights were exported by someone who acknowledged the licence; `notice` then says
    what it allows.
    """

    synthetic: bool
    licence: str
    notice: str
    restricted: bool = False


@dataclass(frozen=True)
class EncoderSpec:
    """One image encoder: its IR and the shapes of its named outputs."""

    name: str
    model: str
    outputs: Mapping[str, tuple[int, ...]]


LabelKind = Literal["binary", "categorical", "zero_shot"]


@dataclass(frozen=True)
class LabelSpec:
    """One label of the diagnosis head.

    ``binary`` takes one column of the head's output, the others one per class. `breast` and
    `study` name how views, then breasts, are combined: ``mean``, ``max``, or ``highest_class``
    (the breast whose most probable class is the later one decides, as for breast density).
    """

    name: str
    kind: LabelKind
    classes: tuple[str, ...]
    threshold: float | None
    breast: str
    study: str
    recall: bool

    @property
    def columns(self) -> int:
        return 1 if self.kind == "binary" else len(self.classes)


@dataclass(frozen=True)
class DiagnosisMember:
    """Labels that one graph answers on one encoder, in the order of its columns."""

    model: str
    encoder: str
    labels: tuple[LabelSpec, ...]


@dataclass(frozen=True)
class DiagnosisSpec:
    """One or several members; no two answer the same label."""

    members: tuple[DiagnosisMember, ...]

    @property
    def labels(self) -> tuple[LabelSpec, ...]:
        """All labels, in the bundle's order."""
        return tuple(label for member in self.members for label in member.labels)


@dataclass(frozen=True)
class LocalizationMember:
    """One detector; `threshold` is the operating point of its marks, its graph keeps more."""

    model: str
    encoder: str
    labels: tuple[str, ...]
    threshold: float


@dataclass(frozen=True)
class LocalizationSpec:
    """One or several detectors; no two mark the same label."""

    members: tuple[LocalizationMember, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in the bundle's order."""
        return tuple(self.thresholds)

    @property
    def thresholds(self) -> Mapping[str, float]:
        """The operating point of every label."""
        return {label: member.threshold for member in self.members for label in member.labels}


@dataclass(frozen=True)
class PrognosisMember:
    """Years that one graph answers on one encoder.

    `window` is the pooling window of the asymmetry map in cells (rows, columns) of `map`.
    """

    model: str
    encoder: str
    years: tuple[int, ...]
    map: tuple[int, int]
    window: tuple[int, int]
    stride: tuple[int, int]
    alignment: str


@dataclass(frozen=True)
class PrognosisSpec:
    """One or several members; no two answer the same year."""

    members: tuple[PrognosisMember, ...]

    @property
    def years(self) -> tuple[int, ...]:
        """All years, rising."""
        return tuple(sorted(year for member in self.members for year in member.years))


@dataclass(frozen=True)
class ReportSpec:
    fusion: str
    decoder: str
    tokenizer: str
    grammar: str
    encoder: str
    max_tokens: int


@dataclass(frozen=True)
class TextSpec:
    """The text encoder that a bundle may carry, and what holds its answers against an image.

    `encoder` names the image encoder, `model` is the graph of the text encoder, `match` the one
    that compares. A text has at most `max_length` tokens, all of them below `vocabulary`, and
    becomes `size` numbers. `agreement` says what the map is: ``exact``, the cells' shares of the
    similarity, which is their mean; or ``cells``, the similarity of every cell by itself.
    """

    encoder: str
    model: str
    match: str
    tokenizer: str
    max_length: int
    vocabulary: int
    size: int
    architecture: str
    agreement: Literal["exact", "cells"]


Member: TypeAlias = DiagnosisMember | LocalizationMember | PrognosisMember | ReportSpec
"""What runs on one encoder; the report is a head of one member."""


def demo_bundle_path() -> Path:
    """The demonstration bundle that ships with the package."""
    return Path(__file__).parent / "bundles" / "demo.mfm"


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def file_record(path: Path) -> FileRecord:
    """Measure one file."""
    return FileRecord(path.stat().st_size, sha256_of(path))


@dataclass(frozen=True)
class Bundle:
    """A verified bundle; see `Bundle.open`."""

    path: Path
    name: str
    version: str
    intended_use: str
    weights: WeightsInfo
    precision: str
    made_with: Mapping[str, str]
    preprocessing: PreprocessingSpec
    encoders: Mapping[str, EncoderSpec]
    diagnosis: DiagnosisSpec | None
    localization: LocalizationSpec | None
    prognosis: PrognosisSpec | None
    report: ReportSpec | None
    files: Mapping[str, FileRecord]
    sha256: str
    self_check: Mapping[str, Any]
    text: TextSpec | None = None

    @classmethod
    def open(cls, path: Path | str) -> "Bundle":
        """Read and verify a bundle directory.

        Files that the description does not list are ignored, for nothing ever opens them; one of
        them may be the signature, see `mammofm_lite.signature`.

        Raises
        ------
        BundleError
            Missing, altered, truncated, malformed or newer than this program understands; the
            message names the file.
        """
        root = Path(path)
        if not root.is_dir():
            raise BundleError(f"no bundle directory at {root}")
        description = read_regular_file(root / DESCRIPTION, MAX_JSON_BYTES)
        fields = parse_json_object(description, DESCRIPTION)
        _check_format(fields)
        files = _files(fields.object("files"))
        for name, record in files.items():
            _verify(root, name, record)
        return _assemble(root, fields, files, hashlib.sha256(description).hexdigest())

    def file(self, name: str) -> Path:
        """Path of a verified file of this bundle.

        Raises
        ------
        BundleError
            The description refers to a file that its own list does not hold.
        """
        if name not in self.files:
            raise BundleError(f"{DESCRIPTION}: refers to {name!r}, which 'files' does not list")
        return self.path / name

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that this bundle has, in the fixed order."""
        return tuple(name for name in HEADS if getattr(self, name) is not None)

    def members(self, head: str) -> tuple[Member, ...]:
        """What answers for a head, each on its own encoder; empty where the head is absent."""
        if head == "report":
            return (self.report,) if self.report else ()
        spec = getattr(self, head)
        members: tuple[Member, ...] = spec.members if spec else ()
        return members

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines that must stand on every output made with this bundle."""
        lines = [f"Not a medical device. {self.intended_use}"]
        if self.weights.synthetic:
            lines.append("SYNTHETIC WEIGHTS: every number, mark and sentence is meaningless.")
        if self.weights.restricted:
            lines.append(
                f"Licence of the weights: {self.weights.licence}; restricted: {self.weights.notice}"
            )
        elif self.weights.notice:
            lines.append(self.weights.notice)
        return tuple(lines)


def _check_format(fields: Fields) -> None:
    if fields.value.get("format") != FORMAT:
        raise BundleError(f"{DESCRIPTION}: not a {FORMAT} (its 'format' says otherwise)")
    version = fields.integer("schema_version", 1, 1_000_000)
    if version < SCHEMA_VERSION:
        raise BundleError(
            f"{DESCRIPTION}: schema version {version} is older than {SCHEMA_VERSION}, the only one "
            "this program reads; export the bundle anew"
        )
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{DESCRIPTION}: schema version {version} is newer than {SCHEMA_VERSION}, the newest "
            "this program reads; update mammofm-lite"
        )


def _made_with(fields: Fields) -> Mapping[str, str]:
    versions = {name: fields.text(name) for name in ("mammofm_lite", "openvino")}
    for name, version in versions.items():
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){1,3}", version):
            raise BundleError(f"{fields.where}: {name!r} is {version!r}, not a version number")
    return MappingProxyType(versions)


def _files(fields: Fields) -> Mapping[str, FileRecord]:
    records = {}
    for name, entry in fields.items():
        if not re.fullmatch(_PLAIN_NAME, name) or name in _RESERVED_NAMES:
            raise BundleError(
                f"{DESCRIPTION}: {name[:60]!r} is not a plain file name; export the bundle anew"
            )
        sha256 = entry.text("sha256")
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise BundleError(f"{entry.where}: 'sha256' must be 64 hexadecimal digits")
        records[name] = FileRecord(entry.integer("bytes", 0, 1 << 40), sha256)
    return MappingProxyType(records)


def _verify(root: Path, name: str, record: FileRecord) -> None:
    path = root / name
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{name} is missing from the bundle, or not a regular file; copy it anew")
    size = path.stat().st_size
    if size != record.bytes:
        raise BundleError(
            f"{name} has {size} bytes, the bundle lists {record.bytes}; copy the bundle anew"
        )
    if sha256_of(path) != record.sha256:
        raise BundleError(f"{name} was altered: its SHA-256 differs; copy the bundle anew")


def _assemble(root: Path, fields: Fields, files: Mapping[str, FileRecord], sha256: str) -> Bundle:
    weights = fields.object("weights")
    heads = fields.object("heads")
    encoders = {name: _encoder(name, entry) for name, entry in fields.object("encoders").items()}
    if unknown := set(heads.mapping()) - set(HEADS):
        raise BundleError(f"{DESCRIPTION}: unknown head {sorted(unknown)[0]!r}")
    bundle = Bundle(
        path=root,
        name=fields.text("name"),
        version=fields.text("version"),
        intended_use=fields.text("intended_use"),
        weights=WeightsInfo(
            weights.flag("synthetic"),
            weights.text("licence"),
            weights.text("notice"),
            weights.optional("restricted", weights.flag) or False,
        ),
        precision=fields.choice("precision", ("f32", "f32_f16_weights", "int8")),
        made_with=_made_with(fields.object("made_with")),
        preprocessing=_preprocessing(fields.object("preprocessing")),
        encoders=MappingProxyType(encoders),
        diagnosis=_head(heads, "diagnosis", _diagnosis),
        localization=_head(heads, "localization", _localization),
        prognosis=_head(heads, "prognosis", _prognosis),
        report=_head(heads, "report", _report),
        files=files,
        sha256=sha256,
        self_check=fields.object("self_check").mapping(),
        text=_text(fields.object("text")) if "text" in fields else None,
    )
    _check_references(bundle)
    _check_text_references(bundle)
    return bundle


def _head(heads: Fields, name: str, read: Any) -> Any:
    return read(heads.object(name)) if name in heads else None


def _preprocessing(fields: Fields) -> PreprocessingSpec:
    return PreprocessingSpec(
        height=fields.integer("height", 32, 8192),
        width=fields.integer("width", 32, 8192),
        border_px=fields.integer("border_px", 0, 100),
        background_threshold=fields.integer("background_threshold", 0, 254),
        mirror=cast(Literal["none", "right"], fields.choice("mirror", ("none", "right"))),
    )


def _encoder(name: str, fields: Fields) -> EncoderSpec:
    outputs = fields.object("outputs")
    shapes = {key: outputs.integers(key, low=1, high=_MOST_CELLS) for key in outputs.mapping()}
    return EncoderSpec(name, fields.text("model"), MappingProxyType(shapes))


T = TypeVar("T")


def _members(fields: Fields, read: Callable[[Fields], T]) -> tuple[T, ...]:
    members = tuple(read(entry) for entry in fields.objects("members"))
    if not members:
        raise BundleError(f"{fields.where}: 'members' is empty")
    return members


def _diagnosis(fields: Fields) -> DiagnosisSpec:
    spec = DiagnosisSpec(_members(fields, _diagnosis_member))
    _check_distinct(fields, "labels", [label.name for label in spec.labels])
    return spec


def _diagnosis_member(fields: Fields) -> DiagnosisMember:
    labels = tuple(_label(entry) for entry in fields.objects("labels"))
    if not labels:
        raise BundleError(f"{fields.where}: 'labels' is empty")
    return DiagnosisMember(fields.text("model"), fields.text("encoder"), labels)


def _label(fields: Fields) -> LabelSpec:
    kind = cast(LabelKind, fields.choice("kind", ("binary", "categorical", "zero_shot")))
    classes = () if kind == "binary" else fields.texts("classes")
    if kind != "binary" and len(classes) < 2:
        raise BundleError(f"{fields.where}: 'classes' needs two names or more")
    _check_distinct(fields, "classes", classes)
    study = ("mean", "max") if kind == "binary" else ("mean", "highest_class")
    return LabelSpec(
        name=fields.text("name"),
        kind=kind,
        classes=classes,
        threshold=fields.optional("threshold", lambda key: fields.number(key, 0.0, 1.0)),
        breast=fields.choice("breast", ("mean", "max") if kind == "binary" else ("mean",)),
        study=fields.choice("study", study),
        recall=fields.flag("recall"),
    )


def _check_distinct(fields: Fields, key: str, names: Sequence[Any]) -> None:
    """Answers are kept by name: of two with one name, one would silently win."""
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BundleError(f"{fields.where}: {key!r} names {twice!r} twice")


def _localization(fields: Fields) -> LocalizationSpec:
    spec = LocalizationSpec(_members(fields, _detector))
    _check_distinct(fields, "labels", [label for m in spec.members for label in m.labels])
    return spec


def _detector(fields: Fields) -> LocalizationMember:
    labels = fields.texts("labels")
    if not labels:
        raise BundleError(f"{fields.where}: 'labels' is empty")
    return LocalizationMember(
        fields.text("model"),
        fields.text("encoder"),
        labels,
        fields.number("threshold", 0.0, 1.0),
    )


def _pair(fields: Fields, key: str) -> tuple[int, int]:
    first, second = fields.integers(key, 2, low=1, high=_MOST_CELLS)
    return first, second


def _prognosis(fields: Fields) -> PrognosisSpec:
    spec = PrognosisSpec(_members(fields, _prognosis_member))
    _check_distinct(fields, "years", spec.years)
    return spec


def _prognosis_member(fields: Fields) -> PrognosisMember:
    years = fields.integers("years", low=1, high=100)
    if not years or list(years) != sorted(set(years)):
        raise BundleError(f"{fields.where}: 'years' must be rising and not empty")
    return PrognosisMember(
        model=fields.text("model"),
        encoder=fields.text("encoder"),
        years=years,
        map=_pair(fields, "map"),
        window=_pair(fields, "window"),
        stride=_pair(fields, "stride"),
        alignment=fields.choice("alignment", ("none", "latent")),
    )


def _report(fields: Fields) -> ReportSpec:
    return ReportSpec(
        fusion=fields.text("fusion"),
        decoder=fields.text("decoder"),
        tokenizer=fields.text("tokenizer"),
        grammar=fields.text("grammar"),
        encoder=fields.text("encoder"),
        max_tokens=fields.integer("max_tokens", 8, 4096),
    )


def _text(fields: Fields) -> TextSpec:
    agreement = fields.choice("agreement", ("exact", "cells"))
    return TextSpec(
        encoder=fields.text("encoder"),
        model=fields.text("model"),
        match=fields.text("match"),
        tokenizer=fields.text("tokenizer"),
        max_length=fields.integer("max_length", 3, 8192),
        vocabulary=fields.integer("vocabulary", 3, 1 << 24),
        size=fields.integer("size", 1, _MOST_CELLS),
        architecture=fields.text("architecture"),
        agreement=cast(Literal["exact", "cells"], agreement),
    )


def _check_text_references(bundle: Bundle) -> None:
    if bundle.text is None:
        return
    if bundle.text.encoder not in bundle.encoders:
        raise BundleError(f"{DESCRIPTION}: 'text' names unknown encoder {bundle.text.encoder!r}")
    bundle.file(bundle.text.tokenizer)


def _check_references(bundle: Bundle) -> None:
    for head in bundle.heads:
        for member in bundle.members(head):
            if member.encoder not in bundle.encoders:
                raise BundleError(
                    f"{DESCRIPTION}: head {head!r} names unknown encoder {member.encoder!r}"
                )
    for graph in _graphs(bundle):
        _check_graph_files(bundle, graph)
    if bundle.report:
        bundle.file(bundle.report.tokenizer)
        bundle.file(bundle.report.grammar)


def _graphs(bundle: Bundle) -> Iterator[str]:
    """Every graph, as often as it is named."""
    for encoder in bundle.encoders.values():
        yield encoder.model
    for head in bundle.heads:
        for member in bundle.members(head):
            if isinstance(member, ReportSpec):
                yield from (member.fusion, member.decoder)
            else:
                yield member.model
    if bundle.text:
        yield from (bundle.text.model, bundle.text.match)


def _check_graph_files(bundle: Bundle, name: str) -> None:
    """Both halves are listed; and the name must not lead OpenVINO to a parser of other formats."""
    path = bundle.file(name)
    if path.suffix != ".xml":
        raise BundleError(f"{DESCRIPTION}: the graph {name!r} is not named *.xml")
    bundle.file(path.with_suffix(".bin").name)
