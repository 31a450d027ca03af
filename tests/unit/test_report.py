from luq_gguf.report.page import Section, benchmarks_section, render


def test_names_from_elsewhere_are_escaped():
    page = render("<script>alert(1)</script>", [Section("a & b", ["1 < 2"], ("file",), [["<b>"]])])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert "<td>&lt;b&gt;</td>" in page


def test_benchmarks_of_all_files_are_rows():
    figures = {"acc": {"value": 0.9, "stderr": 0.05}, "score": {"value": 1500.25, "stderr": None}}
    entry = {"file": "a.gguf", "benchmarks": {"mme": {"metrics": figures, "n_samples": 40}}}
    old = {"file": "b.gguf"}
    assert benchmarks_section(entry | {"others": [old, old | {"benchmarks": None}]}).rows == [
        ["a.gguf", "mme: acc", "0.9", "0.05", "40"],
        ["a.gguf", "mme: score", "1500", "", "40"],
    ]
    assert benchmarks_section(old).rows == []
