"""Weights from files: loaded strictly and without executing anything."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from mammofm_lite.errors import ExportError
from mammofm_lite.export.recipe import WeightSource
from mammofm_lite.export.weights import load_into


def source(path: Path, key: str = "", prefix: str = "") -> WeightSource:
    return WeightSource("file", path=path, key=key, prefix=prefix)


def layer() -> nn.Linear:
    return nn.Linear(3, 2)


def test_key_and_prefix(tmp_path: Path) -> None:
    weight, bias = torch.arange(6.0).reshape(2, 3), torch.tensor([7.0, 8.0])
    state = {"a.weight": weight, "a.bias": bias, "other": torch.ones(1)}
    torch.save({"model": state, "epoch": 3}, tmp_path / "c.pt")
    module = layer()
    load_into(module, source(tmp_path / "c.pt", "model", "a."))
    assert torch.equal(module.weight, weight)
    assert torch.equal(module.bias, bias)


def test_all_problems_stand_in_one_message(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3, 3), "extra": torch.ones(1)}, tmp_path / "c.pt")
    message = (
        "checkpoint c.pt does not fit: 1 missing (bias); 1 unexpected (extra); "
        "1 misshapen (weight [3, 3] for [2, 3])"
    )
    with pytest.raises(ExportError, match=re.escape(message)):
        load_into(layer(), source(tmp_path / "c.pt"))


class Exploit:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_a_file_that_runs_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    torch.save({"weight": Exploit(target)}, tmp_path / "evil.pt")
    with pytest.raises(ExportError, match=r"evil\.pt holds more than tensors and was not opened"):
        load_into(layer(), source(tmp_path / "evil.pt"))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Exploit(target)))
    with pytest.raises(ExportError, match=r"plain\.pt"):
        load_into(layer(), source(tmp_path / "plain.pt"))
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04broken"])
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ExportError, match=r"checkpoint c\.pt"):
        load_into(layer(), source(tmp_path / "c.pt"))


def test_missing_file_and_missing_key(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"checkpoint none\.pt does not exist"):
        load_into(layer(), source(tmp_path / "none.pt"))
    torch.save({"other": {}}, tmp_path / "c.pt")
    with pytest.raises(ExportError, match="has no state dict under 'model'"):
        load_into(layer(), source(tmp_path / "c.pt", "model"))
