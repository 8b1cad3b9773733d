"""Pages show what the records say (`experiments.tables`); comparisons of students are those of the records (`comparisons`)."""

from __future__ import annotations

import importlib
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy import stats

from experiments import comparisons, students, tables
from sottovoce.core import ledger
from sottovoce.core.registry import STUDENTS
from sottovoce.hub.pretrained import save_pretrained
from sottovoce.train import api
from sottovoce.train.recipe import load_recipe

ROOT = Path(__file__).parents[2]
QUESTIONS = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/records.jsonl"))
PAGE = """Before.

<!-- records: colld, seed 3 -->
| Model | n | qbe | words <!-- ks-arabic --> | chrF <!-- st-mboshi:chrf --> |
|---|---:|---:|---:|---:|
| as it is <!-- colld --> | 9 | 9 | 9 | 9 |
| log-mel | | | | |

After | with a bar.
"""
GAINS = """<!-- gains: colld -->
| Better by | n | ks-arabic | p <!-- ks-arabic:p --> | asr |
|---|---:|---:|---:|---:|
| `sotto` against CoLLD | | | | |
"""
VALUES = """<!-- values: colld -->
| | words, best layer <!-- scores.words --> |
|---|---:|
| probe | |
"""
PAIRED = """<!-- paired: colld -->
| Better by | ks-arabic | errors <!-- asr:cer --> | qbe |
|---|---:|---:|---:|
| `sotto` against CoLLD <!-- sotto colld --> | | | |
"""


def test_every_table_shows_what_the_records_say() -> None:
    pages = [page for pattern in tables.PAGES for page in ROOT.glob(pattern)]
    assert len(pages) > len(QUESTIONS)
    wrong = [page.name for page, _ in tables.out_of_date(pages, ROOT)]
    assert not wrong, "run: python -m experiments.tables"


def cited() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(page for pattern in tables.PAGES[1:] for page in ROOT.glob(pattern))]


def test_the_evidence_that_pages_cite_is_there() -> None:
    """Files and folders by their paths, records of speed and of checks by their names."""
    names = {
        record["name"]
        for path in (
            "benchmarks/records.jsonl",
            "checks/records.jsonl",
            *(f"experiments/{name}/records.jsonl" for name in QUESTIONS),
        )
        for record in ledger.read_all(ROOT / path)
        if record.get("kind") != "evaluation"
    }
    missing = []
    for page in cited():
        text = page.read_text(encoding="utf-8")
        paths = re.findall(r"`((?:experiments|benchmarks|checks)/[\w./-]*)`", text)
        missing += [f"{page.name}: {path}" for path in paths if not (ROOT / path).exists() and "QUESTION" not in path]
        records = re.findall(r"(?:records? |jsonl`: )`([\w*-]+)`", text)
        missing += [f"{page.name}: record {name}" for name in records if not any(fnmatch(known, name) for known in names)]
    assert missing == []


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_says_what_was_asked_and_how_to_run_it(name: str) -> None:
    folder = ROOT / "experiments" / name
    about = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("**Question.**", "**Answer.**", "**Run.**", "**Machine.**", "(table.md)"):
        assert part in about
    assert f"experiments.{name}.run" in about
    run = importlib.import_module(f"experiments.{name}.run")
    assert f"python -m experiments.{name}.run" in (run.__doc__ or "")
    assert callable(run.main)
    assert (folder / "table.md").is_file()


@pytest.fixture(scope="module")
def conformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of the shape that CoLLD's table has, with random weights."""
    folder = tmp_path_factory.mktemp("conformer") / "teacher"
    shape = load_recipe("pretrain-conformer", []).student
    save_pretrained(folder, STUDENTS.get(shape.name)(shape.config).build(None), "wav2vec2_bert", normalize=False)
    return folder


@pytest.mark.parametrize("name", ["testbed", "colld", "equal_latency"])
def test_the_recipes_of_every_row_are_read(name: str, conformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without training: that fields were not renamed under the experiments."""
    read = []

    def compress(teacher: str, *, recipe: str, data: str, out: Path, seed: int, overrides: list[str], **options: Any) -> Any:
        read.append(api.resolve(recipe, overrides, teacher=teacher, seed=seed, **options))
        return SimpleNamespace(out="demo")

    monkeypatch.setattr(api, "compress", compress)
    run = importlib.import_module(f"experiments.{name}.run")
    setting = students.Setting(str(conformer) if name == "colld" else "demo", "train.tsv", tmp_path, None, ())
    rows = list((run.pairs if name == "equal_latency" else run.table)(setting, [1]))
    for _, _, get in rows:
        get()
    assert len(read) >= len(rows)


@pytest.mark.parametrize("name", list(comparisons.COMPARISONS))
def test_the_comparisons_are_of_the_records(name: str) -> None:
    """A comparison that was added to the records is made again from them."""
    records = ledger.read_all(ROOT / "experiments" / name / "records.jsonl")
    newest = [each for each in records if each["kind"] == f"{name}-reading"][-1]
    values = comparisons.read(comparisons.counted(name))
    for title, pairs in comparisons.COMPARISONS[name].items():
        if title in newest["gains"]:
            gains = comparisons.gains(values, pairs)
            assert {task: len(of) for task, of in gains.items()} == {task: of for task, (_, of) in newest["wins"][title].items()}
            assert {task: round(sum(of) / len(of), 4) for task, of in gains.items()} == pytest.approx(
                newest["gains"][title], abs=1e-3
            )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with records of `colld`, two seeds, and log-mel features, and with what comparisons say."""
    measured = [
        ("colld-seed1", "qbe", {"mtwv": 0.5}),
        ("colld-seed3", "qbe", {"mtwv": 0.128, "map": 7}),
        ("colld-seed3", "ks-arabic", {"accuracy": 1.0}),
        ("colld-seed3", "ks-arabic", {"accuracy": 59.58}),  # measured again
        ("log-mel", "qbe", {"mtwv": 0.0738}),
        ("log-mel", "ks-arabic", {"accuracy": 30.59}),
        ("log-mel", "st-mboshi", {"perplexity": 35.2, "chrf": 13.68}),
    ]
    records: list[dict[str, object]] = [
        {
            "kind": "evaluation",
            "model": {"name": model},
            "task": {"entry": entry},
            "seeds": [3],
            "measures": {key: {"value": value} for key, value in measures.items()},
            "details": {},
        }
        for model, entry, measures in measured
    ]
    compared = {"gains": {"ks-arabic": 9.44}, "intervals": {"ks-arabic": [1.85, 17.04]}, "wins": {"ks-arabic": [7, 9]}}
    compared |= {"p": {"ks-arabic": 0.0213}}
    records.append({"kind": "colld-reading", **{key: {"sotto against CoLLD": each} for key, each in compared.items()}})
    records.append({"kind": "probe", "name": "probe", "scores": {"words": [0.2, 0.8394, 0.5]}})
    pair = [{"name": "sotto-seed3"}, {"name": "colld-seed3"}]
    better = {"ks-arabic": {"accuracy": (2.5, 1.0, 4.0)}, "asr": {"wer": (9.0, 8.0, 10.0), "cer": (-1.5, -3.0, 0.5)}}
    by = {
        entry: {
            "measures": {name: {"better": dict(zip(("value", "low", "high"), each, strict=True))} for name, each in of.items()}
        }
        for entry, of in better.items()
    }
    records.append({"kind": "paired", "models": pair, "tasks": by})
    folder = tmp_path / "experiments" / "colld"
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return tmp_path


def test_cells_are_filled_and_the_rest_is_left(root: Path) -> None:
    assert tables.filled(PAGE, root) == PAGE.replace("| 9 | 9 | 9 | 9 |", "| 1 | 0.128 | 59.6 | – |").replace(
        "| log-mel | | | | |", "| log-mel | – | 0.074 | 30.6 | 13.7 |"
    )
    assert tables.filled(tables.filled(PAGE, root), root) == tables.filled(PAGE, root)
    assert "| as it is <!-- colld --> | 2 | 0.314 | 59.6 | – |" in tables.filled(PAGE.replace(", seed 3", ""), root)
    of_words = PAGE.replace(", seed 3", "").replace("| n |", "| n <!-- n:ks-arabic --> |")
    assert "| as it is <!-- colld --> | 1 | 0.314 | 59.6 | – |" in tables.filled(of_words, root)


def test_a_model_without_records_is_named(root: Path) -> None:
    page = root / "page.md"
    page.write_text(PAGE.replace("log-mel", "log-mle"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md: no records of 'log-mle' in colld"):
        list(tables.out_of_date([page], root))


def test_a_mean_over_students_of_other_data_is_refused(root: Path) -> None:
    """Names say method and size; two students of another manifest once stood beside three of the same name."""
    path = root / "experiments/colld/records.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record, data in zip(records, ("english.tsv", "languages.tsv"), strict=False):
        record["model"]["origin"] = {"data": data, "hours": 4.6}
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    with pytest.raises(ValueError, match=r"'colld' in colld was trained on english\.tsv \(4\.6 h\) and on languages\.tsv"):
        tables.filled(PAGE.replace(", seed 3", ""), root)
    assert tables.filled(PAGE, root).count("| 0.128 |") == 1


def test_comparisons_come_with_their_interval(root: Path) -> None:
    assert tables.filled(GAINS, root).splitlines()[-1] == "| `sotto` against CoLLD | 9 | +9.4 (+1.9 to +17.0) | 0.021 | – |"
    with pytest.raises(ValueError, match="no comparison 'sotto against nothing' in colld"):
        tables.filled(GAINS.replace("CoLLD |", "nothing |"), root)
    assert tables.filled(GAINS.replace("ks-arabic:p", "ks-arabic:q"), root).splitlines()[-1].count("–") == 2
    path = root / "experiments/colld/records.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"p": ', '"before": '), encoding="utf-8")
    with pytest.raises(ValueError, match=r"no p-values in colld yet; run: python -m experiments\.comparisons colld"):
        tables.filled(GAINS, root)


def test_p_values_are_corrected_for_their_number_and_one_pair_has_none() -> None:
    compared = {
        "a against b": {"pr": [1.0, 1.2, 0.9], "ks": [0.1, -0.2, 0.3]},
        "a against c": {"pr": [1.0, 2.0, 3.0], "er": [4.0]},
    }
    p = comparisons.corrected(compared)
    alone = {task: stats.ttest_1samp(of, 0.0).pvalue for task, of in (("pr", [1.0, 1.2, 0.9]), ("other", [1.0, 2.0, 3.0]))}
    assert p["a against b"]["pr"] == pytest.approx(3 * alone["pr"], abs=1e-6)
    assert p["a against c"] == {"pr": pytest.approx(2 * alone["other"], abs=1e-6), "er": None}


def test_models_on_the_same_recordings_are_told_apart(root: Path) -> None:
    row = "| `sotto` against CoLLD <!-- sotto colld --> | +2.5 (+1.0 to +4.0) | -1.5 (-3.0 to +0.5) | – |"
    assert tables.filled(PAIRED, root).splitlines()[-1] == row
    with pytest.raises(ValueError, match="no comparison of 'colld sotto' in colld"):
        tables.filled(PAIRED.replace("sotto colld", "colld sotto"), root)


def test_of_a_list_the_best_is_shown(root: Path) -> None:
    assert tables.filled(VALUES, root).splitlines()[-1] == "| probe | 0.839 |"


@pytest.mark.parametrize("table", ["| Model |\n", ""])
def test_a_mark_without_a_table_is_named(root: Path, table: str) -> None:
    with pytest.raises(ValueError, match="no table where one was announced"):
        tables.filled(f"<!-- records: colld -->\n{table}", root)
