"""The demonstration model as one torch module: the bundle's own modules, trained together."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mammofm_lite._jsonread import Fields
from mammofm_lite.export.models.asymmetry import AsymmetryConfig, AsymmetryHead
from mammofm_lite.export.models.diagnosis import LinearClassifier
from mammofm_lite.export.models.efficientnet import EfficientNet, Features, named_config
from mammofm_lite.export.models.report import Memory, ReportConfig, ReportModel
from mammofm_lite.export.models.retinanet import RetinaNet, RetinaNetConfig
from mammofm_lite.export.recipe import PrognosisRecipe, Recipe, ReportRecipe
from mammofm_lite.export.report_text import (
    DESCRIPTORS,
    report_grammar,
    report_tokenizer,
    varied_report_grammar,
)
from mammofm_lite.export.synthetic import PIXEL_MEAN, PIXEL_STD
from mammofm_lite.grammar import Grammar
from mammofm_lite.views import STANDARD_VIEWS

from .fitting import minimise
from .folding import fold_norms
from .rounding import Rounding

__all__ = [
    "DENSE_CLASSES",
    "DENSITIES",
    "RISK_CLASSES",
    "Decoded",
    "DemoNetwork",
    "Prognoses",
    "ReportWords",
    "decoded",
    "logit_of_rare",
    "parts_of",
]

DENSITIES: Final = ("a", "b", "c", "d")
KINDS: Final = (
    "mass",
    "calcifications",
    "architectural_distortion",
    "focal_asymmetry",
    "intramammary_lymph_node",
)
DENSE_CLASSES: Final = (
    *KINDS,
    *("malignant", "suspicious", "precursor"),
    *(f"{name}: {value}" for name, values in DESCRIPTORS.items() for value in values),
    "nipple",
)
"""What every cell of a feature map is taught to say, so that lesions are learned where they are."""

RISK_CLASSES: Final = ("malignant", "precursor")
"""What lets a woman's risk rise. The first channels of the map say it, each one of them: the
prognosis compares channels of left and right, and has no direction of its own among them."""

_PRIOR: Final = 0.01
_SHARP: Final = 2.0
_FAINT: Final = 0.02
_START_RAW: Final = 3.0
_START_RISE: Final = 0.06
_TINY_HEAT: Final = 1e-8  # the root of nothing has no gradient


def logit_of_rare() -> float:
    """What a cell or an anchor answers at first: the share of those that hold something."""
    return float(torch.logit(torch.tensor(_PRIOR)))


def _rare(layer: nn.Module) -> None:
    """Start a layer of logits at the rarity of what it looks for (arXiv 1708.02002, 4.1)."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, logit_of_rare())


class ReportWords:
    """What reports are taught and written in, and their tokenizer, as the exporter makes them."""

    def __init__(self) -> None:
        self.grammar = Grammar.parse(Fields(varied_report_grammar(), "grammar.json"))
        self.written = Grammar.parse(Fields(report_grammar(), "grammar.json"))
        self.tokenizer = report_tokenizer()

    def encode(self, text: str) -> list[int]:
        """Tokens of one piece of text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


class Prognoses(nn.Module):
    """The asymmetry heads of all years, with the standardisation that they share.

    Because a head stretches every channel by one number, its heatmap is the root of a sum over
    channels of squared stretch times squared pooled difference. The latter has no parameters.
    """

    def __init__(self, spec: PrognosisRecipe, channels: int) -> None:
        super().__init__()
        if spec.stretch != "vector" or not spec.flexible:
            raise ValueError("training knows flexible heads with a vector stretch")
        config = AsymmetryConfig(
            channels, *spec.latent, stretch="vector", alignment=_alignment(spec)
        )
        self.heads = nn.ModuleList(AsymmetryHead(config) for _ in spec.years)
        self.mean = nn.Parameter(torch.tensor(3.0))
        self.log_std = nn.Parameter(torch.tensor(0.0))
        self.latent = spec.latent
        self.mirrors = config.alignment == "latent"

    def squares(self, left: Tensor, right: Tensor) -> Tensor:
        """Squared pooled differences ``[batch, channels, windows]`` of one projection's maps."""
        pooled = self._windows((left - self._as_left(right)).abs())
        return (pooled * pooled).flatten(2)

    def _as_left(self, right: Tensor) -> Tensor:
        return right.flip(3) if self.mirrors else right

    def _windows(self, maps: Tensor) -> Tensor:
        window = [size // part for size, part in zip(maps.shape[2:], self.latent, strict=True)]
        return functional.max_pool2d(maps, window, stride=1)

    def study_squares(self, maps: Tensor) -> Tensor:
        """`squares` of both projections ``[studies, 2, channels, windows]``.

        `maps` are those of the standard views in their order, study by study.
        """
        left_cc, left_mlo, right_cc, right_mlo = _views_of(maps)
        return torch.stack([self.squares(left_cc, right_cc), self.squares(left_mlo, right_mlo)], 1)

    def covered(self, cells: Tensor) -> Tensor:
        """Which windows hold something, on either side: 0 or 1, ``[studies, 2, windows]``.

        `cells` ``[views, 1, rows, columns]`` are 0 or 1, in the order of `study_squares`.
        """
        left_cc, left_mlo, right_cc, right_mlo = _views_of(cells)
        either = [
            torch.maximum(left, self._as_left(right))
            for left, right in ((left_cc, right_cc), (left_mlo, right_mlo))
        ]
        return torch.stack([self._windows(one).flatten(1) for one in either], dim=1)

    def start(self, squares: Tensor) -> None:
        """Compare what lets a risk rise, everything else faintly, so that the studies given have
        scores of a few units."""
        shares = torch.full((squares.shape[2], 1), _FAINT, device=squares.device)
        shares[: len(RISK_CLASSES)] = 1
        raw = torch.sqrt((shares**2 * squares).sum(dim=2).amax(dim=2)).mean()
        for year, head in enumerate(self.heads):  # later years are riskier
            wanted = _START_RAW * (1 + _START_RISE * year)
            for stretch in (head.cc_stretch_params, head.mlo_stretch_params):
                varied = torch.empty_like(stretch).uniform_(0.95, 1.05)
                stretch.copy_(varied * shares.reshape(stretch.shape) * wanted / raw)

    @torch.no_grad()
    def recentre(self, squares: Tensor, risks: Tensor) -> None:
        """Choose mean and std so that scores spread by one around the mean of `risks`.

        `squares` are ``[batch, 2, channels, windows]``, `risks` ``[batch, years]``.
        """
        raw = self._raw(squares)
        spread = raw.std().clamp(min=1e-3)
        self.log_std.copy_(spread.log())
        self.mean.copy_(raw.mean() - spread * torch.logit(risks.mean(), eps=1e-3))

    def fit(self, squares: Tensor, risks: Tensor) -> None:
        """Compare the channels that say what raises a risk, no others, in the way that fits best.

        Fitted with all 1280 channels, the prognosis told the risks of other phantoms no better.

        Parameters
        ----------
        squares
            Of those channels, the first ones: ``[studies, 2, channels, windows]``.
        risks
            True risks ``[studies, years]``.
        """
        count = squares.shape[2]
        stretch = nn.Parameter(self._stretch()[..., :count].detach().clone())
        for parameter in (self.mean, self.log_std):
            parameter.requires_grad_(True)

        def loss() -> Tensor:
            logits = self._scaled(_most_asymmetric(_heat(stretch, squares)))
            return functional.binary_cross_entropy_with_logits(logits, risks)

        minimise((stretch, self.mean, self.log_std), loss)
        with torch.no_grad():
            for head, fitted in zip(self.heads, stretch, strict=True):
                for own, value in zip(
                    (head.cc_stretch_params, head.mlo_stretch_params), fitted, strict=True
                ):
                    own.zero_()
                    own[:count] = value

    def logits(self, squares: Tensor) -> Tensor:
        """Logits of the risk ``[batch, years]`` from squares ``[batch, 2, channels, windows]``."""
        return self._scaled(self._raw(squares))

    def window_logits(self, squares: Tensor) -> Tensor:
        """What the logits would be if one window were the most asymmetric of both projections:
        ``[batch, years, 2, windows]``."""
        return self._scaled(torch.sqrt(_heat(self._stretch(), squares) + _TINY_HEAT))

    def _scaled(self, raw: Tensor) -> Tensor:
        return (raw - self.mean) / self.log_std.exp()

    def _raw(self, squares: Tensor) -> Tensor:
        return _most_asymmetric(_heat(self._stretch(), squares))

    def _stretch(self) -> Tensor:
        """Of all years and both projections: ``[years, 2, channels]``."""
        return torch.stack(
            [torch.stack([h.cc_stretch_params, h.mlo_stretch_params]) for h in self.heads]
        )


def _heat(stretch: Tensor, squares: Tensor) -> Tensor:
    """``[batch, years, 2, windows]``, squared."""
    return torch.einsum("ypc,bpcw->bypw", stretch * stretch, squares)


def _most_asymmetric(heat: Tensor) -> Tensor:
    """The root of the hottest window, in the mean of both projections: ``[batch, years]``."""
    return torch.sqrt(heat.amax(dim=3) + _TINY_HEAT).mean(dim=2)


def _views_of(maps: Tensor) -> tuple[Tensor, ...]:
    return maps.unflatten(0, (-1, len(STANDARD_VIEWS))).unbind(1)


def _alignment(spec: PrognosisRecipe) -> Any:
    return None if spec.alignment == "none" else spec.alignment


class PooledAnswers(NamedTuple):
    """Logits of the diagnosis head per picture."""

    malignancy: Tensor
    """``[batch]``."""
    density: Tensor
    """``[batch, 4]``."""


class DemoNetwork(nn.Module):
    """Encoder and heads with the sizes of a recipe."""

    def __init__(self, recipe: Recipe, words: ReportWords) -> None:
        super().__init__()
        assert recipe.localization is not None
        assert recipe.prognosis is not None
        assert recipe.report is not None
        spec = recipe.encoders[0]
        config = named_config(spec.architecture, spec.padding)
        channels = config.head_channels
        (found,) = recipe.localization.detectors
        self.kinds = found.labels
        self.encoder = EfficientNet(config)
        self.malignancy = LinearClassifier(channels, 1)
        self.density = LinearClassifier(channels, len(DENSITIES))
        detector = RetinaNetConfig(
            config.pyramid_channels, len(self.kinds), recipe.localization.channels
        )
        self.localization = RetinaNet(detector)
        self.dense_c3 = nn.Conv2d(config.pyramid_channels[0], len(DENSE_CLASSES), 1)
        self.dense_map = nn.Conv2d(channels, len(DENSE_CLASSES), 1)
        self.dense_offsets = nn.Conv2d(channels, 2, 1)
        self.prognosis = Prognoses(recipe.prognosis, channels)
        self.outputs = spec.outputs
        self.size = (recipe.preprocessing.height, recipe.preprocessing.width)
        self.report = ReportModel(
            _report_config(recipe.report, config.feature_shapes(self.size)["map"], words)
        )
        fold_norms(self.encoder)
        self.rounding = Rounding(self.encoder)
        self._start()

    def _start(self) -> None:
        for module in self.encoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        regression: Any = self.localization.regressionModel
        classification: Any = self.localization.classificationModel
        nn.init.zeros_(regression.output.bias)
        for layer in (classification.output, self.dense_c3, self.dense_map):
            _rare(layer)
        nn.init.normal_(self.dense_offsets.weight, std=0.01)
        nn.init.zeros_(self.dense_offsets.bias)
        for embedding in (m for m in self.report.modules() if isinstance(m, nn.Embedding)):
            nn.init.normal_(embedding.weight, std=0.1)

    def features(self, picture: Tensor) -> Features:
        """Features of grey pictures ``[batch, 1, height, width]`` from 0 to 1."""
        x = ((picture - PIXEL_MEAN) / PIXEL_STD).expand(-1, 3, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)
        whole = picture.shape[2:] == self.size
        self.rounding.follows = self.rounding.begun and self.training and whole
        with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda and self.training):
            found = self.encoder.features(x)
        return Features(found.pooled.float(), found.map.float(), found.c3.float(), found.c4.float())

    def risk_cells(self, maps: Tensor) -> Tensor:
        """Logits of what lets a risk rise, by the channels that say it: ``[batch, 2, rows,
        columns]`` of maps ``[batch, channels, rows, columns]``."""
        return _SHARP * maps[:, : len(RISK_CLASSES)] + logit_of_rare()

    def pooled(self, features: Features) -> PooledAnswers:
        """The diagnosis head."""
        pooled = features.pooled
        return PooledAnswers(self.malignancy(pooled)[:, 0], self.density(pooled))


def _report_config(
    spec: ReportRecipe, map_shape: Sequence[int], words: ReportWords
) -> ReportConfig:
    _, channels, rows, columns = map_shape
    return ReportConfig(
        channels=channels,
        rows=rows,
        columns=columns,
        dim=spec.dim,
        heads=spec.heads,
        fusion_layers=spec.fusion_layers,
        decoder_layers=spec.decoder_layers,
        vocabulary=words.tokenizer.get_vocab_size(),
        max_tokens=spec.max_tokens,
    )


class Decoded(NamedTuple):
    """A report after every token."""

    logits: Tensor
    """``[batch, n, vocabulary]`` for the token that follows."""
    looking: tuple[Tensor, ...]
    """Per layer, what it asks the visual tokens with: ``[batch, n, dim]``."""
    states: Tensor
    """What the logits are read from: ``[batch, n, dim]``."""


def decoded(model: ReportModel, tokens: Tensor, memory: Memory) -> Decoded:
    """All tokens at once, as `ReportModel.step` decodes them one by one.

    Parameters
    ----------
    tokens : Tensor
        int64 ``[batch, n]``, the begin token first.
    """
    places = torch.arange(tokens.shape[1], device=tokens.device)
    x = model.token_embedding(tokens) + model.position_embedding(places)
    looking = []
    for index, layer in enumerate(model.decoder):
        x = x + _look_back(layer.self_attention, layer.self_norm(x))
        looking.append(layer.cross_norm(x))
        look = (memory.keys[index], memory.values[index], memory.mask)
        x = x + layer.cross_attention(looking[-1], *look)
        x = x + layer.mlp(layer.mlp_norm(x))
    states = model.decoder_norm(x)
    return Decoded(states @ model.token_embedding.weight.T, tuple(looking), states)


def _look_back(attention: Any, x: Tensor) -> Tensor:
    """Self-attention of every token to itself and its forerunners."""
    key, value = attention.key_value(x)
    batch, heads, count, width = key.shape
    query = attention.query(x).reshape(batch, count, heads, width).transpose(1, 2)
    looked = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    out = attention.out(looked.transpose(1, 2).reshape(batch, count, heads * width))
    kept: Tensor = attention.dropout(out)
    return kept


def parts_of(network: DemoNetwork) -> Mapping[str, Mapping[str, Tensor]]:
    """State dicts of the bundle's parts, by the `key` that the recipe gives them."""
    years = {f"year{i}": head for i, head in enumerate(network.prognosis.heads, start=1)}
    modules = {
        "encoder": network.encoder,
        "malignancy": network.malignancy,
        "density": network.density,
        "localization": network.localization,
        "report": network.report,
        **years,
    }
    return {key: module.state_dict() for key, module in modules.items()}
