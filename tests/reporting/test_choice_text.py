"""What each file of a model is to be taken for."""

from luq_gguf.reporting.choice_text import advice


def test_the_smallest_the_closest_and_those_that_another_beats():
    sizes = {"small": 10, "middle": 20, "odd": 30, "large": 40}
    lines = advice(sizes, {"small": 0.5, "middle": 0.1, "odd": 0.2, "large": 0.01})
    assert lines == {
        "small": ["the smallest"],
        "middle": [],
        "odd": ["middle is no larger, and measured closer to 16 bit"],
        "large": ["the closest to 16 bit"],
    }


def test_nothing_is_said_of_one_file_or_of_what_was_not_measured():
    assert advice({"only": 10}, {"only": 0.5}) == {"only": []}
    assert advice({"a": 10, "b": 20}, {}) == {"a": ["the smallest"], "b": []}
