"""What `sottovoce report` reads, compares and writes."""

from __future__ import annotations

import ast
import copy
import csv
import json
import re
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from sottovoce.core.registry import TASKS
from sottovoce.encoder import EncoderConfig, FbankConfig, FrontendConfig, LayerConfig
from sottovoce.reporting import bars, board, page, pareto, probes, speed, style, table, text
from sottovoce.reporting.collect import Evaluation, gather
from sottovoce.reporting.composition import picture
from sottovoce.reporting.figure import Chart
from tests.ledger_records import MODELS, evaluation, header, run_record, write_all, write_run


@pytest.fixture(scope="module")
def ledger_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("report") / "ledger")


@pytest.fixture(scope="module")
def whole(ledger_folder: Path) -> board.Board:
    return board.build(gather([ledger_folder]).evaluations)


def found(*records: dict[str, Any]) -> list[Evaluation]:
    return [Evaluation(record, f"{i}.json") for i, record in enumerate(records)]


# reading ----------------------------------------------------------------------------------------------------------------------------


def test_what_is_no_record_is_left_out_with_the_reason(tmp_path: Path) -> None:
    good = evaluation()
    (tmp_path / "good.json").write_text(json.dumps(good))
    (tmp_path / "copy.json").write_text(json.dumps(good))
    (tmp_path / "half.json").write_text(json.dumps(good)[:200])
    (tmp_path / "other.json").write_text('{"schema": 1, "kind": "parity", "commit": null, "machine": {}}')
    (tmp_path / "future.json").write_text(json.dumps({**good, "schema": 2}))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.json").write_text(json.dumps({**good, "measures": {"accuracy": {"value": "many"}}}))
    seen = gather([tmp_path])
    assert len(seen.evaluations) == 1
    assert [one.kind for one in seen.others] == ["parity"]
    reasons = {Path(one.file).name: one.reason for one in seen.left_out}
    assert set(reasons) == {"half.json", "future.json", "config.json", "binary.json", "broken.json"}
    assert "not JSON" in reasons["half.json"]
    assert "schema 2" in reasons["future.json"]
    assert "'measures.accuracy.value'" in reasons["broken.json"]


def test_the_newer_of_two_measurements_counts(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(evaluation()))
    (tmp_path / "b.json").write_text(json.dumps({**evaluation(), "date": "2027-01-01"}))
    seen = gather([tmp_path])
    assert [Path(one.file).name for one in seen.evaluations] == ["b.json"]
    assert "measured again in" in seen.left_out[0].reason


def test_a_file_of_many_records_is_read_line_by_line(tmp_path: Path) -> None:
    records = [evaluation("sid"), evaluation("qbe"), {**run_record(), "name": "first"}]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "records.jsonl").write_text("\n".join([*lines, lines[0][:100], '{"schema": 9, "kind": "run"}']) + "\n")
    seen = gather([tmp_path])
    assert [one.record for one in seen.evaluations] == records[:2]
    assert [run.name for run in seen.runs] == ["first"]
    broken, unknown = seen.left_out
    assert (Path(broken.file).name, broken.reason) == ("records.jsonl:4", "is not JSON")
    assert "schema 9" in unknown.reason


def test_a_later_line_replaces_an_earlier_one(tmp_path: Path) -> None:
    """As after `evaluate --fresh` of a model that was trained again."""
    record = evaluation("sid")
    again = {**record, "model": {**record["model"], "fingerprint": "other"}}
    other_seed = {**record, "seeds": [9], "model": {**record["model"], "fingerprint": "third"}}
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (record, again, other_seed)))
    seen = gather([tmp_path])
    assert [one.record for one in seen.evaluations] == [again, other_seed]
    assert "measured again in" in seen.left_out[0].reason


def test_a_task_that_scores_otherwise_by_now_is_marked() -> None:
    """And its old numbers have a column of their own."""
    old, new = evaluation("asv"), evaluation("asv", 1)
    new["task"] = {**new["task"], "version": TASKS.get("asv").version}
    labels = [task.label for task in board.build(found(old, new)).tasks]
    assert sorted(labels) == ["asv (1), version 1", "asv (2)"]
    assert [task.label for task in board.build(found(evaluation("sid"))).tasks] == ["sid"]  # its schedule has steps: as it was


def test_a_measure_without_a_value_leaves_the_others() -> None:
    record, other = evaluation("asr-english"), evaluation("asr-english", 1)
    for measure in (record["measures"]["wer"], other["measures"]["wer"]):
        measure |= {"value": None, "low": None, "high": None, "per_seed": [None]}
    made = board.build(found(record, other))
    assert [task.measure for task in made.tasks] == ["cer"]
    assert "CER" in table.markdown(made)
    other["measures"]["wer"] = evaluation("asr-english", 1)["measures"]["wer"]
    made = board.build(found(record, other))
    assert [task.measure for task in made.tasks] == ["wer"]
    assert [bool(row.cells) for row in made.rows] == [False, True]
    assert "WER" in table.markdown(made)


def test_no_private_folder_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "home" / "first")
    text = page.render(gather([run, write_all(tmp_path / "home" / "ledger")]))
    assert str(tmp_path) not in text
    assert "first/run/result.json" in text


def test_no_name_of_a_class_is_shown(tmp_path: Path) -> None:
    """A renamed class must not take words for people along: a tab was once called ReportedRun."""
    run = write_run(tmp_path / "first")
    classes = {
        node.name
        for path in Path(page.__file__).parent.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and re.search("[a-z][A-Z]", node.name)
    }
    assert {"ReportedRun", "TaskColumn"} <= classes
    for folders in ([run], [write_all(tmp_path / "ledger")], [run, tmp_path / "ledger"]):
        shown = page.render(gather(folders))
        assert not [name for name in classes if re.search(rf"\b{name}\b", shown)]
    assert ">Run<" in page.render(gather([run]))


def test_a_folder_of_runs_is_read_whole(tmp_path: Path) -> None:
    write_run(tmp_path / "students" / "first")
    write_run(tmp_path / "students" / "more" / "second", evaluations=False)
    seen = gather([tmp_path / "students"])
    assert [run.name for run in seen.runs] == ["first", "second"]
    assert not seen.left_out  # config.json of a student is not taken for a result
    assert all(one.run.endswith("first") for one in seen.evaluations)


def test_a_run_is_read_without_what_a_kill_cut_off(tmp_path: Path) -> None:
    (run,) = gather([write_run(tmp_path / "first")]).runs
    assert run.rows[-1] == {"stage": "distill", "step": 25}  # without its NaN; the half line after it is passed over
    made = picture(run)
    assert made is not None
    assert not made.compared  # nothing is left of the stage before the cut
    assert made.titles == ("Attention heads", "Feed-forward units")
    heads = made.layers[1][0]
    assert heads is not None
    assert heads.gone


def test_the_parts_of_conformers_are_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "first")
    half = LayerConfig(2, 8, 80, kind="conformer", ffn1_dim=70, ffn1=False, glu_dim=9)
    frontend = FrontendConfig((), fbank=FbankConfig())
    shape = EncoderConfig(frontend, 16, None, (half, LayerConfig(1, 8, 100))).to_dict()
    (folder / "config.json").write_text(json.dumps({"encoder": shape}), encoding="utf-8")
    (run,) = gather([folder]).runs
    made = picture(run)
    assert made is not None
    assert made.titles == ("Attention heads", "First feed-forward", "Convolution channels", "Feed-forward units")
    heads, first, channels, units = made.layers[0]
    assert first is not None
    assert first.gone
    assert [part and part.left for part in (heads, channels, units)] == [2, 9, 80]
    assert [part is None for part in made.layers[1]] == [False, True, True, False]
    html = page.render(gather([folder]))
    assert "Convolution channels" in html
    assert "Front end kept" not in html  # a filter bank has no channels to cut


def test_an_unfinished_run_shows_what_it_has(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "first", evaluations=False)
    (folder / "run" / "result.json").unlink()
    assert "is not finished" in page.render(gather([folder]))


def test_paths_that_hold_nothing_are_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no"):
        gather([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="neither a run nor a result"):
        gather([tmp_path])
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match=r"x\.json: is not a JSON object"):
        gather([tmp_path])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="there is no results/ here"):
        page.report([])


def bench(lengths: tuple[float, ...] = (1.0, 10.0)) -> dict[str, Any]:
    """As `sottovoce bench` writes it: a teacher and a student."""
    gain = {"value": 2.5, "low": 2.0, "high": 3.0}
    rows = [
        {"model": model, "runtime": "torch", "batch": 1, "seconds": seconds, "calls": 9, "median_ms": ms * seconds,
         "p95_ms": 1.2 * ms * seconds,
         "real_time_factor": ms / 1000, "audio_s_per_s": 1000 / ms, "peak_mb": 400.0, "rounds_ms": [ms], "speedup": speedup}
        for seconds in lengths
        for model, ms, speedup in (("a <teacher>", 40.0, None), ("student", 16.0, gain))
    ]  # fmt: skip
    models = [{"name": name, "family": "hubert", "params": 1, "macs_per_s": 1.0} for name in ("a <teacher>", "student")]
    against = {"model": "a <teacher>", "runtime": "torch"}
    return {
        **header("bench"),
        "rounds": 6,
        "models": models,
        "reference": against,
        "rows": rows,
        "skipped": [],
        "load": [0.1, 0.2],
    }


def test_speed_is_drawn(tmp_path: Path) -> None:
    """Speed-ups stand beside the points of a single clip length; of several in the table alone."""
    (tmp_path / "bench.json").write_text(json.dumps(bench()), encoding="utf-8")
    (tmp_path / "one.json").write_text(json.dumps(bench((10.0,))), encoding="utf-8")
    found = gather([tmp_path])
    several, one = speed.charts(found.benches)
    assert len(several.figure["data"]) == 2
    assert [point["x"] for point in several.figure["data"]] == [[40.0, 16.0], [400.0, 160.0]]
    assert "annotations" not in several.figure["layout"]
    assert [text["text"] for text in one.figure["layout"]["annotations"]] == ["2.5×"]
    assert one.figure["layout"]["xaxis"]["ticktext"] == ["200", "500"]
    assert "a &lt;teacher&gt;" in one.figure["layout"]["yaxis"]["ticktext"][0]
    assert several.table.rows[1][-1] == "2.50 (2.00–3.00)"
    html = page.render(found)
    assert 'id="tab-speed"' in html
    assert "<teacher>" not in html


def test_speed_that_cannot_be_drawn_is_left_out(tmp_path: Path) -> None:
    broken = bench()
    broken["rows"][0]["median_ms"] = 0
    for name, record in (("zero.json", broken), ("none.json", {**bench(), "rows": []}), ("good.json", bench())):
        (tmp_path / name).write_text(json.dumps(record), encoding="utf-8")
    found = gather([tmp_path])
    assert len(found.benches) == 1
    assert [each.reason for each in found.left_out] == [
        "'rows' is not a list of objects",
        "'rows.0.median_ms' is not a number above 0",
    ]


# comparing --------------------------------------------------------------------------------------------------------------------------


def test_seeds_become_one_row(whole: board.Board) -> None:
    row = next(row for row in whole.rows if row.members)
    assert row.name == "dphubert-macs-25"
    assert [each.seed for each in row.members] == [1, 2, 3]
    task = whole.tasks[0]
    values = [each.cells[task.key].value for each in row.members]
    assert row.cells[task.key] == board.Cell(pytest.approx(sum(values) / 3), min(values), max(values), 3)
    assert len(whole.rows) == len(MODELS) - 2


def test_the_commit_does_not_part_seeds_but_another_recipe_does() -> None:
    records = [copy.deepcopy(evaluation(model=1 + i)) for i in range(3)]
    records[0]["model"]["origin"]["commit"] = "abc1234"
    assert len(board.build(found(*records)).rows) == 1
    records[2]["model"]["origin"]["keep"] = 0.5
    assert [row.n for row in board.build(found(*records)).rows] == [2, 1]


def test_students_of_other_data_are_no_repetition_and_their_names_say_the_data() -> None:
    """Also where seeds and names are the same, as of two students in folders of one name."""
    records = [copy.deepcopy(evaluation(model=1 + i % 2)) for i in range(4)]
    for i, record in enumerate(records):
        data, hours = ("english.tsv", 4.6) if i < 2 else ("languages.tsv", 10.7)
        record["model"]["origin"] |= {"data": data, "hours": hours}
        record["model"]["fingerprint"] = f"{i}"
    rows = board.build(found(*records)).rows
    names = [f"dphubert-macs-25 [english.tsv, 4.60{text.SPACE}h]", f"dphubert-macs-25 [languages.tsv, 10.7{text.SPACE}h]"]
    assert sorted((row.name, row.n) for row in rows) == [(name, 2) for name in names]


def test_a_seed_that_comes_twice_is_no_repetition() -> None:
    """Two runs with the same origin and the same seed differ in something that the origin does not say."""
    records = [copy.deepcopy(evaluation(model=1 + i % 2)) for i in range(4)]
    for i, name in enumerate(("one-s1", "one-s2", "two-s1", "two-s2")):
        records[i]["model"] |= {"name": name, "fingerprint": f"{i}"}
    assert sorted((row.name, row.n) for row in board.build(found(*records)).rows) == [("one", 2), ("two", 2)]


def test_order_is_teacher_students_controls(whole: board.Board) -> None:
    roles = [row.role for row in whole.rows]
    assert roles == sorted(roles, key=["teacher", "student", "control"].index)
    ranks = [row.rank for row in whole.rows if row.role == "student"]
    assert ranks == sorted(ranks, key=lambda rank: rank or 0)


def test_best_follows_the_direction_and_is_a_student(whole: board.Board) -> None:
    for task in whole.tasks:
        students = {row.name: row.cells[task.key].value for row in whole.rows if row.role == "student"}
        (best,) = whole.best(task)
        assert students[best] == (max if task.better == "higher" else min)(students.values())


def test_nobody_is_best_alone() -> None:
    made = board.build(found(evaluation(model=0), evaluation(model=1), evaluation(model=8)))
    assert made.best(made.tasks[0]) == set()


def test_means_are_over_common_tasks_only(whole: board.Board) -> None:
    rows = {row.name: row for row in whole.rows}
    assert set(whole.common) == {task.key for task in whole.tasks}  # a control that lacks one does not count
    assert rows["untrained:demo"].rank is None
    assert rows["demo"].rank == pytest.approx(1.0, abs=0.5)
    assert rows["log-mel"].score == pytest.approx(0.0)


def test_mean_rank_by_hand() -> None:
    records = []
    for model, accuracy, wer in ((0, 90.0, 10.0), (4, 80.0, 30.0), (5, 80.0, 20.0)):
        one, two = copy.deepcopy(evaluation("ks-arabic", model)), copy.deepcopy(evaluation("asr-english", model))
        one["measures"]["accuracy"]["value"], two["measures"]["wer"]["value"] = accuracy, wer
        records += [one, two]
    rows = board.build(found(*records)).rows
    assert [row.rank for row in rows] == [1.0, (2.5 + 2) / 2, (2.5 + 3) / 2]
    assert [row.score for row in rows] == [100.0, 25.0, 0.0]


def test_other_data_or_settings_are_another_column() -> None:
    records = [copy.deepcopy(evaluation(model=i)) for i in (0, 1, 4)]
    records[1]["data"]["fingerprint"] = "ff"
    records[2]["task"]["config"]["max_seconds"] = 2
    made = board.build(found(*records))
    assert [task.label for task in made.tasks] == ["ks-arabic (1)", "ks-arabic (2)", "ks-arabic (3)"]
    assert not made.common


@pytest.mark.parametrize(
    ("sign", "line"), [(1, [(1.0, 5.0), (2.0, 7.0), (4.0, 9.0)]), (-1, [(1.0, 5.0), (1.5, 4.0), (3.0, 3.0)])]
)
def test_frontier(sign: int, line: list[tuple[float, float]]) -> None:
    points = [(1.0, 5.0), (1.5, 4.0), (2.0, 7.0), (3.0, 3.0), (4.0, 9.0), (5.0, 8.0), (4.5, 9.0)]
    assert board.frontier(points, sign) == line


def test_costs_of_one_budget_count_as_equal() -> None:
    assert board.frontier([(100.0, 80.0), (100.5, 85.0)], 1) == [(100.5, 85.0)]
    assert board.frontier([(100.0, 80.0), (102.0, 85.0)], 1) == [(100.0, 80.0), (102.0, 85.0)]


def test_the_leaderboard_as_text(ledger_folder: Path, whole: board.Board, tmp_path: Path) -> None:
    lines = page.report([ledger_folder], tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(whole.rows)
    assert {line.count(" | ") for line in lines} == {3 + len(whole.tasks)}
    assert all(task.label in lines[0] for task in whole.tasks)
    bold = [line.split(" | ")[0].strip("| ") for line in lines if "**" in line]
    assert set(bold) == set().union(*(whole.best(task) for task in whole.tasks))

    with page.report([ledger_folder], tmp_path / "table.csv").open(encoding="utf-8") as file:
        values = {(row["model"], row["task"]): float(row["value"]) for row in csv.DictReader(file)}
    assert values == {
        (row.name, task.label): row.cells[task.key].value for row in whole.rows for task in whole.tasks if task.key in row.cells
    }


@pytest.mark.parametrize("name", ["testbed", "colld"])
def test_a_table_that_is_kept_is_that_of_its_records(tmp_path: Path, name: str) -> None:
    """So that the numbers that people read are those that were measured."""
    folder = Path(__file__).parents[2] / "experiments" / name
    written = page.report([folder], tmp_path / "table.md").read_text(encoding="utf-8")
    assert written == (folder / "leaderboard.md").read_text(encoding="utf-8"), (
        f"run: sottovoce report experiments/{name} --out experiments/{name}/leaderboard.md"
    )


def test_no_table_without_evaluations(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"schema": 1, "kind": "parity", "commit": null, "machine": {}}')
    with pytest.raises(ValueError, match=r"no evaluations in .*sottovoce evaluate"):
        page.report([tmp_path], tmp_path / "table.md")
    assert not (tmp_path / "table.md").exists()


def test_a_name_cannot_break_the_table() -> None:
    record = copy.deepcopy(evaluation())
    record["model"]["name"] = "a|b\nc"
    assert "| a\\|b c |" in table.markdown(board.build(found(record)))


# drawing ----------------------------------------------------------------------------------------------------------------------------


def figures(chart: Chart) -> Iterator[Any]:
    yield from chart.choices.values() if chart.choices else [chart.figure]


def test_the_heading_counts_finished_runs_and_names_failed_starts_apart(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_run(tmp_path / name, evaluations=False)
    (tmp_path / "going" / "run").mkdir(parents=True)
    (tmp_path / "going" / "run" / "metrics.jsonl").write_text('{"stage": "prune", "step": 1, "loss": 2.0}\n')
    (tmp_path / "refused" / "run").mkdir(parents=True)
    (tmp_path / "refused" / "run" / ".sottovoce").touch()
    view = page.View(gather([tmp_path]))
    assert view.title == "3 runs"
    assert view.summary == "2 finished runs, 1 unfinished run, 1 failed start"
    assert [run.run.name for run in view.runs] == ["first", "second", "going"]
    text = page.render(gather([tmp_path]))
    assert "refused" in text[text.index("Failed starts") :]
    assert "not finished" in text


def test_a_student_counts_once_whether_its_run_was_evaluated_or_not(tmp_path: Path) -> None:
    write_run(tmp_path / "evaluated")
    write_run(tmp_path / "trained", evaluations=False)
    assert page.View(gather([tmp_path])).title == "2 students compared"


def test_tasks_of_most_of_the_compared_come_first() -> None:
    records = [evaluation("asr-english", 0), *(evaluation("sid", model) for model in (0, 1, 4))]
    records += [evaluation("asv", model) for model in (8, 9)]
    assert [task.question[0] for task in board.build(found(*records)).tasks] == ["sid", "asr-english", "asv"]


def test_what_has_too_little_to_plot_is_a_table_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "short", evaluations=False)
    row = {"stage": "prune", "step": 1, "loss": 2.0, "sparsity": 0.1, "target": 0.2}
    (run / "run" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    view = page.View(gather([run]))
    loss, sparsity = view.runs[0].curves
    assert loss.figure is sparsity.figure is None
    assert loss.table.rows
    assert sparsity.table.rows
    one, two = (board.build(found(*(evaluation("sid", model) for model in models))) for models in ((0,), (0, 1)))
    assert bars.bars(one, one.tasks[0]).figure is None
    assert bars.bars(two, two.tasks[0]).figure is not None
    text = page.render(gather([run]))
    assert 'data-chart="loss-0"' not in text
    assert 'data-chart="fidelity-0"' in text


def test_a_student_of_another_width_is_not_comparable_as_it_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "narrow", evaluations=False)
    record = json.loads((run / "run" / "result.json").read_text())
    for row in [*record["fidelity"]["layers"], record["fidelity"]["mean"]]:
        row["cosine"] = 0.0  # as records have it where the widths differ
    (run / "run" / "result.json").write_text(json.dumps(record))
    view = page.View(gather([run]))
    tile = next(tile for tile in view.runs[0].tiles if tile.title == "Cosine to the teacher")
    assert tile.value == "not comparable"
    chart = view.runs[0].fidelity
    assert chart is not None
    assert "Cosine" not in chart.table.head
    assert len(next(figures(chart))["data"]) == 1


def test_plotly_takes_every_figure(ledger_folder: Path, tmp_path: Path) -> None:
    view = page.View(gather([write_run(tmp_path / "first"), ledger_folder]))
    every = view.every_chart()
    assert {chart.id.split("-")[0] for chart in every} == {"pareto", "bars", "heat", "trials", "fidelity", "loss", "sparsity"}
    assert len({chart.id for chart in every}) == len(every)
    for chart in every:
        assert chart.table.rows
        assert all(len(row) == len(chart.table.head) for row in chart.table.rows)
        for figure in figures(chart):
            go.Figure(figure)  # ValueError for a property that plotly does not know
            json.dumps(figure, allow_nan=False)


def sized(recipe: str, unit: str | None, keep: float | None, value: float = 80.0) -> dict[str, Any]:
    record = copy.deepcopy(evaluation())
    name = f"{recipe}-{unit}-{keep}"
    origin = {"recipe": recipe, "unit": unit, "keep": keep, "seed": 1, "teacher": "demo"}
    record["model"] |= {"name": name, "fingerprint": name, "role": "student", "macs_per_s": 1e8 * (keep or 1.0), "origin": origin}
    record["measures"]["accuracy"] |= {"value": value, "low": value - 1, "high": value + 1}
    return record


def test_the_sizes_of_one_method_are_one_series() -> None:
    of_macs = [sized("dphubert", "macs", keep) for keep in (0.15, 0.25, 0.5)]
    others = [sized("dphubert", "params", 0.25), sized("distilhubert", None, None), evaluation()]
    built = board.build(found(*of_macs, *others))
    colour = style.colours(built)
    assert len({colour[f"dphubert-macs-{keep}"] for keep in (0.15, 0.25, 0.5)}) == 1
    assert len({colour[row.name] for row in built.rows}) == 4  # of MACs, of parameters, the other recipe, the teacher
    chart = pareto.pareto(built)
    assert chart is not None
    series = {trace["name"]: trace for trace in chart.figure["data"] if "name" in trace}
    joined = series["dphubert, MACs"]
    assert "lines" in joined["mode"]
    assert joined["x"] == [1.5e7, 2.5e7, 5e7]  # in order, or the line would go back and forth


def test_a_wild_interval_does_not_set_the_scale_of_the_bars() -> None:
    wild = sized("dphubert", "macs", 0.25, value=60.0)
    wild["measures"]["accuracy"]["high"] = 4000.0
    built = board.build(found(wild, evaluation()))
    first, last = bars.bars(built, built.tasks[0]).figure["layout"]["xaxis"]["range"]
    assert first == 0
    assert 60 < last < 400


def test_error_rates_of_the_sweep_are_shown_as_they_are_read(whole: board.Board) -> None:
    task = next(task for task in whole.tasks if task.label == "asr-english")
    chart = probes.trials(whole, task)
    assert chart is not None
    assert all(value > 0 for trace in chart.figure["data"] for value in trace["y"])  # stored with a minus
    assert sum(row[-1] == "chosen" for row in chart.table.rows) == 3 * (len(MODELS) - 1)


def test_a_page_is_one_file_that_asks_for_nothing(ledger_folder: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "first")
    assert page.report([run]) == run / "report.html"
    out = page.report([ledger_folder], tmp_path / "new" / "page.html")
    text = out.read_text(encoding="utf-8")
    assert text.count("plotly.js v") == 1
    assert not re.search(r"<(link|img|iframe|script)[^>]+(src|href)=", text)
    assert "published by others, on the official corpora; not comparable with the testbed's numbers" in text.lower().replace(
        "&#39;", "'"
    )
    with pytest.raises(ValueError, match="is a folder"):
        page.report([ledger_folder], tmp_path)


def test_the_library_that_is_missing_is_named(ledger_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ValueError, match=r'needs plotly, which is not installed: pip install "sottovoce\[report\]"'):
        page.render(gather([ledger_folder]))


EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"\'{{7*7}}%{x}<a href="javascript:alert(3)">'


def test_names_from_files_stay_text(tmp_path: Path) -> None:
    record = copy.deepcopy(evaluation(name=EVIL))
    record["task"] |= {"title": EVIL, "entry": EVIL}
    record["data"]["source"] = [EVIL]
    record["measures"] = {EVIL: {**record["measures"]["accuracy"], "unit": EVIL}}
    second = copy.deepcopy(record)
    second["model"] |= {"name": EVIL + "2", "fingerprint": "ff", "role": "student", "origin": {"recipe": EVIL, "seed": 1}}
    (tmp_path / "a.json").write_text(json.dumps(record))
    (tmp_path / "b.json").write_text(json.dumps(second))
    (tmp_path / "c.json").write_text(json.dumps({"schema": 1, "kind": EVIL, "machine": {}}))
    run = write_run(tmp_path / "first", evaluations=False)
    (run / "run" / "result.json").write_text(json.dumps({**run_record(), "teacher": {"name": EVIL, "family": EVIL}}))
    (run / "run" / "metrics.jsonl").write_text(json.dumps({"stage": EVIL, "step": 1, "loss": 1.0, EVIL: 2.0}))
    text = page.render(gather([tmp_path]))
    assert "<script>alert" not in text
    assert "<img" not in text.split("<script>")[0]
    assert text.count("</script>") == 3 + plotly_closes()
    assert "49%{x}" not in text


def plotly_closes() -> int:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().count("</script>")


JUNK: list[Any] = [None, "x", [["x"]], {"a": {"b": 1}}, -1e300]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else []
    for key, item in pairs:
        yield from places(item, (*path, key))


@pytest.mark.parametrize("kind", ["evaluation", "run"])
def test_no_junk_in_a_file_is_a_traceback(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any value of a record in turn is replaced by junk: the page is drawn, with the file or without it."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")
    folder = write_run(tmp_path / "first", evaluations=False)
    file = folder / "run" / "result.json" if kind == "run" else folder / "evaluation" / "a.json"
    file.parent.mkdir(exist_ok=True)
    original = evaluation() if kind == "evaluation" else run_record()
    original.pop("details", None)
    for i, path in enumerate(places(original)):
        record = copy.deepcopy(original)
        at: Any = record
        for key in path[:-1]:
            at = at[key]
        for junk in (JUNK[i % len(JUNK)], JUNK[(i + 2) % len(JUNK)]):
            at[path[-1]] = junk
            file.write_text(json.dumps(record))
            page.render(gather([folder]))


# published --------------------------------------------------------------------------------------------------------------------------


def test_published_scores_follow_from_the_published_numbers() -> None:
    """The leaderboard's formula on a row's own numbers gives its score: a slip in one digit would show."""
    table = json.loads((resources.files("sottovoce.reporting") / "published.json").read_text(encoding="utf-8"))
    measures = table["measures"]
    scored = [row for row in table["rows"] if row["score"] is not None]
    assert len(scored) == 28
    for row in table["rows"]:
        assert set(row["scores"]) == set(measures)
        assert set(row["sources"]) <= set(table["sources"])
    for row in scored:
        terms = {key: 1000 * (row["scores"][key] - one["base"]) / (one["top"] - one["base"]) for key, one in measures.items()}
        slots = (terms.pop("sf_f1") + terms.pop("sf_cer")) / 2
        assert (sum(terms.values()) + slots) / 10 == pytest.approx(row["score"], abs=0.6), row["name"]


# text -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1_270_000, "", "1.27 M"),
        (131e6, "MAC/s", "131 MMAC/s"),
        (999_700, "", "1.00 M"),
        (94.68e6, "", "94.7 M"),
        (1.669e12, "", "1.67 T"),
        (512, "", "512"),
        (0, "", "0"),
        (None, "", "–"),
    ],
)
def test_amounts(value: float | None, unit: str, expected: str) -> None:
    assert text.amount(value, unit).replace(text.SPACE, " ") == expected


def test_numbers_as_people_read_them() -> None:
    assert text.number(-0.04, 1) == "0.0"
    assert text.number(-0.06, 1) == "−0.1"
    assert [text.rate(lr) for lr in (1e-4, 2.5e-5, 0.01, 1.0)] == ["1e-4", "2.5e-5", "0.01", "1"]
    assert text.duration(3725).replace(text.SPACE, " ") == "1 h 02 min"
    assert text.measure("per", "%") == "PER, %"
    assert text.short("a-very-long-name-of-a-model-s1", 12) == "a-very…el-s1"


def test_an_empty_ledger_of_other_kinds_is_still_a_page(tmp_path: Path) -> None:
    (tmp_path / "parity.json").write_text('{"what": "largest difference", "platform": "Linux"}')
    text = page.render(gather([tmp_path]))
    assert "Other measurements" in text
