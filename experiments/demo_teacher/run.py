"""Did a teacher learn anything? Words and speakers from each layer's pooled features, beside an untrained copy and log-mel features.

    python -m experiments.demo_teacher.run demo --words words.tsv --speakers speakers.tsv

words: a manifest with columns path, label, split; a linear probe learns on train and is scored on test (speakers should be disjoint).
speakers: a manifest with columns path, speaker, split; each recording that is not in train is matched to its nearest one of another
session (cosine), so that the room and the microphone alone do not give the speaker away. --session: what of a path names the session.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from sottovoce.core import ledger
from sottovoce.data import BadAudio, open_source, read_audio
from sottovoce.encoder import Encoder, normalize
from sottovoce.encoder.log_mel import LogMel
from sottovoce.hub.pretrained import load_pretrained


def pool(frames: Tensor) -> Tensor:
    """(T, D) -> (2 D,): mean and standard deviation over time."""
    return torch.cat([frames.mean(0), frames.std(0)])


@torch.no_grad()
def features(model: str, encoder: torch.nn.Module, wants_norm: bool, waves: list[Tensor]) -> list[Tensor]:
    """One (recordings, features) matrix per layer."""
    layers: list[list[Tensor]] = []
    for wave in waves:
        row = wave[None]
        if model == "log-mel":
            hidden = [encoder(row)]
        else:
            hidden = encoder(normalize(row) if wants_norm else row).hidden
        layers = layers or [[] for _ in hidden]
        for found, layer in zip(layers, hidden, strict=True):
            found.append(pool(layer[0]))
    return [torch.stack(layer) for layer in layers]


def word_accuracy(x: Tensor, labels: list[str], train: Tensor) -> float:
    """Test accuracy of multinomial logistic regression on standardised features."""
    scaler = StandardScaler().fit(x[train].numpy())
    known = [label for label, mine in zip(labels, train.tolist(), strict=True) if mine]
    asked = [label for label, mine in zip(labels, train.tolist(), strict=True) if not mine]
    probe = LogisticRegression(C=0.05, max_iter=300).fit(scaler.transform(x[train].numpy()), known)
    return float(probe.score(scaler.transform(x[~train].numpy()), asked))


def speaker_accuracy(x: Tensor, speakers: list[str], sessions: list[str]) -> float:
    """Share of recordings whose nearest recording of another session is by the same speaker; of speakers with several sessions."""
    unit = torch.nn.functional.normalize((x - x.mean(0)) / (x.std(0) + 1e-6), dim=-1)
    same = torch.tensor([[a == b for b in sessions] for a in sessions])
    near = (unit @ unit.T).masked_fill(same, -2.0).argmax(1).tolist()
    several = {who for who in speakers if len({s for s, name in zip(sessions, speakers, strict=True) if name == who}) > 1}
    hits = [speakers[i] == speakers[j] for i, j in enumerate(near) if speakers[i] in several]
    return sum(hits) / len(hits)


def load(manifest: str, column: str, seconds: float) -> tuple[list[Tensor], list[str], list[str], list[str]]:
    """Waves of at most `seconds`, their labels, splits and file names; what cannot be read is left out."""
    waves, labels, splits, names = [], [], [], []
    for recording in open_source(manifest):
        label = recording.fields.get(column, "")
        if not label or " " in label:
            continue
        try:
            wave = torch.as_tensor(read_audio(recording, 0.0, seconds))
        except BadAudio:
            continue
        if len(wave) >= 4000:
            waves.append(wave)
            labels.append(label)
            splits.append(recording.fields.get("split", ""))
            names.append(Path(recording.path).stem)
    return waves, labels, splits, names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--words", required=True)
    parser.add_argument("--speakers", required=True)
    parser.add_argument("--session", default="^[^-]*-[^-]*", help="pattern in a file's name; LibriSpeech's chapter by default")
    parser.add_argument("--voice-seconds", type=float, default=2.0, help="how much of a recording the speaker is recognised from")
    parser.add_argument("--seeds", type=int, default=3, help="untrained copies")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / ledger.RECORDS)
    options = parser.parse_args()

    trained = load_pretrained(options.model)
    models: dict[str, torch.nn.Module] = {"trained": trained.encoder, "log-mel": LogMel(80)}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        models[f"untrained-{seed}"] = Encoder(trained.shape).reset_parameters().eval()
    words, speakers = load(options.words, "label", 3.0), load(options.speakers, "speaker", options.voice_seconds)
    held = [i for i, split in enumerate(speakers[2]) if split != "train"]
    voices = [speakers[1][i] for i in held]
    sessions = [found.group() if (found := re.match(options.session, speakers[3][i])) else speakers[3][i] for i in held]
    train = torch.tensor([split == "train" for split in words[2]])
    asked = torch.tensor([split in ("train", "test") for split in words[2]])
    scores = {}
    for name, encoder in models.items():
        by_word = features(name, encoder, trained.normalize, words[0])
        by_voice = features(name, encoder, trained.normalize, [speakers[0][i] for i in held])
        labels = [label for label, mine in zip(words[1], asked.tolist(), strict=True) if mine]
        scores[name] = {
            "words": [round(word_accuracy(x[asked], labels, train[asked]), 4) for x in by_word],
            "speakers": [round(speaker_accuracy(x, voices, sessions), 4) for x in by_voice],
        }
        print(name, json.dumps(scores[name]), flush=True)
    record = {
        "name": f"{Path(options.model).name}-probe",
        **ledger.header("probe"),
        "model": Path(options.model).name,
        "data": {
            "words": {"train": int(train.sum()), "test": int((asked & ~train).sum()), "classes": len(set(words[1]))},
            "speakers": {"recordings": len(held), "speakers": len(set(voices)), "sessions": len(set(sessions))},
        },
        "scores": scores,
    }
    ledger.write(options.out, record)


if __name__ == "__main__":
    main()
