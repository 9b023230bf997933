"""What quantization cost, for a person: ``QUANTIZATION.md`` and a section of the model card."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

__all__ = ["JSON_FILE", "MARKDOWN_FILE", "card_section", "markdown", "table_lines"]

JSON_FILE: Final = "quantization.json"
MARKDOWN_FILE: Final = "QUANTIZATION.md"


def markdown(report: Mapping[str, Any]) -> str:
    """The report of `build.quantize_bundle` as Markdown."""
    studies, source = report["studies"], report["source"]
    sections = [
        f"# INT8 quantization of {source['name']} {source['version']}",
        f"Made from the {source['precision']} bundle with SHA-256 {source['sha256']}. Its "
        "signature, if it had one, is not carried over: sign this bundle anew.",
        f"Calibrated on {studies['calibration_studies']} studies "
        f"({studies['calibration_views']} views), judged on {studies['held_out_studies']} others "
        f"({studies['held_out_views']} views). Split: {studies['split']}. "
        f"Studies skipped: {studies['skipped_studies']}.",
        "\n".join(_verdict(report)),
        "## Features\n\n" + _features(report["graphs"]),
        "## Answers on held-out studies\n\n" + _answers(report["heads"], report["truth"]),
        "## Graphs\n\n" + _graphs(report["graphs"]),
        "## Size, speed and memory\n\n" + "\n".join(_cost(report)),
        "## Made with\n\n" + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def _verdict(report: Mapping[str, Any]) -> list[str]:
    gates = ", ".join(f"{name} {limit:g}" for name, limit in report["gates"].items())
    if not report["failures"]:
        return [f"**Within every gate.** Gates: {gates}."]
    lines = [f"**DRIFT ABOVE THE GATE, accepted with --accept-drift.** Gates: {gates}.", ""]
    return lines + [
        f"- {one['where']}: {one['what']} {one['value']:.4g}, limit {one['limit']:g}"
        for one in report["failures"]
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in lines)


def _features(graphs: Mapping[str, Any]) -> str:
    rows = [
        (
            file,
            drift["output"],
            f"{drift['sqnr_db']:.1f}",
            f"{drift['cosine']:.5f}",
            f"{drift['mean_cosine']:.5f}",
        )
        for file, graph in graphs.items()
        for drift in graph.get("outputs", ())
    ]
    return _table(("encoder", "output", "SQNR dB", "least cosine", "mean cosine"), rows)


def _answers(heads: Mapping[str, Any], truth: Mapping[str, Any]) -> str:
    rows = [
        (head, name.replace("_", " "), f"{value:.4g}")
        for head, drift in heads.items()
        for name, value in drift.items()
    ]
    text = _table(("head", "what", "value"), rows)
    if not truth["float"]:
        return text + "\n\nThe truth of none of these studies is known."
    known = [
        (name.replace("_", " "), f"{value:.4g}", f"{truth['int8'].get(name, float('nan')):.4g}")
        for name, value in truth["float"].items()
    ]
    return text + "\n\n" + _table(("against the truth of phantoms", "float", "INT8"), known)


def _graphs(graphs: Mapping[str, Any]) -> str:
    rows = [(file, graph["treatment"], _detail(graph)) for file, graph in graphs.items()]
    return _table(("graph", "treatment", "detail"), rows)


def _detail(graph: Mapping[str, Any]) -> str:
    if graph["treatment"] != "quantize":
        return graph.get("reason", "")
    back = graph["given_back"]
    text = f"{graph['layers'] - len(graph['float_layers'])} of {graph['layers']} convolutions INT8"
    return text + (f"; given back: {', '.join(back)}" if back else "")


def _cost(report: Mapping[str, Any]) -> list[str]:
    cost, machine = report["cost"], report["machine"]
    size, memory = cost["size"], cost["memory"]
    speeds = {**cost["graphs"], "one study of held-out views": cost["study"]}
    rows = [
        (
            name,
            f"{speed['float_s']:.4f}",
            f"{speed['int8_s']:.4f}",
            f"{speed['times_as_fast']:.2f}",
        )
        for name, speed in speeds.items()
    ]
    types = {name: speed["convolutions_by_type"] for name, speed in cost["graphs"].items()}
    return [
        f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set']}. "
        "Both bundles in turn in one run; medians; reading of DICOM files not included.",
        "",
        _table(("seconds", "float", "INT8", "times as fast"), rows),
        "",
        f"Graphs: {size['float_bytes'] / 1e6:.1f} MB float, "
        f"{size['int8_bytes'] / 1e6:.1f} MB INT8. Peak memory of a process that "
        f"answers one phantom: {memory['float_mib']:.0f} MiB float, "
        f"{memory['int8_mib']:.0f} MiB INT8.",
        "",
        *(
            f"Convolutions that {name} executes, by type: "
            + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            + "."
            for name, kinds in types.items()
        ),
    ]


def card_section(report: Mapping[str, Any]) -> str:
    """What the model card says of it."""
    pooled = [
        drift["cosine"] for graph in report["graphs"].values() for drift in graph.get("outputs", ())
    ]
    gates = "within every gate" if not report["failures"] else "DRIFT ABOVE THE GATE, accepted"
    return f"""
## Quantization

INT8 by post-training quantization with NNCF {report["versions"]["nncf"]} of the bundle with SHA-256
{report["source"]["sha256"]}.

- {gates}; least cosine of a feature with its float twin: {min(pooled, default=1.0):.5f}
- Calibrated on {report["studies"]["calibration_studies"]} studies, judged on
  {report["studies"]["held_out_studies"]} others
- Everything measured: `{MARKDOWN_FILE}` and `{JSON_FILE}`
"""


def table_lines(report: Mapping[str, Any]) -> list[str]:
    """The figures in short, for the terminal."""
    lines = [
        f"{file} {drift['output']}: cosine {drift['cosine']:.4f}, SQNR {drift['sqnr_db']:.1f} dB"
        for file, graph in report["graphs"].items()
        for drift in graph.get("outputs", ())
    ]
    for head, drift in report["heads"].items():
        figures = ", ".join(
            f"{name.replace('_', ' ')} {value:.3g}" for name, value in drift.items()
        )
        lines.append(f"{head}: {figures}")
    for name, speed in report["cost"]["graphs"].items():
        lines.append(
            f"{name}: {speed['float_s']:.4f} s float, {speed['int8_s']:.4f} s INT8, "
            f"{speed['times_as_fast']:.2f} times as fast"
        )
    size = report["cost"]["size"]
    lines.append(f"graphs: {size['float_bytes'] / 1e6:.1f} -> {size['int8_bytes'] / 1e6:.1f} MB")
    return lines
