"""What a manifest says is honoured as far as the files allow, and what is not understood is said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sottovoce.data import DataConfig, Recordings, open_data, open_source, read_audio, scan
from sottovoce.data.columns import layout
from sottovoce.data.durations import timed
from sottovoce.data.splits import canonical, remarks

from .test_data_sources import cut, tone, two_channels


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Ramps of 4 s at several rates: a sample tells where it is from."""
    for rate in (8_000, 16_000, 48_000):
        soundfile.write(tmp_path / f"{rate}.wav", np.linspace(0, 0.8, 4 * rate), rate, subtype="FLOAT")
    return tmp_path


def table(folder: Path, *rows: str) -> Recordings:
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return open_source(folder / "m.csv")


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        ("start,end", "1,2.5"),
        ("start_time,end_time", "1.0,2.5"),
        ("offset,duration", "1,1.5"),
        ("begin,stop", "1,2.5"),
        ("onset,offset", "1,2.5"),
        ("StartTime,Duration", "1,1.5"),
        ("begin_ms,end_ms", "1000,2500"),
        ("start,end,duration", "0:01,0:02.5,1.5"),
        ("start,length", "1,1.5"),
        ("frame_offset,num_frames", "{1},{1.5}"),
        ("start_sample,end_sample", "{1},{2.5}"),
        ("start_frame,n_samples", "{1}.0,{1.5}.0"),
        ("offset,duration,num_samples", "1,1.5,{1.5}"),
    ],
)
def test_a_stretch_of_a_file(corpus: Path, columns: str, cells: str, rate: int) -> None:
    for seconds in ("1.5", "2.5", "1"):
        cells = cells.replace(f"{{{seconds}}}", str(round(float(seconds) * rate)))
    (item,) = timed(table(corpus, f"path,{columns}", f"{rate}.wav,{cells}"))
    assert (item.start, item.duration) == (pytest.approx(1), pytest.approx(1.5))
    assert not item.fields
    wave = read_audio(item)
    assert len(wave) == pytest.approx(24_000, abs=1)
    assert wave[800] == pytest.approx(0.21, abs=2e-3)  # at 1.05 s


@pytest.mark.parametrize(
    ("columns", "cells", "reason"),
    [
        ("start,end", "2,1", "end is not after the beginning"),
        ("start,end,duration", "1,2,3", "duration and end contradict each other"),
        ("start,offset", "1,2", "start and offset contradict each other"),
        ("duration", "-1", "duration is not a time"),
        ("duration", "inf", "duration is not a time"),
        ("duration", "long", "duration is not a number"),
        ("channel", "left", "channel is not a number"),
        ("channel", "-1", "channel is not a whole number from 0 on"),
        ("channel", "0.5", "channel is not a whole number from 0 on"),
    ],
)
def test_what_is_no_stretch_is_named(corpus: Path, columns: str, cells: str, reason: str) -> None:
    found = table(corpus, f"path,{columns}", f"8000.wav,{cells}", "16000.wav" + "," * (columns.count(",") + 1))
    assert [item.id for item in found] == ["16000.wav"]
    assert [row["reason"] for row in found.skipped] == [f"malformed manifest row: {reason}"]


def test_a_length_that_may_be_of_text_is_not_taken_and_said(corpus: Path) -> None:
    found = table(corpus, "path,length,n_frames,speech_start", "8000.wav,7,120,1")
    assert found[0].duration is None
    assert found[0].fields == {"length": "7", "n_frames": "120", "speech_start": "1"}
    assert found.notes[0]["note"].startswith("not used as times: length, n_frames, speech_start;")
    assert not layout(("path", "text_length", "sentence_end", "sample_rate", "label")).unused


@pytest.mark.parametrize("claimed", [5.0, 1e6, 1e9, 1e300])
def test_a_claimed_duration_ends_with_the_file(corpus: Path, claimed: float) -> None:
    found = scan(table(corpus, "path,seconds", f"8000.wav,{claimed}", "16000.wav,2", "48000.wav,nan"), DataConfig())
    assert [item.seconds for item in found.utterances] == [4.0, 2.0, 4.0]
    assert [note["note"] for note in found.notes] == [f"claims {claimed:g} s but has 4.00 s, which are used"]
    data = open_data(corpus / "m.csv", DataConfig(valid_share=0, workers=0))
    assert data.hours == pytest.approx(10 / 3600)
    assert len(read_audio(open_source(corpus / "m.csv")[0])) == 64_000  # without a scan, too


def test_fairseq_counts_samples_at_the_rate_of_each_file(corpus: Path) -> None:
    lines = [str(corpus), "16000.wav\t64000", "8000.wav\t32000", "48000.wav\t192000"]
    (corpus / "m.tsv").write_text("\n".join(lines))
    found = timed(open_source(corpus / "m.tsv"))
    assert [item.duration for item in found] == [4.0] * 3
    assert [len(read_audio(item)) for item in found] == [64_000] * 3


def test_nan_of_pandas_is_nothing(corpus: Path) -> None:
    rows = ['{"path": "8000.wav", "text": NaN, "label": NaN, "speaker": null, "start": NaN, "channel": NaN, "x": {"a": NaN}}']
    rows += ['{"path": "16000.wav", "text": "NaN", "channel": 0.0, "duration": "nan"}']
    (corpus / "m.jsonl").write_text("\n".join(rows))
    one, two = open_source(corpus / "m.jsonl")
    assert one.fields == {"x": '{"a": null}'}
    assert (one.start, one.duration, one.channel) == (0.0, None, None)
    assert (two.fields, two.channel, two.duration) == ({"text": "NaN"}, 0, None)
    found = table(corpus, "path,channel,start,duration,text,label", "8000.wav,0.0,,nan,,", "16000.wav,,NaN,2.0,nan,None")
    assert [(item.channel, item.start, item.duration) for item in found] == [(0, 0.0, None), (None, 0.0, 2.0)]
    assert [dict(item.fields) for item in found] == [{}, {"text": "nan", "label": "None"}]
    assert found.notes[0]["note"].startswith("1 cells of the column 'text' read 'nan', which is taken as a word")


def test_one_id_one_recording(corpus: Path) -> None:
    rows = ["path,channel,text", "8000.wav,0,a", "8000.wav,1,a", "8000.wav,,b", "8000.wav,0,a", "16000.wav,,"]
    found = table(corpus, *rows)
    assert [item.id for item in found] == ["8000.wav", "8000.wav@1", "8000.wav~2", "16000.wav"]
    assert {item.group for item in found[:3]} == {"8000.wav"}
    assert [row["reason"] for row in found.skipped] == ["duplicate recording"]
    assert [note["note"] for note in found.notes] == ["2 recordings have the id of another one; a suffix makes it unique"]


def test_csv_rows_are_told_apart(corpus: Path) -> None:
    rows = [
        "path,text",
        '8000.wav,"open',
        "16000.wav,yes",
        '"48000.wav","two\nlines, ""quoted"""',
        'a"b.wav,x"y',
        '"x"y,z',
        "one",
        "a,b,c",
        "a,b,",
    ]
    found = table(corpus, *rows)
    assert [(item.id, item.fields["text"]) for item in found] == [
        ("16000.wav", "yes"), ("48000.wav", 'two\nlines, "quoted"'), ('a"b.wav', 'x"y'), ("a", "b")
    ]  # fmt: skip
    assert [row["reason"].partition(": ")[2][:25] for row in found.skipped] == [
        "quotes that do not match", "quotes that do not match", "not as many cells as the ", "not as many cells as the "
    ]  # fmt: skip
    with pytest.raises(ValueError, match="several columns named 'text'"):
        table(corpus, "path,text,Text", "8000.wav,a,b")


def test_tsv_quotes_of_pandas(corpus: Path) -> None:
    (corpus / "m.tsv").write_text('path\ttext\n8000.wav\t"she said ""hi"""\n16000.wav\t"all of it"\n')
    assert [item.fields["text"] for item in open_source(corpus / "m.tsv")] == ['she said "hi"', '"all of it"']


def test_addresses_and_commands_are_no_files(corpus: Path) -> None:
    found = table(corpus, "path", "8000.wav", "https://example.org/a.wav", "s3://b/c.wav", "sox a.wav -t wav - |")
    assert len(found) == 1
    assert [row["reason"] for row in found.skipped] == [
        "an address, which is not fetched", "an address, which is not fetched", "a command, which is not run"
    ]  # fmt: skip


def sources(folder: Path) -> list[tuple[str, dict[str, object]]]:
    """Cuts with what is not to be run or fetched, at every place where lhotse would do so."""
    ran = folder / "ran"
    command = {"type": "command", "channels": [0], "source": f"touch {ran}; cat {folder / 'x.wav'}"}
    url = {"type": "url", "channels": [0], "source": f"pipe:touch {ran}"}
    good = cut("good", two_channels(folder / "x.wav"), 0, 2)
    recording = good["recording"]
    assert isinstance(recording, dict)

    def with_source(name: str, source: dict[str, object]) -> dict[str, object]:
        return {**good, "id": name, "channel": 0, "recording": {**recording, "channel_ids": [0], "sources": [source]}}

    bad = with_source("bad", command)
    room = {"name": "ReverbWithImpulseResponse", "kwargs": {"rir": bad["recording"]}}
    web = {"type": "file", "channels": [0, 1], "source": "https://example.org/x.wav"}
    return [
        ("command", bad),
        ("address", with_source("url", url)),
        ("address", with_source("web", web)),
        ("command", {"id": "mix", "type": "MixedCut", "tracks": [{"cut": bad, "type": "MonoCut", "offset": 0.0}]}),
        ("command", {**good, "id": "room", "recording": {**recording, "transforms": [room]}}),
        ("unknown kind", with_source("new", {"type": "magic", "channels": [0], "source": "x"})),
        ("", good),
    ]


def test_a_manifest_runs_and_fetches_nothing(tmp_path: Path) -> None:
    rows = sources(tmp_path)
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress("\n".join(json.dumps(row) for _, row in rows).encode()))
    found = open_source(tmp_path / "cuts.jsonl.gz")
    assert [item.id for item in found] == ["good"]
    assert len(read_audio(found[0])) == 32_000
    assert [kind in row["reason"] for (kind, _), row in zip(rows, found.skipped, strict=False)] == [True] * 6
    assert not (tmp_path / "ran").exists()
    data = open_data(tmp_path / "cuts.jsonl.gz", DataConfig(workers=0, valid_share=0))
    assert len(data.skipped) == 6
    assert not (tmp_path / "ran").exists()


def test_a_command_runs_when_the_user_says_so(tmp_path: Path) -> None:
    pytest.importorskip("lhotse", reason="lhotse, or a package that it imports, is missing")
    (tmp_path / "cuts.jsonl").write_text(json.dumps(sources(tmp_path)[0][1]))
    (item,) = open_source(tmp_path / "cuts.jsonl", allow_commands=True)
    assert len(read_audio(item)) == 32_000
    assert (tmp_path / "ran").exists()


def test_cuts_with_one_id_keep_their_own_audio(tmp_path: Path) -> None:
    audio = tone(tmp_path / "x.wav")
    rows = [cut("same", audio, 0, 1), cut("same", audio, 1, 1), cut("n", audio, 0, float("nan")), cut("far", audio, 9, 1)]
    (tmp_path / "cuts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = scan(open_source(tmp_path / "cuts.jsonl"), DataConfig(min_seconds=0.5))
    assert [(item.id, item.recording.start) for item in found.utterances] == [("same", 0), ("same~2", 1), ("n", 0)]
    assert [row["reason"] for row in found.skipped] == ["starts after the end of its file"]


def test_names_of_splits(corpus: Path) -> None:
    names = ["Train", "training", "tr", "validation", "val", "cv", "dev", "eval", "TEST", "evaluation"]
    assert [canonical(name) for name in names] == ["train"] * 3 + ["dev"] * 4 + ["test"] * 3
    assert canonical("other") == "other"
    assert remarks({"train": 3, "val": 2, "extra": 1, "": 9}) == [
        "the split 'val' (2) is used as dev", "the splits 'extra' (1) are not train, dev or test, so no task uses them"
    ]  # fmt: skip
    table(corpus, "path,split", "8000.wav,validation", "16000.wav,training")
    data = open_data(corpus / "m.csv", DataConfig(where={"split": "dev"}, workers=0))
    assert [item.recording.id for item in data.train.plan.utterances] == ["8000.wav"]


def test_a_text_belongs_to_a_whole_recording(tmp_path: Path) -> None:
    for name, seconds in (("a.wav", 2.0), ("b.wav", 2.2), ("c.wav", 4.0)):
        tone(tmp_path / name, seconds)
    table(tmp_path, "path,text", "a.wav,one", "b.wav,", "c.wav,two words")
    config = {"text": "text", "crop": "none", "workers": 0, "valid_share": 0, "min_seconds": 1.0}
    data = open_data(tmp_path / "m.csv", DataConfig(**config))
    assert "1 of 3 utterances have no text 'text'" in data.summary()
    batch = next(data.train)
    assert dict(zip(batch.ids, batch.texts, strict=True)) == {"a.wav": "one", "b.wav": "", "c.wav": "two words"}
    assert batch.to(torch.device("cpu")).texts == batch.texts
    data = open_data(tmp_path / "m.csv", DataConfig(**config, max_seconds=3.0))
    assert "3 of 4 utterances have no text 'text', 2 of them because their recording is split" in data.summary()
    batch = next(data.train)
    assert sorted(zip(batch.ids, batch.texts, strict=True)) == [
        ("a.wav", "one"),
        ("b.wav", ""),
        ("c.wav", ""),
        ("c.wav@2.00", ""),
    ]
    with pytest.raises(ValueError, match=r"raise data\.max_seconds"):
        open_data(tmp_path / "m.csv", DataConfig(**config, max_seconds=1.9))
    with pytest.raises(ValueError, match="no recording has the text 'txt'; did you mean 'text'"):
        open_data(tmp_path / "m.csv", DataConfig(**{**config, "text": "txt"}))
    with pytest.raises(ValueError, match="text needs crop: none"):
        DataConfig(text="text")


def test_labels_that_are_asked_for_and_not_there(corpus: Path) -> None:
    table(corpus, "path,speaker", "8000.wav,ann", "16000.wav,", "48000.wav,")
    data = open_data(corpus / "m.csv", DataConfig(label="speaker", workers=0, valid_share=0))
    assert "2 of 3 utterances have no label 'speaker'" in data.summary()
    with pytest.raises(ValueError, match="no recording has the label 'speakr'; did you mean 'speaker'"):
        open_data(corpus / "m.csv", DataConfig(label="speakr"))
