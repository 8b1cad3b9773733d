"""Several quality models as one teacher, each trusted where human ratings say so (ProxyMOS, arXiv 2610.00419; its abstract only)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sottovoce.core.cache import cache_home
from sottovoce.core.registry import TEACHER_KINDS
from sottovoce.core.types import Answer, Batch, Vectors
from sottovoce.data import BadAudio, Recording, open_source, read_audio
from sottovoce.data.draw import draw
from sottovoce.data.recording import file_state
from sottovoce.data.splits import canonical
from sottovoce.objectives import EncoderShape
from sottovoce.train.teachers.base import Teacher, TeacherSettings

FEWEST = 20  # rated recordings
MIDDLE, WIDTH = 3.0, 1.0  # of scores from 1 to 5: what the network reads is (score - MIDDLE) / WIDTH


@TEACHER_KINDS.register("router")
class Router(Teacher):
    """One score of a recording from several quality models. A small network reads their scores and says how far each is to be trusted.

    The network (two layers, on the scores alone, as in ProxyMOS) learns from rated recordings to bring the weighted score near the rating;
    it is fitted once and kept in the cache folder. Without ratings all models count alike. Of a model with several scores the last one
    counts (DNSMOS: overall).
    """

    answers: ClassVar[Literal["frames", "utterance"]] = "utterance"
    scores = ("quality",)

    @dataclass(frozen=True)
    class Config(Teacher.Config):
        """source: kinds of quality models, joined by ``+``; ``KIND:FILE`` for weights that are not those of its package.

        ratings: rated recordings, a source of data (of splits, only train is used). field: the column with the ratings. scale: what is 1
        and what is 5 on the models' scale, among the ratings. clips: the most rated recordings to use, chosen by a hash. take: "weighted",
        the sum of the scores by their weights (ProxyMOS), or "trusted", the score with the greatest weight. hidden: width of the network.
        steps, lr: of its fit (Adam, all recordings at once); they and `hidden` are not known.
        """

        source: str = "distillmos+dnsmos"
        ratings: str = ""
        field: str = "score"
        scale: tuple[float, ...] = (1.0, 5.0)
        clips: int = 1000
        take: Literal["weighted", "trusted"] = "weighted"
        hidden: int = 16
        steps: int = 1000
        lr: float = 0.01

        def __post_init__(self) -> None:
            if len(self.scale) != 2 or not self.scale[0] < self.scale[1]:
                raise ValueError("scale must be two numbers, the ratings that mean 1 and 5, e.g. [0, 100]")
            if min(self.hidden, self.steps) < 1 or self.clips < FEWEST:
                raise ValueError(f"hidden and steps must be at least 1, clips at least {FEWEST}")
            if self.take == "trusted" and not self.ratings:
                raise ValueError("take: trusted needs ratings, because without them all models are trusted alike")

    def __init__(self, config: Any, settings: TeacherSettings) -> None:
        super().__init__(config, settings)
        self.judges = [judge(source, config.precision, settings) for source in config.source.split("+")]
        if len(self.judges) < 2:
            raise ValueError(f"a router needs two quality models at least, e.g. distillmos+dnsmos, not '{config.source}'")
        self.network = RouterNetwork(len(self.judges), config.hidden)
        if config.ratings:
            self.network.load_state_dict(self.fitted())
        self.network.eval().requires_grad_(False).to(settings.device)

    @property
    def models(self) -> list[Teacher]:
        return [self, *self.judges]

    @property
    def params(self) -> int | None:
        counts = [judge.params for judge in self.judges]
        own = sum(weight.numel() for weight in self.network.parameters())
        return None if None in counts else own + sum(count for count in counts if count is not None)

    @property
    def shape(self) -> EncoderShape:
        return EncoderShape(1, 0)

    @torch.no_grad()
    def answer(self, batch: Batch, mask: Tensor | None = None, taps: bool = False) -> Answer:
        scores = self.judged(batch, mask, taps)
        weights = self.network(scores)
        if self.config.take == "trusted":
            weights = nn.functional.one_hot(weights.argmax(1), len(self.judges)).to(scores.dtype)
        return Vectors((weights * scores).sum(1, keepdim=True))

    def judged(self, batch: Batch, mask: Tensor | None = None, taps: bool = False) -> Tensor:
        """(B, M) the score of each model."""
        found = []
        for each in self.judges:
            answer = each.answer(batch, mask, taps)
            assert isinstance(answer, Vectors)
            found.append(answer.vectors[:, -1])
        return torch.stack(found, dim=1)

    def fitted(self) -> dict[str, Tensor]:
        """The network's tensors, read from the cache folder or fitted now. ValueError without enough ratings."""
        rated = rated_recordings(self.config.ratings, self.config.field, self.config.clips)
        config = self.config
        parts = [
            (config.field, config.scale, config.hidden, config.steps, config.lr),
            *(each.fingerprint() for each in self.judges),
        ]
        parts += [(item.id, rating, file_state(item.path)) for item, rating in rated]
        path = cache_home() / "routers" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.safetensors"
        if not path.is_file():
            tensors = self.fit(rated)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            save_file(tensors, part)
            part.replace(path)
        return load_file(path)

    def fit(self, rated: Sequence[tuple[Recording, float]]) -> dict[str, Tensor]:
        """Scores the rated recordings and fits the network to them, the same every time. ValueError if too few can be read."""
        scores, ratings = [], []
        low, high = self.config.scale
        for item, rating in rated:
            try:
                wave = torch.from_numpy(read_audio(item))[None].to(self.settings.device)
            except BadAudio:
                continue
            with torch.no_grad():
                scores.append(self.judged(Batch(wave))[0].cpu())
            ratings.append(1 + 4 * (rating - low) / (high - low))
        if len(ratings) < FEWEST:
            raise ValueError(
                f"only {len(ratings)} rated recordings of {self.config.ratings} can be read; a router needs {FEWEST} at least"
            )
        x, y = torch.stack(scores), torch.tensor(ratings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = RouterNetwork(len(self.judges), self.config.hidden)
            optimizer = torch.optim.Adam(network.parameters(), self.config.lr)
            for _ in range(self.config.steps):
                loss = ((network(x) * x).sum(1) - y).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.name} {self.config.take} {self.precision}".encode())
        for each in self.judges:
            digest.update(each.fingerprint().encode())
        for tensor in self.network.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:32]


class RouterNetwork(nn.Module):
    """(B, M) scores -> (B, M) weights of at least 0 that sum to 1. Before it is fitted, all are equal."""

    def __init__(self, models: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(models, hidden), nn.Linear(hidden, models)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, scores: Tensor) -> Tensor:
        weights: Tensor = self.second(self.first((scores - MIDDLE) / WIDTH).relu()).softmax(1)
        return weights


def judge(source: str, precision: Literal["fp32", "bf16"] | None, settings: TeacherSettings) -> Teacher:
    """The quality model ``KIND`` or ``KIND:FILE``. ValueError for a kind that gives no scores, and if the weights are not there."""
    kind, _, file = source.strip().partition(":")
    cls = TEACHER_KINDS.get(kind)
    if not cls.scores or cls is Router:
        known = [name for name in TEACHER_KINDS.names() if TEACHER_KINDS.get(name).scores and name != Router.name]
        raise ValueError(f"a teacher of kind {kind} gives no score; choose among {', '.join(known)}")
    found: Teacher = cls(cls.Config(**({"source": file} if file else {}), precision=precision), settings)
    return found


def rated_recordings(source: str, field: str, most: int) -> list[tuple[Recording, float]]:
    """The rated recordings of a source, at most `most`, chosen by a hash of their ids. ValueError if there are too few."""
    recordings = open_source(Path(source))
    splits = {canonical(item.fields.get("split", "")) for item in recordings}

    def usable() -> Iterator[tuple[Recording, float]]:
        for item in recordings:
            if "train" in splits and canonical(item.fields.get("split", "")) != "train":
                continue
            try:
                rating = float(item.fields.get(field, ""))
            except ValueError:
                continue
            if rating == rating:  # not NaN
                yield item, rating

    chosen = sorted(usable(), key=lambda pair: draw(pair[0].id))[:most]
    if len(chosen) < FEWEST:
        raise ValueError(
            f"{source} has {len(chosen)} recordings with a rating in column '{field}'; a router needs {FEWEST} at least"
        )
    return chosen
