"""Views ahead of their use: the same answers, in the same order, and nothing left behind."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammofm_lite import InferOptions, Model, StudyError, ahead
from mammofm_lite.ahead import MOST_AT_ONCE, PreparedViews
from mammofm_lite.dicom import Study, read_pixels, read_study
from mammofm_lite.phantom import PhantomOptions, write_phantom
from mammofm_lite.prepare import PreprocessingSpec
from mammofm_lite.progress import StageEvent, StageReporter
from mammofm_lite.views import STANDARD_VIEWS
from mammofm_lite.writers.folder import ResultFolder

SPEC = PreprocessingSpec(height=96, width=64)
WAIT_S = 30  # only ever waited in full when a test fails


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    write_phantom(
        folder, seed=5, options=PhantomOptions(rows=574, columns=479, pixel_spacing_mm=0.4)
    )
    return read_study(folder)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [t for t in threading.enumerate() if t.name.startswith("mammofm-view")] == []


def prepared(study: Study, threads: int, **more: Any) -> PreparedViews:
    return PreparedViews(study, SPEC, threads, StageReporter(None), **more)


def with_reader(monkeypatch: pytest.MonkeyPatch, read: Callable[..., Any]) -> None:
    monkeypatch.setattr(ahead, "read_pixels", read)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_the_same_as_one_after_the_other(study: Study, threads: int) -> None:
    with prepared(study, 1) as serial, prepared(study, threads) as views:
        assert list(views) == list(serial) == list(STANDARD_VIEWS)
        for view, one in serial.items():
            np.testing.assert_array_equal(views[view].image, one.image)
            assert views[view].geometry == one.geometry
            assert views[view].deviations == one.deviations


def test_the_result_does_not_depend_on_it(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.load(threads=2)
    expected = model.infer(study).to_json_text()
    assert model.infer(study).to_json_text() == expected
    monkeypatch.setattr(ahead, "MOST_AT_ONCE", 1)
    assert model.infer(study).to_json_text() == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_the_order_of_events_whatever_is_done_first(
    study: Study, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first view is held back until the second is decoded, where there are two threads."""
    second = threading.Event()

    def read(instance: Any, decoder_threads: int) -> Any:
        if instance.view == "L-CC" and threads > 1:
            assert second.wait(WAIT_S)
        pixels = read_pixels(instance, decoder_threads)
        if instance.view == "L-MLO":
            second.set()
        return pixels

    with_reader(monkeypatch, read)
    events: list[tuple[str, str, bool]] = []
    tellers = set()

    def observe(event: StageEvent) -> None:
        tellers.add(threading.get_ident())
        events.append((event.stage, event.detail, event.seconds is not None))

    with PreparedViews(study, SPEC, threads, StageReporter(observe)) as views:
        assert len(views) == 4
    assert tellers == {threading.get_ident()}
    assert events == [
        (stage, view, ended)
        for view in STANDARD_VIEWS
        for stage in ("decode", "prepare")
        for ended in (False, True)
    ]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stage", ["decode", "prepare"])
def test_a_view_that_fails_leaves_the_others(
    study: Study, threads: int, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(instance: Any, decoder_threads: int) -> Any:
        if instance.view != "L-MLO":
            return read_pixels(instance, decoder_threads)
        if stage == "decode":
            raise StudyError("cut off")
        return np.ones((instance.rows, instance.columns), np.uint16)

    with_reader(monkeypatch, read)
    events: list[StageEvent] = []
    with PreparedViews(study, SPEC, threads, StageReporter(events.append)) as views:
        assert list(views) == ["L-CC", "R-CC", "R-MLO"]
        assert list(views.failures) == ["L-MLO"]
        with pytest.raises(KeyError):
            views["L-MLO"]
    assert ("cut off" if stage == "decode" else "is constant") in views.failures["L-MLO"]
    of_view = [(e.stage, e.seconds is not None) for e in events if e.detail == "L-MLO"]
    begun = [("decode", False), ("decode", True), ("prepare", False)]
    assert of_view == (begun[:1] if stage == "decode" else begun)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_views_in_work_than_told(
    study: Study, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, now, most = threading.Lock(), 0, 0
    both = threading.Barrier(MOST_AT_ONCE)

    def read(instance: Any, decoder_threads: int) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if threads > 1:
            both.wait(WAIT_S)  # there are two at once
        pixels = read_pixels(instance, decoder_threads)
        with lock:
            now -= 1
        return pixels

    with_reader(monkeypatch, read)
    with prepared(study, threads) as views:
        assert len(views) == 4
    assert most == min(threads, MOST_AT_ONCE)


def test_with_one_thread_nothing_is_done_ahead(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def read(instance: Any, decoder_threads: int) -> Any:
        seen.append((instance.view, threading.get_ident()))
        return read_pixels(instance, decoder_threads)

    with_reader(monkeypatch, read)
    with prepared(study, 1) as views:
        next(iter(views))
        assert seen == [("L-CC", threading.get_ident())]


@pytest.mark.parametrize(("threads", "each"), [(1, 1), (2, 1), (5, 2), (16, 8)])
def test_decoders_share_the_threads(
    study: Study, threads: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set()

    def read(instance: Any, decoder_threads: int) -> Any:
        asked.add(decoder_threads)
        return read_pixels(instance, decoder_threads)

    with_reader(monkeypatch, read)
    with prepared(study, threads) as views:
        assert len(views) == 4
    assert asked == {each}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_what_ends_the_block_ends_the_work(
    study: Study, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views not begun are not begun any more; the fixture sees that no thread is left."""
    done: list[str] = []
    release = threading.Event()

    def read(instance: Any, decoder_threads: int) -> Any:
        if instance.view != "L-CC":
            assert release.wait(WAIT_S)
        done.append(instance.view)
        return read_pixels(instance, decoder_threads)

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            release.set()  # those begun may now end
            super().shutdown(wait=wait)

    def use_one_view() -> None:
        with prepared(study, 2) as views:
            next(iter(views))
            raise error

    with_reader(monkeypatch, read)
    monkeypatch.setattr(ahead, "ThreadPoolExecutor", Pool)
    with pytest.raises(error):
        use_one_view()
    assert "R-MLO" not in done


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stage", ["decode", "encode", "report"])
def test_an_observer_that_raises_ends_infer(study: Study, threads: int, stage: str) -> None:
    def observe(event: StageEvent) -> None:
        if event.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Model.load(threads=threads).infer(study, observer=observe)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_defect_while_decoding_is_not_taken_for_a_bad_view(
    study: Study, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(instance: Any, decoder_threads: int) -> Any:
        raise MemoryError

    with_reader(monkeypatch, read)
    with pytest.raises(MemoryError):
        Model.load(threads=threads).infer(study)


def test_encoding_begins_before_all_views_are_decoded(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last view is held back until the first is encoded: without overlap, this never ends."""
    encoded = threading.Event()

    def read(instance: Any, decoder_threads: int) -> Any:
        if instance.view == "R-MLO":
            assert encoded.wait(WAIT_S)
        return read_pixels(instance, decoder_threads)

    def observe(event: StageEvent) -> None:
        if event.stage == "encode" and event.seconds is not None:
            encoded.set()

    with_reader(monkeypatch, read)
    result = Model.load(threads=2).infer(study, InferOptions(("diagnosis",)), observer=observe)
    assert result.missing_views == ()


# -------------------- pixels for pictures


def test_who_takes_pixels_gets_every_usable_view_once(study: Study) -> None:
    taken: dict[str, Any] = {}
    with prepared(study, 2, take_pixels=lambda i, p, _: taken.setdefault(i.view, p)) as views:
        assert len(views) == 4
    assert sorted(taken) == sorted(STANDARD_VIEWS)
    for view, pixels in taken.items():
        np.testing.assert_array_equal(pixels, read_pixels(study.views[view]))  # type: ignore[index]


def test_an_error_of_who_takes_pixels_comes_out(study: Study) -> None:
    """Even one of ours: the view is not at fault."""

    def take(*_: Any) -> None:
        raise StudyError("not the view's fault")

    with (
        pytest.raises(StudyError, match="not the view's fault"),
        prepared(study, 2, take_pixels=take) as views,
    ):
        next(iter(views))


def test_pictures_are_the_same_and_nothing_is_decoded_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("json", "png", "heat", "html")
    anew, kept = (ResultFolder(tmp_path / name, kinds, False) for name in ("anew", "kept"))
    model = Model.load(threads=2)
    result = model.infer(study, take_pixels=kept.take_pixels)
    anew.write(result, study, StageReporter(None), bundle=model.bundle)
    monkeypatch.setattr(
        "mammofm_lite.writers.folder.read_pixels", lambda *_: pytest.fail("decoded again")
    )
    kept.write(result, study, StageReporter(None), bundle=model.bundle)
    names = sorted(path.name for path in (tmp_path / "anew").iterdir())
    assert len(names) == 10
    for name in names:
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "anew" / name).read_bytes()


def test_without_pictures_nothing_is_kept(study: Study, tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path / "out", ("json", "text"), False)
    with prepared(study, 2, take_pixels=folder.take_pixels) as views:
        assert len(views) == 4
    assert folder._pictures == {}
