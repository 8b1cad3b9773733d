"""Students in hosts on disk: the folder says what the host in torch says, opened by the host's auto class, by sottovoce, and alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import sottovoce
from sottovoce.core.types import Batch
from sottovoce.encoder import Encoder, normalize
from sottovoce.evaluation.subjects.sources import open_subject
from sottovoce.hosts.base import Host
from sottovoce.hosts.load import load_host
from sottovoce.hosts.save import save_host
from sottovoce.hub.teacher_space import TeacherSpace
from sottovoce.train import api
from tests.recipes.test_recipes import SMALL as FEW
from tests.unit import test_recognisers as recognisers
from tests.unit.test_export_hf import run
from tests.unit.test_families import speech
from tests.unit.test_hosts import ADAPTED, EVEN, loaded, save, tiny

VOCABULARY = {"<pad>": 0, "|": 1, "<unk>": 2, **{letter: i for i, letter in enumerate("abcdefghi", 3)}}
TOKENS = torch.tensor([[1, 5, 9, 2, 0], [1, 3, 7, 8, 2], [1, 2, 0, 0, 0]])
CASES = {  # family or style, kind, changes of the config, whether the bridge is folded into the head
    "ctc, folded": ("hubert", "ctc", {}, True),
    "ctc, behind a norm": ("wav2vec2", "ctc", {}, False),
    "ctc of w2v-bert": ("wav2vec2_bert", "ctc", {}, True),
    "ctc of w2v-bert, adapter": ("wav2vec2_bert", "ctc", ADAPTED, False),
    "ctc, adapter": ("wav2vec2", "ctc", ADAPTED, False),
    "classes": ("hubert", "sequence-classification", {}, True),
    "frames": ("unispeech_sat", "frame-classification", {}, True),
    "vectors": ("wav2vec2_conformer", "xvector", {}, False),
    "sum of layers": ("hubert", "sequence-classification", {"use_weighted_layer_sum": True}, False),
    "whisper": ("80 mels", "whisper", {}, False),
    "moonshine": ("half turned", "moonshine", {}, False),
}


def host_of(case: str, folder: Path) -> Host:
    """A host as it was, with a tokenizer for CTC."""
    family, kind, changes, _ = CASES[case]
    if kind in ("whisper", "moonshine"):
        recognisers.save(family, folder, "ForConditionalGeneration")
    else:
        save(tiny(family, kind, **changes), folder)
    if kind == "ctc":
        (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Wav2Vec2CTCTokenizer"}))
    return loaded(folder)


def inhabited(case: str, folder: Path) -> tuple[Host, dict[str, nn.Linear], dict[str, list[int]]]:
    """A host with a random student in it, thinner where the head allows it, and the student's projections."""
    host = host_of(case, folder)
    config = replace(host.encoder.config, window=0)
    if not host.sums_layers:
        config = replace(config, dim=24, layers=config.layers[:2])
    torch.manual_seed(3)
    student = Encoder(config).eval()
    maps = {"0": nn.Linear(config.dim, 48), "rest": nn.Linear(config.dim, 48)}
    layers = {"0": [0], "rest": list(range(1, len(config.layers) + 1))}
    space = TeacherSpace(layers, config.dim, 48)
    for name, linear in maps.items():
        space[name] = linear
    host.put(student, host.way(maps["rest"]), space)
    return host, maps, layers


def write(case: str, folder: Path) -> Host:
    host, maps, layers = inhabited(case, folder / "teacher")
    save_host(folder / "student", host, projections=maps, layers=layers, teacher="someone/teacher")
    return host


def said(host: Host, batch: Batch) -> Tensor:
    return host.outputs(host.listen(batch), batch, TOKENS if host.answers == "tokens" else None).logits


def given(case: str, wave: Tensor, sizes: Tensor) -> dict[str, Tensor]:
    """What a user of transformers gives the model."""
    mask = (torch.arange(wave.shape[1]) < sizes[:, None]).long()
    kind = CASES[case][1]
    if kind == "whisper":
        extractor = transformers.WhisperFeatureExtractor(80, chunk_length=3)
        rows = [row[:size].numpy() for row, size in zip(wave, sizes, strict=True)]
        made = extractor(rows, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
        return {**made, "decoder_input_ids": TOKENS[:, :-1]}
    if kind == "moonshine":
        return {"input_values": wave, "attention_mask": mask, "decoder_input_ids": TOKENS[:, :-1]}
    normal = CASES[case][0] != "wav2vec2_bert"
    return {"input_values": normalize(wave, sizes) if normal else wave, "attention_mask": mask}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_folder_says_what_the_host_says(case: str, tmp_path: Path) -> None:
    host = write(case, tmp_path)
    folder = tmp_path / "student"
    wave, sizes = speech(EVEN)
    batch = Batch(wave, sizes)
    right = said(host, batch)
    again = loaded(folder)
    assert again.name == host.name
    assert len(again.bridge) == (0 if CASES[case][3] or host.sums_layers else 1)
    assert (said(again, batch) - right).abs().max() < 1e-5
    model = getattr(transformers, host.auto_class).from_pretrained(folder)
    assert type(model).__module__.startswith("sottovoce.hosts.remote")
    out = model(**given(case, wave, sizes)).logits
    valid = host.outputs(host.listen(batch), batch, TOKENS if host.answers == "tokens" else None).valid
    assert (out.reshape(right.shape) - right)[valid].abs().max() < 1e-5


@torch.no_grad()
def test_whisper_hears_silence_behind_a_recording(tmp_path: Path) -> None:
    """A tenth of a second, as the folder says: within the window, in the host and in the model of transformers. Folders of older versions
    say nothing of it, and hear none."""
    host, folder = write("whisper", tmp_path), tmp_path / "student"
    wave, sizes = speech([9_777, 48_000, 47_500])  # within a hop; the whole window; less than a tenth of a second before its end
    batch = Batch(wave, sizes)
    features = host.listen(batch)
    ends = host.encoder.config.frontend.frames(torch.tensor([9_920 + 1_600, 48_000, 48_000]))
    assert torch.equal(features.lengths, ends)
    padded = torch.nn.functional.pad(wave[:1, :9_777], (0, 143 + 1_600))
    alone, short = host.encoder(padded).last[0], host.listen(Batch(wave[:1, :9_777]))
    assert (features.last[0, : len(alone)] - alone).abs().max() < 1e-5
    assert (short.last[0] - alone).abs().max() < 1e-5
    heard = host.states(features).last
    model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(folder)
    asked = given("whisper", wave, sizes)
    inputs, mask = asked["input_features"], asked["attention_mask"]
    assert (model.get_encoder()(inputs, attention_mask=mask).last_hidden_state - heard).abs().max() < 1e-5
    # `generate` pads the last part of a long recording with zeros, and gives no mask of it
    cut = inputs[:1, :, :62]
    ours = model.get_encoder()(nn.functional.pad(cut, (0, 238))).last_hidden_state
    assert (ours - model.get_encoder()(cut, attention_mask=torch.ones(1, 62)).last_hidden_state).abs().max() < 1e-6
    before = open_subject(str(folder)).host_fingerprint
    config = json.loads((folder / "config.json").read_text())
    assert config["student"]["host"].pop("tail") == host.tail == 0.1
    (folder / "config.json").write_text(json.dumps(config))
    assert loaded(folder).tail == transformers.AutoModelForSpeechSeq2Seq.from_pretrained(folder).tail == 0.0
    assert open_subject(str(folder)).host_fingerprint != before  # transcripts that are kept are not taken for those without it


@pytest.mark.parametrize("case", ["ctc, folded", "whisper", "moonshine"])
@torch.no_grad()
def test_the_encoder_alone(case: str, tmp_path: Path) -> None:
    """`sottovoce.load` and AutoModel give the student, which reads waveforms."""
    host = write(case, tmp_path)
    wave, sizes = speech(EVEN)
    given = normalize(wave, sizes) if host.pretrained.normalize else wave
    heard = host.encoder(given, sizes)
    student = sottovoce.load(tmp_path / "student")
    assert (student(wave, sizes).last - heard.last).abs().max() < 1e-5
    assert sottovoce.load(tmp_path / "student", space="teacher")(wave, sizes).last.shape[-1] == 48
    model = transformers.AutoModel.from_pretrained(tmp_path / "student")
    mask = (torch.arange(wave.shape[1]) < sizes[:, None]).long()
    assert (model(given, attention_mask=mask).last_hidden_state - heard.last)[heard.valid()].abs().max() < 1e-5


ALONE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'sottovoce': raise ImportError('sottovoce is blocked')
sys.meta_path.insert(0, Block())
import json, torch, transformers
for case, (folder, auto, inputs) in torch.load(sys.argv[1]).items():
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad(): logits = model(**inputs).logits
    model.save_pretrained(folder + "-again")
    again = getattr(transformers, auto).from_pretrained(folder + "-again", trust_remote_code=True)
    with torch.no_grad(): assert torch.equal(again(**inputs).logits, logits), case
    said = {"logits": logits}
    if auto == "AutoModelForCTC":
        recognise = transformers.pipeline("automatic-speech-recognition", model=folder, trust_remote_code=True)
        said["text"] = [recognise(row.numpy())["text"] for row in torch.load(sys.argv[2])]
    if auto == "AutoModelForSpeechSeq2Seq":
        inputs.pop("decoder_input_ids")
        said["tokens"] = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    torch.save(said, folder + ".pt")
assert 'sottovoce' not in sys.modules
"""


@torch.no_grad()
def test_without_sottovoce(tmp_path: Path) -> None:
    """Every kind opens by the code in its folder, says the same, is saved again, and transcribes."""
    wave, sizes = speech(EVEN)
    few = ("ctc, folded", "ctc of w2v-bert, adapter", "classes", "sum of layers", "vectors", "whisper", "moonshine")
    hosts = {case: write(case, tmp_path / case) for case in few}
    asked = {case: (str(tmp_path / case / "student"), host.auto_class, given(case, wave, sizes)) for case, host in hosts.items()}
    torch.save(asked, tmp_path / "asked.pt")
    rows = [row[:size] for row, size in zip(wave, EVEN, strict=True)]
    torch.save(rows, tmp_path / "rows.pt")
    code = f"import sys; sys.argv = ['', {str(tmp_path / 'asked.pt')!r}, {str(tmp_path / 'rows.pt')!r}]\n{ALONE}"
    run(code, HF_MODULES_CACHE=str(tmp_path / "modules"), HF_HOME=str(tmp_path / "home"))
    for case, host in hosts.items():
        said = torch.load(tmp_path / case / "student.pt")
        model = getattr(transformers, host.auto_class).from_pretrained(tmp_path / case / "student")
        assert (model(**asked[case][2]).logits - said["logits"]).abs().max() < 1e-5
        if host.name == "ctc":
            assert said["text"] == host.transcribe(wave, sizes)
            assert any(said["text"])
        if host.name == "moonshine":
            tokens = host.greedy(host.listen(Batch(wave, sizes)), Batch(wave, sizes), max_new_tokens=5)
            assert torch.equal(tokens, said["tokens"])


def test_not_finite_is_refused_and_the_old_student_stays(tmp_path: Path) -> None:
    host, maps, layers = inhabited("ctc, folded", tmp_path / "teacher")
    folder = tmp_path / "student"
    save_host(folder, host, projections=maps, layers=layers, teacher="someone/teacher")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        host.rest.lm_head.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"rest.lm_head.bias"):
        save_host(folder, host, projections=maps, layers=layers, teacher="someone/teacher")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@torch.no_grad()
def test_a_student_of_a_student(tmp_path: Path) -> None:
    """A host student teaches again: the second bridge leads into the first."""
    for case, bridges in (("moonshine", 2), ("ctc, folded", 0)):
        write(case, tmp_path / case)
        host = loaded(tmp_path / case / "student")
        config = replace(host.encoder.config, dim=16, layers=host.encoder.config.layers[:1])
        host.put(Encoder(config).eval(), host.way(nn.Linear(16, 24)))
        save_host(tmp_path / case / "second", host, teacher="someone/student")
        again = loaded(tmp_path / case / "second")
        assert len(again.bridge) == bridges
        batch = Batch(*speech(EVEN))
        assert (said(again, batch) - said(host, batch)).abs().max() < 1e-5


def compressed(teacher: Path, data: Path, out: Path, *overrides: str) -> Any:
    steps = [f"stages.{stage}.{key}" for stage in ("prune", "distill") for key in ("steps=2", "warmup=1")]
    return api.compress(
        teacher,
        keep=0.6,
        recipe="dphubert-demo",
        data=data,
        out=out,
        device="cpu",
        overrides=[*FEW, *steps, "pruning.ramp=1", "stages.evaluate=false", *overrides],
    )


def test_compress_gives_the_host_back(speech_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = host_of("ctc, folded", tmp_path / "teacher").folder
    result = compressed(teacher, speech_folder, tmp_path / "out")
    assert "put back into its HubertForCTC, which AutoModelForCTC opens" in capsys.readouterr().err
    assert any("in a HubertForCTC" in line for line in result.summary())
    host = loaded(result.out)
    assert (host.name, len(host.bridge)) == ("ctc", 0)
    before = loaded(teacher).rest.lm_head
    assert not torch.equal(host.rest.lm_head.weight, before.weight)  # the projection is folded into it
    model = transformers.AutoModelForCTC.from_pretrained(result.out)
    wave, sizes = speech(EVEN)
    out = host.outputs(host.listen(Batch(wave, sizes)), Batch(wave, sizes))
    logits = model(**given("ctc, folded", wave, sizes)).logits
    assert (logits - out.logits)[out.valid].abs().max() < 1e-5
    found = sottovoce.inspect(str(result.out))
    assert (found["host"]["class"], found["host"]["params"]) == ("HubertForCTC", 12 * 48 + 12)
    assert found["host"]["macs_per_s"] == pytest.approx(12 * 48 * 50)
    assert "HubertForCTC" in (result.out / "README.md").read_text()


def test_a_host_need_not_be_kept(speech_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = host_of("ctc, folded", tmp_path / "teacher").folder
    result = compressed(teacher, speech_folder, tmp_path / "out", "host.keep=false")
    assert "will be an encoder alone, and not a HubertForCTC" in capsys.readouterr().err
    assert load_host(result.out) is None
    assert "host" not in result.record


def test_a_whisper_takes_no_student_with_another_front_end(
    speech_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Users of Whisper give it log-mel features, which a student of waveforms could not read. It is written alone, and can be opened."""
    teacher, like = host_of("whisper", tmp_path / "teacher").folder, host_of("ctc, folded", tmp_path / "like").folder
    overrides = [*FEW, f"student.like={like}", "stages.distill.steps=2", "stages.distill.warmup=1", "stages.evaluate=false"]
    options = {"recipe": "layer-to-layer-random", "data": speech_folder, "device": "cpu", "larger": True}
    result = api.compress(teacher, out=tmp_path / "out", overrides=overrides, **options)
    said = capsys.readouterr().err
    assert "and not a WhisperForConditionalGeneration as its teacher: a Whisper is given log-mel features" in said
    assert sottovoce.load(str(result.out)).config.frontend.log_mel is None
    assert load_host(result.out) is None
