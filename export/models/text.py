"""Text encoders of the reference: a transformers model, pooling, projection, unit length.

The models are transformers' own; their attention goes through `tiled_attention`, so that a traced
encoder converts to ``mammofm.TiledAttention`` operations, ModernBERT's local layers with their
window. Nothing here reads a file or the network: configurations come as plain mappings.

Source: Devlin et al., arXiv 1810.04805 (BERT); Warner et al., arXiv 2412.13663 (ModernBERT);
facts 2.1, 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.modernbert.configuration_modernbert import ModernBertConfig
from transformers.models.modernbert.modeling_modernbert import ModernBertModel
from transformers.utils import logging

from mammofm_lite.errors import ExportError

from ..attention import tiled_attention
from .clip import ProjectionKind, TextPooling, TextProjection, normalised, pool_text

__all__ = ["TextArchitecture", "TextConfig", "TextEncoder"]

TextArchitecture = Literal["bert", "modernbert"]

_ATTENTION: Final = "mammofm_tiled"
_RAISED: Final = (TypeError, ValueError, AttributeError, KeyError, RuntimeError, ArithmeticError)
# Settings that would change the answer, and that transformers 5 or our attention ignores.
_FIXED: Final = {"is_decoder": False, "position_embedding_type": "absolute"}
_CONFIGS: Final[Mapping[str, type[PreTrainedConfig]]] = {
    "bert": BertConfig,
    "modernbert": ModernBertConfig,
}


@dataclass(frozen=True)
class TextConfig:
    """What a text encoder is, before it has weights.

    Parameters
    ----------
    architecture : {"bert", "modernbert"}
        Which transformers model.
    transformers : Mapping
        Its configuration, as ``config.json`` holds it.
    pooling : {"eos", "bos", "mean"}
        How token states become one vector.
    final_norm : bool
        ModernBERT only: whether token states are taken after its last normalisation. The
        reference's code took them before it with transformers 4 and after it with 5 (facts 4.5).
    max_length : int
        Most tokens of a text, special ones included.
    projection : {"linear", "mlp"}
        Shape of the projection.
    size : int
        Length of an embedding.

    Raises
    ------
    ExportError
        The configuration is not one of this architecture, or has fewer positions than
        `max_length`.
    """

    architecture: TextArchitecture
    transformers: Mapping[str, Any]
    pooling: TextPooling
    final_norm: bool
    max_length: int
    projection: ProjectionKind
    size: int

    def __post_init__(self) -> None:
        positions = self.model_config.max_position_embeddings
        if self.max_length > positions:
            raise ExportError(
                f"the text encoder has {positions} positions; 'max_length' cannot be "
                f"{self.max_length}"
            )
        if self.architecture == "bert" and not self.final_norm:
            raise ExportError("BERT has no final_norm to leave out")
        for name, only in _FIXED.items():
            if self.transformers.get(name, only) != only:
                raise ExportError(
                    f"the text encoder's config.json: {name!r} is "
                    f"{self.transformers[name]!r}, which is not supported; only {only!r} is"
                )

    @cached_property
    def model_config(self) -> Any:
        """The checked transformers configuration."""
        with _config_errors(self.architecture):
            config = _CONFIGS[self.architecture].from_dict(dict(self.transformers))
            config._attn_implementation = _ATTENTION
            return config


@contextmanager
def _config_errors(architecture: TextArchitecture) -> Iterator[None]:
    """What transformers raises over a configuration, as an error of ours."""
    try:
        yield
    except (StrictDataclassError, *_RAISED) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ExportError(
            f"the text encoder's config.json is not a {architecture} configuration: {reason}"
        ) from error


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface; gives ``[batch, queries, heads, channels]``."""
    # What transformers passes is the window with one added, as flash attention counts it.
    width = options.get("sliding_window")
    window = -1 if width is None else width - 1
    looked = tiled_attention(query, key, value, attention_mask, window=window)
    return looked.transpose(1, 2).contiguous(), None


def _key_mask(*, attention_mask: Tensor, **_options: Any) -> Tensor:
    """The mask that `_attend` gets: bool ``[batch, keys]``, without a row for every query."""
    return attention_mask


# Tracing reads attributes that make transformers speak of training, which is not done here.
logging.set_verbosity_error()
AttentionInterface.register(_ATTENTION, _attend)
AttentionMaskInterface.register(_ATTENTION, _key_mask)


class _Wrapped(nn.Module):
    """One name more, as the reference's wrapper of BERT puts it in front of the keys."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.text_encoder = model

    def forward(self, **inputs: Any) -> Any:
        return self.text_encoder(**inputs)


def _model(config: TextConfig) -> nn.Module:
    if config.architecture == "bert":
        return _Wrapped(BertModel(config.model_config, add_pooling_layer=False).float())
    model = ModernBertModel(config.model_config).float()
    if not config.final_norm:
        model.final_norm = nn.Identity()
    return model


class TextEncoder(nn.Module):
    """Token numbers in, unit vectors of the shared space out; keys as in a CLIP checkpoint."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        with _config_errors(config.architecture):
            self.text_encoder = _model(config)
        self.text_projection = TextProjection(
            config.model_config.hidden_size, config.size, config.projection
        )

    @property
    def unused(self) -> tuple[str, ...]:
        """How names begin that a checkpoint may hold for this encoder, and nothing depends on."""
        if self.config.architecture == "bert":
            inner = "text_encoder.text_encoder."
            return (f"{inner}pooler.", f"{inner}embeddings.position_ids")
        return () if self.config.final_norm else ("text_encoder.final_norm.",)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token states ``[n, length, channels]`` that are pooled."""
        states: Tensor = self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask.to(torch.bool)
        ).last_hidden_state
        return states

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed texts.

        Parameters
        ----------
        input_ids : Tensor
            int64 ``[n, length]``, padded on the right.
        attention_mask : Tensor
            int64 or bool ``[n, length]``, 1 at tokens and 0 at padding.

        Returns
        -------
        Tensor
            float32 ``[n, size]``, each of length 1.
        """
        mask = attention_mask.to(torch.int64)
        pooled = pool_text(self.hidden(input_ids, mask), mask, self.config.pooling)
        return normalised(self.text_projection(pooled))
