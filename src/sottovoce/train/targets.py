"""The teachers' answers for a batch: computed, or read from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sottovoce.core.cache import cache_home
from sottovoce.core.types import Answer, Batch, Features, Posteriors, Vectors
from sottovoce.encoder import EncoderConfig
from sottovoce.encoder.window import cut
from sottovoce.evaluation.subjects.fingerprints import fingerprint
from sottovoce.hub.pretrained import Pretrained
from sottovoce.objectives.posteriors import posteriors
from sottovoce.train.dist import World
from sottovoce.train.hosted import say, transcript, within
from sottovoce.train.recipe import HostChoice, Recipe
from sottovoce.train.target_store import Row, TargetStore, digest
from sottovoce.train.teachers import Teacher, TeacherSettings

if TYPE_CHECKING:
    from sottovoce.hosts.base import Host


class Teachers(Mapping[str, Teacher]):
    """The teachers of a run, by label. main: the label of the teacher that the student and the budget start from; "" without teachers.
    store: targets on disk, if they are kept."""

    def __init__(
        self, each: Mapping[str, Teacher], main: str = "", store: TargetStore | None = None, host: HostChoice | None = None
    ) -> None:
        self.each, self.main, self.store, self.choice = each, main, store, host or HostChoice()
        self._fingerprints: dict[str, str] = {}
        self._heard: tuple[Batch, Features] | None = None
        self._said: set[str] = set()

    def __getitem__(self, label: str) -> Teacher:
        return self.each[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.each)

    def __len__(self) -> int:
        return len(self.each)

    @property
    def origin(self) -> Pretrained | None:
        """The model that the student starts from."""
        return self.each[self.main].pretrained if self.main else None

    @property
    def config(self) -> EncoderConfig | None:
        """The shape that a budget counts from; ``None`` without a teacher, and for a teacher that runs inside transformers."""
        return None if self.origin is None else self.origin.config

    @property
    def host(self) -> Host | None:
        """What the main teacher lives in; ``None`` for a bare encoder."""
        return self.each[self.main].host if self.main else None

    @property
    def normalize(self) -> bool:
        """Whether the student reads waveforms of zero mean and unit variance, as the main teacher does. False without a teacher."""
        return bool(self.main) and self.each[self.main].normalize

    def row_keys(self, batch: Batch) -> tuple[str, ...]:
        """The names of the rows' targets on disk; () if none are kept. The batch is on the CPU."""
        return () if self.store is None else self.store.row_keys(batch)

    @torch.no_grad()
    def clean(
        self,
        label: str,
        batch: Batch,
        keys: Sequence[str],
        layers: Sequence[int] | None = None,
        taps: Sequence[int] = (),
        maps: bool = False,
    ) -> Answer:
        """A teacher's answer for a batch on this process's device.

        layers, taps: the hidden states (``None``: all) and feed-forward outputs, from 1, that will be read. If targets are kept, the
        answer has only these, rounded to half precision, whether they were on disk already or not. maps: attention maps, too; answers with
        them are never kept, because the maps of a recording are larger than itself.
        """
        teacher = self.each[label]
        if maps:
            self._not_kept("with attention maps are not kept on disk, because they are too large")
            return teacher.with_maps(batch, bool(taps))
        if self.store is None or not keys:
            heard, self._heard = self._heard, None
            if heard is not None and heard[0] is batch and label == self.main and not taps:
                frames = teacher.pretrained.shape.frontend.frames if teacher.pretrained else None
                assert frames is not None
                lengths = None if batch.lengths is None else frames(batch.lengths)
                return cut(heard[1], int(frames(batch.wave.shape[1])), lengths, None)
            return teacher.answer(batch, taps=bool(taps))
        depth = teacher.shape.depth
        wanted = [f"hidden.{i}" for i in (range(depth + 1) if layers is None else layers)] + [f"ffn.{i}" for i in taps]
        asked = f"{self._fingerprint(label)} {computed(batch)} {' '.join(wanted)}"
        rows = self.store.rows(asked, keys, lambda: split(teacher.answer(batch, taps=bool(taps)), wanted))
        return joined(rows, depth, batch.wave.device)

    @torch.no_grad()
    def outputs(self, batch: Batch, keys: Sequence[str], classes: int, temperature: float) -> Posteriors:
        """What the main teacher's host says of a batch, as it was decoded: of a decoder, along its own greedy transcript. classes,
        temperature: see `objectives.posteriors`. If targets are kept, they are on disk in half precision, with the transcript."""
        host = self.host
        assert host is not None
        if self.store is None or not keys:
            return self._say(batch, classes, temperature)
        if "host" not in self._fingerprints:
            settings = getattr(host.rest, "generation_config", "")
            self._fingerprints["host"] = f"{fingerprint(host.rest, False)} {digest(str(settings))}"
        own = f"{self._fingerprints['host']} {self.choice.task} {self.choice.language} outputs {classes} {temperature:g}"
        asked = f"{self._fingerprint(self.main)} {computed(batch)} {own}"
        rows = self.store.rows(asked, keys, lambda: split_outputs(self._say(batch, classes, temperature)))
        return joined_outputs(rows, batch.wave.device)

    def _say(self, batch: Batch, classes: int, temperature: float) -> Posteriors:
        host = self.host
        assert host is not None
        if self._heard is None or self._heard[0] is not batch:
            self._heard = batch, self.each[self.main].listen(batch)
        features = self._heard[1]
        tokens = transcript(host, features, batch, self.choice)
        said = say(host, features, batch, tokens)
        return posteriors(said if tokens is None else within(said, batch), classes, temperature, tokens)

    @torch.no_grad()
    def masked(self, label: str, batch: Batch, mask: Tensor, taps: bool) -> Answer:
        """A teacher's answer for a batch with masked frames, on this process's device. Never kept on disk."""
        self._not_kept("for masked audio are not kept on disk, because each epoch draws new masks")
        return self.each[label].answer(batch, mask, taps)

    def _not_kept(self, why: str) -> None:
        """Says once which targets are not on disk, if others are."""
        if self.store is not None and why not in self._said:
            self._said.add(why)
            self.store.say(f"targets {why}")

    def _fingerprint(self, label: str) -> str:
        if label not in self._fingerprints:
            self._fingerprints[label] = self.each[label].fingerprint()
        return self._fingerprints[label]


def open_teachers(recipe: Recipe, world: World, say: Callable[[str], None] | None = None) -> Teachers:
    """Loads a recipe's teachers. say: prints where targets are kept; without it, none are. ValueError if a teacher cannot be loaded."""
    plain = recipe.precision != "bf16" and world.device.type == "cpu"
    settings = TeacherSettings(world.device, recipe.teacher_precision, plain, recipe.compile)
    each = {label: part.build(settings) for label, part in recipe.teachers.items()}
    store, limit = None, recipe.data.target_bytes
    if limit and each and say is not None:
        store = TargetStore(cache_home() / "targets", limit, say, world.size)
        say(f"targets are kept in {store.folder}, up to {limit / 1e9:g} GB")
    return Teachers(each, recipe.main, store, recipe.host)


def computed(batch: Batch) -> str:
    """The precision that autocast chooses."""
    kind = batch.wave.device.type
    return str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "as it is"


def half(x: Tensor) -> Tensor:
    """Rounds to float16, or to bfloat16 if a number is too large for float16."""
    rounded = x.half()
    return rounded if torch.isfinite(rounded).all() else x.bfloat16()


def split(answer: Answer, wanted: Sequence[str]) -> list[Row]:
    """The rows of an answer without padding, in half precision on the CPU. Of features, only the wanted states."""
    if isinstance(answer, Vectors):
        return [{"vector": half(row).cpu()} for row in answer.vectors]
    ends = [answer.last.shape[1]] * len(answer.last) if answer.lengths is None else answer.lengths.tolist()
    states = {f"hidden.{i}": x for i, x in enumerate(answer.hidden)} | {f"ffn.{i}": x for i, x in enumerate(answer.ffn, 1)}
    return [{name: half(states[name][i, :end]).cpu().contiguous() for name in wanted} for i, end in enumerate(ends)]


def joined(rows: Sequence[Row], depth: int, device: torch.device) -> Answer:
    """The inverse of `split`, in float32. Rows are padded with their last frame; states that were not wanted have width 0."""
    if "vector" in rows[0]:
        return Vectors(torch.stack([row["vector"] for row in rows]).to(device).float())
    lengths = [len(next(iter(row.values()))) for row in rows]
    longest = max(lengths)

    def padded(x: Tensor) -> Tensor:
        return torch.cat([x, x[-1:].expand(longest - len(x), -1)]) if len(x) < longest else x

    def state(name: str) -> Tensor:
        if name not in rows[0]:
            return torch.empty(len(rows), longest, 0, device=device)
        return torch.stack([padded(row[name].float()) for row in rows]).to(device)

    taps = any(name.startswith("ffn.") for name in rows[0])
    hidden = [state(f"hidden.{i}") for i in range(depth + 1)]
    ffn = [state(f"ffn.{i}") for i in range(1, depth + 1)] if taps else []
    none = torch.empty(len(rows), longest, 0, device=device)
    equal = all(length == longest for length in lengths)
    return Features(hidden, None if equal else torch.tensor(lengths, device=device), none, none, ffn)


def split_outputs(said: Posteriors) -> list[Row]:
    """The rows of posteriors without padding, on the CPU: probabilities in half precision, classes and tokens as 32-bit integers."""
    rows = []
    for i, valid in enumerate(said.valid):
        end = int(valid.nonzero().max()) + 1
        row = {"valid": valid[:end], "tops": said.tops[i, :end].int(), "log_probs": half(said.log_probs[i, :end])}
        if said.tokens is not None:
            row["tokens"] = said.tokens[i, : end + 1].int()
        rows.append({name: tensor.cpu().contiguous() for name, tensor in row.items()})
    return rows


def joined_outputs(rows: Sequence[Row], device: torch.device) -> Posteriors:
    """The inverse of `split_outputs`. Rows are padded with what they end with, which is not valid there."""
    longest = max(len(row["valid"]) for row in rows)

    def stacked(name: str, longest: int) -> Tensor:
        each = [row[name] for row in rows]
        padded = [torch.cat([x, x[-1:].expand(longest - len(x), *x.shape[1:])]) for x in each]
        return torch.stack(padded).to(device)

    ends = torch.tensor([len(row["valid"]) for row in rows], device=device)
    valid = stacked("valid", longest) & (torch.arange(longest, device=device) < ends[:, None])
    tokens = stacked("tokens", longest + 1).long() if "tokens" in rows[0] else None
    return Posteriors(stacked("tops", longest).long(), stacked("log_probs", longest).float(), valid, tokens)
