"""Pruning without gates: units are scored once on calibration audio, and the least important are cut."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sottovoce.core.cache import cache_home
from sottovoce.core.config import Component, component, plain
from sottovoce.core.registry import IMPORTANCES, STAGES, Registry
from sottovoce.core.types import Features
from sottovoce.encoder import Encoder, EncoderConfig
from sottovoce.pruning import Budget, GatedEncoder, choose, cut, gate_values, make_plan, named_tensors, prepare, prepare_config
from sottovoce.pruning.budget import check_share
from sottovoce.pruning.factors import merge
from sottovoce.pruning.importance.base import Evidence, Importance, Scores
from sottovoce.pruning.moments import Moments
from sottovoce.pruning.plan import PruningPlan, rebuild
from sottovoce.pruning.repair import RIDGE, readers, repaired
from sottovoce.train.calibration import batches, moments
from sottovoce.train.origin import origin_tensors
from sottovoce.train.run import Run
from sottovoce.train.stages.base import Stage
from sottovoce.train.stages.train import Train
from sottovoce.train.targets import Teachers
from sottovoce.train.work import Work, cost_of

FORMAT = "1"  # of scores on disk


@dataclass(frozen=True)
class ImportanceChoice(Component):
    """An importance of a recipe: its name and settings."""

    registry: ClassVar[Registry] = IMPORTANCES


@STAGES.register("prune_once")
class PruneOnce(Stage):
    """Scores units once, without training, and cuts the least important ones under the budget; least squares repairs what read them."""

    @dataclass(frozen=True)
    class Config:
        """importance: how units are scored (`sottovoce list importances`). clips: recordings that scores and repair are made from.

        compare: "cost", scores per share of the budget that a unit takes; "group", scores against the mean of the unit's group; "as_is";
        "auto": what suits the importance. repair: whether the weights that read cut units are solved for by least squares, with the units
        that stay as they are; without it, an importance may join units (clustering). ridge: added
        to the diagonal, as a share of its mean. objectives: labels of those whose loss is differentiated; all by default.
        keep: the budget of a round that others follow, as a share of the teacher; without it, what ``pruning.budget`` says.
        """

        importance: ImportanceChoice = component(ImportanceChoice, "activation")
        clips: int = 100
        compare: Literal["auto", "cost", "group", "as_is"] = "auto"
        repair: bool = True
        ridge: float = RIDGE
        objectives: tuple[str, ...] = ()
        keep: float | None = None

        def __post_init__(self) -> None:
            if self.clips < 1 or self.ridge < 0:
                raise ValueError(f"clips must be at least 1 and ridge at least 0; got {self.clips} and {self.ridge}")
            if self.keep is not None:
                check_share(self.keep)

    def check(self) -> None:
        self._trainer.check()

    def prepare(self, work: Work, teachers: Teachers) -> None:
        self._budget(work.encoder.config, teachers.config)

    def perform(self, run: Run, work: Work) -> tuple[Work, dict[str, Any]]:
        pruning, config = self.recipe.pruning, self.config
        encoder = prepare(work.encoder, pruning.units).to(run.world.device).eval()
        budget, importance = self._budget(encoder.config, run.teachers.config), config.importance.build()
        plan = budget.plan
        scores = self._scores(run, work, encoder, plan, importance)
        kept, report = choose(compared(scores, budget, _rule(config.compare, importance)), budget)
        run.say(report.text)
        results: dict[str, Any] = {"budget": {**asdict(report), "text": report.text}, "kept": kept, "clips": config.clips}
        results["shape"] = encoder.config.to_dict()
        smaller = encoder
        if not config.repair:
            smaller = self._rewritten(encoder, plan, importance, kept)
        else:
            heard = moments(run, self.label, config.clips, encoder, readers(plan, kept))
            changed = repaired(encoder, plan, kept, heard, config.ridge)
            results["repaired"] = sum(name.endswith("weight") for name in changed)
            smaller = rebuild(encoder, encoder.config, {**encoder.state_dict(), **changed})
        student = merge(cut(smaller, plan, gate_values(plan, kept, run.world.device)))
        run.world.share(student.state_dict().values())
        work.encoder.cpu()
        return Work(student.cpu(), objectives=work.objectives), {**results, "cost": cost_of(student)}

    def _budget(self, config: EncoderConfig, teacher: EncoderConfig | None) -> Budget:
        """ValueError if the units cannot meet it."""
        pruning, keep = self.recipe.pruning, self.config.keep
        shape = prepare_config(config, pruning.units)
        budget = pruning.budget if keep is None else replace(pruning.budget, keep=keep)
        return Budget(budget, shape, make_plan(shape, pruning.units), teacher or config)

    @property
    def meets_budget(self) -> bool:  # type: ignore[override]
        return self.config.keep is None

    def _rewritten(
        self, encoder: Encoder, plan: PruningPlan, importance: Importance, kept: Mapping[str, Sequence[int]]
    ) -> Encoder:
        """The encoder with the weights that the importance gives to units that stay."""
        tensors = named_tensors(encoder)
        for group in plan:
            if len(kept[group.name]) < group.size:
                tensors |= importance.rewritten(tensors, group, kept[group.name])
        return rebuild(encoder, encoder.config, tensors)

    def _scores(self, run: Run, work: Work, encoder: Encoder, plan: PruningPlan, importance: Importance) -> Scores:
        """Read from disk if the same were computed before; kept in the cache and in the run's folder."""
        key = self._key(run, encoder)
        cached, own = cache_home() / "scores" / f"{key}.safetensors", run.folder / f"{self.label}-scores.safetensors"
        scores = read_scores(cached, key)
        if run.world.any(scores is None):
            found = importance.scores(self._evidence(run, work, encoder, plan))
            scores = {group.name: found[group.name].detach().float().cpu().contiguous() for group in plan}
            broken = [name for name, score in scores.items() if not bool(score.isfinite().all())]
            if broken:
                raise ValueError(f"stages.{self.label}: the scores of {broken[0]} are not finite; choose another importance")
            shared = {name: score.to(run.world.device) for name, score in scores.items()}
            run.world.share(shared.values())
            scores = {name: score.cpu() for name, score in shared.items()}
            if run.world.main:
                write_scores(cached, key, scores)
        else:
            run.say(f"scores read from {cached}")
        assert scores is not None
        if run.world.main:
            write_scores(own, key, scores)
        return scores

    def _key(self, run: Run, encoder: Encoder) -> str:
        """A digest of all that scores depend on."""
        recipe, digest = self.recipe, hashlib.blake2b(digest_size=16)
        chosen = {label: plain(part) for label, part in self._objectives().items()}
        facts = [FORMAT, recipe.pruning.units, plain(self.config.importance), self.config.clips, recipe.seed, chosen]
        facts += [plain(recipe.data), run.data.hours, [teacher.fingerprint() for teacher in run.teachers.values()]]
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        for name, tensor in sorted(encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _objectives(self) -> dict[str, Any]:
        return self.recipe.objectives_of(self.label, self.config.objectives)

    @property
    def _trainer(self) -> Train:
        """A stage that would train by the same objectives."""
        return Train(self.config, self.label, self.recipe)

    def _evidence(self, run: Run, work: Work, encoder: Encoder, plan: PruningPlan) -> Evidence:
        clips = self.config.clips

        def heard(modules: Iterable[str]) -> Mapping[str, Moments]:
            return moments(run, self.label, clips, encoder, modules, products=False)

        def gradients(spread: float) -> Iterator[Mapping[str, Tensor]]:
            return self._gradients(run, work, encoder, plan, spread)

        def origin(source: str) -> Mapping[str, Tensor]:
            start = source or run.recipe.student.build().build(run.teachers.origin)
            return origin_tensors(start, encoder, self.recipe.pruning.units)

        return Evidence(encoder, plan, heard, gradients, origin)

    def _gradients(
        self, run: Run, work: Work, encoder: Encoder, plan: PruningPlan, spread: float
    ) -> Iterator[Mapping[str, Tensor]]:
        """See `Evidence`. ValueError without an objective."""
        if not self._objectives():
            raise ValueError(
                f"stages.{self.label}.importance differentiates the loss, and the recipe has no objectives; name one"
            )
        learner = self._trainer.learner(work, run.teachers).to(run.world.device)
        learner.recall(work.objectives)
        learner.fit(lambda: run.stream(self.label), work.objectives)
        held = Held(GatedEncoder(encoder, self.recipe.pruning.units, self.recipe.pruning.gates, torch.Generator()))
        learner.student = held
        learner.eval()
        for batch in batches(run, self.label, self.config.clips):
            held.values = {
                group.name: (1 - spread * torch.rand(group.size, device=run.world.device)).requires_grad_() for group in plan
            }
            drawn = learner.listen(learner.draw(batch))
            with torch.enable_grad():
                losses = learner(drawn, learner.targets(drawn))
                total = learner.total(losses, learner.denominators(drawn).clamp(min=1))
                found = torch.autograd.grad(total, list(held.values.values()), allow_unused=True)
            yield {
                name: torch.zeros_like(value) if gradient is None else gradient
                for (name, value), gradient in zip(held.values.items(), found, strict=True)
            }


class Held(nn.Module):
    """A gated encoder whose gate values are set from outside. values: by group."""

    def __init__(self, gated: GatedEncoder) -> None:
        super().__init__()
        self.gated = gated
        self.values: Mapping[str, Tensor] = {}

    @property
    def encoder(self) -> Encoder:
        return self.gated.encoder

    def forward(self, *inputs: Any, **options: Any) -> Features:
        features: Features = self.gated(*inputs, values=self.values, **options)
        return features


def _rule(compare: str, importance: Importance) -> str:
    if compare != "auto":
        return compare
    return "as_is" if importance.ranks else "cost" if importance.additive else "group"


def compared(scores: Scores, budget: Budget, rule: str) -> dict[str, Tensor]:
    """Scores of all groups on one scale, by the rule `compare` of the stage."""
    if rule == "as_is":
        return dict(scores)
    if rule == "group":
        return {name: score.double() / score.double().mean().clamp(min=1e-30) for name, score in scores.items()}
    whole = float(budget.share({}))
    prices = {group.name: whole - float(budget.share({group.name: group.size - 1})) for group in budget.plan}
    return {name: score.double() / max(prices[name], 1e-12) for name, score in scores.items()}


def read_scores(path: Path, key: str) -> dict[str, Tensor] | None:
    """Scores that `write_scores` wrote under this key; ``None`` if they are missing, damaged or of another key."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError):
        return None


def write_scores(path: Path, key: str, scores: Scores) -> None:
    """Atomically; not at all where it cannot be written, because scores can be computed again."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(scores), temporary, {"key": key})
        os.replace(temporary, path)
    except (OSError, SafetensorError):
        temporary.unlink(missing_ok=True)
