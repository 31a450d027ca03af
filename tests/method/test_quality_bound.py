import pytest

from luq_gguf.core.errors import BudgetError
from luq_gguf.core.types import Budget
from luq_gguf.method.quality_bound import most_low_layers


def search(budget, figures):
    asked = []

    def measure(n):
        asked.append(n)
        return figures[n]

    count, tried = most_low_layers(budget, len(figures) - 1, measure)
    assert len(asked) == len(set(asked)) == len(tried)
    return count, asked


def test_a_monotone_figure_is_bisected():
    figures = [n / 100 for n in range(29)]
    count, asked = search(Budget(max_kld=0.105), figures)
    assert count == 10
    assert len(asked) <= 7


def test_accuracy_is_bounded_from_below():
    assert search(Budget(min_accuracy=0.8), [1.0, 0.95, 0.9, 0.85, 0.7])[0] == 3


def test_figures_that_contradict_each_other_are_all_tried_from_the_top():
    figures = [0.0, 0.5, 0.1, 0.05, 0.6, 0.2, 0.7, 0.9, 1.0]
    count, asked = search(Budget(max_kld=0.3), figures)
    assert count == 5
    assert {6, 7, 8} <= set(asked)


def test_all_low_is_tried_first_and_none_is_refused_with_the_best_there_is():
    assert search(Budget(max_kld=1), [0.1, 0.2, 0.3]) == (2, [2])
    with pytest.raises(BudgetError, match="the best is 0.2, with 1 low"):
        search(Budget(max_kld=0.1), [0.3, 0.2, 0.4])
