"""A router over quality models: equal without ratings, and with ratings it trusts the model that is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from sottovoce.core.types import Batch, Vectors
from sottovoce.train.recipe import load_recipe
from sottovoce.train.teachers import TeacherSettings
from sottovoce.train.teachers.dnsmos import DnsMos
from sottovoce.train.teachers.router import Router
from tests.teacher_weights import dnsmos

HERE = TeacherSettings(torch.device("cpu"))


@pytest.fixture
def liars(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second model says the opposite of the first: 1 for quiet recordings and 5 for loud ones, or the other way round."""

    def judged(self: Router, batch: Batch, mask: Any = None, taps: bool = False) -> torch.Tensor:
        level = 1 + 4 * batch.wave.abs().mean(1)
        return torch.stack([level, 6 - level], dim=1)

    monkeypatch.setattr(Router, "judged", judged)


def rated(folder: Path, rating: Any, split: str = "train") -> Path:
    """Forty recordings of rising level with ratings, and one without."""
    rows = ["path\tscore\tsplit", f"{folder / '0.wav'}\t\t{split}"]
    for number in range(40):
        level = (number + 0.5) / 40
        soundfile.write(folder / f"{number}.wav", np.full(1600, level, np.float32), 16_000, subtype="FLOAT")
        rows.append(f"{folder / f'{number}.wav'}\t{rating(level)}\t{split}")
    path = folder / "rated.tsv"
    path.write_text("\n".join(rows) + "\n")
    return path


def opened(folder: Path, **fields: Any) -> Router:
    source = f"dnsmos:{dnsmos(folder)}+dnsmos:{dnsmos(folder)}"
    return Router(Router.Config(source=source, **fields), HERE)


def said(router: Router, level: float) -> float:
    answer = router.answer(Batch(torch.full((1, 1600), level)))
    assert isinstance(answer, Vectors)
    return float(answer.vectors)


def test_without_ratings_all_models_count_alike(tmp_path: Path) -> None:
    router, batch = opened(tmp_path), Batch(torch.rand(2, 16_000))
    alone = DnsMos(DnsMos.Config(source=str(dnsmos(tmp_path))), HERE).answer(batch)
    answer = router.answer(batch)
    assert isinstance(alone, Vectors)
    assert isinstance(answer, Vectors)
    torch.testing.assert_close(answer.vectors, alone.vectors[:, -1:])


@pytest.mark.parametrize("take", ["weighted", "trusted"])
def test_trusts_the_model_that_is_right(take: str, liars: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raters agree with the first model. With the scale of the ratings, which go from 0 to 100."""
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))
    router = opened(tmp_path, ratings=str(rated(tmp_path, lambda level: 100 * level)), scale=(0.0, 100.0), take=take)
    for level in (0.2, 0.9):
        assert said(router, level) == pytest.approx(1 + 4 * level, abs=0.1)


def test_trust_depends_on_the_scores(liars: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raters always agree with whoever gives the higher score."""
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))
    router = opened(tmp_path, ratings=str(rated(tmp_path, lambda level: 1 + 4 * max(level, 1 - level))), take="trusted")
    for level in (0.1, 0.3, 0.7, 0.9):
        assert said(router, level) == pytest.approx(1 + 4 * max(level, 1 - level), abs=1e-4)


def test_is_fitted_once(liars: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))
    ratings = str(rated(tmp_path, lambda level: 5 * level))
    first = opened(tmp_path, ratings=ratings)
    assert first.fingerprint() != opened(tmp_path).fingerprint()
    monkeypatch.setattr(Router, "fit", lambda *given: pytest.fail("fitted again"))
    assert opened(tmp_path, ratings=ratings).fingerprint() == first.fingerprint()


def test_only_the_train_split_is_read(liars: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_CACHE", str(tmp_path / "cache"))
    manifest = rated(tmp_path, lambda level: 5 * level, split="test")
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines[:-1], lines[-1].replace("test", "train")]) + "\n")
    with pytest.raises(ValueError, match="has 1 recordings with a rating in column 'score'; a router needs 20"):
        opened(tmp_path, ratings=str(manifest))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "dnsmos"}, "two quality models"),
        ({"source": "dnsmos+campplus"}, "gives no score; choose among distillmos, dnsmos"),
        ({"source": "dnsmos+dismos"}, "no teacher-kinds named 'dismos'"),
        ({"scale": (5.0, 1.0)}, "scale must be two numbers"),
        ({"take": "trusted"}, "needs ratings"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_mistakes_are_said(fields: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DnsMos, "path", dnsmos(tmp_path))
    with pytest.raises(ValueError, match=message):
        Router(Router.Config(**fields), HERE)


def test_a_recipe_takes_it_by_two_options() -> None:
    recipe = load_recipe("quality", ["teachers.quality.kind=router", "teachers.quality.ratings=rated.tsv"])
    assert recipe.teachers["quality"].cls is Router
    assert recipe.teachers["quality"].config.source == "distillmos+dnsmos"
