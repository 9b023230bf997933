"""How well a report head tells findings of studies that it was not taught with."""

import numpy as np
import torch

from mammofm_lite.export.models.report import ReportModel
from mammofm_lite.export.quality.metrics import counted, precision_recall_f1
from mammofm_lite.export.quality.records import findings_of_report, findings_of_truth
from mammofm_lite.views import STANDARD_VIEWS

from .heard import Heard
from .reports import Writing

__all__ = ["findings_told"]


def findings_told(
    report: ReportModel, writing: Writing, heard: Heard
) -> tuple[float, float, float]:
    """Precision, recall and F1 of findings on kind, side and location, as `demo_quality` has them,
    in the reports that a head writes on plain pictures."""
    report.eval()
    device = report.projection.weight.device
    counts = np.zeros(3, np.int64)
    for index, truth in enumerate(heard.features.truths):
        views = [heard.view(index, place)[None] for place in range(len(STANDARD_VIEWS))]
        cells = [torch.from_numpy(np.array(view)).to(device) for view in views]
        said = writing.read(writing.write(report, cells))
        counts += counted(findings_of_truth(truth), findings_of_report(said))
    true, false, missed = counts.tolist()
    return precision_recall_f1(true, false, missed)
