"""Batches: nothing lost, nothing held out ever trained on, and any position gives the same audio however it is reached."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sottovoce.core.config import build
from sottovoce.core.types import Batch
from sottovoce.data import Data, DataConfig, Recording, Utterance, open_data
from sottovoce.data.batches import Plan, bucket, rng
from sottovoce.data.scan import hold_out, scan, select, split
from sottovoce.data.stream import SkipLog, Stream, decode

CONFIG = DataConfig(seconds_per_batch=8.0, min_seconds=0.5, max_seconds=3.0, workers=0)


def settings(**changes: object) -> DataConfig:
    return DataConfig(**{**vars(CONFIG), **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 recordings of 0.6 to 3 s, one of 7 s; the samples count upwards, so that a crop shows where it was taken."""
    folder = tmp_path_factory.mktemp("corpus")
    lengths = [*np.random.default_rng(0).uniform(0.6, 3.0, 24), 7.0]
    for number, seconds in enumerate(lengths):
        ramp = np.arange(1, round(seconds * 16_000) + 1, dtype=np.float32) / 200_000
        soundfile.write(folder / f"{number:02d}.wav", ramp, 16_000, subtype="FLOAT")
    return folder


def take(data: Data | Stream, count: int) -> list[Batch]:
    stream = data.train if isinstance(data, Data) else data
    return [next(stream) for _ in range(count)]


def same(one: list[Batch], two: list[Batch]) -> bool:
    pairs = zip(one, two, strict=True)
    return all(a.ids == b.ids and torch.equal(a.wave, b.wave) for a, b in pairs)


def fake(seconds: Iterator[float] | list[float]) -> list[Utterance]:
    return [Utterance(Recording(f"u{n}", f"u{n}.wav"), 0.0, float(s)) for n, s in enumerate(seconds)]


def test_an_epoch_has_every_utterance_once_within_the_budget(corpus: Path) -> None:
    data = open_data(corpus, CONFIG)
    seen: Counter[str] = Counter()
    while data.train.state()["epoch"] == 0:
        batch = next(data.train)
        seen.update(batch.ids)
        assert batch.lengths is None
        assert batch.seconds <= CONFIG.seconds_per_batch
    assert set(seen.values()) == {1}
    held = {name for batch in data.valid for name in batch.ids}
    assert held
    assert not held & set(seen)
    assert len(held) + len(seen) == 24 + 3  # the 7 s recording makes three


def test_padded_batches_hold_whole_utterances(corpus: Path) -> None:
    data = open_data(corpus, settings(crop="none"))
    seen: dict[str, int] = {}
    while data.train.state()["epoch"] == 0:
        batch = next(data.train)
        assert batch.wave.numel() / 16_000 <= CONFIG.seconds_per_batch
        lengths = [batch.wave.shape[1]] * len(batch.ids) if batch.lengths is None else batch.lengths.tolist()
        seen.update(zip(batch.ids, lengths, strict=True))
        for row, length in zip(batch.wave, lengths, strict=True):
            assert row[length - 1] > 0
            assert not row[length:].any()
    total = sum(soundfile.info(path).frames for path in corpus.iterdir()) - round(data.valid.seconds * 16_000)
    assert sum(seen.values()) == pytest.approx(total, abs=len(seen))


def test_epochs_and_seeds_differ_in_members_and_crops(corpus: Path) -> None:
    plan = open_data(corpus, CONFIG).train.plan
    first, second = ({frozenset(rows) for rows in plan.batches(epoch)} for epoch in (0, 1))
    assert first != second
    assert plan.job(0, 0).begins != plan.job(1, 0).begins
    assert not same(take(open_data(corpus, CONFIG, seed=1), 3), take(open_data(corpus, CONFIG, seed=2), 3))
    assert same(take(open_data(corpus, CONFIG, seed=-1), 3), take(open_data(corpus, CONFIG, seed=-1), 3))


def test_crops_come_from_everywhere() -> None:
    plan = Plan(fake([2.0] * 30 + [1.9]), settings(seconds_per_batch=100), seed=0)
    begins = np.concatenate([plan.job(epoch, 0).begins for epoch in range(40)])
    assert begins.min() == 0
    assert begins.max() > 1_500
    assert begins.max() <= 1_600


def test_crops_may_go_on_to_a_step(corpus: Path) -> None:
    data = open_data(corpus, settings(crop_step=0.5))
    lengths = {batch.wave.shape[1] for batch in take(data, 30)}
    assert all(length % 8000 == 0 for length in lengths)
    assert len(lengths) > 1
    with pytest.raises(ValueError, match="crop_step must be 0 or more"):
        settings(crop_step=-1.0)


@pytest.mark.parametrize("crop", ["shortest", "none"])
def test_resume_at_any_position_is_the_undisturbed_run(corpus: Path, crop: str) -> None:
    config = settings(crop=crop)
    whole, states = [], []
    data = open_data(corpus, config, seed=3)
    for _ in range(2 * data.train.batches_per_epoch + 3):
        states.append(data.train.state())
        whole.append(next(data.train))
    for at in range(0, len(whole) - 2, 3):
        again = open_data(corpus, config, seed=3)
        again.train.load(json.loads(json.dumps(states[at])))
        assert same(take(again, 2), whole[at : at + 2])
    data.train.load(states[1])  # also in the middle of an iteration
    assert same(take(data, 2), whole[1:3])


def test_workers_change_nothing(corpus: Path) -> None:
    torch.manual_seed(5)
    alone = take(open_data(corpus, settings(workers=0), seed=3), 9)
    data = open_data(corpus, settings(workers=2), seed=3)
    assert same(take(data, 9), alone)
    state = data.train.state()
    following = take(data, 2)
    data.train.load(state)
    assert same(take(data, 2), following)
    data.train.close()
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn == torch.rand(1), "the stream must leave the global random state alone, or resumed runs differ"


def test_jobs_travel_to_spawned_workers(corpus: Path) -> None:
    job = open_data(corpus, CONFIG).train.plan.job(0, 0)
    there = decode(pickle.loads(pickle.dumps(job)))
    assert same([pickle.loads(pickle.dumps(there)).batch()], [decode(job).batch()])


@pytest.mark.parametrize("world", [1, 2, 3, 50])
def test_ranks_share_every_epoch_evenly(world: int) -> None:
    utterances = fake(np.random.default_rng(0).uniform(0.5, 3, 70).tolist())
    plans = [Plan(utterances, CONFIG, 0, rank, world) for rank in range(world)]
    assert len({plan.length(0) for plan in plans}) == 1
    jobs = [plan.job(0, index) for plan in plans for index in range(0, plan.length(0), world)]
    seen = Counter(item.id for job in jobs for item in job.utterances)
    assert set(seen) == {item.id for item in utterances}
    batches = len(plans[0].batches(0))
    if batches % world == 0:
        assert set(seen.values()) == {1}
    firsts = [plan.job(0, 0).utterances for plan in plans[:batches]]
    assert len(set(firsts)) == len(firsts)
    with pytest.raises(ValueError, match="rank 2"):
        Plan(utterances, CONFIG, 0, 2, 2)


def test_any_number_of_ranks_reads_the_same_sequence() -> None:
    """From any position on, over ends of epochs."""
    utterances = fake(np.random.default_rng(0).uniform(0.5, 3, 70).tolist())

    def sequence(world: int, batches: int = 60) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
        ranks = [Plan(utterances, CONFIG, 0, rank, world, multiple=4).jobs(2, 3) for rank in range(world)]
        steps = [next(rank) for _ in range(-(-batches // world)) for rank in ranks]
        return [(tuple(item.id for item in job.utterances), job.begins) for job in steps][:batches]

    alone = sequence(1)
    assert len(alone) > Plan(utterances, CONFIG, 0, multiple=4).length(2)
    assert all(sequence(world) == alone for world in (2, 3, 4, 7))


@pytest.mark.parametrize("crop", ["shortest", "none"])
def test_bucketing_keeps_the_budget_and_wastes_little(crop: str) -> None:
    seconds = np.random.default_rng(1).uniform(2, 15.6, 5_000)
    samples = (seconds * 16_000).astype(np.int64)
    batches = bucket(samples, DataConfig(crop=crop), rng(0, 0))  # type: ignore[arg-type]
    assert sorted(i for rows in batches for i in rows) == list(range(5_000))
    pick = np.min if crop == "shortest" else np.max
    sizes = [len(rows) * pick(samples[rows]) for rows in batches]
    assert max(sizes) <= 160 * 16_000
    assert 0.9 < sum(sizes) / samples.sum() < 1.1


def test_one_utterance_over_the_budget_is_a_batch_alone() -> None:
    assert sorted(bucket([160_000, 170_000], CONFIG, rng(0))) == [[0], [1]]


@pytest.mark.parametrize("seconds", [3.0, 3.1, 6.4, 7.0, 61.7])
def test_long_recordings_are_covered_whole(seconds: float) -> None:
    config = settings(min_seconds=1.6)
    pieces = list(split(Recording("x", "x"), seconds, config))
    assert pieces[0].start == 0
    assert pieces[-1].start + pieces[-1].seconds == pytest.approx(seconds)
    for one, two in pairwise(pieces):
        assert two.start <= one.start + one.seconds + 1e-9
    assert all(config.min_seconds - 1e-9 <= piece.seconds <= config.max_seconds + 1e-9 for piece in pieces)
    assert len({piece.id for piece in pieces}) == len(pieces)


def test_held_out_recordings_are_whole_and_stable() -> None:
    rows = [Recording(f"{n}", f"/one/{n}", duration=4.0) for n in range(200)]
    utterances = [piece for row in rows for piece in split(row, 4.0, settings(max_seconds=2.0))]
    train, valid = hold_out(utterances, CONFIG)
    assert len(valid) == 4  # 1 % of 800 s, in two pieces each
    assert len(train) + len(valid) == len(utterances)
    assert not {item.recording.id for item in train} & {item.recording.id for item in valid}
    moved = [Utterance(Recording(item.recording.id, "/elsewhere"), item.start, item.seconds) for item in reversed(utterances)]
    assert {item.id for item in hold_out(moved, CONFIG)[1]} == {item.id for item in valid}
    assert len(hold_out(utterances, settings(valid_share=0.5, valid_max_seconds=10))[1]) == 4
    assert hold_out(utterances, settings(valid_share=0))[1] == []
    assert [len(part) for part in hold_out(fake([3, 2]), CONFIG)] == [1, 1]
    assert [len(part) for part in hold_out(fake([3]), CONFIG)] == [1, 0]


def test_pieces_of_one_group_are_never_on_both_sides() -> None:
    rows = [Recording(f"{n}", "x", group=str(n % 3)) for n in range(30)]
    train, valid = hold_out([Utterance(row, 0.0, 2.0) for row in rows], CONFIG)
    assert valid
    assert not {item.recording.group for item in train} & {item.recording.group for item in valid}


def test_validation_is_fixed_and_keeps_its_lengths(corpus: Path) -> None:
    config = settings(valid_share=0.4, seconds_per_batch=60)
    one, two = (open_data(corpus, config, seed=seed).valid for seed in (1, 2))
    assert len(one) > 1, "all lengths in one batch would crop most of the audio away"
    assert same(list(one), list(two))
    assert same(list(one), list(one))
    assert sum(batch.seconds for batch in one) > 0.8 * one.seconds


def test_where_chooses_rows() -> None:
    rows = [Recording(str(n), "x", fields={"split": "train" if n else "test"}) for n in range(3)]
    assert [row.id for row in select(rows, {"split": "train"})] == ["1", "2"]
    with pytest.raises(ValueError, match=r"no column 'splt'.*did you mean 'split'"):
        select(rows, {"splt": "train"})
    with pytest.raises(ValueError, match="no recording has split = 'dev'; its values are: test, train"):
        select(rows, {"split": "dev"})


def spoil(folder: Path) -> None:
    """Broken files that only decoding finds, among good ones."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 32_000)
    for number in range(6):
        soundfile.write(folder / f"good{number}.wav", noise, 16_000)
    soundfile.write(folder / "nan.wav", np.where(np.arange(32_000) == 9_000, np.nan, noise), 16_000, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", 0 * noise, 16_000)
    (folder / "text.wav").write_text("hello")
    soundfile.write(folder / "short.wav", noise[:1600], 16_000)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_files_are_passed_over_and_named_once(tmp_path: Path, workers: int) -> None:
    folder, listed = tmp_path / "audio", tmp_path / "run" / "skipped.jsonl"
    folder.mkdir()
    spoil(folder)
    config = settings(
        seconds_per_batch=2.0, workers=workers, valid_share=0
    )  # one utterance a batch: two batches hold nothing usable
    data = open_data(folder, config, skipped_file=listed)
    assert {Path(row["path"]).name for row in data.skipped} == {"text.wav", "short.wav"}
    names = [batch.ids[0] for batch in take(data, 18)]
    assert Counter(names) == {f"good{n}.wav": 3 for n in range(6)}
    expected = {
        "text.wav": "not audio, or broken",
        "short.wav": "shorter than 0.5 s",
        "nan.wav": "samples that are not numbers",
        "silent.wav": "silent",
    }
    assert {Path(row["path"]).name: row["reason"] for row in data.train.skipped} == expected
    state = data.train.state()
    assert "4 skipped (1 " in data.summary()
    again = open_data(folder, config, skipped_file=listed)
    again.train.load(state)
    assert same(take(again, 6), take(data, 6))
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert {Path(row["path"]).name: row["reason"] for row in rows} == expected
    assert len(rows) == 4
    data.train.close()
    again.train.close()


def test_wrong_claims_use_what_is_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 48_000)
    for name, seconds in (("full", 3.0), ("less", 2.0), ("tiny", 0.2)):
        soundfile.write(tmp_path / f"{name}.wav", noise[: round(seconds * 16_000)], 16_000)
    (tmp_path / "list.tsv").write_text("path\tseconds\nfull.wav\t3\nless.wav\t3\ntiny.wav\t3\n")
    data = open_data(tmp_path / "list.tsv", settings(seconds_per_batch=9, valid_share=0))
    batch = next(data.train)
    assert sorted(batch.ids) == ["full.wav", "less.wav"]
    assert batch.wave.shape == (2, 32_000)
    assert [row["reason"] for row in data.skipped] == ["shorter than 0.5 s"]
    assert "less.wav: claims 3 s but has 2.00 s, which are used" in data.summary()


def test_nothing_readable_ends_with_a_reason(tmp_path: Path) -> None:
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(32_000), 16_000)
    data = open_data(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"no batch of a whole epoch could be read \(3 silent\)"):
        next(data.train)


def test_skip_log_survives_a_cut_line(tmp_path: Path) -> None:
    file = tmp_path / "skipped.jsonl"
    file.write_text('{"path": "a", "reason": "silent"}\n{"path": "b", "rea')
    log = SkipLog(file)
    log.add([{"path": "a", "reason": "silent"}, {"path": "b", "reason": "missing"}])
    assert [row["path"] for row in log.rows] == ["a", "b"]
    assert [json.loads(line)["path"] for line in file.read_text().splitlines() if line.endswith("}")] == ["a", "b"]


def test_scan_keeps_order_and_counts_hours(corpus: Path) -> None:
    data = open_data(corpus, CONFIG)
    assert data.hours == pytest.approx(sum(item.seconds for item in data.train.plan.utterances) / 3600)
    assert "of audio in 26 utterances" in data.summary()
    rows = [Recording(str(n), str(corpus / f"{n:02d}.wav")) for n in (5, 3, 9)]
    assert [item.recording.id for item in scan(rows, CONFIG).utterances] == ["5", "3", "9"]


def test_config_builds_from_a_recipe_and_checks_itself() -> None:
    config = build(DataConfig, {"crop": "none", "where": {"split": "train"}, "workers": 0})
    assert (config.crop, dict(config.where)) == ("none", {"split": "train"})
    for wrong in ({"min_seconds": 20.0}, {"seconds_per_batch": 0.0}, {"valid_share": 2.0}, {"workers": -1}, {"crop": "longest"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build(DataConfig, wrong)


def test_a_batch_at_another_speed_is_of_another_voice(tmp_path: Path) -> None:
    """A tone of 1 kHz, 2 s: at speed 1.25 it is of 1.25 kHz and 1.6 s, and its speaker somebody else; what is held out stays as it was."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000).astype(np.float32) / 2
    lines = ["path\tspeaker"]
    for number in range(12):
        soundfile.write(tmp_path / f"{number}.wav", tone, 16_000)
        lines.append(f"{number}.wav\t{'anna' if number % 2 else ''}")
    (tmp_path / "all.tsv").write_text("\n".join(lines) + "\n")
    config = settings(seconds_per_batch=4.0, label="speaker", speeds=(0.8, 1.0, 1.25), valid_share=0.2)
    data = open_data(tmp_path / "all.tsv", config)
    found = set()
    for batch in take(data, 20):
        seconds = batch.wave.shape[1] / 16_000
        peak = torch.fft.rfft(batch.wave[0]).abs().argmax() / seconds
        speed = round(float(peak) / 1000, 2)
        assert seconds == pytest.approx(2 / speed, abs=0.01)
        assert set(batch.labels) <= {"", "anna" if speed == 1 else f"anna x{speed:g}"}
        found.add(speed)
    assert found == {0.8, 1.0, 1.25}
    assert {batch.wave.shape[1] for batch in data.valid} == {32_000}
    assert same(take(data, 3), take(open_data(tmp_path / "all.tsv", settings(**vars(config))), 23)[20:])
    with pytest.raises(ValueError, match=r"speeds must lie between 0\.5 and 2, not 0\.1, 3"):
        settings(speeds=(0.1, 1.0, 3.0))
