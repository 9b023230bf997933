"""The risk curve as SVG: years across, the model's risk upwards."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from ..results import YearRisk
from ._markup import Markup, Value, element

__all__ = ["risk_curve", "scale_top"]

_WIDTH: Final = 400
_HEIGHT: Final = 190
_LEFT: Final = 48
_RIGHT: Final = 14
_TOP: Final = 22
_BOTTOM: Final = 34
_STEPS: Final = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)


def scale_top(greatest: float) -> float:
    """Where the scale ends: a round number at or above `greatest`, at most 1."""
    if greatest <= 0:
        return 0.01
    size = 10.0 ** math.floor(math.log10(greatest))
    return min(next(step * size for step in _STEPS if step * size >= greatest * 0.9999), 1.0)


def risk_curve(years: Sequence[YearRisk]) -> Markup:
    """A line through the risks; rings are the scores of the single years that it is made of."""
    top = scale_top(max(max(item.risk, item.score) for item in years))
    plot = _Plot(years[0].year, years[-1].year, top)
    told = "; ".join(f"{item.year}: {item.risk:.3f}" for item in years)
    return element(
        "svg",
        {
            "class": "curve",
            "viewBox": f"0 0 {_WIDTH} {_HEIGHT}",
            "role": "img",
            "aria-label": f"Risk of cancer within so many years, {told}",
        },
        plot.grid(years),
        plot.line(years),
        plot.points(years),
    )


class _Plot:
    def __init__(self, first: int, last: int, top: float) -> None:
        self._first, self._span, self._top = first, max(last - first, 1), top

    def x(self, year: float) -> float:
        inner = _WIDTH - _LEFT - _RIGHT - 40
        return round(_LEFT + 20 + inner * (year - self._first) / self._span, 1)

    def y(self, risk: float) -> float:
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * risk / self._top, 1)

    def grid(self, years: Sequence[YearRisk]) -> Iterator[Markup]:
        for part in range(5):
            value = self._top * part / 4
            y = self.y(value)
            yield element("path", {"class": "grid", "d": f"M{_LEFT} {y}H{_WIDTH - _RIGHT}"})
            yield _text("axis", _LEFT - 6, y + 4, f"{value:.3g}", anchor="end")
        for item in years:
            yield _text("axis", self.x(item.year), _HEIGHT - _BOTTOM + 16, str(item.year))
        yield _text("axis", (_WIDTH + _LEFT) / 2, _HEIGHT - 3, "within years")

    def line(self, years: Sequence[YearRisk]) -> Iterator[Markup]:
        points = " L".join(f"{self.x(item.year)} {self.y(item.risk)}" for item in years)
        floor = f"L{self.x(years[-1].year)} {self.y(0)} L{self.x(years[0].year)} {self.y(0)}Z"
        yield element("path", {"class": "area", "d": f"M{points} {floor}"})
        yield element("path", {"class": "line", "d": f"M{points}"})

    def points(self, years: Sequence[YearRisk]) -> Iterator[Markup]:
        for item in years:
            x = self.x(item.year)
            yield element("circle", {"class": "score", "cx": x, "cy": self.y(item.score), "r": 3.5})
            yield element("circle", {"class": "risk", "cx": x, "cy": self.y(item.risk), "r": 4})
            yield _text("value", x, self.y(item.risk) - 9, f"{item.risk:.3f}")


def _text(kind: str, x: float, y: float, words: str, anchor: str = "middle") -> Markup:
    place: dict[str, Value] = {"x": round(x, 1), "y": round(y, 1), "text-anchor": anchor}
    return element("text", {"class": kind, **place}, words)
