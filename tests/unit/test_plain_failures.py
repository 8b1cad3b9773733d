"""Failures of the machine are said in one plain line."""

from __future__ import annotations

import sys

import pytest

from sottovoce.cli.base import guarded


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (RuntimeError("can't start new thread"), "not enough memory"),
        (OSError(12, "Cannot allocate memory"), "not enough memory"),
        (ImportError("lib.so: failed to map segment from shared object"), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "data.seconds_per_batch"),
    ],
)
def test_lack_of_memory_names_a_way_out(problem: Exception, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise problem

    with pytest.raises(SystemExit) as left:
        guarded(fails)
    assert left.value.code == 1
    message = capsys.readouterr().err.strip()
    assert says in message
    assert "\n" not in message


def test_lack_of_memory_inside_a_library_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        try:
            raise MemoryError
        except MemoryError as problem:
            raise RuntimeError("Failed to export the model.\nMore lines") from problem

    with pytest.raises(SystemExit) as left:
        guarded(fails)
    assert left.value.code == 1
    assert "there is not enough memory" in capsys.readouterr().err


def test_a_full_disk_names_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise OSError(28, "No space left on device", "page.html")

    with pytest.raises(SystemExit) as left:
        guarded(fails)
    assert left.value.code == 1
    assert "the disk is full (page.html); free some space" in capsys.readouterr().err


def test_a_lost_process_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")

    def fails() -> None:
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")

    with pytest.raises(SystemExit):
        guarded(fails)
    assert "process 1 lost its connection to another process of this run" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "shown"), [("can't start new thread", False), ("a fault", True)])
def test_lack_of_memory_while_workers_end_adds_no_trace(
    text: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loader:
        def __del__(self) -> None:
            raise RuntimeError(text)

    def fails() -> None:
        loader = Loader()
        del loader
        raise MemoryError

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    with pytest.raises(SystemExit):
        guarded(fails)
    said = capsys.readouterr().err
    assert ("Traceback" in said) == shown
    assert "there is not enough memory" in said


def test_an_error_of_ours_keeps_its_trace() -> None:
    def fails() -> None:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        guarded(fails)
