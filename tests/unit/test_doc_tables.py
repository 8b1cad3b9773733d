"""The tables of docs/ are those of their records: benchmarks/doc_tables.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = """Before.

<!-- records: results/colld, seed 3 -->
| Model | n | qbe | words <!-- ks-arabic --> | chrF <!-- st-mboshi:chrf --> |
|---|---:|---:|---:|---:|
| as it is <!-- colld --> | 9 | 9 | 9 | 9 |
| log-mel | | | | |

After | with a bar.
"""
GAINS = """<!-- gains: results/colld-reading.json -->
| Better by | n | ks-arabic | asr |
|---|---:|---:|---:|
| `sotto` against CoLLD | | | |
"""


def fill(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "doc_tables.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_tables_of_the_docs_are_those_of_their_records() -> None:
    done = fill("--check", *map(str, sorted((ROOT / "docs").glob("*.md"))))
    assert done.returncode == 0, f"run: python benchmarks/doc_tables.py docs/*.md\n{done.stdout}{done.stderr}"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with records of `colld`, two seeds, and log-mel features, and with what comparisons say."""
    measured = {
        "colld-seed1/qbe": {"mtwv": 0.5},
        "colld-seed3/qbe": {"mtwv": 0.128, "map": 7},
        "colld-seed3/ks-arabic": {"accuracy": 59.58},
        "log-mel/qbe": {"mtwv": 0.0738},
        "log-mel/ks-arabic": {"accuracy": 30.59},
        "log-mel/st-mboshi": {"perplexity": 35.2, "chrf": 13.68},
    }
    for name, measures in measured.items():
        file = tmp_path / "results" / "colld" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        record = {"measures": {key: {"value": value} for key, value in measures.items()}, "details": {}}
        file.write_text(json.dumps(record), encoding="utf-8")
    compared = {"gains": {"ks-arabic": 9.44}, "intervals": {"ks-arabic": [1.85, 17.04]}, "wins": {"ks-arabic": [7, 9]}}
    reading = {key: {"sotto against CoLLD": each} for key, each in compared.items()}
    (tmp_path / "results" / "colld-reading.json").write_text(json.dumps(reading), encoding="utf-8")
    return tmp_path


def test_cells_are_filled_and_the_rest_is_left(records: Path) -> None:
    page = records / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    where = f"--root={records}"
    assert fill("--check", where, str(page)).returncode == 1
    assert page.read_text(encoding="utf-8") == PAGE
    assert fill(where, str(page)).returncode == 0
    assert page.read_text(encoding="utf-8") == PAGE.replace("| 9 | 9 | 9 | 9 |", "| 1 | 0.128 | 59.6 | – |").replace(
        "| log-mel | | | | |", "| log-mel | – | 0.074 | 30.6 | 13.7 |"
    )
    assert fill("--check", where, str(page)).returncode == 0
    page.write_text(PAGE.replace(", seed 3", ""), encoding="utf-8")
    fill(where, str(page))
    assert "| as it is <!-- colld --> | 2 | 0.314 | 59.6 | – |" in page.read_text(encoding="utf-8")


def test_a_model_without_records_is_named(records: Path) -> None:
    page = records / "page.md"
    page.write_text(PAGE.replace("log-mel", "log-mle"), encoding="utf-8")
    done = fill(f"--root={records}", str(page))
    assert done.returncode == 2
    assert "page.md: no records of 'log-mle' in" in done.stderr


def test_comparisons_come_with_their_interval(records: Path) -> None:
    page, where = records / "page.md", f"--root={records}"
    page.write_text(GAINS, encoding="utf-8")
    assert fill(where, str(page)).returncode == 0
    assert page.read_text(encoding="utf-8").splitlines()[-1] == "| `sotto` against CoLLD | 9 | +9.4 (+1.9 to +17.0) | – |"
    page.write_text(page.read_text(encoding="utf-8").replace("CoLLD |", "nothing |"), encoding="utf-8")
    assert "no comparison 'sotto against nothing' in" in fill(where, str(page)).stderr


@pytest.mark.parametrize("table", ["| Model |\n", ""])
def test_a_mark_without_a_table_is_named(tmp_path: Path, table: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- records: results/colld -->\n{table}", encoding="utf-8")
    done = fill(str(page))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
