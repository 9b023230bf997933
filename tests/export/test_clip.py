"""Projections, zero-shot scoring and classifiers agree with the reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mammofm_lite.errors import ExportError
from mammofm_lite.export.models.clip import (
    ClipProjections,
    ImageProjection,
    normalised,
    pool_text,
    zero_shot_probabilities,
)
from mammofm_lite.export.models.diagnosis import DiagnosisHead, LabelGroup, LinearClassifier
from mammofm_lite.export.synthetic import (
    fill_module,
    normalise,
    synthetic_image,
    synthetic_vector,
)

SEED = 1
TOLERANCE = 1e-5  # absolute, on unit vectors, cosines and probabilities
POOLED_TOLERANCE = 1e-5  # over the standard deviation
KINDS = ("linear", "mlp")
PICTURES = (("image", "L"), ("L-CC", "L"), ("R-MLO", "R"))


@pytest.fixture(scope="module")
def hidden() -> torch.Tensor:
    return torch.from_numpy(synthetic_vector("text/hidden", (4, 9, 768), SEED))


def _projections(kind) -> ClipProjections:
    return fill_module(ClipProjections(2048, 768, 512, kind), SEED)


def _density_key(key: str) -> str:
    return key.replace("classifier.", "classifier4.")


def classifiers() -> tuple[LinearClassifier, LinearClassifier]:
    """The fixtures' binary and four-class heads."""
    binary = fill_module(LinearClassifier(2048, 1), SEED)
    return binary, fill_module(LinearClassifier(2048, 4), SEED, _density_key)


@pytest.mark.parametrize(("kind", "manifest"), [("linear", "b5"), ("mlp", "b5_mlp")])
def test_projection_keys_are_the_manifest(reference: Path, kind, manifest: str):
    entries = json.loads((reference / f"manifest_projections_{manifest}.json").read_text())
    state = ClipProjections(2048, 768, 512, kind).state_dict()
    ours = [[key, list(t.shape), "float32"] for key, t in state.items()]
    scale = [["logit_scale", [], "float32"]]
    assert ours == (entries if scale[0] in entries else scale + entries)


def test_classifier_keys_are_the_manifest(reference: Path):
    entries = json.loads((reference / "manifest_classifier_b5.json").read_text())
    state = LinearClassifier(2048, 1).state_dict()
    assert [[key, list(t.shape), "float32"] for key, t in state.items()] == entries[-2:]


@pytest.mark.parametrize("pooling", ["eos", "bos", "mean"])
def test_text_pooling_equals_reference(golden, hidden, pooling):
    expected = golden("clip_classifier")
    mask = torch.from_numpy(expected["attention_mask"])
    pooled = pool_text(hidden, mask, pooling)
    np.testing.assert_allclose(pooled, expected[f"text_pooled_{pooling}"], atol=TOLERANCE)


def test_image_features_equal_reference(golden, b5):
    expected = golden("clip_classifier")["image_pooled"]
    images = [normalise(synthetic_image(320, 192, SEED, *picture)) for picture in PICTURES]
    pooled, _ = b5(torch.from_numpy(np.concatenate(images)))
    assert np.abs(pooled.numpy() - expected).max() <= POOLED_TOLERANCE * expected.std()


@pytest.mark.parametrize("kind", KINDS)
def test_zero_shot_equals_reference(golden, hidden, kind):
    expected = golden("clip_classifier")
    clip = _projections(kind)
    mask = torch.from_numpy(expected["attention_mask"])
    text = normalised(clip.text_projection(pool_text(hidden, mask, "eos")))
    image = normalised(clip.image_projection(torch.from_numpy(expected["image_pooled"])))
    scaled = clip.logit_scale.exp() * image @ text.T
    actual = {
        "image_embeddings": image,
        "text_embeddings": text,
        "cosine": image @ text.T,
        "zero_shot_prob_all4": zero_shot_probabilities(image, text),
        "zero_shot_prob_pair01": zero_shot_probabilities(image, text[:2]),
        "prob_scaled_all4": scaled.softmax(-1),
    }
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[f"{kind}/{name}"], atol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(clip.logit_scale.exp(), expected[f"{kind}/logit_scale_exp"])
    np.testing.assert_allclose(scaled, expected[f"{kind}/logits_scaled"], atol=1e-4)


def test_classifiers_equal_reference(golden):
    expected = golden("clip_classifier")
    pooled = torch.from_numpy(expected["image_pooled"])
    binary, density = (classifier(pooled) for classifier in classifiers())
    np.testing.assert_allclose(binary, expected["classifier_binary/logits"], atol=TOLERANCE)
    np.testing.assert_allclose(density, expected["classifier_density/logits"], atol=TOLERANCE)
    np.testing.assert_array_equal(density.argmax(1), expected["classifier_density/argmax"])


# ---- the composite ------------------------------------------------------------------------------


def test_composite_concatenates_in_order():
    binary, density = LinearClassifier(8, 1), LinearClassifier(8, 4)
    projection = ImageProjection(8, 6, "linear")
    prompts = normalised(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
    head = DiagnosisHead(
        [
            LabelGroup("density", "categorical", density),
            LabelGroup("mass", "zero_shot", prompts),
            LabelGroup("malignancy", "binary", binary),
        ],
        projection,
    )
    pooled = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    probabilities, embedding = head(pooled)
    torch.testing.assert_close(probabilities[:, :4], density(pooled).softmax(1))
    torch.testing.assert_close(probabilities[:, 4:7], (embedding @ prompts.T).softmax(1))
    torch.testing.assert_close(probabilities[:, 7:], binary(pooled).sigmoid())
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_composite_without_projection_has_one_output():
    head = DiagnosisHead([LabelGroup("malignancy", "binary", LinearClassifier(8, 1))])
    assert len(head(torch.zeros(1, 8))) == 1


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], r"at least one label"),
        ([LabelGroup("mass", "zero_shot", torch.ones(2, 6))], r"need an image projection"),
        (
            [LabelGroup("mass", "binary", torch.ones(2, 6))],
            r"label 'mass' is binary: it needs a linear classifier",
        ),
        (
            [LabelGroup("mass", "binary", LinearClassifier(8, 2))],
            r"'mass' is binary with 2 outputs: expected exactly one output",
        ),
        (
            [LabelGroup("density", "categorical", LinearClassifier(8, 1))],
            r"'density' is categorical with 1 outputs: expected two or more classes",
        ),
    ],
)
def test_impossible_labels_are_refused(groups, message: str):
    with pytest.raises(ExportError, match=message):
        DiagnosisHead(groups)


def test_zero_shot_label_with_classifier_is_refused():
    group = LabelGroup("mass", "zero_shot", LinearClassifier(8, 2))
    with pytest.raises(ExportError, match=r"'mass' is zero_shot: it needs text embeddings"):
        DiagnosisHead([group], ImageProjection(8, 6, "linear"))
