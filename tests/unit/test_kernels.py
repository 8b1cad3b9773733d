"""The faster library is chosen by timing, once, and the choice does not change afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sottovoce.encoder import kernels, product
from sottovoce.encoder.kernels import Candidates, choices, choose, keep_in, machine
from sottovoce.train.api import compress

pytestmark = pytest.mark.skipif(not product.has_onednn(), reason="needs oneDNN")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and no library fixed."""
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOTTOVOCE_KERNELS", raising=False)
    keep_in(None)
    yield tmp_path / "cache" / "kernels.jsonl"
    keep_in(None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `kernels` reads: one number, which the computations of a test move on."""
    now = [0.0]
    monkeypatch.setattr(kernels.time, "perf_counter", lambda: now[0])
    return now


def taking(clock: list[float], **seconds: float) -> Callable[[], Candidates]:
    """Computations that take so long by the clock."""

    def of(duration: float) -> Callable[[int], None]:
        def run(more: int) -> None:
            clock[0] += duration

        return run

    return lambda: {name: of(duration) for name, duration in seconds.items()}


def never() -> Candidates:
    raise AssertionError("timed again")


@pytest.mark.parametrize(("onednn", "expected"), [(0.9, "onednn"), (1.0, "torch"), (0.97, "torch"), (1.5, "torch")])
def test_the_faster_one_by_a_margin(clock: list[float], onednn: float, expected: str) -> None:
    assert choose("a product", taking(clock, onednn=onednn, torch=1.0)) == expected


def test_one_slow_turn_does_not_decide(clock: list[float]) -> None:
    """Another process may take the processor for a while."""

    def disturbed(more: int) -> None:
        clock[0] += 5.0 if more == 2 else 0.01

    def steady(more: int) -> None:
        clock[0] += 0.02

    assert choose("a product", lambda: {"onednn": disturbed, "torch": steady}) == "onednn"


def test_what_a_build_cannot_compute_is_not_chosen(clock: list[float]) -> None:
    def fails(more: int) -> None:
        raise RuntimeError("not in this build")

    assert choose("a product", lambda: {**taking(clock, torch=1.0)(), "onednn": fails}) == "torch"


def test_a_choice_outlives_the_process(clock: list[float], cache: Path) -> None:
    assert choose("a product", taking(clock, onednn=0.5, torch=1.0)) == "onednn"
    keep_in(None)  # forgets what this process knows
    assert choose("a product", never) == "onednn"
    with cache.open("a") as file:  # a process that timed at the same moment; the first line counts
        file.write(json.dumps({"machine": machine(), "computation": "a product", "library": "torch"}) + "\n{unfinished")
    keep_in(None)
    assert choose("a product", never) == "onednn"
    assert choices() == {"a product": "onednn"}


def test_a_choice_holds_for_one_number_of_threads(clock: list[float]) -> None:
    choose("a product", taking(clock, onednn=0.5, torch=1.0))
    torch.set_num_threads(2)
    assert choose("a product", taking(clock, onednn=2.0, torch=1.0)) == "torch"


def test_a_resumed_run_follows_its_own_choices(clock: list[float], cache: Path, tmp_path: Path) -> None:
    """Even where the cache was lost and timing would come out differently."""
    run = tmp_path / "run.jsonl"
    keep_in(run)
    assert choose("a product", taking(clock, onednn=0.5, torch=1.0)) == "onednn"
    keep_in(None)
    cache.unlink()
    assert choose("a product", taking(clock, onednn=2.0, torch=1.0)) == "torch"
    keep_in(run)
    assert choose("a product", never) == "onednn"


def test_a_run_with_a_fixed_library_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_KERNELS", "torch")
    keep_in(tmp_path / "run.jsonl")
    assert choose("a product", never) == "torch"
    monkeypatch.delenv("SOTTOVOCE_KERNELS")
    keep_in(tmp_path / "run.jsonl")
    assert choose("another", never) == "torch"


def test_an_unknown_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_KERNELS", "mkl")
    with pytest.raises(ValueError, match="set it to onednn, torch or auto"):
        choose("a product", never)


def test_a_cache_that_cannot_be_written_is_no_error(clock: list[float], cache: Path) -> None:
    cache.parent.write_text("a file, not a folder")
    assert choose("a product", taking(clock, onednn=0.5, torch=1.0)) == "onednn"
    assert choose("a product", never) == "onednn"


@pytest.mark.parametrize("operation", list(product.TIMED))
def test_every_operation_can_be_timed(operation: str, cache: Path) -> None:
    """Inside whatever mode the caller is in; and without a draw from the random generator."""
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        product.onednn_is_faster(operation, 10, 20, 40, 3, 2)
    assert torch.equal(torch.get_rng_state(), before)
    (line,) = cache.read_text().splitlines()
    assert all(0 < ms < 1000 for ms in json.loads(line)["ms"].values())


def test_sizes_that_are_alike_share_a_choice(cache: Path) -> None:
    for rows, inputs in ((600, 520), (999, 768), (4000, 1024)):
        product.onednn_is_faster("linear", rows, inputs, 40)
    assert len(cache.read_text().splitlines()) == 1
    product.onednn_is_faster("linear", 20, 768, 40)
    product.onednn_is_faster("linear", 200, 512, 40)
    assert len(cache.read_text().splitlines()) == 3


def test_a_run_writes_down_its_choices(teacher_folder: Path, speech_folder: Path, tmp_path: Path, cache: Path) -> None:
    settings = ["data.seconds_per_batch=4", "data.min_seconds=0.5", "data.max_seconds=1", "data.workers=0", "pruning.ramp=2"]
    stages = [f"stages.{stage}.{field}" for stage in ("prune", "distill") for field in ("steps=3", "warmup=1")]
    overrides = [*settings, *stages, "precision=fp32"]
    compress(
        teacher_folder, recipe="dphubert", data=speech_folder, out=tmp_path / "s", keep=0.5, device="cpu", overrides=overrides
    )
    noted, known = ((path.read_text().splitlines()) for path in (tmp_path / "s/run/kernels.jsonl", cache))
    computations = [{json.loads(line)["computation"] for line in lines} for lines in (noted, known)]
    assert computations[0] == computations[1]
    assert {name.rsplit(" ", 1)[0] for name in computations[0]} >= {
        "linear",
        "gradient of weight",
        "trained convolution",
        "packed linear",
    }
