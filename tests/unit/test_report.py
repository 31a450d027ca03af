from luq_gguf.report.page import Section, render


def test_names_from_elsewhere_are_escaped():
    page = render("<script>alert(1)</script>", [Section("a & b", ["1 < 2"], ("file",), [["<b>"]])])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert "<td>&lt;b&gt;</td>" in page
