"""What is in a bundle, for a person and for a program."""

from dataclasses import asdict
from typing import Any

from ..bundle import Bundle

__all__ = ["describe", "describe_text"]


def describe(bundle: Bundle) -> dict[str, Any]:
    """A verified bundle's identity, licence, heads, labels and self-check, as JSON types."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "sha256": bundle.sha256,
        "intended_use": bundle.intended_use,
        "weights": asdict(bundle.weights),
        "precision": bundle.precision,
        "made_with": dict(bundle.made_with),
        "preprocessing": asdict(bundle.preprocessing),
        "encoders": {name: dict(spec.outputs) for name, spec in bundle.encoders.items()},
        "heads": {name: asdict(getattr(bundle, name)) for name in bundle.heads},
        "text": None if bundle.text is None else asdict(bundle.text),
        "files": {name: asdict(record) for name, record in sorted(bundle.files.items())},
        "self_check": dict(bundle.self_check),
        "notices": list(bundle.notices),
    }


def describe_text(description: dict[str, Any]) -> str:
    """`describe` as a short text."""
    megabytes = sum(record["bytes"] for record in description["files"].values()) / 1e6
    weights = "synthetic" if description["weights"]["synthetic"] else "trained"
    size = description["preprocessing"]
    lines = [
        f"{description['name']} {description['version']}  "
        f"({megabytes:.1f} MB, sha256 {description['sha256'][:12]})",
        f"use        {description['intended_use']}",
        f"weights    {weights}; licence {description['weights']['licence']}",
        f"precision  {description['precision']}",
        f"input      {size['height']} rows x {size['width']} columns, 8 bit",
        f"made with  {', '.join(f'{k} {v}' for k, v in description['made_with'].items())}",
        "heads",
        *(f"  {line}" for line in _heads(description["heads"])),
        *_text_encoder(description["text"]),
        *(f"! {notice}" for notice in description["notices"]),
    ]
    return "\n".join(lines)


def _heads(heads: dict[str, Any]) -> list[str]:
    lines = []
    for name, spec in heads.items():
        members = spec.get("members", [spec])
        for title, member in zip([name, *[""] * len(members)], members, strict=False):
            lines.append(f"{title:<13} encoder {member['encoder']}{_answers(name, member)}")
    return lines


def _answers(head: str, member: dict[str, Any]) -> str:
    if head == "diagnosis":
        return "; " + ", ".join(_label(label) for label in member["labels"])
    if head == "localization":
        return f"; {', '.join(member['labels'])}; marks at {member['threshold']:g} and above"
    if head == "prognosis":
        return f"; years {', '.join(map(str, member['years']))}"
    return ""


def _label(label: dict[str, Any]) -> str:
    """A label's name, and the prompts that a zero-shot label is."""
    prompts = " | ".join(f'"{prompt}"' for prompt in label["classes"])
    return f"{label['name']} ({prompts})" if label["kind"] == "zero_shot" else str(label["name"])


def _text_encoder(text: dict[str, Any] | None) -> list[str]:
    if text is None:
        return []
    return [
        f"text       {text['architecture']}, at most {text['max_length']} tokens; "
        f"encoder {text['encoder']}"
    ]
