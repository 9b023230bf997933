"""Official checkpoint files are read, and nothing that they hold is run.

Files in every official format are made here from synthetic weights. The classes that such files
name exist for the moment of pickling alone, so that the reader finds them as absent as they are on
a user's machine.
"""

import builtins
import copyreg
import itertools
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import types
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mammofm_lite.bundle import Bundle
from mammofm_lite.dicom import read_study
from mammofm_lite.engine import InferOptions, Model
from mammofm_lite.errors import ExportError
from mammofm_lite.export import checkpoint as checkpoint_module
from mammofm_lite.export.build import export_bundle
from mammofm_lite.export.checkpoint import Inert, open_checkpoint
from mammofm_lite.export.graphs import PreparedInput
from mammofm_lite.export.models.asymmetry import AsymmetryConfig, AsymmetryHead
from mammofm_lite.export.models.boxes import evaluate, postprocess
from mammofm_lite.export.models.clip import ClipProjections, ImageProjection, normalised
from mammofm_lite.export.models.diagnosis import LinearClassifier
from mammofm_lite.export.models.efficientnet import (
    CONFIGS,
    EfficientNet,
    EfficientNetConfig,
    Features,
    named_config,
)
from mammofm_lite.export.models.retinanet import RetinaNet, RetinaNetConfig
from mammofm_lite.export.parts import CLIP_REST, EncoderPart, PrognosisPart, head_parts
from mammofm_lite.export.pickled import BACKBONE, asymmetry_config, check_paddings
from mammofm_lite.export.recipe import PrognosisRecipe, WeightSource, load_recipe
from mammofm_lite.export.synthetic import (
    fill_module,
    synthetic_tensor,
    synthetic_vector,
    weight_key,
)
from mammofm_lite.export.weights import load_into
from mammofm_lite.graphs import Graph
from mammofm_lite.phantom import write_phantom
from mammofm_lite.progress import StageReporter
from mammofm_lite.writers.info import describe, describe_text

# ---- files in the official formats --------------------------------------------------------------

Tensors = Mapping[str, Tensor]

EFFICIENTNET = "breastclip.model.modules.efficientnet_custom"
UTILS = "breastclip.model.modules.efficient_net_custom_utils"
HEAD = "mammo_clip_localized_diff_head"
METRICS = "asymmetry_metrics"
LISTS = "omegaconf.listconfig"
BASE = "omegaconf.base"
NODES = "omegaconf.nodes"


def hybrid_asymmetry() -> None:
    """Stands for the reference's function that prognosis files name."""


hybrid_asymmetry.__module__ = METRICS


@contextmanager
def throwaway_modules() -> Iterator[dict[str, type]]:
    """The classes of facts 2.3 and OmegaConf's, importable inside the block alone."""
    named = {
        EFFICIENTNET: ["EfficientNet", "MBConvBlock"],
        UTILS: ["Conv2dStaticSamePadding", "MemoryEfficientSwish", "BlockArgs", "GlobalParams"],
        HEAD: ["MammoCLIPLocalizedDifModel", "BreastClipClassifier"],
        LISTS: ["ListConfig"],
        BASE: ["ContainerMetadata", "Metadata"],
        NODES: ["AnyNode"],
    }
    plain = {"ListConfig", "ContainerMetadata", "Metadata", "AnyNode", "BlockArgs", "GlobalParams"}
    classes: dict[str, type] = {}
    added = {METRICS: types.ModuleType(METRICS)}
    added[METRICS].hybrid_asymmetry = hybrid_asymmetry
    for module_name, class_names in named.items():
        module = types.ModuleType(module_name)
        for name in class_names:
            base = object if name in plain else nn.Module
            classes[name] = type(name, (base,), {"__module__": module_name})
            setattr(module, name, classes[name])
        for parent in itertools.accumulate(module_name.split("."), "{}.{}".format):
            added.setdefault(parent, types.ModuleType(parent))
        added[module_name] = module
    assert not set(added) & set(sys.modules)
    sys.modules.update(added)
    try:
        yield classes
    finally:
        for name in added:
            del sys.modules[name]


def _filled(cls: type, **attributes: Any) -> Any:
    made = cls()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def clip_file(path: Path, model: Tensors) -> None:
    """A CLIP ``.tar``: optimizer state, and a configuration whose lists are OmegaConf's."""
    with throwaway_modules() as classes:
        metadata = _filled(classes["ContainerMetadata"], ref_type=Any, object_type=list, key="x")
        node = _filled(classes["AnyNode"], _val=0.9, _metadata=classes["Metadata"]())
        scale = _filled(classes["ListConfig"], _content=[node], _metadata=metadata)
        config = {
            "base": {"seed": 10},
            "transform": {"train": {"affine_scale": scale}},
            "optimizer": {"name": "adamw"},
        }
        state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}
        torch.save(
            {
                "model": dict(model),
                "optimizer": {"state": state, "param_groups": [{"lr": 5e-5, "params": [0]}]},
                "scheduler": {"last_epoch": 3},
                "config": config,
                "epoch": 7,
                "train_loss": 0.25,
            },
            path,
        )


def classifier_file(path: Path, model: Tensors, *, classes: int = 1) -> None:
    """A classifier ``.pth`` with numpy metrics."""
    metrics: dict[str, Any] = {"accuracy": np.float64(0.8), "f1": np.float32(0.7)}
    if classes == 1:
        metrics = {"auroc": np.float64(0.9), "classification_metrics": {"n": np.int64(3)}}
    predictions = np.linspace(0, 1, 7)
    torch.save({"model": dict(model), "predictions": predictions, "epoch": 4, **metrics}, path)


def detector_file(path: Path, model: Tensors) -> None:
    """A detector ``.pth``: ``state_dict``, not ``model``, and a numpy score."""
    torch.save({"state_dict": dict(model), "best_MAP": np.float64(0.5)}, path)


def _place(root: nn.Module, name: str, value: Tensor, buffer: bool) -> None:
    *parents, leaf = name.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root._modules[parent]
    if buffer:
        root.register_buffer(leaf, value)
    else:
        root.register_parameter(leaf, nn.Parameter(value, requires_grad=False))


def _encoder(classes: dict[str, type], config: EfficientNetConfig, tensors: Tensors) -> nn.Module:
    """The reference's encoder as an object: its tensors in place, and its padding layers."""
    encoder = classes["EfficientNet"]()
    encoder.global_params = classes["GlobalParams"]()
    encoder._swish = classes["MemoryEfficientSwish"]()
    for name, value in tensors.items():
        leaf = name.rsplit(".", 1)[-1]
        _place(encoder, name, value, leaf.startswith(("running_", "num_batches")))
    before, after = config.stem_padding
    encoder._conv_stem.static_padding = nn.ZeroPad2d((before, after, before, after))
    encoder._conv_head.static_padding = nn.Identity()
    for index, spec in enumerate(config.blocks):
        before, after = spec.padding
        block = encoder._blocks._modules[str(index)]
        block._depthwise_conv.static_padding = nn.ZeroPad2d((before, after, before, after))
    return encoder


def prognosis_file(
    path: Path, config: EfficientNetConfig, encoder: Tensors, head: Mapping[str, Any], **other: Any
) -> None:
    """A prognosis ``.pt``: one pickled module; the head's tensors are plain attributes."""
    with throwaway_modules() as classes:
        model = classes["MammoCLIPLocalizedDifModel"]()
        model.backbone = classes["BreastClipClassifier"]()
        model.backbone.image_encoder = _encoder(classes, config, encoder)
        channels = config.head_channels
        attributes = {
            "cc_stretch_bias": torch.zeros(1, channels, 1, 1),
            "mlo_stretch_bias": torch.zeros(1, channels, 1, 1),
            "initial_asym_mean": 364,
            "initial_asym_std": 163,
            "use_stretch": True,
            "use_stretch_matrix": True,
            "flexible_asymmetry": True,
            "latent_h": 5,
            "latent_w": 5,
            "topk_for_heatmap": None,
            "alignment_space": None,
            "use_bn": False,
            "bias_term": None,
            "device": torch.device("cuda:0"),
            "train_backbone": False,
            "asymmetry_metric": hybrid_asymmetry,
        }
        for name, value in {**attributes, **head, **other}.items():
            setattr(model, name, value)
        torch.save(model, path)


# ---- reading them -------------------------------------------------------------------------------

TINY = EfficientNetConfig("tiny", 0.25, 0.3, 64)


def source(path: Path, key: str = "", prefix: str = "", **more: Any) -> WeightSource:
    return WeightSource("file", path=path, key=key, prefix=prefix, **more)


def state(module: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    """Synthetic weights of a module."""
    return dict(fill_module(module, seed).state_dict())


def prefixed(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def same(module: nn.Module, tensors: Tensors) -> bool:
    own = module.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[k], tensors[k]) for k in own)


def tiny_head(seed: int = 1) -> dict[str, Tensor]:
    """What a prognosis object keeps as attributes, with gradients as in the reference."""
    config = AsymmetryConfig(channels=TINY.head_channels)
    return {
        name: value.clone().requires_grad_()
        for name, value in state(AsymmetryHead(config), seed).items()
    }


def manifest(reference: Path, name: str) -> dict[str, Tensor]:
    """Synthetic tensors for one of the reference's lists of keys and shapes."""
    entries = json.loads((reference / f"manifest_{name}.json").read_text())
    return {
        key: torch.from_numpy(np.array(synthetic_tensor(weight_key(key), tuple(shape), 1)))
        for key, shape, _ in entries
    }


def test_a_clip_file_with_omegaconf_lists(tmp_path: Path) -> None:
    encoder = state(EfficientNet(TINY))
    rest = state(ClipProjections(TINY.head_channels, 24, 16, "linear"))
    path = tmp_path / "clip.tar"
    clip_file(path, {**prefixed("image_encoder.", encoder), **rest})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    module = EfficientNet(TINY)
    origin = load_into(module, source(path, "model", "image_encoder."))
    assert same(module, encoder)
    assert origin["ignored"] == ["optimizer", "scheduler", "config", "epoch", "train_loss"]
    assert re.fullmatch("[0-9a-f]{64}", origin["sha256"])
    assert "omegaconf" not in sys.modules


@pytest.mark.parametrize("classes", [1, 4])
def test_a_classifier_file_with_numpy_metrics(tmp_path: Path, classes: int) -> None:
    head = state(LinearClassifier(TINY.head_channels, classes))
    path = tmp_path / "classifier.pth"
    backbone = prefixed("image_encoder.", state(EfficientNet(TINY)))
    classifier_file(path, {**backbone, **head}, classes=classes)
    module = LinearClassifier(TINY.head_channels, classes)
    origin = load_into(module, source(path, "model"), ignore=("image_encoder.",))
    assert same(module, head)
    assert origin["ignored"][:2] == ["predictions", "epoch"]


def test_a_detector_file(tmp_path: Path) -> None:
    detector = state(RetinaNet(RetinaNetConfig(TINY.pyramid_channels, 1, 8)))
    encoder = state(EfficientNet(TINY.with_padding("nominal")))
    extra = {"efficientnet._fc.weight": torch.ones(1, 2), "efficientnet._fc.bias": torch.ones(1)}
    path = tmp_path / "detector.pth"
    detector_file(path, {**detector, **prefixed("efficientnet.", encoder), **extra})
    module = RetinaNet(RetinaNetConfig(TINY.pyramid_channels, 1, 8))
    origin = load_into(module, source(path, "state_dict"), ignore=("efficientnet.",))
    assert same(module, detector)
    assert origin["ignored"] == ["best_MAP"]
    backbone = EfficientNet(TINY)
    load_into(backbone, source(path, "state_dict", "efficientnet."), ignore=("_fc.",))
    assert same(backbone, encoder)


def test_a_prognosis_file_is_a_whole_pickled_object(tmp_path: Path) -> None:
    encoder, head, path = state(EfficientNet(TINY)), tiny_head(), tmp_path / "prognosis.pt"
    prognosis_file(path, TINY, encoder, head)
    module = EfficientNet(TINY)
    load_into(module, source(path, prefix=BACKBONE, object=True))
    assert same(module, encoder)
    loaded = AsymmetryHead(AsymmetryConfig(channels=TINY.head_channels))
    ignore = ("backbone.", "cc_stretch_bias", "mlo_stretch_bias")
    origin = load_into(loaded, source(path, object=True), ignore=ignore)
    assert same(loaded, head)
    assert {"cc_stretch_bias", "device", "asymmetry_metric"} <= set(origin["ignored"])
    assert not any(name.startswith("breastclip") for name in sys.modules)


def test_a_prognosis_file_with_its_own_batch_norm(tmp_path: Path) -> None:
    config = AsymmetryConfig(channels=TINY.head_channels, use_bn=True)
    head, path = state(AsymmetryHead(config)), tmp_path / "bn.pt"
    plain = {name: value for name, value in head.items() if not name.startswith("bn.")}
    norm = nn.BatchNorm2d(TINY.head_channels)
    norm.load_state_dict({n[3:]: v for n, v in head.items() if n.startswith("bn.")})
    prognosis_file(path, TINY, state(EfficientNet(TINY)), plain, use_bn=True, bn=norm)
    loaded = AsymmetryHead(config)
    ignore = ("backbone.", "cc_stretch_bias", "mlo_stretch_bias")
    load_into(loaded, source(path, object=True), ignore=ignore)
    assert same(loaded, head)


def rewrite(path: Path, change: Callable[[str, bytes], bytes], **options: Any) -> None:
    """Change records of a torch file."""
    with zipfile.ZipFile(path) as old:
        records = {record.filename: old.read(record) for record in old.infolist()}
    with zipfile.ZipFile(path, "w", **options) as new:
        for name, data in records.items():
            new.writestr(name, change(name, data))


def test_storages_on_a_gpu_are_read_into_main_memory(tmp_path: Path) -> None:
    path = tmp_path / "cuda.pth"
    head = state(LinearClassifier(8, 1))
    classifier_file(path, head)

    def to_cuda(name: str, data: bytes) -> bytes:
        cpu, cuda = (b"X" + struct.pack("<I", len(text)) + text for text in (b"cpu", b"cuda:0"))
        assert not name.endswith("data.pkl") or cpu in data
        return data.replace(cpu, cuda) if name.endswith("data.pkl") else data

    rewrite(path, to_cuda)
    module = LinearClassifier(8, 1)
    load_into(module, source(path, "model"))
    assert same(module, head)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_views_and_other_kinds_of_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    tensors = {"view": whole[1:3, ::2], "turned": whole.T, "none": whole[:0], "one": whole[2, 3]}
    torch.save({"model": tensors, "metric": np.float64(1)}, tmp_path / "c.pt")
    found = open_checkpoint(tmp_path / "c.pt").state_dict("model").tensors
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("size", ["b2", "b5"])
def test_official_keys_and_shapes(tmp_path: Path, reference: Path, size: str) -> None:
    """Files with the keys and shapes of the published networks load without one left over."""
    config = named_config(size)
    classifier = manifest(reference, f"classifier_{size}")
    classifier_file(tmp_path / "c.pth", classifier)
    load_into(
        LinearClassifier(config.head_channels, 1),
        source(tmp_path / "c.pth", "model"),
        ignore=("image_encoder.",),
    )
    encoder = EfficientNet(config)
    load_into(encoder, source(tmp_path / "c.pth", "model", "image_encoder."))
    assert same(encoder, manifest(reference, size))

    detector_file(tmp_path / "d.pth", manifest(reference, f"retinanet_{size}"))
    module = RetinaNet(RetinaNetConfig(config.pyramid_channels, 1, 256))
    load_into(module, source(tmp_path / "d.pth", "state_dict"), ignore=("efficientnet.",))

    prognosis_file(tmp_path / "p.pt", config, encoder.state_dict(), {})
    again = EfficientNet(config)
    load_into(again, source(tmp_path / "p.pt", prefix=BACKBONE, object=True))
    assert same(again, encoder.state_dict())
    check_paddings(source(tmp_path / "p.pt", prefix=BACKBONE, object=True), config)


@pytest.mark.parametrize("name", ["b2", "b5", "b5_mlp"])
def test_official_projections(tmp_path: Path, reference: Path, name: str) -> None:
    tensors = manifest(reference, f"projections_{name}")
    clip_file(tmp_path / "c.tar", {**tensors, "image_encoder._bn1.bias": torch.ones(3)})
    holder = nn.Module()
    kind = "mlp" if name.endswith("mlp") else "linear"
    channels = named_config(name[:2]).head_channels
    holder.image_projection = ImageProjection(channels, 512, kind)
    load_into(holder, source(tmp_path / "c.tar", "model"), ignore=CLIP_REST)
    assert same(holder, {n: t for n, t in tensors.items() if n.startswith("image_projection.")})


# ---- files that want to run something ----------------------------------------------------------


class Call:
    """An object whose pickle asks for a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced


def touching(kind: str, target: Path) -> Any:
    """Something that creates `target` when a careless reader unpickles it."""
    code = f"open({str(target)!r}, 'w').close()"
    return {
        "os.system": lambda: Call(os.system, f"touch {target}"),
        "subprocess": lambda: Call(subprocess.check_call, ["touch", str(target)]),
        "exec": lambda: Call(builtins.exec, code),
        "eval": lambda: Call(builtins.eval, f"open({str(target)!r}, 'w')"),
        "open": lambda: Call(builtins.open, str(target), "w"),
        "partial": lambda: Call(partial(os.system, f"touch {target}")),
        "torch.load": lambda: Call(torch.load, str(target)),
        "torch.save": lambda: Call(torch.save, 1, str(target)),
        "torch.hub": lambda: Call(torch.hub.load, str(target), "x"),
        "numpy.load": lambda: Call(np.load, str(target)),
        "numpy.save": lambda: Call(np.save, str(target), 1),
        "pickle.loads": lambda: Call(pickle.loads, pickle.dumps(Call(exec, code))),
    }[kind]()


KINDS = (
    *("os.system", "subprocess", "exec", "eval", "open", "partial"),
    *("torch.load", "torch.save", "torch.hub", "numpy.load", "numpy.save", "pickle.loads"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_runs_code_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "executed", tmp_path / "evil.pth"
    classifier_file(path, {"weight": torch.ones(2)})
    torch.save({"model": {"weight": torch.ones(2)}, "f1": touching(kind, target)}, path)
    named = (
        r"evil\.pth holds more than tensors and was not opened: it names '.+', which no official"
    )
    with pytest.raises(ExportError, match=named):
        open_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("kind", ["os.system", "exec", "partial", "torch.save", "pickle.loads"])
def test_those_files_do_run_in_a_careless_reader(tmp_path: Path, kind: str) -> None:
    """The proof above is one only if the files are what they claim to be."""
    target, path = tmp_path / "executed", tmp_path / "evil.pth"
    torch.save({"model": {}, "f1": touching(kind, target)}, path)
    torch.load(path, weights_only=False)
    assert target.exists()


def name_of(module: bytes, name: bytes) -> bytes:
    """The opcodes that ask for a name in the newer way, which allows dots."""
    texts = (b"\x8c" + bytes([len(text)]) + text for text in (module, name))
    return b"\x80\x04" + b"".join(texts) + b"\x93"


FUNCTION = b"ctorch._utils\n_rebuild_tensor_v2\n"
# Pickles that no pickler writes, and what is said of each. {} is the target's path.
HANDMADE = {
    "getattr on a module": (
        b"cbuiltins\ngetattr\n(cimportlib\nimport_module\n(Vos\ntRVsystem\ntR(Vtouch {}\ntR.",
        "it names 'builtins.getattr'",
    ),
    "a dotted way out of a known name": (
        name_of(b"collections", b"OrderedDict.__init__.__globals__") + b".",
        "it names 'collections.OrderedDict.__init__.__globals__'",
    ),
    "a dotted way out of torch": (
        name_of(b"torch", b"serialization.os.system") + b"(Vtouch {}\ntR.",
        "it names 'torch.serialization.os.system'",
    ),
    "the old class opcode": (b"(Vtouch {}\nios\nsystem\n.", "it names 'os.system'"),
    "the old object opcode": (b"(cos\nsystem\nVtouch {}\no.", "it names 'os.system'"),
    "a far memo slot": (b"\x80\x02Nr\xff\xff\xff\x7f.", "a memo slot out of range"),
    "state for a function of ours": (FUNCTION + b"(dV_run\nI1\nsb.", "state for a _Function"),
    "slots for a function of ours": (
        FUNCTION + b"(N(dV_run\nI1\nstb.",
        "state for a _Function",
    ),
    "state for a class of ours": (b"comegaconf.x\nY\n(dVorigin\nI1\nsb.", "__setstate__"),
    "slots of a class of ours": (b"comegaconf.x\nY\n(N(dVorigin\nI1\nstb.", "__setstate__"),
    "state for a real class": (b"cbuiltins\nset\n(dVx\nI1\nsb.", "does not support"),
    "a call of an inert object": (b"comegaconf.x\nY\n)R)R.", "not callable"),
    "a method of an inert object": (
        b"comegaconf.x\nY\n)R}V__setstate__\ncos\nsystem\nsb.",
        "it names 'os.system'",
    ),
    "a tensor without a storage": (FUNCTION + b"(NI0\n))tR.", "a tensor of an unknown kind"),
    "a storage of another kind": (
        b"(Vstorage\ncomegaconf.x\nY\nV0\nVcpu\nI1\ntQ.",
        "a storage of an unknown kind",
    ),
    "a reference that is not a storage": (b"(Vmodule\nVos\ntQ.", "not a storage"),
    "a parameter that is not a tensor": (
        b"ctorch._utils\n_rebuild_parameter\n(I1\nI0\nNtR.",
        "a parameter that is not a tensor",
    ),
    "no end": (b"(((((", "pickle exhausted"),
}


def with_pickle(path: Path, data: bytes) -> None:
    """A torch file whose description is these bytes."""
    torch.save({"metric": np.float64(1)}, path)
    rewrite(path, lambda name, old: data if name.endswith("data.pkl") else old)


@pytest.mark.parametrize(("data", "message"), HANDMADE.values(), ids=HANDMADE.keys())
def test_handmade_pickles_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    target, path = tmp_path / "executed", tmp_path / "evil.pt"
    with_pickle(path, data.replace(b"{}", str(target).encode()))
    known = checkpoint_module._KNOWN["torch._utils._rebuild_tensor_v2"]
    before = known._run
    # Once by our reader alone, which torch's would otherwise shield from some of them.
    with pytest.raises(ExportError, match=f"^checkpoint evil.pt .*{re.escape(message)}"):
        checkpoint_module._open_inert(path)
    with pytest.raises(ExportError, match=r"^checkpoint evil\.pt"):
        open_checkpoint(path).state_dict()
    assert known._run is before
    assert checkpoint_module._inert_class("omegaconf.x.Y").origin == "omegaconf.x.Y"
    assert not target.exists()


@pytest.mark.parametrize("cached", [False, True])
def test_an_extension_that_the_program_registered(tmp_path: Path, cached: bool) -> None:
    """`pickle` keeps such functions in a table of its own and asks nobody."""
    target, path = tmp_path / "executed", tmp_path / "evil.pt"
    with_pickle(path, b"\x80\x02\x82\x7f(V" + f"touch {target}".encode() + b"\ntR.")
    copyreg.add_extension("os", "system", 127)
    try:
        if cached:
            assert pickle.loads(b"\x80\x02\x82\x7f.") is os.system
        with pytest.raises(ExportError, match="a registered extension"):
            checkpoint_module._open_inert(path)
        with pytest.raises(ExportError, match=r"^checkpoint evil\.pt"):
            open_checkpoint(path)
    finally:
        copyreg.remove_extension("os", "system", 127)
        copyreg.clear_extension_cache()
    assert not target.exists()


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The pickle of a small file that holds every kind of foreign object."""
    path = tmp_path_factory.mktemp("fuzz") / "clip.tar"
    clip_file(path, {"image_encoder.weight": torch.ones(2, 3), "logit_scale": torch.ones(())})
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))


REFUSALS = (
    *(ExportError, pickle.UnpicklingError, AttributeError, EOFError, IndexError),
    *(KeyError, OverflowError, TypeError, ValueError),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 5000), st.integers(0, 255), st.booleans()), min_size=1, max_size=8
    )
)
def test_any_bytes_give_an_answer_or_an_error(
    description: bytes, changes: list[tuple[int, int, bool]]
) -> None:
    """Whatever a pickle says: it is built of our own objects, or it is refused."""
    data = bytearray(description)
    for place, value, insert in changes:
        at = place % len(data)
        data[at : at + (not insert)] = bytes([value])
    try:
        checkpoint_module._scan(bytes(data))
        root = checkpoint_module._Unpickler(bytes(data), "c.pt").load()
    except REFUSALS:
        return
    kinds = (*(dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float), type(None))
    ours = (type, Inert, checkpoint_module._Sealed)
    assert isinstance(root, kinds + ours)


def test_known_names_are_stubs_that_do_nothing(tmp_path: Path) -> None:
    """Even a name that an official file may hold is never the real thing."""
    unpickle = partial(checkpoint_module._Unpickler, file="c.pt")
    for line in (
        b"c_codecs\nencode\n",
        b"cbuiltins\nlist\n",
        b"cnumpy\nndarray\n",
        b"casymmetry_metrics\nhybrid_asymmetry\n",
        b"ctorch\ndevice\n",
    ):
        made = unpickle(line + b"(I1\ntR.").load()
        assert isinstance(made, Inert)
        assert made.args == (1,)
    assert type(unpickle(b"ccollections\nOrderedDict\n)R.").load()).__base__ is dict


def test_a_message_shows_no_control_characters(tmp_path: Path) -> None:
    with_pickle(tmp_path / "evil.pt", b"c\x1b[2Jos\n\x07" + b"x" * 300 + b"\n.")
    with pytest.raises(ExportError) as caught:
        checkpoint_module._open_inert(tmp_path / "evil.pt")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


# ---- damaged files and limits ------------------------------------------------------------------


def test_a_tensor_larger_than_its_storage(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"model": {"w": torch.ones(300)}, "m": np.float64(1)}, path)
    size = struct.pack("<BH", ord("M"), 300)
    assert size == b"M\x2c\x01"

    def larger(name: str, data: bytes) -> bytes:
        # The second 300 is the tensor's shape; the first, its storage's length.
        head, first, rest = data.partition(size)
        return head + first + rest.replace(size, b"M\xff\xff", 1)

    rewrite(path, lambda name, data: larger(name, data) if name.endswith("data.pkl") else data)
    with pytest.raises(ExportError, match=r"c\.pt cannot be read: a tensor that is larger than"):
        checkpoint_module._open_inert(path)


def test_a_few_numbers_cannot_stand_for_many(tmp_path: Path) -> None:
    wide = {"model": {"w": torch.ones(1).expand(1 << 20)}}
    torch.save(wide, tmp_path / "c.pt")
    with pytest.raises(ExportError, match=r"c\.pt holds a tensor of another kind"):
        open_checkpoint(tmp_path / "c.pt").state_dict("model")
    torch.save({**wide, "m": np.float64(1)}, tmp_path / "c.pt")
    with pytest.raises(ExportError, match=r"c\.pt cannot be read: a tensor that is larger than"):
        open_checkpoint(tmp_path / "c.pt")


def test_a_short_record_and_a_flipped_bit(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    original = {"model": {"w": torch.arange(64.0)}, "m": np.float64(1)}
    torch.save(original, path)
    rewrite(path, lambda name, data: data[:-4] if "/data/" in name else data)
    with pytest.raises(ExportError, match=r"c\.pt is damaged; copy it anew"):
        open_checkpoint(path).state_dict("model")
    torch.save(original, path)
    data = path.read_bytes()
    numbers = original["model"]["w"].numpy().tobytes()
    path.write_bytes(data.replace(numbers, bytes(len(numbers))))
    with pytest.raises(ExportError, match=r"c\.pt is damaged; copy it anew"):
        open_checkpoint(path).state_dict("model")


def test_a_flipped_bit_in_a_file_of_tensors_alone(tmp_path: Path) -> None:
    """Torch's own reader does not look at checksums."""
    path, module = tmp_path / "c.pt", nn.Linear(3, 2)
    numbers = module.weight.detach().numpy().tobytes()
    torch.save(module.state_dict(), path)
    load_into(nn.Linear(3, 2), source(path))
    path.write_bytes(path.read_bytes().replace(numbers, bytes(len(numbers))))
    with pytest.raises(ExportError, match=r"c\.pt is damaged; copy it anew"):
        load_into(nn.Linear(3, 2), source(path))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"model": {"w": torch.zeros(1000)}, "m": np.float64(1)}, path)
    rewrite(path, lambda name, data: data, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ExportError, match=r"c\.pt"):
        open_checkpoint(path)


def test_a_description_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "MAX_PICKLE_BYTES", 10)
    torch.save({"m": np.float64(1)}, tmp_path / "c.pt")
    with pytest.raises(ExportError, match=r"c\.pt cannot be read: its description has \d+ bytes"):
        open_checkpoint(tmp_path / "c.pt")


def test_a_module_that_contains_itself_ends(tmp_path: Path) -> None:
    with throwaway_modules() as classes:
        module = classes["MammoCLIPLocalizedDifModel"]()
        module._modules["left"] = module._modules["right"] = module
        torch.save(module, tmp_path / "loop.pt")
    with pytest.raises(ExportError, match=r"loop\.pt holds a module of more than 100000 parts"):
        open_checkpoint(tmp_path / "loop.pt").module_tensors()


def test_an_old_file_that_is_no_zip(tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(2)}
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert open_checkpoint(tmp_path / "old.pt").state_dict().tensors.keys() == {"weight"}
    torch.save(
        {**tensors, "m": np.float64(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False
    )
    with pytest.raises(ExportError, match=r"old\.pt holds more than tensors .* before 1\.6"):
        open_checkpoint(tmp_path / "old.pt")


def test_a_state_dict_is_not_an_object_and_the_other_way_round(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "c.pt")
    with pytest.raises(ExportError, match=r"c\.pt does not hold a pickled module"):
        load_into(nn.Linear(1, 1), source(tmp_path / "c.pt", object=True))
    prognosis_file(tmp_path / "p.pt", TINY, state(EfficientNet(TINY)), {})
    with pytest.raises(ExportError, match=r"p\.pt has no state dict under 'model'"):
        load_into(nn.Linear(1, 1), source(tmp_path / "p.pt", "model"))


def test_keys_under_a_prefix_are_checked_too(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2, 3), "a.more": torch.ones(1)}, tmp_path / "c.pt")
    with pytest.raises(ExportError, match=re.escape("1 missing (bias); 1 unexpected (more)")):
        load_into(nn.Linear(3, 2), source(tmp_path / "c.pt", prefix="a."))


# ---- what a pickled module says of itself ------------------------------------------------------

RECIPE = PrognosisRecipe(
    shared_backbone=False,
    stretch="matrix",
    latent=(5, 5),
    flexible=True,
    alignment="none",
    mean=None,
    std=None,
    years=(),
)


def config_of(path: Path, recipe: PrognosisRecipe = RECIPE, **attributes: Any) -> AsymmetryConfig:
    prognosis_file(path, TINY, state(EfficientNet(TINY)), tiny_head(), **attributes)
    return asymmetry_config(recipe, 3, source(path, object=True), TINY.head_channels)


def test_mean_and_std_come_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    config = config_of(path)
    assert (config.mean, config.std) == (364.0, 163.0)
    assert (config.use_bn, config.topk) == (False, None)
    learned = {"learned_asym_mean": torch.tensor(340.5), "learned_asym_std": torch.tensor([150.0])}
    config = config_of(path, **learned)
    assert (config.mean, config.std) == (340.5, 150.0)
    config_of(path, replace(RECIPE, mean=364.0, std=163.0))


@pytest.mark.parametrize(
    ("recipe", "attributes", "message"),
    [
        ({"latent": (5, 4)}, {}, "latent is [5, 5] in the file, [5, 4] in the recipe"),
        ({"stretch": "vector"}, {}, "stretch is 'matrix' in the file, 'vector' in the recipe"),
        ({}, {"use_stretch": False}, "stretch is 'none' in the file, 'matrix' in the recipe"),
        ({}, {"alignment_space": "pixel"}, "alignment is 'pixel' in the file, 'none' in"),
        ({"mean": 356.0}, {}, "mean is 364.0 in the file, 356.0 in the recipe"),
        ({}, {"flexible_asymmetry": False}, "flexible is False in the file, True in the recipe"),
        ({}, {"use_bn": None}, "'use_bn' is missing or no bool"),
        ({}, {"latent_h": True}, "'latent_h' is missing or no int"),
        ({}, {"latent_h": 10**5000}, "'latent_h' is missing or no int"),
        ({}, {"initial_asym_mean": 10**5000}, "its mean is None, not usable"),
        ({}, {"alignment_space": "x" * 10**5}, "xxx... in the file, 'none' in the recipe"),
        ({}, {"initial_asym_std": 0}, "its std is 0.0, not usable"),
        ({}, {"bias_term": torch.ones(1)}, "'bias_term' is not supported"),
    ],
)
def test_a_recipe_that_contradicts_its_file(
    tmp_path: Path, recipe: dict[str, Any], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        config_of(tmp_path / "p.pt", replace(RECIPE, **recipe), **attributes)


def test_padding_that_the_architecture_would_not_have(tmp_path: Path) -> None:
    """The same weights fit both padding rules: only the pickled layers tell them apart."""
    path = tmp_path / "p.pt"
    b0 = named_config("b0")
    prognosis_file(path, b0, state(EfficientNet(b0)), {})
    wanted = source(path, prefix=BACKBONE, object=True)
    check_paddings(wanted, b0)
    with pytest.raises(ExportError, match=r"p\.pt: _blocks\.\d+\._depthwise_conv pads by"):
        check_paddings(wanted, replace(b0, nominal_px=260))


# ---- a whole bundle from official files --------------------------------------------------------

PROGRAM = str(Path(sys.executable).with_name("mammofm-lite"))
SHARED = """
[bundle]
name = "tiny"
version = "1.0.0"
intended_use = "Tests only."
synthetic = {synthetic}
half_weights = false

[licence]
id = "LicenseRef-Test"
notice = "Research only."
restricted = {restricted}

[preprocessing]
height = 192
width = 160
border_px = 5
background_threshold = 40
mirror = "none"

[encoders.clip]
architecture = "b0"
padding = "progressive"
outputs = ["pooled"]
weights = {clip}

[encoders.detector]
architecture = "b0"
padding = "nominal"
input_size = [128, 128]
outputs = ["c3", "c4", "c5"]
weights = {detector}

[encoders.prognosis]
architecture = "b0"
padding = "progressive"
outputs = ["map"]
weights = {prognosis}

[heads.diagnosis]
encoder = "clip"

[[heads.diagnosis.labels]]
name = "malignancy"
kind = "binary"
breast = "mean"
study = "max"
recall = true
weights = {malignancy}

[[heads.diagnosis.labels]]
name = "density"
kind = "categorical"
classes = ["a", "b", "c", "d"]
breast = "mean"
study = "highest_class"
recall = false
weights = {density}

[heads.localization]
encoder = "detector"
channels = 16
max_detections = 100

[[heads.localization.detectors]]
labels = ["mass"]
threshold = 0.2
weights = {mass}

[heads.prognosis]
encoder = "prognosis"
shared_backbone = {shared}
stretch = "matrix"
latent = [3, 3]
flexible = true
alignment = "none"
{standard}

[[heads.prognosis.years]]
year = 1
weights = {year1}

[[heads.prognosis.years]]
year = 5
weights = {year5}
"""

FILES = {
    "clip": '{ source = "file", path = "clip.tar", key = "model", prefix = "image_encoder." }',
    "detector": (
        '{ source = "file", path = "d.pth", key = "state_dict", prefix = "efficientnet." }'
    ),
    "prognosis": (
        '{ source = "file", path = "y1.pt", object = true, prefix = "backbone.image_encoder." }'
    ),
    "malignancy": '{ source = "file", path = "m.pth", key = "model" }',
    "density": '{ source = "file", path = "density.pth", key = "model" }',
    "mass": '{ source = "file", path = "d.pth", key = "state_dict" }',
    "year1": '{ source = "file", path = "y1.pt", object = true }',
    "year5": '{ source = "file", path = "y5.pt", object = true }',
}
SEEDS = {"malignancy": 1, "density": 2, "mass": 4, "year1": 5, "year5": 6}


@contextmanager
def small_networks() -> Iterator[None]:
    """The recipe's smallest architecture, smaller still: the formats are the same at any size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "b0", TINY)
        yield


def recipe(path: Path, weights: Mapping[str, str], **options: str) -> Path:
    given = {
        "synthetic": "false",
        "restricted": "true",
        "shared": "false",
        "standard": "",
        **options,
        **weights,
    }
    path.write_text(re.sub(r"\{(\w+)\}", lambda found: given[found[1]], SHARED))
    return path


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small file of each official kind."""
    folder = tmp_path_factory.mktemp("official")
    encoder = state(EfficientNet(TINY), 1)
    inside = prefixed("image_encoder.", encoder)
    clip_file(
        folder / "clip.tar",
        {**inside, **state(ClipProjections(TINY.head_channels, 24, 16, "linear"))},
    )
    classifier_file(
        folder / "m.pth", {**inside, **state(LinearClassifier(TINY.head_channels, 1), 1)}
    )
    density = {**inside, **state(LinearClassifier(TINY.head_channels, 4), 2)}
    classifier_file(folder / "density.pth", density, classes=4)
    own = prefixed("efficientnet.", state(EfficientNet(TINY), 3))
    head = state(RetinaNet(RetinaNetConfig(TINY.pyramid_channels, 1, 16)), 4)
    detector_file(folder / "d.pth", {**head, **own, "efficientnet._fc.bias": torch.ones(1)})
    for year, seed in ((1, 5), (5, 6)):
        tensors = state(AsymmetryHead(AsymmetryConfig(channels=TINY.head_channels)), seed)
        latent = {"latent_h": 3, "latent_w": 3}
        prognosis_file(folder / f"y{year}.pt", TINY, encoder, tensors, **latent)
    return folder


@pytest.fixture(scope="module")
def from_files(official: Path) -> tuple[Path, list[str]]:
    lines: list[str] = []
    output = official / "files.mfm"
    path = recipe(official / "files.toml", FILES)
    with small_networks():
        export_bundle(path, output, acknowledge_licence=True, tell=lines.append)
    return output, lines


def test_a_bundle_from_files_equals_the_synthetic_one(
    from_files: tuple[Path, list[str]], tmp_path: Path
) -> None:
    seeds = {"clip": 1, "detector": 3, "prognosis": 1, **SEEDS}
    weights = {name: f'{{ source = "synthetic", seed = {seed} }}' for name, seed in seeds.items()}
    options = {"synthetic": "true", "restricted": "false", "standard": "mean = 364\nstd = 163"}
    path = recipe(tmp_path / "synthetic.toml", weights, **options)
    with small_networks():
        other = export_bundle(path, tmp_path / "synthetic.mfm")
    made = Bundle.open(from_files[0])
    numbers = [name for name in made.files if name.endswith(".bin")]
    assert len(numbers) == 6
    assert [made.files[name] for name in numbers] == [other.files[name] for name in numbers]
    operations = [
        {part: check["operations"] for part, check in bundle.self_check.items()}
        for bundle in (made, other)
    ]
    assert operations[0] == operations[1]
    assert (made.diagnosis, made.localization, made.prognosis) == (
        other.diagnosis,
        other.localization,
        other.prognosis,
    )


def test_what_was_ignored_is_told_and_recorded(from_files: tuple[Path, list[str]]) -> None:
    output, lines = from_files
    clip = "clip.tar: ignored optimizer, scheduler, config, epoch, train_loss"
    assert any(line.strip() == clip for line in lines)
    description = json.loads((output / "bundle.json").read_text())
    encoder = description["provenance"]["encoder clip"]
    assert encoder["ignored"] == ["optimizer", "scheduler", "config", "epoch", "train_loss"]
    assert len(encoder["sha256"]) == 64
    year = description["provenance"]["head prognosis"]["year 5"]
    assert (year["mean"], year["std"]) == (364.0, 163.0)
    assert "latent_h" not in year["ignored"]
    assert "backbone" not in year


def test_the_licence_travels_into_the_bundle(from_files: tuple[Path, list[str]]) -> None:
    bundle = Bundle.open(from_files[0])
    assert bundle.weights.restricted
    notice = "Licence of the weights: LicenseRef-Test; restricted: Research only."
    assert notice in bundle.notices
    described = describe(bundle)
    assert described["weights"]["licence"] == "LicenseRef-Test"
    assert described["weights"]["restricted"] is True
    assert notice in describe_text(described)
    assert "LicenseRef-Test (restricted). Research only." in (
        from_files[0] / "MODEL_CARD.md"
    ).read_text(encoding="utf-8")


def test_the_licence_travels_into_every_result(
    from_files: tuple[Path, list[str]], tmp_path: Path
) -> None:
    write_phantom(tmp_path / "study", seed=1)
    result = Model.load(from_files[0]).infer(read_study(tmp_path / "study"))
    assert result.model.weights_licence == "LicenseRef-Test"
    assert "Licence of the weights: LicenseRef-Test; restricted: Research only." in result.notices
    assert {name for name, head in result.heads.items() if head.status == "answered"} == {
        "diagnosis",
        "localization",
        "prognosis",
    }


def test_restricted_weights_need_an_acknowledgement(official: Path, tmp_path: Path) -> None:
    path = recipe(official / "gate.toml", FILES)
    message = re.escape(
        "the licence of these weights (LicenseRef-Test) restricts their use: Research only. Read "
        "it in full; if it allows what you do, export again with --acknowledge-licence"
    )
    with pytest.raises(ExportError, match=message):
        export_bundle(path, tmp_path / "x.mfm")
    assert list(tmp_path.iterdir()) == []
    command = [PROGRAM, "export", str(path), "-o", "x.mfm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4
    assert "--acknowledge-licence" in done.stderr
    missing = recipe(tmp_path / "missing.toml", FILES)
    done = subprocess.run(
        [PROGRAM, "export", str(missing), "-o", "x.mfm", "--acknowledge-licence"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "checkpoint clip.tar does not exist" in done.stderr


def test_a_head_that_was_trained_on_another_encoder(official: Path, tmp_path: Path) -> None:
    """Batch statistics that moved during training make another encoder of the same weights."""
    for name in ("clip.tar", "m.pth", "density.pth", "d.pth", "y1.pt"):
        (tmp_path / name).symlink_to(official / name)
    moved = state(EfficientNet(TINY), 1)
    moved["_bn1.running_mean"] = moved["_bn1.running_mean"] + 1e-3
    moved["_bn1.num_batches_tracked"] = torch.tensor(900)
    tensors = state(AsymmetryHead(AsymmetryConfig(channels=TINY.head_channels)), 6)
    prognosis_file(tmp_path / "y5.pt", TINY, moved, tensors, latent_h=3, latent_w=3)
    whole = load_recipe(recipe(tmp_path / "r.toml", FILES))
    with small_networks():
        encoder = EncoderPart(whole, whole.encoder("prognosis"))
    encoder.load()
    spec = whole.prognosis
    found = (
        "y5.pt holds another encoder than 'prognosis' "
        "(tensors that differ: 1, the first _bn1.running_mean)"
    )
    remedy = (
        "Declare an encoder from this file (prefix = 'backbone.image_encoder.') and name it for "
        "year 5; or accept the difference with 'shared_backbone = true' in the head"
    )
    with pytest.raises(ExportError, match=re.escape(f"prognosis, year 5: {found}. {remedy}")):
        PrognosisPart(spec, encoder).load()
    accepting = PrognosisPart(replace(spec, shared_backbone=True), encoder)
    accepting.load()
    assert accepting.notes == [f"year 5: {found}"]
    assert accepting.provenance["year 5"]["backbone"] == found
    assert "backbone" not in accepting.provenance["year 1"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("restricted = true", "", "'restricted' must be true or false"),
        ('notice = "Research only."', 'notice = ""', "a restricted licence needs its terms in"),
        ('path = "m.pth", key', 'object = true, path = "m.pth", key', "'key' has no meaning with"),
        (
            '{ source = "file", path = "m.pth", key = "model" }',
            '{ source = "synthetic", seed = 1 }',
            "the weights of label 'malignancy' are synthetic; set bundle 'synthetic'",
        ),
        (
            'path = "y5.pt", object = true',
            'path = "y5.pt"',
            "'mean' and 'std' may be left out only where every year is a file with",
        ),
    ],
)
def test_recipe_fields_of_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = recipe(tmp_path / "r.toml", FILES)
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(ExportError, match=re.escape(message)):
        load_recipe(path)


@pytest.mark.parametrize("name", ["mammo-fm.toml", "mammo-clip-b2.toml"])
def test_the_official_recipes_are_gated(name: str) -> None:
    found = load_recipe(Path(__file__).resolve().parents[2] / "export" / "recipes" / name)
    assert found.restricted
    assert not found.synthetic
    assert found.report is None
    assert (found.preprocessing.height, found.preprocessing.width) == (1520, 912)
    assert found.encoder("detector-mass").padding == "nominal"
    named = {encoder.name for encoder in found.encoders}
    assert {label.encoder for label in found.diagnosis.labels} <= named
    assert len({detector.encoder for detector in found.localization.detectors}) == 2


# ---- heads of several members, each with the backbone of its own file ---------------------------

OWN_BACKBONES = """
[encoders.{name}]
like = "{like}"
weights = {{ source = "file", {place} }}
"""
MEMBERS = """
[heads.diagnosis]
encoder = "clip"

[heads.diagnosis.projection]
kind = "linear"
size = 16
weights = { source = "file", path = "clip.tar", key = "model" }

[[heads.diagnosis.labels]]
name = "malignancy"
encoder = "malignancy"
kind = "binary"
threshold = 0.5
breast = "mean"
study = "max"
recall = true
weights = { source = "file", path = "m.pth", key = "model" }

[[heads.diagnosis.labels]]
name = "density"
kind = "categorical"
classes = ["a", "b", "c", "d"]
breast = "mean"
study = "highest_class"
recall = false
weights = { source = "file", path = "density.pth", key = "model" }

[[heads.diagnosis.labels]]
name = "mass"
encoder = "mass"
kind = "binary"
breast = "mean"
study = "max"
recall = false
weights = { source = "file", path = "mass.pth", key = "model" }

[[heads.diagnosis.labels]]
name = "prompted"
kind = "zero_shot"
classes = ["no", "yes"]
breast = "mean"
study = "mean"
recall = false
weights = { source = "synthetic", seed = 1 }

[heads.localization]
channels = 16
max_detections = 100

[[heads.localization.detectors]]
labels = ["mass"]
encoder = "detector"
threshold = 0.3
weights = { source = "file", path = "d.pth", key = "state_dict" }

[[heads.localization.detectors]]
labels = ["suspicious calcification"]
encoder = "detector2"
threshold = 0.1
weights = { source = "file", path = "d2.pth", key = "state_dict" }

[heads.prognosis]
stretch = "matrix"
latent = [3, 3]
flexible = true
alignment = "none"

[[heads.prognosis.years]]
year = 1
encoder = "prognosis"
weights = { source = "file", path = "y1.pt", object = true }

[[heads.prognosis.years]]
year = 5
encoder = "year5"
weights = { source = "file", path = "own5.pt", object = true }
"""
PLACES = {
    "malignancy": ("clip", 'path = "m.pth", key = "model", prefix = "image_encoder."'),
    "mass": ("clip", 'path = "mass.pth", key = "model", prefix = "image_encoder."'),
    "detector2": ("detector", 'path = "d2.pth", key = "state_dict", prefix = "efficientnet."'),
    "year5": (
        "prognosis",
        'path = "own5.pt", object = true, prefix = "backbone.image_encoder."',
    ),
}
# Of every file: the seed of its backbone and that of its head.
BACKBONES = {"m": (31, 1), "mass": (32, 7), "d": (3, 4), "d2": (33, 8), "y1": (1, 5), "y5": (34, 6)}
TORCH_CLOSE = 1e-5


def marking_detector(seed: int) -> RetinaNet:
    """A detector with scores on both sides of any threshold; plain synthetic ones stay below."""
    detector = fill_module(RetinaNet(RetinaNetConfig(TINY.pyramid_channels, 1, 16)), seed)
    detector.classificationModel.output.weight.data *= 6.0
    return detector


def members_recipe(path: Path) -> Path:
    """The recipe of single files with its heads replaced by such of several members."""
    whole = recipe(path, FILES, synthetic="true").read_text()
    encoders = "".join(
        OWN_BACKBONES.format(name=name, like=like, place=place)
        for name, (like, place) in PLACES.items()
    )
    path.write_text(whole[: whole.index("[heads.diagnosis]")] + encoders + MEMBERS)
    return path


@pytest.fixture(scope="module")
def own_backbones(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of `official`, but most with a backbone that no other file has."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("clip.tar", "density.pth", "y1.pt"):
        (folder / name).symlink_to(official / name)
    for name in ("m", "mass"):
        backbone, head = BACKBONES[name]
        inside = prefixed("image_encoder.", state(EfficientNet(TINY), backbone))
        own = state(LinearClassifier(TINY.head_channels, 1), head)
        classifier_file(folder / f"{name}.pth", {**inside, **own})
    for name in ("d", "d2"):
        backbone, head = BACKBONES[name]
        inside = prefixed("efficientnet.", state(EfficientNet(TINY), backbone))
        detector_file(folder / f"{name}.pth", {**marking_detector(head).state_dict(), **inside})
    backbone, head = BACKBONES["y5"]
    own = state(AsymmetryHead(AsymmetryConfig(channels=TINY.head_channels)), head)
    own = {**own, "latent_h": 3, "latent_w": 3}
    prognosis_file(folder / "own5.pt", TINY, state(EfficientNet(TINY), backbone), own)
    return folder


@pytest.fixture(scope="module")
def of_members(own_backbones: Path) -> Bundle:
    path = members_recipe(own_backbones / "members.toml")
    with small_networks():
        return export_bundle(path, own_backbones / "members.mfm", acknowledge_licence=True)


@pytest.fixture(scope="module")
def answered(
    of_members: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Any, Mapping[str, Any]]:
    """The model, its result for a phantom, and the pictures that the encoders saw."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder, seed=1)
    study = read_study(folder)
    model = Model.load(of_members.path, threads=1)
    with model.prepare(study, StageReporter(None)) as prepared:
        return model, model.infer(study), dict(prepared.views)


def torch_features(seed: int, picture: np.ndarray, size: int | None = None) -> Features:
    """What a file's own backbone sees in a prepared picture, at 128 x 128 for a detector."""
    shape = picture.shape if size is None else (size, size)
    config = TINY if size is None else TINY.with_padding("nominal")
    encoder = EfficientNet(config).eval()
    encoder.load_state_dict(state(EfficientNet(TINY), seed))
    x = PreparedInput(shape, picture.shape)(torch.from_numpy(picture[None, None]))
    return encoder.features(x.expand(-1, 3, -1, -1))


def test_a_bundle_lists_the_members_of_every_head(of_members: Bundle) -> None:
    assert [
        (member.model, member.encoder, [label.name for label in member.labels])
        for member in of_members.diagnosis.members
    ] == [
        ("head_diagnosis_malignancy.xml", "malignancy", ["malignancy"]),
        ("head_diagnosis_clip.xml", "clip", ["density", "prompted"]),
        ("head_diagnosis_mass.xml", "mass", ["mass"]),
    ]
    assert of_members.localization.thresholds == {"mass": 0.3, "suspicious calcification": 0.1}
    assert [m.years for m in of_members.prognosis.members] == [(1,), (5,)]
    description = json.loads((of_members.path / "bundle.json").read_text())
    assert "projection" in description["provenance"]["head diagnosis_clip"]
    assert "projection" not in description["provenance"]["head diagnosis_mass"]
    assert description["provenance"]["head localization_2"]["file"] == "d2.pth"
    assert {"encoder prognosis", "head prognosis_prognosis"} <= set(of_members.self_check)
    text = describe_text(describe(of_members))
    assert "encoder clip; density, prompted" in text
    assert "encoder detector2; suspicious calcification; marks at 0.1 and above" in text
    assert "encoder year5; years 5" in text


def test_every_label_is_that_of_torch_on_its_own_backbone(
    answered: tuple[Model, Any, Mapping[str, Any]],
) -> None:
    _, result, views = answered
    assert [s.label for s in result.diagnosis.study] == [
        "malignancy",
        "density",
        "prompted",
        "mass",
    ]
    projection = ClipProjections(TINY.head_channels, 24, 16, "linear")
    projection.load_state_dict(state(ClipProjections(TINY.head_channels, 24, 16, "linear")))
    prompts = [torch.from_numpy(synthetic_vector(f"prompt/{p}", (16,), 1)) for p in ("no", "yes")]
    for view, scores in result.diagnosis.views.items():
        found = {score.label: list(score.probabilities.values()) for score in scores}
        for label, file in (("malignancy", "m"), ("mass", "mass")):
            backbone, seed = BACKBONES[file]
            head = fill_module(LinearClassifier(TINY.head_channels, 1), seed)
            wanted = torch.sigmoid(head(torch_features(backbone, views[view].image).pooled))
            np.testing.assert_allclose(found[label], wanted[0], rtol=0, atol=TORCH_CLOSE)
        pooled = torch_features(1, views[view].image).pooled
        density = fill_module(LinearClassifier(TINY.head_channels, 4), 2)(pooled).softmax(1)
        np.testing.assert_allclose(found["density"], density[0], rtol=0, atol=TORCH_CLOSE)
        embedding = normalised(projection.image_projection(pooled))[0]
        cosine = embedding @ normalised(torch.stack(prompts)).T
        np.testing.assert_allclose(found["prompted"], cosine.softmax(0), rtol=0, atol=TORCH_CLOSE)


def test_the_marks_are_those_of_torch_on_each_detector_s_own_backbone(
    answered: tuple[Model, Any, Mapping[str, Any]],
) -> None:
    _, result, views = answered
    localization = result.localization
    assert localization.threshold == 0.1
    assert dict(localization.thresholds) == {"mass": 0.3, "suspicious calcification": 0.1}
    for label, file in (("mass", "d"), ("suspicious calcification", "d2")):
        backbone, seed = BACKBONES[file]
        detector = marking_detector(seed)
        total = 0
        for view, prepared in views.items():
            seen = torch_features(backbone, prepared.image, 128)
            raw = detector.raw(seen.c3, seen.c4, seen.c5, (128, 128))
            boxes = postprocess(detector.decode(raw.deltas, (128, 128))[0], raw.scores[0])
            boxes = evaluate(boxes[:100], localization.thresholds[label])
            per_px = np.array([160 / 128, 192 / 128] * 2)
            limits = [prepared.geometry.columns, prepared.geometry.rows] * 2
            wanted = prepared.geometry.box_to_original(boxes.boxes.numpy() * per_px)
            wanted = np.clip(wanted, 0, limits)
            upright = (wanted[:, 2] > wanted[:, 0]) & (wanted[:, 3] > wanted[:, 1])
            marks = [m for m in localization.marks if (m.view, m.label) == (view, label)]
            assert len(marks) == upright.sum()
            total += len(marks)
            scores = [mark.score for mark in marks]
            np.testing.assert_allclose(scores, boxes.scores[upright], rtol=0, atol=TORCH_CLOSE)
            found = np.array([mark.box_px for mark in marks]).reshape(-1, 4)
            np.testing.assert_allclose(found, wanted[upright], rtol=0, atol=0.1)
        assert total > 0, label
    for view in views:  # both detectors' marks stand together, by falling score
        scores = [mark.score for mark in localization.marks if mark.view == view]
        assert scores == sorted(scores, reverse=True)


def test_every_year_is_that_of_torch_on_its_own_backbone(
    answered: tuple[Model, Any, Mapping[str, Any]],
) -> None:
    _, result, views = answered
    config = AsymmetryConfig(channels=TINY.head_channels, latent_height=3, latent_width=3)
    wanted = []
    for file in ("y1", "y5"):
        backbone, seed = BACKBONES[file]
        maps = [
            torch_features(backbone, views[view].image).map
            for view in ("L-CC", "R-CC", "L-MLO", "R-MLO")
        ]
        head = fill_module(AsymmetryHead(config), seed)
        wanted.append(head(*maps, torch.ones(1, 2)))
    scores = [float(year.score[0]) for year in wanted]
    found = [(item.year, item.score, item.risk) for item in result.prognosis.years]
    np.testing.assert_allclose(
        found, list(zip((1, 5), scores, np.maximum.accumulate(scores), strict=True)), atol=1e-4
    )
    last = wanted[-1].heatmap[0].numpy()
    for view, heat in result.prognosis.heatmaps.items():
        expected = last[0 if view.endswith("CC") else 1]
        assert np.abs(heat.values - expected).max() <= 1e-4 * expected.max()
    assert [(peak.year, peak.projection) for peak in result.prognosis.peaks] == [
        (1, "CC"), (1, "MLO"), (5, "CC"), (5, "MLO"),
    ]  # fmt: skip


def test_encoders_run_once_and_their_features_go(
    answered: tuple[Model, Any, Mapping[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One encoder's features at a time; nothing is compiled twice; memory is given back."""
    model, _, _ = answered
    write_phantom(tmp_path, seed=1)
    study = read_study(tmp_path)
    encode, release = Model._encode, Graph.release_memory
    alive: list[Any] = []
    released: list[Graph] = []

    def watched(self: Model, *given: Any, **options: Any) -> Any:
        assert not any(reference() is not None for reference in alive)
        features = encode(self, *given, **options)
        alive.extend(weakref.ref(a) for tensors in features.values() for a in tensors.values())
        return features

    monkeypatch.setattr(Model, "_encode", watched)
    monkeypatch.setattr(
        Graph, "release_memory", lambda graph: (released.append(graph), release(graph))
    )
    events: list[Any] = []
    again = model.infer(study, observer=events.append)
    ended = [event for event in events if event.seconds is not None]
    encoders = [event.detail.split()[0] for event in ended if event.stage == "encode"]
    assert encoders == [
        name
        for name in ("clip", "detector", "detector2", "malignancy", "mass", "prognosis", "year5")
        for _ in range(4)
    ]
    assert not any(event.stage == "compile" for event in ended)
    assert len(released) == 7
    assert len(alive) >= 7 * 4
    assert again.to_json()["heads"] == model.infer(study).to_json()["heads"]
    ended.clear()
    released.clear()
    alone = InferOptions(("prognosis",))
    for path in tmp_path.glob("R-*"):
        path.unlink()
    unpaired = model.infer(read_study(tmp_path), alone)
    assert unpaired.heads["prognosis"].reason == "missing_views"
    assert released == []  # no encoder ran for a head that cannot answer


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'name = "mass"\nencoder = "mass"',
            'name = "mass"',
            "diagnosis, label 'mass': mass.pth holds another encoder than 'clip'",
        ),
        (
            'encoder = "detector2"',
            'encoder = "detector"',
            "localization, the detector of suspicious calcification: d2.pth holds another encoder "
            "than 'detector'",
        ),
        (
            'year = 5\nencoder = "year5"',
            'year = 5\nencoder = "prognosis"',
            "prognosis, year 5: own5.pt holds another encoder than 'prognosis'",
        ),
    ],
)
def test_a_file_with_another_backbone_is_told_the_remedy(
    own_backbones: Path, old: str, new: str, message: str
) -> None:
    path = members_recipe(own_backbones / "wrong.toml")
    text = path.read_text()
    assert text.count(old) == 1
    unused = re.search(r'encoder = "(\w+)"', old)[1]
    text = re.sub(rf"\[encoders\.{unused}\]\n.*\n.*\n", "", text.replace(old, new))
    path.write_text(text)
    whole = load_recipe(path)
    with small_networks():
        encoders = {spec.name: EncoderPart(whole, spec) for spec in whole.encoders}
    for encoder in encoders.values():
        encoder.load()
    parts = list(head_parts(whole, encoders))
    with pytest.raises(ExportError, match=re.escape(message)) as caught:
        any(part.load() for part in parts)
    text = str(caught.value)
    assert "Declare an encoder from this file (prefix = '" in text
    assert ("shared_backbone" in text) == (not message.startswith("localization"))
