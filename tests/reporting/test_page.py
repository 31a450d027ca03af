from dataclasses import replace

from builders import point_of

from luq_gguf.core.measurements import Benchmark, BenchmarkMetric, EvalConditions, EvalResult
from luq_gguf.core.sweeps import MeterConditions, Sweep
from luq_gguf.reporting import figures, tables
from luq_gguf.reporting.page import Section, benchmarks_section, render


def test_names_from_elsewhere_are_escaped():
    page = render("<script>alert(1)</script>", [Section("a & b", ["1 < 2"], ("file",), [["<b>"]])])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert "<td>&lt;b&gt;</td>" in page


def test_benchmarks_of_all_files_are_rows():
    measured = {"acc": BenchmarkMetric(0.9, 0.05), "score": BenchmarkMetric(1500.25, None)}
    old = EvalResult(
        file="b.gguf", reference=None, n_samples=0, metric=None, accuracy=None, kld=None, kld_prompt=None,
        kld_answer=None, kld_text=None, same_top=None, perplexity=None, n_chunks=0,
        conditions=EvalConditions(None, "0f", 32, None, None, "95%"),
    )  # fmt: skip
    result = replace(old, file="a.gguf", benchmarks={"mme": Benchmark(measured, 40, "mme", 0.0)})
    assert benchmarks_section([result, old, replace(old, benchmarks=None)]).rows == [
        ["a.gguf", "mme: acc", "0.9", "0.05", "40"],
        ["a.gguf", "mme: score", "1500", "", "40"],
    ]
    assert benchmarks_section([old]).rows == []


def test_labels_of_a_logarithmic_axis_are_numbers(tmp_path, monkeypatch):
    """Formulas are not read in figures, so none may be written into them."""
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (drawn.append(figure), path.write_bytes(b"")))
    points = [
        point_of(order, n_low, n_bytes, kld)
        for order, n_low, n_bytes, kld in (
            ("entropy", 0, 4 * 2**20, 2.7e-5), ("entropy", 4, 3 * 2**20, 3.1e-4), ("greedy", 4, 3 * 2**20, 1e-4),
            ("best", None, 3 * 2**20, 5e-5), ("uniform Q2_K", None, 3 * 2**20, 2e-4),
        )
    ]  # fmt: skip
    assert figures.trade_off(points, tmp_path / "a.png")
    assert figures.order_matters([p for p in points if p.n_low is not None], "kld", tmp_path / "b.png")
    for figure in drawn:
        axes = figure.axes[0]
        figure.canvas.draw()
        labels = [label.get_text() for label in (*axes.get_yticklabels(), *axes.get_yticklabels(minor=True))]
        assert all("$" not in label for label in labels)
        assert [float(label.replace("\N{MINUS SIGN}", "-")) for label in labels if label]
        lines = [line.get_label() for line in axes.get_lines()]
        assert "greedy" in lines
    assert "best plan" in [line.get_label() for line in drawn[0].axes[0].get_lines()]


def test_orders_have_columns_as_they_were_measured_and_by_seed():
    orders = [("random", seed) for seed in (2, 0, 1, 3)] + [("entropy", 0)]
    points = tuple(point_of(order, n_low, 100 - n_low, 1e-3, seed) for order, seed in orders for n_low in (0, 4))
    swept = Sweep(points, MeterConditions("f16", "easy", "0f", 8, 0, "auto", 4, "IQ1_M", "Q4_K_M"))
    by_count, _ = tables.sweep_tables(swept)
    heads = [column.header for column in by_count.columns]
    assert heads == ["low", "size", "random 0", "random 1", "random 2", "random 3", "entropy"]
