from builders import entropies

from luq_gguf.ranking import near_ties, rank


def test_lowest_entropy_comes_first_and_ties_go_by_depth():
    layers = entropies(3.0, 1.0, 2.0, 1.0)
    assert rank(layers, "entropy") == (1, 3, 2, 0)
    assert rank(layers, "entropy-desc") == (0, 2, 1, 3)


def test_random_order_depends_on_the_seed_alone():
    layers = entropies(*range(12))
    assert rank(layers, "random", 1) == rank(layers, "random", 1)
    assert rank(layers, "random", 1) != rank(layers, "random", 2)
    assert sorted(rank(layers, "random", 1)) == list(range(12))


def test_near_ties_are_neighbours_within_their_spread():
    layers = entropies(6.0, 6.5, 6.505, 7.0, spread=0.01)
    assert near_ties(layers, rank(layers, "entropy")) == ((1, 2),)
    assert near_ties(entropies(6.0, 6.1), (0, 1)) == ()
