"""What is shown of splits and of paired differences: tables, the report's sections, and the figure."""

import io
from dataclasses import replace

import pytest
from builders import eval_of, point_of, scored_point, split_figures
from msgspec import UNSET
from PIL import Image
from rich.console import Console

from luq_gguf.core.measurements import ComparedModel, ReferenceComparison
from luq_gguf.core.sweeps import MeterConditions, Sweep
from luq_gguf.method.metrics import pairs
from luq_gguf.reporting import comparison_text, page, split_sections, split_text, tables
from luq_gguf.reporting import split_figures as figures

SPLITS = {"read": range(10), "count [b]": range(10, 20)}
RIGHT, SOME = [1] * 20, [1] * 8 + [0, 0] + [1] * 10
READ = "-20.0 points (-50.0 to +0.0), 10 questions"
CONDITIONS = MeterConditions("f16", "set.jsonl", "0f", 20, 0, "auto", 4, "IQ1_M", "Q4_K_M")


def shown(*listed):
    console = Console(file=io.StringIO(), width=300, color_system=None)
    for table in listed:
        console.print(table)
    return " ".join(console.file.getvalue().split())


@pytest.fixture
def split():
    return eval_of("a.gguf", SOME, SPLITS, RIGHT)


def test_a_table_of_a_file_has_rows_for_splits_and_names_its_mean(split):
    text = shown(tables.eval_table(split))
    assert "accuracy (exact), mean of all 20 questions │ 90.0%" in text
    assert "- read, 10 questions │ 80.0%" in text
    assert "- count [b], 10 questions │ 100.0%" in text
    assert "- change, read │ -20.0%" in text
    plain = shown(tables.eval_table(eval_of("a.gguf", SOME, None, RIGHT)))
    assert "accuracy (exact) │ 90.0%" in plain
    assert "questions │" not in plain
    some = replace(split, n_scored=20, n_samples=24)
    assert "accuracy (exact, 20 questions), mean of all │" in shown(tables.eval_table(some))


def test_a_comparison_of_files_has_their_paired_differences(split):
    wide = eval_of("b.gguf", RIGHT, SPLITS, RIGHT)
    text = shown(tables.evals_table([split, wide]), tables.differences_table(pairs.all_between([wide, split])))
    assert "-10.0 points (-25.0 to +0.0), 20 questions" in text
    assert f"a.gguf minus b.gguf │ -10.0 points (-25.0 to +0.0), 20 questions │ {READ}" in text
    assert "count [b]" in text


def test_sections_show_the_files_that_were_asked_the_same(split):
    other = replace(split, file="c.gguf", conditions=replace(split.conditions, data_sha256="0e"))
    results = [split, eval_of("b.gguf", RIGHT, SPLITS, RIGHT), other]
    section = split_sections.splits_section(results)
    assert list(section.head) == ["file", "mean of all 20 questions", "read, 10 questions", "count [b], 10 questions"]
    assert [row[0] for row in section.rows] == ["a.gguf", "- change from f16.gguf", "b.gguf", "- change from f16.gguf"]
    assert section.rows[1][2] == READ
    assert split_sections.differences_section(results).rows[0][:2] == [
        "a.gguf minus b.gguf",
        "-10.0 points (-25.0 to +0.0), 20 questions",
    ]
    plain = [eval_of("a.gguf", SOME)]
    assert not split_sections.splits_section(plain).rows
    assert not split_sections.differences_section(plain).rows
    assert page.eval_section([split]).rows[0][5] == "-10.0 points (-25.0 to +0.0), 20 questions"


def test_models_on_the_way_from_the_checkpoint_have_their_splits(split):
    parts = {"read": split_figures(SOME[:10], RIGHT[:10])}
    model = ComparedModel(
        name="file", file="a.gguf", accuracy=split.accuracy, accuracy_change=split.accuracy_change, splits=parts
    )
    compared = ReferenceComparison("base", "float32", 20, "exact", 4, (model, replace(model, splits=UNSET)))
    rows = comparison_text.rows(compared)
    assert [row[0] for row in rows] == ["a.gguf", "- read, 10 questions", "a.gguf"]
    assert rows[1][1:3] == ["80.0%", READ]
    assert split_text.PAIRED in comparison_text.conditions(compared)
    assert split_text.PAIRED not in comparison_text.conditions(replace(compared, metric=None))


def swept(n_splits=2):
    """A sweep whose first split loses a question a layer, where the others lose nothing."""
    before = {f"part {number}": [1] * 10 for number in range(n_splits)}
    points = [
        scored_point(order, n, 100 - n, before | {"part 0": [0] * n + [1] * (10 - n)}, before)
        for order in ("entropy", "random")
        for n in range(0, 7, 2)
    ]
    points.append(scored_point("uniform Q2_K", None, 97, before | {"part 0": [0] * 5 + [1] * 5}, before))
    return Sweep((*points, scored_point("uniform F16", None, 300, before, before)), CONDITIONS)


def test_a_sweep_shows_accuracy_by_split_and_luq_minus_the_uniform_file():
    _, uniform, by_split = tables.sweep_tables(swept())
    assert [column.header for column in uniform.columns][-1] == "LUQ minus this file"
    text = shown(uniform)
    # at 97 bytes, LUQ has four low layers, and one question more than the uniform file that loses five
    assert "Q2_K │ 0.09 KiB │ 4.500 │ 1.0e-03 (75.0%) │ 4 low: 1.0e-03 (80.0%) │ +5.0 points (+0.0 to +15.0)" in text
    text = shown(by_split)
    assert "mean of all 20 questions" in text
    assert "LUQ, 6 low │ 70.0% │ 40.0% │ 100.0% │ -30.0 points" in text
    plain = Sweep((point_of("entropy", 0, 100, 1e-3),), CONDITIONS)
    assert len(tables.sweep_tables(plain)) == 2
    assert "LUQ minus this file" not in shown(*tables.sweep_tables(plain))


def test_the_reports_sweep_has_the_figure_and_the_differences(tmp_path):
    section = page.sweep_section(swept(), tmp_path)
    assert any(image.caption.startswith("Accuracy by split") for image in section.images)
    assert list(section.head)[-2:] == ["part 0, 10 questions; change", "part 1, 10 questions; change"]
    rows = {row[0]: row for row in section.rows}
    assert rows["LUQ, 2 low"][-2:] == [
        "80.0%; -20.0 points (-50.0 to +0.0), 10 questions",
        "100.0%; +0.0 points (-30.8 to +30.8), 10 questions",
    ]
    assert rows["Q2_K"][8].startswith("+5.0 points (+0.0 to +15.0)")
    assert all(len(row) == len(section.head) for row in section.rows)
    plain = page.sweep_section(Sweep((point_of("entropy", 0, 100, 1e-3),), CONDITIONS), tmp_path)
    assert [len(row) for row in plain.rows] == [7]


@pytest.mark.parametrize(("n_splits", "is_drawn"), [(1, True), (2, True), (5, True), (12, False)])
def test_every_split_has_a_panel_unless_they_are_too_many_to_read(tmp_path, n_splits, is_drawn):
    assert figures.accuracy_by_split(swept(n_splits).points, tmp_path / "a.png") == is_drawn
    assert not figures.accuracy_by_split([point_of("entropy", 0, 100, 1e-3)], tmp_path / "b.png")
    if is_drawn:
        with Image.open(tmp_path / "a.png") as picture:
            assert min(picture.size) > 300


def test_the_curve_of_a_split_is_its_own(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.write_bytes(b"")))
    figures.accuracy_by_split(swept().points, tmp_path / "a.png")
    curves = {
        axes.get_title(): {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
        for axes in drawn[0].axes
    }
    entropy = "lowest entropy first (LUQ)"
    assert curves["part 0, 10 questions"][entropy] == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert curves["part 1, 10 questions"][entropy] == [1.0] * 4
    assert curves["mean of all 20 questions"][entropy] == pytest.approx([1.0, 0.9, 0.8, 0.7])
    assert curves["part 0, 10 questions"]["16-bit file"] == [1, 1]
