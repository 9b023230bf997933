"""Synthetic weights and pictures are the numbers the golden vectors were made from."""

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from mammofm_lite.export import synthetic
from mammofm_lite.export.models.retinanet import RetinaNet, RetinaNetConfig

META = json.loads((Path(__file__).parents[1] / "data" / "golden" / "synthetic.json").read_text())
SEED = META["seed"]
SHAPES = {
    "_blocks.0._bn1.bias": (48,),
    "_blocks.17._depthwise_conv.weight": (768, 1, 3, 3),
    "_bn1.running_var": (2048,),
    "_conv_stem.weight": (48, 3, 3, 3),
    "cc_stretch_params": (2048, 2048),
    "classificationModel.output.bias": (9,),
    "fpn.P5_1.weight": (256, 2048, 1, 1),
    "image_projection.projection.weight": (512, 2048),
    "mlo_stretch_params": (2048, 2048),
}
EXACT_KEYS = tuple(sorted(META["tensor_sha256"]))


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def original(reference: Path) -> ModuleType:
    """The fixtures' own generator, as a module."""
    spec = importlib.util.spec_from_file_location(
        "synthetic_weights", reference / "synthetic_weights.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("key", EXACT_KEYS)
def test_tensor_equals_recorded(key: str):
    tensor = synthetic.synthetic_tensor(key, SHAPES[key], SEED)
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor.ravel()[:4], META["tensor_first4"][key], rtol=1e-6)
    # The zero-sum rows' mean may be summed in another order by another numpy build.
    if key not in ("fpn.P5_1.weight", "image_projection.projection.weight"):
        assert _sha256(tensor) == META["tensor_sha256"][key]


@pytest.mark.parametrize("name", sorted(META["image_sha256"]))
def test_image_is_bit_exact(name: str):
    picture, side, size = name.split("/")
    height, width = map(int, size.split("x"))
    image = synthetic.synthetic_image(height, width, SEED, picture, side)
    assert image.dtype == np.uint8
    assert _sha256(image) == META["image_sha256"][name]


@pytest.mark.parametrize("exam", [0, 1])
def test_features_equal_recorded(exam: int):
    features = synthetic.synthetic_asym_features(SEED, exam=exam)
    digests = {f"exam{exam}/{view}": _sha256(array) for view, array in features.items()}
    assert digests.items() <= META["feature_sha256"].items()


@pytest.mark.parametrize(
    "manifest", ["retinanet_b5", "classifier_b2", "projections_b5", "projections_b5_mlp"]
)
def test_state_dict_equals_original(reference: Path, original: ModuleType, manifest: str):
    entries = json.loads((reference / f"manifest_{manifest}.json").read_text())
    for key, shape, dtype in entries:
        ours = synthetic.synthetic_tensor(synthetic.weight_key(key), tuple(shape), SEED)
        assert ours.dtype == dtype
        np.testing.assert_array_equal(
            ours, original.synthetic_tensor(original.rng_key(key), shape, SEED), err_msg=key
        )


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("cc_stretch_params", (32, 32)),
        ("mlo_stretch_params", (32,)),
        ("cc_stretch_bias", (1, 32, 1, 1)),
        ("learned_asym_mean", ()),
        ("learned_asym_std", ()),
        ("bn.weight", (32,)),
        ("bn.running_var", (32,)),
        ("bn.num_batches_tracked", ()),
        ("logit_scale", ()),
        ("_blocks.3._project_conv.weight", (40, 144, 1, 1)),
        ("_blocks.4._project_conv.weight", (40, 240, 1, 1)),
    ],
)
def test_special_tensors_equal_original(original: ModuleType, key: str, shape: tuple[int, ...]):
    expected = original.synthetic_tensor(key, shape, 7)
    np.testing.assert_array_equal(synthetic.synthetic_tensor(key, shape, 7), expected)


def test_pictures_and_vectors_equal_original(original: ModuleType):
    raw = synthetic.synthetic_raw12(300, 200, 5, "raw12c", "L")
    assert raw.dtype == np.uint16
    np.testing.assert_array_equal(raw, original.synthetic_raw12(300, 200, 5, "raw12c", "L"))
    image = synthetic.synthetic_image(301, 187, 3, "R-MLO", "R")
    np.testing.assert_array_equal(image, original.synthetic_image(301, 187, 3, "R-MLO", "R"))
    np.testing.assert_array_equal(synthetic.normalise(image), original.normalise(image))
    for ours, theirs in (
        (synthetic.synthetic_feature, original.synthetic_feature),
        (synthetic.synthetic_vector, original.synthetic_vector),
    ):
        arguments = ("a/b", (2, 3, 4), 9, 1.5)
        np.testing.assert_array_equal(ours(*arguments), theirs(*arguments))


def test_fill_module_strips_encoder_prefix_and_renames():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.image_encoder = nn.Linear(4, 4)
            self.head = nn.Linear(4, 4)

    pair = synthetic.fill_module(Pair(), 2, lambda key: key.replace("head.", "classifier."))
    assert not pair.training
    for module, key in ((pair.image_encoder, "weight"), (pair.head, "classifier.weight")):
        expected = torch.from_numpy(synthetic.synthetic_tensor(key, (4, 4), 2))
        assert torch.equal(module.weight, expected)


def test_fill_module_reaches_every_tensor():
    detector = RetinaNet(RetinaNetConfig((8, 8, 8), n_classes=2, channels=8))
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    synthetic.fill_module(detector, 3)
    assert all(not torch.equal(before[k], v) for k, v in detector.state_dict().items())
