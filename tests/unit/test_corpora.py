"""The official layouts of corpora are recognised, and give the labels that their lists hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sottovoce.core.registry import CORPORA
from sottovoce.data import DataConfig, Recording, Recordings, open_data, open_source, read_audio, scan, turns_of
from sottovoce.data.sources import read_folder
from sottovoce.data.turns import read_rttm

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")


def audio(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal(round(seconds * 16_000))
    soundfile.write(path, 0.1 * noise, 16_000, format="FLAC" if path.suffix == ".flac" else "WAV")
    return path


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def librispeech(root: Path) -> Path:
    for subset, speaker in (("train-clean-100", 19), ("dev-clean", 84), ("test-clean", 1089), ("test-other", 367)):
        chapter = root / subset / str(speaker) / "198"
        for number in range(2):
            audio(chapter / f"{speaker}-198-{number:04d}.flac")
        text(chapter / f"{speaker}-198.trans.txt", f"{speaker}-198-0000 NORTHANGER ABBEY", f"{speaker}-198-0001 IT'S LATE")
    text(root / "SPEAKERS.TXT", "; some")
    return root


def speech_commands(root: Path) -> Path:
    for word in (*KEYWORDS, "bed"):
        for who in ("0a7c2a8d", "1b88bf70", "2c6d3924"):
            audio(root / word / f"{who}_nohash_0.wav")
    audio(root / "_background_noise_" / "white_noise.wav", 10.3)
    text(root / "_background_noise_" / "README.md", "noise")
    text(root / "validation_list.txt", *(f"{word}/1b88bf70_nohash_0.wav" for word in ("yes", "bed")))
    text(root / "testing_list.txt", *(f"{word}/2c6d3924_nohash_0.wav" for word in ("yes", "bed")))
    return root


def speech_commands_test(root: Path) -> Path:
    for word in ("yes", "_unknown_", "_silence_"):
        audio(root / word / "3d53244b_nohash_0.wav")
    return root


def fluent(root: Path) -> Path:
    head = ",path,speakerId,transcription,action,object,location"
    for number, name in enumerate(("train", "valid", "test")):
        path = f"wavs/speakers/spk{number}/{name}.wav"
        audio(root / path)
        text(root / "data" / f"{name}_data.csv", head, f'0,{path},spk{number},"Louder, please",increase,volume,none')
    return root


def voxceleb1(root: Path) -> Path:
    for part, speaker in (("dev", "id10001"), ("dev", "id10002"), ("test", "id10270"), ("test", "id10271")):
        for number in (1, 2):
            audio(root / part / "wav" / speaker / "x6uYqmx31kE" / f"{number:05d}.wav")
    return root


def iemocap(root: Path) -> Path:
    for session in range(1, 6):
        home, dialog = root / f"Session{session}", f"Ses0{session}F_impro01"
        emotions = {"F000": "neu", "F001": "exc", "M000": "ang", "M001": "fru"}
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for name, emotion in emotions.items():
            audio(home / "sentences" / "wav" / dialog / f"{dialog}_{name}.wav")
            lines += [f"[6.2901 - 8.2357]\t{dialog}_{name}\t{emotion}\t[2.5000, 2.5000, 2.5000]", "C-E2:\tNeutral;\t()", ""]
        text(home / "dialog" / "EmoEvaluation" / f"{dialog}.txt", *lines)
        text(
            home / "dialog" / "transcriptions" / f"{dialog}.txt", f"{dialog}_F000 [006.2901-008.2357]: Excuse me.", "M: (inhales)"
        )
        audio(home / "dialog" / "wav" / f"{dialog}.wav")
    return root


def snips(root: Path) -> Path:
    lines = []
    for part in ("train", "valid", "test"):
        for voice in ("Ivy", "Amy", "Brian"):
            audio(root / part / f"{voice}-snips-{part}-0.wav")
            lines.append(f"{voice}-snips-{part}-0 BOS ADD MILES DAVIS TO JAZZ EOS\tO O artist artist O playlist AddToPlaylist")
    text(root / "all.iob.snips.txt", *lines)
    return root


def librimix(root: Path) -> Path:
    for subset in ("train-100", "dev", "test"):
        for part in ("mix_clean", "mix_both", "s1", "s2", "noise"):
            audio(root / "wav16k" / "max" / subset / part / "103-1240-0003_1235-135887-0017.wav")
    return root


def kaldi(root: Path) -> Path:
    for split in ("train", "dev", "test"):
        wave = audio(root.parent / "Libri2Mix" / split / "103-1240-0003_1235-135887-0017.wav", 0.5)
        name, home = wave.stem, root / split
        text(home / "wav.scp", f"{name} {wave}")
        rows = (f"SPEAKER\t{name}\t1\t0.25\t0.2\t<NA>\t<NA>\t1235\t<NA>", f"SPEAKER\t{name}\t1\t0.0\t0.3\t<NA>\t<NA>\t103\t<NA>")
        text(home / "rttm", *rows)
        text(home / "segments", f"{name}_000_300 {name} 0.0 0.3", f"{name}_250_450 {name} 0.25 0.45")
        text(home / "utt2spk", f"{name}_000_300 103", f"{name}_250_450 1235")
        text(home / "reco2dur", f"{name} 0.5")
    return root


def quesst2014(root: Path) -> Path:
    listed: dict[str, list[str]] = {"utterances": [], "dev": [], "eval": []}
    for number, language in ((1, "nnenglish"), (2, "czech")):
        for place, key, stem in (("Audio", "utterances", ""), ("dev_queries", "dev", "dev_"), ("eval_queries", "eval", "eval_")):
            name = f"{place}/quesst14_{stem}{number:04d}.wav"
            audio(root / name)
            listed[key].append(f"quesst14Database/{name} {language}")
    for key, lines in listed.items():
        text(root / "scoring" / f"language_key_{key}.lst", *lines)
    for which in ("dev", "eval"):
        rows = [
            f"LEXEME quesst14_0001 1 0.0 1.0 quesst14_{which}_0001 lex <NA> <NA>",
            "LEXEME quesst14_0002 1 0.0 1.0 NO_KEYWORD lex <NA> <NA>",
        ]
        text(root / "scoring" / f"groundtruth_quesst14_{which}" / f"quesst14_{which}.rttm", *rows)
    return root


def fleurs(root: Path) -> Path:
    said = {"en_us": ("Good day!", "good day"), "cmn_hans_cn": ("你好！", "你 好"), "es_419": ("¡Buenos días!", "buenos días")}
    for locale, (raw, plain) in said.items():
        for number, split in enumerate(("train", "dev", "test"), 1):
            lines = []
            for take in (1, 2):
                audio(root / locale / "audio" / split / f"{number}{take}.wav")
                gender = ("MALE", "FEMALE")[take - 1]
                lines.append(f"{number}\t{number}{take}.wav\t{raw}\t{plain}\t{' '.join(plain)} |\t1600\t{gender}")
            text(root / locale / f"{split}.tsv", *lines)
    return root


def covost2(root: Path) -> Path:
    for number, split in enumerate(("train", "dev", "test")):
        name = f"common_voice_fr_{number}.wav"  # theirs are MP3, which is the same here
        audio(root / "clips" / name)
        row = "\t".join([name, r"Il dit \"oui\".", r"He says \"yes\".", f"speaker{number}"])  # pandas escapes quotes
        text(root / f"covost_v2.fr_en.{split}.tsv", "path\tsentence\ttranslation\tclient_id", row)
    text(root / "validated.tsv", "client_id\tpath\tsentence", "speaker0\tcommon_voice_fr_0.wav\tIl dit oui.")
    return root


TREES: dict[str, Callable[[Path], Path]] = {
    "librispeech": librispeech,
    "speech_commands": speech_commands,
    "fluent_speech_commands": fluent,
    "voxceleb1": voxceleb1,
    "iemocap": iemocap,
    "snips": snips,
    "librimix": librimix,
    "kaldi_diarization": kaldi,
    "quesst2014": quesst2014,
    "fleurs": fleurs,
    "covost2": covost2,
}


def by_id(found: Recordings) -> dict[str, dict[str, str]]:
    return {item.id: dict(item.fields) for item in found}


def splits(found: Recordings) -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for item in found:
        made.setdefault(item.fields.get("split", ""), []).append(item.id)
    return made


@pytest.mark.parametrize("name", CORPORA.names())
class TestEveryCorpus:
    def test_says_what_it_is(self, name: str) -> None:
        assert len(CORPORA.summary(name)) > 10
        assert CORPORA.get(name).name == name
        assert name in TREES, "a corpus needs a tree of its shape in this test"

    def test_is_recognised_by_its_own_reader_only(self, name: str, tmp_path: Path) -> None:
        root = TREES[name](tmp_path / "corpus")
        assert [other for other in CORPORA.names() if CORPORA.get(other)().matches(root)] == [name]
        assert not any(CORPORA.get(other)().matches(tmp_path) for other in CORPORA.names())

    def test_lists_usable_audio_in_a_fixed_order(self, name: str, tmp_path: Path) -> None:
        root = TREES[name](tmp_path / "corpus")
        found = open_source(root)
        assert found.skipped == []
        assert len({item.id for item in found}) == len(found)
        assert open_source(str(root)) == found
        assert len(scan(found, DataConfig(min_seconds=0.05)).utterances) == len(found)
        assert all(isinstance(value, str) and value for item in found for value in item.fields.values())
        assert {item.fields.get("split", "") for item in found} <= {"train", "dev", "test", ""}

    def test_ids_do_not_depend_on_the_place(self, name: str, tmp_path: Path) -> None:
        one, two = (open_source(TREES[name](tmp_path / place / "corpus")) for place in ("one", "two/deep"))
        assert by_id(one) == by_id(two)


@pytest.mark.parametrize("name", sorted({*TREES} - {"speech_commands", "kaldi_diarization"}))
def test_the_audio_is_that_of_the_plain_folder(name: str, tmp_path: Path) -> None:
    """Whoever compresses on a corpus gets the same recordings, under the same ids, held out alike, as without its reader."""
    root = TREES[name](tmp_path / "corpus")
    audio(root / "more" / "something.wav")
    plain, found = read_folder(root), open_source(root)
    assert [(item.id, item.path, item.group) for item in found] == [(item.id, item.path, item.group) for item in plain]
    assert by_id(found)["more/something.wav"] == {}


def test_librispeech(tmp_path: Path) -> None:
    found = by_id(open_source(librispeech(tmp_path / "LibriSpeech")))
    assert found["test-other/367/198/367-198-0001.flac"] == {
        "split": "test",
        "subset": "test-other",
        "speaker": "367",
        "language": "en",
        "text": "IT'S LATE",
    }
    above = by_id(open_source(tmp_path))
    assert above == {f"LibriSpeech/{name}": fields for name, fields in found.items()}
    alone = by_id(open_source(tmp_path / "LibriSpeech" / "test-clean"))
    assert alone["1089/198/1089-198-0000.flac"] == found["test-clean/1089/198/1089-198-0000.flac"]
    (tmp_path / "data").symlink_to(tmp_path / "LibriSpeech" / "test-clean", target_is_directory=True)
    assert by_id(open_source(tmp_path / "data")) == alone


def test_librispeech_without_or_with_broken_transcripts(tmp_path: Path) -> None:
    root = librispeech(tmp_path)
    (root / "dev-clean/84/198/84-198.trans.txt").unlink()
    (root / "test-clean/1089/198/1089-198.trans.txt").write_bytes(b"\xff\xfe\xfa")
    text(root / "test-other/367/198/367-198.trans.txt", "367-198-0000 YES", "nonsense")
    found = open_source(root)
    assert len(found) == 8
    assert sum("text" in item.fields for item in found) == 3
    assert [row["reason"] for row in found.skipped] == ["list that cannot be read", "malformed manifest row"]


def test_libritts_is_not_librispeech(tmp_path: Path) -> None:
    audio(tmp_path / "test-clean" / "1089" / "198" / "1089_198_000000_000001.wav")
    assert [item.fields for item in open_source(tmp_path)] == [{}]


def test_speech_commands_with_its_lists(tmp_path: Path) -> None:
    made = open_source(speech_commands(tmp_path / "gsc"))
    found = by_id(made)
    speaker = {"speaker": "0a7c2a8d", "split": "train"}
    assert found["yes/0a7c2a8d_nohash_0.wav"] == {"word": "yes", "label": "yes", **speaker}
    assert found["bed/0a7c2a8d_nohash_0.wav"] == {"word": "bed", "label": "_unknown_", **speaker}
    assert found["bed/1b88bf70_nohash_0.wav"]["split"] == "dev"
    assert found["bed/2c6d3924_nohash_0.wav"]["split"] == "test"
    silence = [item for item in made if item.fields["label"] == "_silence_"]
    assert [(item.start, item.duration) for item in silence] == [(float(start), 1.0) for start in range(10)]
    assert [item.fields["split"] for item in silence] == ["train"] * 8 + ["dev", "test"]
    assert {item.group for item in silence} == {"_background_noise_/white_noise.wav"}
    assert len(read_audio(silence[9])) == 16_000


@pytest.mark.parametrize("place", ["gsc/speech_commands_test_set_v0.01", "speech_commands_test_set_v0.01"])
def test_speech_commands_with_the_official_test_set(tmp_path: Path, place: str) -> None:
    speech_commands_test(tmp_path / place)
    found = open_source(speech_commands(tmp_path / "gsc"))
    assert splits(found)["test"] == [
        f"speech_commands_test_set_v0.01/{label}/3d53244b_nohash_0.wav" for label in ("_silence_", "_unknown_", "yes")
    ]
    assert splits(found)[""] == ["bed/2c6d3924_nohash_0.wav", "yes/2c6d3924_nohash_0.wav"]
    assert [item.fields["label"] for item in found if item.fields.get("split") == "test"] == ["_silence_", "_unknown_", "yes"]
    assert [item.fields["split"] for item in found if item.id.startswith("_back")] == ["train"] * 9 + ["dev"]


def test_speech_commands_with_broken_noise_and_a_listed_file_missing(tmp_path: Path) -> None:
    root = speech_commands(tmp_path / "gsc")
    (root / "_background_noise_" / "pink_noise.wav").write_bytes(b"RIFF")
    (root / "bed" / "1b88bf70_nohash_0.wav").unlink()
    assert sorted(row["reason"] for row in open_source(root).skipped) == ["missing", "not audio, or broken"]


def test_fluent_speech_commands(tmp_path: Path) -> None:
    root = fluent(tmp_path)
    found = by_id(open_source(root))
    assert {name: fields["split"] for name, fields in found.items()} == {
        "wavs/speakers/spk0/train.wav": "train",
        "wavs/speakers/spk1/valid.wav": "dev",
        "wavs/speakers/spk2/test.wav": "test",
    }
    fields = found["wavs/speakers/spk1/valid.wav"]
    assert (fields["speaker"], fields["text"]) == ("spk1", "Louder, please")
    assert json.loads(fields["intent"]) == {"action": "increase", "object": "volume", "location": "none"}
    with (root / "data" / "test_data.csv").open("a") as table:
        table.write("1,wavs/speakers/spk2/gone.wav,spk2,Hello,a,b,c\n2,short\n")
    skipped = open_source(root).skipped
    assert [(Path(row["path"]).name, row["reason"]) for row in skipped] == [
        ("test_data.csv:4", "malformed manifest row"),
        ("test_data.csv:3", "missing"),
    ]


def test_voxceleb1_splits_by_part(tmp_path: Path) -> None:
    found = open_source(voxceleb1(tmp_path))
    assert {item.fields["speaker"] for item in found} == {"id10001", "id10002", "id10270", "id10271"}
    assert {(item.id.partition("/")[0], item.fields["part"], item.fields["split"]) for item in found} == {
        ("dev", "dev", "train"),
        ("test", "test", "test"),
    }
    assert found.trials == []


def test_voxceleb1_in_one_folder(tmp_path: Path) -> None:
    for speaker in ("id10269", "id10270", "id10309", "id10310"):
        audio(tmp_path / "wav" / speaker / "x6uYqmx31kE" / "00001.wav")
    assert [item.fields["part"] for item in open_source(tmp_path)] == ["dev", "test", "test", "dev"]


@pytest.mark.parametrize("place", [".", "meta"])
def test_voxceleb1_lists(tmp_path: Path, place: str) -> None:
    root = voxceleb1(tmp_path)
    rows = [f"{n} id10001/x6uYqmx31kE/0000{k}.wav" for n, k in ((1, 1), (2, 2), (3, 3))]
    text(
        root / place / "iden_split.txt", *rows, "3 id10270/x6uYqmx31kE/00001.wav", "1 id11000/x6uYqmx31kE/00001.wav", "4 nonsense"
    )
    same, other = "id10270/x6uYqmx31kE/00002.wav", "id10271/x6uYqmx31kE/00001.wav"
    trials = [f"1 id10270/x6uYqmx31kE/00001.wav {same}", f"0 {same} {other}", f"0 {same} id10300/a/1.wav", "nonsense"]
    text(root / place / "veri_test2.txt", *trials)
    text(root / place / "veri_test.txt", "0 the first list, which the cleaned one replaces")
    found = open_source(root)
    fields = by_id(found)
    assert [fields[f"dev/wav/id10001/x6uYqmx31kE/0000{k}.wav"]["split"] for k in (1, 2)] == ["train", "dev"]
    assert fields["test/wav/id10270/x6uYqmx31kE/00001.wav"]["split"] == "test"
    assert "split" not in fields["dev/wav/id10002/x6uYqmx31kE/00001.wav"]
    first, second = "test/wav/id10270/x6uYqmx31kE/00001.wav", "test/wav/id10270/x6uYqmx31kE/00002.wav"
    assert found.trials == [(first, second, True), (second, "test/wav/id10271/x6uYqmx31kE/00001.wav", False)]
    assert [(Path(row["path"]).name, row["reason"]) for row in found.skipped] == [
        ("iden_split.txt:6", "malformed manifest row"),
        ("iden_split.txt:3", "missing"),  # not line 5: nothing of that speaker is there
        ("veri_test2.txt:4", "malformed manifest row"),
        ("veri_test2.txt:3", "trial of a missing recording"),
    ]
    assert open_source([root, Recording("mine", "x.wav")]).trials == found.trials


def test_iemocap(tmp_path: Path) -> None:
    root = iemocap(tmp_path)
    found = by_id(open_source(root))
    home = "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01"
    assert found[f"{home}_F000.wav"] == {
        "fold": "2",
        "speaker": "Ses02F",
        "language": "en",
        "emotion": "neu",
        "label": "neu",
        "text": "Excuse me.",
    }
    assert found[f"{home}_F001.wav"]["label"] == "hap"
    assert found[f"{home}_M000.wav"]["speaker"] == "Ses02M"
    assert found[f"{home}_M001.wav"]["emotion"] == "fru"
    assert "label" not in found[f"{home}_M001.wav"]
    assert found["Session2/dialog/wav/Ses02F_impro01.wav"] == {}
    assert {fields["fold"] for fields in found.values() if fields} == set("12345")
    with (root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt").open("a") as lines:
        lines.write("[1.0 - 2.0]\tSes01F_impro01_F009\tneu\t[2.5, 2.5, 2.5]\n[1.0 - 2.0] broken\n")
    assert [row["reason"] for row in open_source(root).skipped] == ["malformed manifest row", "missing"]


def test_snips(tmp_path: Path) -> None:
    root = snips(tmp_path)
    found = open_source(root)
    assert splits(found) == {
        "test": ["test/Brian-snips-test-0.wav"],
        "train": ["train/Ivy-snips-train-0.wav"],
        "dev": ["valid/Amy-snips-valid-0.wav"],
        "": [item.id for item in found if "split" not in item.fields],
    }
    fields = by_id(found)["train/Ivy-snips-train-0.wav"]
    assert (fields["text"], fields["speaker"], fields["part"]) == ("ADD MILES DAVIS TO JAZZ", "Ivy", "train")
    assert json.loads(fields["slots"]) == [["artist", "MILES DAVIS"], ["playlist", "JAZZ"]]
    assert json.loads(fields["intent"]) == {"intent": "AddToPlaylist"}
    rows = ["Ivy-snips-train-1 BOS A B EOS\tO O PlayMusic", "Ivy-snips-train-2 BOS A EOS\tO O PlayMusic"]
    with (root / "all.iob.snips.txt").open("a") as lines:
        lines.write("\n".join([*rows, "Joey-snips-train-2 BOS A EOS\tO O PlayMusic"]))  # no audio of Joey at all: not an error
    assert [row["reason"] for row in open_source(root).skipped] == ["malformed manifest row", "missing"]


def test_snips_tags_with_b_and_i(tmp_path: Path) -> None:
    root = snips(tmp_path)
    tags = "O B-artist I-artist B-artist O O AddToPlaylist"
    text(root / "all.iob.snips.txt", f"Ivy-snips-train-0 BOS MILES DAVIS PRINCE PLEASE NOW EOS\t{tags}")
    fields = by_id(open_source(root))["train/Ivy-snips-train-0.wav"]
    assert json.loads(fields["slots"]) == [["artist", "MILES DAVIS"], ["artist", "PRINCE"]]


def test_librimix(tmp_path: Path) -> None:
    found = by_id(open_source(librimix(tmp_path)))
    home, name = "wav16k/max/train-100", "103-1240-0003_1235-135887-0017.wav"
    mixed = {"split": "train", "subset": "train-100", "mode": "max", "rate": "16k", "language": "en"}
    assert found[f"{home}/mix_both/{name}"] == {**mixed, "part": "mix_both", "speaker": "103 1235"}
    assert found[f"{home}/s2/{name}"] == {**mixed, "part": "s2", "speaker": "1235"}
    assert found[f"{home}/noise/{name}"] == {**mixed, "part": "noise"}


@pytest.mark.parametrize("without", ["", "rttm", "reco2dur"])
def test_kaldi_folders(tmp_path: Path, without: str) -> None:
    root, name = kaldi(tmp_path / "data"), "103-1240-0003_1235-135887-0017"
    for split in ("train", "dev", "test"):
        (root / split / without).unlink() if without else None
    found = open_source(root)
    assert [(item.id, item.fields["split"]) for item in found] == [(f"{s}/{name}", s) for s in ("train", "dev", "test")]
    assert {item.duration for item in found} == {None if without == "reco2dur" else 0.5}
    assert turns_of(found[0]) == [(0.0, 0.3, "103"), (0.25, 0.45, "1235")]
    (alone,) = open_source(root / "dev")
    assert (alone.id, alone.fields) == (name, found[1].fields)


def test_kaldi_folders_with_broken_rows(tmp_path: Path) -> None:
    root = kaldi(tmp_path / "data")
    with (root / "dev" / "wav.scp").open("a") as lines:
        lines.write("other sox a.wav -t wav - |\ngone /no/such/file.wav\nalone\n")
    with (root / "dev" / "rttm").open("a") as lines:
        lines.write("SPEAKER other 1 now then\n")
    with (root / "dev" / "reco2dur").open("a") as lines:
        lines.write("other\n")
    found = open_source(root)
    assert len(found) == 3
    malformed = "malformed manifest row"
    assert [row["reason"] for row in found.skipped] == [malformed, malformed, "a command, not a file", "missing", malformed]
    for split in ("train", "dev", "test"):
        text(root / split / "wav.scp", "gone /no/such/file.wav")
    with pytest.raises(ValueError, match=r"none of the audio that wav\.scp names.*correct its paths"):
        open_source(root)


def test_quesst2014(tmp_path: Path) -> None:
    root = quesst2014(tmp_path)
    found = by_id(open_source(root))
    assert found["Audio/quesst14_0001.wav"]["role"] == "doc"
    assert "split" not in found["Audio/quesst14_0001.wav"]
    assert json.loads(found["Audio/quesst14_0001.wav"]["matches"]) == [
        "dev_queries/quesst14_dev_0001.wav",
        "eval_queries/quesst14_eval_0001.wav",
    ]
    assert json.loads(found["Audio/quesst14_0002.wav"]["matches"]) == []
    assert found["dev_queries/quesst14_dev_0001.wav"] == {"role": "query", "split": "dev", "language": "nnenglish"}
    assert found["eval_queries/quesst14_eval_0002.wav"] == {"role": "query", "split": "test", "language": "czech"}
    with (root / "scoring/groundtruth_quesst14_dev/quesst14_dev.rttm").open("a") as lines:
        lines.write("LEXEME quesst14_0001 1 0.0 1.0 quesst14_dev_0009 lex\nLEXEME quesst14_0001\n")
    with (root / "scoring/language_key_dev.lst").open("a") as lines:
        lines.write("quesst14Database/dev_queries/quesst14_dev_0009.wav nnenglish\nnonsense\n")
    reasons = [row["reason"] for row in open_source(root).skipped]
    assert reasons == ["malformed manifest row", "malformed manifest row", "names a missing recording", "missing"]


def test_fleurs(tmp_path: Path) -> None:
    root = fleurs(tmp_path / "fleurs")
    found = by_id(open_source(root))
    assert len(found) == 18
    assert found["cmn_hans_cn/audio/dev/22.wav"] == {
        "split": "dev",
        "language": "cmn",
        "locale": "cmn_hans_cn",
        "sentence": "2",
        "text": "你 好",
        "raw_text": "你好！",
        "gender": "female",
    }
    assert {fields["sentence"] for fields in found.values() if fields["split"] == "train"} == {"1"}
    alone = by_id(open_source(root / "en_us"))
    assert alone["audio/test/31.wav"] == found["en_us/audio/test/31.wav"]
    assert len(alone) == 6
    (tmp_path / "english").symlink_to(root / "en_us", target_is_directory=True)
    assert by_id(open_source(tmp_path / "english")) == alone


def test_fleurs_with_broken_and_missing_rows(tmp_path: Path) -> None:
    root = fleurs(tmp_path)
    with (root / "en_us" / "dev.tsv").open("a") as lines:
        lines.write("9\tgone.wav\tA\ta\ta |\t1\tMALE\n9\tshort.wav\n")
    (root / "es_419" / "test.tsv").unlink()
    found = open_source(root)
    assert [(Path(row["path"]).name, row["reason"]) for row in found.skipped] == [
        ("dev.tsv:4", "malformed manifest row"),
        ("dev.tsv:3", "missing"),
    ]
    assert by_id(found)["es_419/audio/test/31.wav"] == {}


def test_covost2(tmp_path: Path) -> None:
    root = covost2(tmp_path)
    audio(root / "clips" / "common_voice_fr_9.wav")
    found = by_id(open_source(root))
    assert found["clips/common_voice_fr_1.wav"] == {
        "split": "dev",
        "language": "fr",
        "text": 'Il dit "oui".',
        "speaker": "speaker1",
        "translation": 'He says "yes".',
        "translation_en": 'He says "yes".',
    }
    assert found["clips/common_voice_fr_9.wav"] == {}


def test_covost2_into_several_languages_and_with_broken_rows(tmp_path: Path) -> None:
    root = covost2(tmp_path)
    head = "path\tsentence\ttranslation\tclient_id"
    text(
        root / "covost_v2.fr_zh-CN.dev.tsv", head, "common_voice_fr_1.wav\tIl dit oui.\t他说\tspeaker1", "gone.wav\ta\tb\tc", "a"
    )
    found = open_source(root)
    fields = by_id(found)["clips/common_voice_fr_1.wav"]
    assert fields["translation_zh-CN"] == "他说"
    assert fields["translation_en"] == 'He says "yes".'
    assert "translation" not in fields
    assert [row["reason"] for row in found.skipped] == ["malformed manifest row", "missing"]
    text(root / "covost_v2.fr_en.test.tsv", "path\ttranslation\tsplit", "a\tb\ttest")
    with pytest.raises(ValueError, match=r"make it again with get_covost_splits\.py"):
        open_source(root)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("speech_commands", "validation_list.txt"),
        ("speech_commands", "testing_list.txt"),
        ("fluent_speech_commands", "data/valid_data.csv"),
        ("iemocap", "Session3/dialog/EmoEvaluation/Ses03F_impro01.txt"),
        ("quesst2014", "scoring/language_key_eval.lst"),
        ("quesst2014", "scoring/groundtruth_quesst14_dev/quesst14_dev.rttm"),
    ],
)
def test_a_list_that_is_missing_is_named(name: str, lost: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path / "corpus")
    (root / lost).unlink()
    if name == "iemocap":
        lost = str(Path(lost).parent)
        (root / lost).rmdir()
    with pytest.raises(ValueError, match="is missing; unpack it") as caught:
        open_source(root)
    assert str(root / lost) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_list_says_what_it_should_hold(tmp_path: Path) -> None:
    root = fluent(tmp_path)
    (root / "data" / "test_data.csv").write_text("")
    with pytest.raises(ValueError, match=r"test_data\.csv must have the columns"):
        open_source(root)


@pytest.mark.parametrize(
    "names",
    [
        ["a/one.wav", "two.flac"],
        ["train/a.wav", "dev/b.wav", "test/c.wav", "train/d.txt"],
        ["dev/wav/speaker1/a.wav", "wav/b.wav", "wavs/c.wav", "data/d.csv"],
        ["yes/a.wav", "no/b.wav", "validation_list.txt"],
        ["train-clean-100/a.wav", "LibriSpeech/b.wav"],
        ["Session1/a.wav", "Audio/b.wav", "dev_queries/c.wav"],
        ["wav16k/max/a.wav", "wav.scp", "a.wav"],
        ["wav.scp", "segments", "utt2spk", "text", "a.wav"],
        ["wavs/a.wav", "data/train_data.csv"],
    ],
)
def test_an_ordinary_folder_is_no_corpus(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        audio(tmp_path / name) if name.endswith((".wav", ".flac")) else text(tmp_path / name, "path,speaker", "a.wav,b")
    assert list(open_source(tmp_path)) == list(read_folder(tmp_path))


def test_a_corpus_as_training_audio(tmp_path: Path) -> None:
    config = DataConfig(min_seconds=0.05, seconds_per_batch=1, workers=0)
    data = open_data(librispeech(tmp_path), config)
    assert data.splits == ("dev", "test", "train")
    only = open_data(tmp_path, DataConfig(min_seconds=0.05, seconds_per_batch=1, workers=0, where={"subset": "test-other"}))
    assert {utterance.recording.fields["speaker"] for utterance in only.train.plan.utterances} == {"367"}


def manifest(folder: Path, *rows: str) -> Recordings:
    audio(folder / "ami" / "dev00.wav", 3.0)
    return open_source(text(folder / "list.tsv", *rows))


def rttm(path: Path, *rows: tuple[str, float, float, str]) -> Path:
    return text(path, *(f"SPEAKER {file} 1 {start} {seconds} <NA> <NA> {who} <NA> <NA>" for file, start, seconds, who in rows))


def test_pairs_of_a_manifests_extra_column_become_fields(tmp_path: Path) -> None:
    rttm(tmp_path / "ami" / "dev00.rttm", ("dev00", 1.0, 0.5, "anna"))
    rows = ["path\tsex\textra", "ami/dev00.wav\t\trttm=ami/dev00.rttm; sex=F;clip is 2 s long; official test = x"]
    rows += ["ami/dev00.wav\tM\tsex=F;", 'ami/dev00.wav\t\t{"size": "a;b=c"}', "ami/dev00.wav\t\t"]
    one, two, three, four = manifest(tmp_path, *rows)
    assert one.fields == {"sex": "F", "extra": rows[1].split("\t")[2], "rttm": str(tmp_path / "ami/dev00.rttm")}
    assert two.fields["sex"] == "M"
    assert three.fields == {"extra": '{"size": "a;b=c"}'}
    assert four.fields == {}
    assert turns_of(one) == [(1.0, 1.5, "anna")]


def test_rttm_lies_beside_the_audio_or_the_manifest(tmp_path: Path) -> None:
    home = tmp_path / "lists"
    audio(tmp_path / "ami" / "dev00.wav")
    rttm(home / "a.rttm", ("dev00", 0.0, 1.0, "anna"))
    rttm(tmp_path / "ami" / "b.rttm", ("dev00", 0.0, 1.0, "ben"))
    rows = ["path\trttm", "ami/dev00.wav\ta.rttm", "ami/dev00.wav\tami/b.rttm", f"./ami/dev00.wav\t{home / 'a.rttm'}"]
    found = open_source(text(home / "list.tsv", *rows))
    assert [turns_of(item)[0][2] for item in found] == ["anna", "ben", "anna"]


def test_turns_are_those_of_this_recording_and_this_stretch(tmp_path: Path) -> None:
    path = rttm(tmp_path / "all.rttm", ("dev00", 2.0, 1.0, "ben"), ("dev00", 0.5, 1.0, "anna"), ("dev01", 0.0, 9.0, "carl"))
    rows = ["path\tstart\tseconds\trttm", f"ami/dev00.wav\t0\t3\t{path}", f"ami/dev00.wav\t1\t1.5\t{path}"]
    whole, part = manifest(tmp_path, *rows)
    assert turns_of(whole) == [(0.5, 1.5, "anna"), (2.0, 3.0, "ben")]
    assert turns_of(part) == [(0.0, 0.5, "anna"), (1.0, 1.5, "ben")]


def test_turns_of_a_field_and_of_a_file_with_another_name(tmp_path: Path) -> None:
    own = Recording("a", "a.wav", fields={"turns": '[[1, 2.5, "ben"], [0, 1, "anna"], [3, 3, "ben"]]', "rttm": "/no/such"})
    assert turns_of(own) == [(0.0, 1.0, "anna"), (1.0, 2.5, "ben")]
    path = rttm(tmp_path / "a.rttm", ("EN2002a", 0.0, 1.0, "anna"))
    assert turns_of(Recording("a", "a.wav", fields={"rttm": str(path)})) == [(0.0, 1.0, "anna")]


@pytest.mark.parametrize(
    ("fields", "content", "message"),
    [
        ({}, "", "add a column 'rttm' with the path"),
        ({"turns": "[[0, 1]]"}, "", "write them as JSON"),
        ({"turns": '[[2, 1, "a"]]'}, "", "write them as JSON"),
        ({"turns": "{"}, "", "write them as JSON"),
        ({"rttm": "gone"}, "", "cannot read the RTTM file"),
        ({"rttm": "a.rttm"}, ";; nothing\n", "no line that begins with SPEAKER"),
        ({"rttm": "a.rttm"}, "SPEAKER a 1 0.0\n", "line 1 of .* is not RTTM; it must read"),
        ({"rttm": "a.rttm"}, "\nSPEAKER a 1 0.0 nan <NA> <NA> b <NA> <NA>\n", "line 2 of"),
        (
            {"rttm": "a.rttm"},
            "".join(f"SPEAKER {x} 1 0 1 <NA> <NA> b\n" for x in "bc"),
            "has no turns for a; use the audio file's",
        ),
    ],
)
def test_broken_turns_say_what_to_do(tmp_path: Path, fields: dict[str, str], content: str, message: str) -> None:
    (tmp_path / "a.rttm").write_text(content)
    fields = {key: str(tmp_path / value) if key == "rttm" else value for key, value in fields.items()}
    with pytest.raises(ValueError, match=message) as caught:
        turns_of(Recording("a", "a.wav", fields=fields))
    assert "\n" not in str(caught.value)


def test_a_broken_rttm_line_can_be_skipped(tmp_path: Path) -> None:
    path = text(tmp_path / "a.rttm", "SPEAKER a 1 0 1 <NA> <NA> b <NA> <NA>", "SPEAKER a")
    skipped: list = []
    assert read_rttm(path, skipped) == {"a": [(0.0, 1.0, "b")]}
    assert [row["path"] for row in skipped] == [f"{path}:2"]
