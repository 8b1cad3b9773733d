"""Fine-tuning of an encoder together with a head.

Batches have a number of seconds. At first only the head is trained. Learning rates rise, hold and fall. Training stops early.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sottovoce.core.types import Batch
from sottovoce.data import DataConfig, Skipped, Stream, Utterance
from sottovoce.data.batches import Plan, bucket, make_job
from sottovoce.data.stream import decode
from sottovoce.evaluation.heads.probe import Best, NotFinite, Progress, Trial, without_denormals
from sottovoce.evaluation.subjects.subject import Subject, frames_of

T = TypeVar("T")
Say = Callable[[str], None]
HOP, STRETCH = 320, 10  # samples in a frame, frames in a masked stretch
SHORTEST = 0.05  # seconds of audio: enough for one frame of any encoder


@dataclass(frozen=True)
class Tuning:
    """Settings of fine-tuning. Defaults: wav2vec 2.0's for ten hours of labels (fairseq, base_10h), without its masking.

    lrs: peak learning rates of the encoder to try (AdamW). head_rate: factor of that rate for the head. steps: most updates of a trial.
    freeze_steps: first updates, in which only the head is trained. seconds_per_batch: audio per update (1600 in fairseq, on several
    machines), of recordings of similar length. max_seconds: longer recordings are not used for training.
    warmup, hold: shares of the steps in which the rates rise and stay; then they fall exponentially to the share `final` of the peak.
    mask: share of the audio that is silenced in training, in stretches of 0.2 s (SpecAugment's time masks); less where they overlap.
    frontend: whether to train the convolutions of the front end; wav2vec 2.0 does not, and training is cheaper.
    features: input of the head, the last layer or a learned softmax-weighted sum of all layers.
    evaluate_every, patience, clip: as in `Training`. workers: decoding processes; 0 decodes in the training process.
    """

    lrs: tuple[float, ...] = (5e-5,)
    head_rate: float = 1.0
    steps: int = 20_000
    freeze_steps: int = 10_000
    seconds_per_batch: float = 200.0
    max_seconds: float = 30.0
    warmup: float = 0.1
    hold: float = 0.4
    final: float = 0.05
    weight_decay: float = 0.0
    mask: float = 0.0
    frontend: bool = False
    features: Literal["last", "sum"] = "last"
    evaluate_every: int = 1_000
    patience: int = 10
    clip: float = 1.0
    workers: int = 2

    def __post_init__(self) -> None:
        if not self.lrs or min(self.lrs) <= 0 or self.head_rate <= 0:
            raise ValueError("lrs must name at least one learning rate above 0, and head_rate must be above 0")
        if min(self.steps, self.evaluate_every, self.patience) < 1 or self.freeze_steps < 0:
            raise ValueError("steps, evaluate_every and patience must be at least 1, freeze_steps at least 0")
        if not (self.warmup >= 0 and self.hold >= 0 and self.warmup + self.hold <= 1 and 0 < self.final <= 1):
            raise ValueError(
                "warmup and hold are shares of the steps, together at most 1; final is a share above 0 of the peak rate"
            )
        if not 0 <= self.mask <= 1:
            raise ValueError(f"mask is a share of the audio, between 0 and 1, not {self.mask:g}")

    def rate(self, step: int) -> float:
        """Factor of the peak learning rate at update `step`, from 1."""
        rising, holding = self.warmup * self.steps, (self.warmup + self.hold) * self.steps
        if step < rising:
            return 0.01 + 0.99 * step / rising
        if step <= holding:
            return 1.0
        return float(self.final ** ((step - holding) / (self.steps - holding)))

    def data(self, seconds: float | None = None) -> DataConfig:
        """Whole recordings, padded; `seconds` in a batch."""
        seconds = self.seconds_per_batch if seconds is None else seconds
        return DataConfig(seconds_per_batch=seconds, min_seconds=SHORTEST, max_seconds=1e6, crop="none", workers=self.workers)


@dataclass(frozen=True)
class TuningSpeech(Generic[T]):
    """Audio, target, group (speaker) and language of each utterance. The id of its recording is its index here."""

    utterances: list[Utterance]
    targets: list[T]
    groups: list[str]
    languages: list[str]

    def __len__(self) -> int:
        return len(self.utterances)

    def summary(self) -> dict[str, Any]:
        """Recordings, hours and speakers, for the record."""
        hours = sum(utterance.seconds for utterance in self.utterances) / 3600
        speakers = len({speaker for group in self.groups for speaker in group.split()})
        return {"recordings": len(self), "hours": round(hours, 4), "speakers": speakers or None}

    def stream(self, tuning: Tuning, seed: int) -> Stream:
        """Endless training batches."""
        return Stream(Plan(self.utterances, tuning.data(), seed))

    def once(self, tuning: Tuning, skipped: list[Skipped]) -> Iterator[tuple[Batch, list[int]]]:
        """Batches of the readable utterances, of similar length, and the indices of these. Adds the others to `skipped`."""
        config = tuning.data(min(tuning.seconds_per_batch, 200.0))
        for rows in bucket([utterance.samples for utterance in self.utterances], config, None):
            decoded = decode(make_job([self.utterances[i] for i in rows], config, None))
            skipped += decoded.skipped
            if decoded.wave is not None:
                yield decoded.batch(), self.places(decoded.batch())

    def places(self, batch: Batch) -> list[int]:
        return [int(name) for name in batch.ids]


class Tuned(nn.Module):
    """A copy of the subject's encoder, and a head. Batch -> the head's outputs on (B, T, D) features, and (B,) frames."""

    def __init__(self, subject: Subject, head: nn.Module, tuning: Tuning, device: torch.device) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(subject.encoder)
        self.subject = replace(subject, encoder=self.encoder, device=device)
        self.head = head
        self.weights = nn.Parameter(torch.zeros(subject.layers)) if tuning.features == "sum" else None
        self.mask, self.frozen = tuning.mask, False
        for name, weight in self.encoder.named_parameters():
            weight.requires_grad_(tuning.frontend or not name.startswith("frontend.convs."))
        config = getattr(getattr(self.encoder, "model", None), "config", None)
        if config is not None and hasattr(
            config, "apply_spec_augment"
        ):  # a model of transformers, whose own masks no seed of ours decides
            config.apply_spec_augment = False
        self.to(device)

    def groups(self, lr: float, tuning: Tuning) -> list[dict[str, Any]]:
        """Parameter groups with their peak rates; only the head's if the encoder has no weights."""
        encoder = [weight for weight in self.encoder.parameters() if weight.requires_grad]
        head = [*self.head.parameters(), *([] if self.weights is None else [self.weights])]
        groups = [{"params": head, "lr": lr * tuning.head_rate}, {"params": encoder, "lr": lr}]
        return [group for group in groups if group["params"]]

    def train(self, mode: bool = True) -> Tuned:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> tuple[Any, Tensor]:
        if self.training and self.mask:
            batch = Batch(silenced(batch.wave, self.mask), batch.lengths, batch.ids)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.subject.features(batch)
            x = features.last if self.weights is None else self.subject.stacked(features)
        if self.weights is not None:
            x = (x * self.weights.softmax(0)[:, None]).sum(2)
        frames = frames_of(features)
        return self.head(x, frames), frames

    def shares(self) -> list[float]:
        """The weight of each layer; empty if the head reads the last one."""
        return [] if self.weights is None else [float(share) for share in self.weights.detach().softmax(0)]


def silenced(wave: Tensor, share: float) -> Tensor:
    """(B, S) with stretches of `STRETCH` frames set to 0. A stretch starts at a frame with probability `share` / `STRETCH`."""
    begins = (torch.rand(len(wave), 1, -(-wave.shape[1] // HOP), device=wave.device) < share / STRETCH).float()
    hidden = F.max_pool1d(F.pad(begins, (STRETCH - 1, 0)), STRETCH, 1)[:, 0].bool()
    return wave.masked_fill(hidden.repeat_interleave(HOP, 1)[:, : wave.shape[1]], 0)


@without_denormals()
def tune(
    subject: Subject,
    build: Callable[[], nn.Module],
    loss: Callable[[Any, Tensor, list[Any]], Tensor],
    judge: Callable[[Tuned], float],
    train: TuningSpeech[Any],
    tuning: Tuning,
    seed: int,
    lr: float,
    device: torch.device,
    say: Say,
    progress: Progress = lambda done, total: None,
) -> tuple[Tuned, Trial]:
    """Trains one model; arguments as in `heads.probe.fit`. The subject does not change. say: called with each dev score and with the
    number of updates that were left out because their gradients were not finite."""
    began = time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = Tuned(subject, build(), tuning, device)
        optimizer = torch.optim.AdamW(model.groups(lr, tuning), lr=lr, betas=(0.9, 0.98), weight_decay=tuning.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: tuning.rate(min(done + 1, tuning.steps)))
        best, step, reason, omitted = Best(model), 0, "", 0
        with closing(train.stream(tuning, seed)) as stream:
            for step in range(1, tuning.steps + 1):
                model.frozen = step <= tuning.freeze_steps
                model.train()
                batch = next(stream)
                outputs, frames = model(batch.to(device))
                value = loss(outputs, frames, [train.targets[i] for i in train.places(batch)])
                if not torch.isfinite(value):
                    reason = f"the loss is {value.item()} at update {step}"
                    break
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                norm = nn.utils.clip_grad_norm_(model.parameters(), tuning.clip)
                if torch.isfinite(norm):
                    optimizer.step()
                else:
                    omitted += 1
                schedule.step()
                if step % tuning.evaluate_every == 0 or step == tuning.steps:
                    model.eval()
                    try:
                        score = judge(model)
                    except NotFinite as problem:
                        reason = f"{problem} at update {step}"
                        break
                    best.update(step, score)
                    say(f"seed {seed}, lr {lr:g}, update {step} of {tuning.steps}: dev {score:.4g}, best {best.score:.4g}")
                    if (step - max(best.step, tuning.freeze_steps)) // tuning.evaluate_every >= tuning.patience:
                        break
                progress(step, tuning.steps)
    progress(tuning.steps, tuning.steps)
    if omitted:
        say(f"seed {seed}, lr {lr:g}: {omitted} of {step} updates were left out: their gradients were not finite")
    seconds = time.monotonic() - began
    return best.restore(), Trial(seed, best.score, best.step, step, seconds, best.curve, lr, reason=reason)
