"""Differences between methods: against brute force, against worlds where the truth is known, and Holm by hand."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from ethoray import comparison, metrics
from ethoray.comparison import ComparisonError, difference, holm
from ethoray.tallies import Tallies


def regression(rng, error, recordings=60, noise=0.0):
    """Squared errors of a method with this error, hard recordings being hard for everybody."""
    counts = np.full(recordings, 100.0)
    return Tallies("mse", tuple(f"r{i}" for i in range(recordings)), np.stack([error * counts + noise, counts], 1))


def test_the_pairing_takes_away_what_recordings_have_in_common():
    rng = np.random.default_rng(0)
    hard = rng.gamma(1.0, 30.0, size=60)
    one = [regression(rng, 1.0, noise=hard)]
    other = [regression(rng, 1.05, noise=hard + rng.normal(0, 1, 60))]
    found = difference(other, one)
    assert found.value == pytest.approx(0.05, abs=0.01)
    assert found.low > 0 and found.p < 1e-6, "hard recordings alone are far wider than the difference"


def test_the_spread_over_recordings_is_the_bootstrap_s():
    rng = np.random.default_rng(1)
    tables = rng.integers(0, 40, size=(2, 30, 2, 2)).astype(float)
    names = tuple(map(str, range(30)))
    one, other = (Tallies("binary_f1", names, table) for table in tables)
    found = difference([one], [other])
    draws = np.random.default_rng(2).integers(30, size=(4000, 30))
    apart = [metrics.binary_f1(one.values[d].sum(0)) - metrics.binary_f1(other.values[d].sum(0)) for d in draws]
    assert (found.high - found.low) / 2 == pytest.approx(2.045 * np.std(apart), rel=0.06)
    assert found.value == pytest.approx(one.value() - other.value())


def test_seeds_count_as_in_welch_s_test():
    rng = np.random.default_rng(3)
    ups, downs = 1.0 + rng.normal(0, 0.1, 5), 1.2 + rng.normal(0, 0.3, 4)
    seeds = [[regression(rng, value, recordings=400) for value in values] for values in (ups, downs)]
    found = difference(*seeds)
    assert found.p == pytest.approx(ttest_ind(ups, downs, equal_var=False).pvalue, rel=1e-6)


def test_nothing_is_found_too_often_where_there_is_nothing():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(300):
        hard = rng.gamma(1.0, 1.0, size=40) * 100
        sides = [
            [regression(rng, offset, 40, hard + rng.normal(0, 20, 40)) for offset in 1 + rng.normal(0, 0.03, 3)]
            for _ in range(2)
        ]
        found.append(difference(*sides).p)
    assert 0.01 < np.mean(np.array(found) < 0.05) < 0.09


def test_equal_methods_are_equal_and_order_does_not_matter():
    rng = np.random.default_rng(5)
    one = Tallies("mse", ("a", "b", "c"), np.array([[1.0, 2], [5, 3], [2, 2]]))
    turned = Tallies("mse", ("c", "a", "b"), one.values[[2, 0, 1]])
    assert difference([one], [turned]) == comparison.Difference(0, 0, 0, 1)
    with pytest.raises(ComparisonError, match="3 and 2 recordings"):
        difference([one], [Tallies("mse", ("a", "b"), one.values[:2])])
    with pytest.raises(ComparisonError, match="mse and binary_f1"):
        difference([one], [Tallies("binary_f1", one.names, rng.random((3, 2, 2)))])


def test_holm_by_hand():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert corrected == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5})
    assert holm({"x": 0.6, "y": 0.7}) == {"x": 1.0, "y": 1.0}
    assert holm({}) == {}
