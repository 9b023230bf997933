"""TiledAttention as a node: inference of shapes, messages, files, and its share of memory."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammofm_lite._openvino import cpu_properties, make_core, ov

BuildModel = Callable[..., Any]
ATTRIBUTES: dict[str, Any] = {
    "causal": True,
    "window": 7,
    "scale": 0.25,
    "precision": "int8",
}
SHAPES = [[2, 3, 10, 32], [2, 3, 20, 32], [2, 3, 20, 32], [2, 20]]


def inputs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = [rng.standard_normal(shape, dtype=np.float32) for shape in SHAPES[:3]]
    return [*tensors, rng.random(SHAPES[3]) < 0.8]


def attention_node(model: Any) -> Any:
    (node,) = (op for op in model.get_ops() if op.get_type_name() == "TiledAttention")
    return node


@pytest.mark.parametrize("count", [3, 4])
def test_the_node(build_model: BuildModel, count: int) -> None:
    node = attention_node(build_model(ATTRIBUTES, SHAPES[:count]))
    assert node.get_type_info().version_id == "mammofm"
    assert node.get_attributes() == ATTRIBUTES
    assert node.get_input_size() == count
    assert list(node.get_output_shape(0)) == SHAPES[0]
    assert node.get_output_element_type(0) == ov.Type.f32


def test_default_attributes(build_model: BuildModel) -> None:
    node = attention_node(build_model({}, SHAPES))
    defaults = {"causal": False, "window": -1, "scale": 0.0, "precision": "float32"}
    assert node.get_attributes() == defaults


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([[-1] * 4] * 3, "[?,?,?,?]"),
        ([[-1, 3, -1, -1], [2, -1, -1, 64], [-1] * 4], "[2,3,?,64]"),
        ([[-1] * 4, [-1] * 4, [-1, -1, -1, 96], [5, 7]], "[5,?,?,96]"),
    ],
)
def test_dynamic_dimensions(
    build_model: BuildModel, shapes: list[list[int]], expected: str
) -> None:
    node = attention_node(build_model({}, shapes))
    assert str(node.get_output_partial_shape(0)).replace(" ", "") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: [3, 10, 32]}, "query must have 4 dimensions"),
        ({1: [20, 32]}, "key must have 4 dimensions"),
        ({2: [1, 2, 3, 20, 32]}, "value must have 4 dimensions"),
        ({3: [2, 1, 1, 20]}, r"key_mask must have 2 dimensions \[batch, keys\], not 4"),
        ({1: [1, 3, 20, 32]}, "query and key differ in batch: 2 and 1"),
        ({2: [1, 3, 20, 32]}, "query and value differ in batch: 2 and 1"),
        ({1: [2, 1, 20, 32]}, "query and key differ in heads: 3 and 1"),
        ({2: [2, 4, 20, 32]}, "query and value differ in heads: 3 and 4"),
        ({1: [2, 3, 20, 64]}, "query and key differ in depth: 32 and 64"),
        ({2: [2, 3, 20, 64]}, "query and value differ in depth: 32 and 64"),
        ({2: [2, 3, 21, 32]}, "key and value differ in length: 20 and 21"),
        ({3: [1, 20]}, "query and key_mask differ in batch: 2 and 1"),
        ({3: [2, 19]}, "key and key_mask differ in length: 20 and 19"),
        ({i: [2, 3, 20, 257] for i in range(3)}, "depth must be 1 to 256, not 257"),
        ({i: [2, 3, 20, 0] for i in range(3)}, "depth must be 1 to 256, not 0"),
    ],
)
def test_shapes_that_do_not_fit(
    build_model: BuildModel, change: dict[int, list[int]], message: str
) -> None:
    shapes = [change.get(i, shape) for i, shape in enumerate(SHAPES)]
    with pytest.raises(RuntimeError, match=message):
        build_model({}, shapes)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"window": -2}, r"window must be -1 \(unlimited\) or at least 0, not -2"),
        ({"scale": float("inf")}, "scale must be finite, not inf"),
        ({"precision": "bf16"}, "precision must be float32 or int8, not 'bf16'"),
    ],
)
def test_attributes_that_do_not_fit(
    build_model: BuildModel, attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        build_model(attributes, SHAPES)


def test_inputs_that_do_not_fit(build_model: BuildModel) -> None:
    with pytest.raises(RuntimeError, match="key_mask must be boolean or u8, not i64"):
        build_model({}, SHAPES, np.int64)
    with pytest.raises(RuntimeError, match=r"takes query, key, value .*, not 2 inputs"):
        build_model({}, SHAPES[:2])


# -------------------- files


@pytest.mark.parametrize("count", [3, 4])
def test_saved_and_read_again(build_model: BuildModel, tmp_path: Path, count: int) -> None:
    model = build_model(ATTRIBUTES, SHAPES[:count])
    ov.save_model(model, tmp_path / "model.xml")
    core = make_core()
    again = core.read_model(tmp_path / "model.xml")
    assert attention_node(again).get_attributes() == ATTRIBUTES
    assert Counter(op.get_type_name() for op in again.get_ops()) == {
        "Parameter": count,
        "TiledAttention": 1,
        "Result": 1,
    }
    results = [
        core.compile_model(m, "CPU", cpu_properties(1))(inputs()[:count])[0] for m in (model, again)
    ]
    np.testing.assert_array_equal(*results)


def test_a_file_from_before_there_was_a_choice(build_model: BuildModel, tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    ov.save_model(build_model({"window": 7}, SHAPES), path)
    text = path.read_text()
    assert text.count(' precision="float32"') == 1
    path.write_text(text.replace(' precision="float32"', ""))
    attributes = attention_node(make_core().read_model(path)).get_attributes()
    assert (attributes["precision"], attributes["window"]) == ("float32", 7)


def test_compiled_model_cache(build_model: BuildModel, tmp_path: Path) -> None:
    """The second compilation comes from the cache, by a Core that has not seen the model."""
    path, cache = tmp_path / "model.xml", tmp_path / "cache"
    ov.save_model(build_model(ATTRIBUTES, SHAPES), path)
    properties = {**cpu_properties(1), "CACHE_DIR": str(cache)}
    first, second = (make_core().compile_model(path, "CPU", properties) for _ in range(2))
    assert second.get_property("LOADED_FROM_CACHE")
    names = [op.get_friendly_name() for op in second.get_runtime_model().get_ops()]
    assert sum(name.startswith("TiledAttention") for name in names) == 1
    np.testing.assert_array_equal(first(inputs())[0], second(inputs())[0])


# -------------------- memory

LONG = """
import resource, runpy, sys
import numpy as np
module = runpy.run_path(sys.argv[1])
rng = np.random.default_rng(0)
arrays = [rng.standard_normal((1, 1, 20_000, 32), dtype=np.float32) for _ in range(3)]
module["answer"]({"causal": False, "window": -1, "scale": 0.0}, [a[:, :, :200] for a in arrays])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = module["answer"]({"causal": False, "window": -1, "scale": 0.0}, arrays)
assert np.isfinite(result).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_queries_times_keys() -> None:
    """20000 x 20000 floats would be 1.6 GB. In and out are 10 MB, which OpenVINO may hold twice."""
    worker = Path(__file__).with_name("worker.py")
    done = subprocess.run(
        [sys.executable, "-c", LONG, str(worker)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 40 * 1024
