"""A four-view study in PyTorch and OpenCV, step by step as the reference takes it: the peer.

Weights are the synthetic ones of export/recipes/full-synthetic.toml. Only reading the DICOM and the
report's grammar are shared with this package; both are a small part of the time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mammofm_lite._jsonread import Fields
from mammofm_lite.dicom import read_pixels, read_study
from mammofm_lite.export.models.asymmetry import AsymmetryConfig, AsymmetryHead
from mammofm_lite.export.models.boxes import evaluate
from mammofm_lite.export.models.diagnosis import LinearClassifier
from mammofm_lite.export.models.efficientnet import EfficientNet, Features, named_config
from mammofm_lite.export.models.report import ReportConfig, ReportModel
from mammofm_lite.export.models.retinanet import RetinaNet, RetinaNetConfig
from mammofm_lite.export.report_text import report_grammar, report_tokenizer
from mammofm_lite.export.synthetic import fill_module, normalise
from mammofm_lite.grammar import Grammar
from mammofm_lite.heads.report import decode_greedily
from mammofm_lite.prepare import crop_runs
from mammofm_lite.views import STANDARD_VIEWS

__all__ = ["TorchStudy"]


class TorchStudy:
    """All networks, loaded once."""

    def __init__(self, seed: int) -> None:
        b5 = named_config("b5")
        self.encoder: Any = fill_module(EfficientNet(b5), seed)
        self.detector: Any = fill_module(RetinaNet(RetinaNetConfig.with_own_encoder(b5, 1)), seed)
        self.labels = [fill_module(LinearClassifier(2048, n), seed) for n in (1, 1, 1, 4)]
        self.years = [fill_module(AsymmetryHead(AsymmetryConfig()), year) for year in range(1, 6)]
        self.grammar = Grammar.parse(Fields(report_grammar(), "grammar.json"))
        self.tokenizer = report_tokenizer()
        size = self.tokenizer.get_vocab_size()
        config = ReportConfig(2048, 48, 29, 512, 8, 2, 4, size, 256)
        self.report: Any = fill_module(ReportModel(config), seed)

    @torch.inference_mode()
    def infer(self, study: Path) -> dict[str, Any]:
        instances = read_study(study).views
        pictures = {view: prepared(read_pixels(one)) for view, one in instances.items()}
        features = {
            view: self.encoder.features(torch.from_numpy(normalise(picture)))
            for view, picture in pictures.items()
        }
        return {
            "diagnosis": [[head(f.pooled) for head in self.labels] for f in features.values()],
            "localization": [self._boxes(picture) for picture in pictures.values()],
            "prognosis": self._risks(features),
            "report": self._report(features),
        }

    def _boxes(self, picture: np.ndarray) -> Any:
        small = cv2.resize(picture, (512, 512), interpolation=cv2.INTER_CUBIC)
        return evaluate(self.detector(torch.from_numpy(normalise(small))), 0.2)

    def _risks(self, features: Mapping[str, Features]) -> list[float]:
        maps = [features[view].map for view in ("L-CC", "R-CC", "L-MLO", "R-MLO")]
        return [float(head(*maps, torch.ones(1, 2)).score) for head in self.years]

    def _report(self, features: Mapping[str, Features]) -> str:
        maps = [features[view].map for view in STANDARD_VIEWS]
        memory = self.report.memory(maps, torch.ones(1, 4))
        cache = self.report.empty_cache()

        def logits(token: int, position: int) -> np.ndarray:
            nonlocal cache
            step = self.report.step(
                torch.tensor([[token]]), torch.tensor([[position]]), memory, cache
            )
            cache = list(zip(step.keys, step.values, strict=True))
            return np.asarray(step.logits[0])

        def encode(words: str) -> list[int]:
            ids: list[int] = self.tokenizer.encode(words, add_special_tokens=False).ids
            return ids

        automaton = self.grammar.language(STANDARD_VIEWS).automaton(encode)
        return str(self.tokenizer.decode(decode_greedily(automaton, logits)))


def prepared(stored: np.ndarray) -> np.ndarray:
    """The reference's pixel steps, with OpenCV's resize; a study of MONOCHROME2 is assumed."""
    inside = stored[5:-5, 5:-5].astype(np.float32)
    inside -= inside.min()
    grey = (inside / inside.max() * 255).astype(np.uint8)
    (rows,), (columns,) = crop_runs(grey, 40)
    cut = grey[slice(*rows), slice(*columns)]
    return cv2.resize(cut, (912, 1520), interpolation=cv2.INTER_AREA)
