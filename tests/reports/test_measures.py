"""Bootstrap intervals against their closed form, categories, means over columns, medians."""

import math

import numpy as np
import pandas as pd
import pytest

from ntdm.reports.measures import (
    ALL,
    CLASS_MEAN,
    MEAN,
    MEAN_MACRO,
    MEDIAN,
    RESAMPLES,
    estimate,
    median,
    resampled_means,
)
from ntdm.reports.runs import Run


def table(categories: list[str], rotation: list[float], iou: list[float] | None = None) -> pd.DataFrame:
    names = [f"im{i}" for i in range(len(categories))]
    index = pd.MultiIndex.from_arrays([categories, names], names=["category", "name"])
    columns = {"rotation_error": rotation} | ({"amodal_iou": iou} if iou else {})
    return pd.DataFrame(columns, index)


def run(method: str, **errors: pd.DataFrame) -> Run:
    return Run(None, method, {}, {f"d/{split}": frame for split, frame in errors.items()})


def test_the_interval_of_a_share_is_the_binomials() -> None:
    values = np.zeros((400, 2))
    values[:100, 0] = 100
    values[:, 1] = np.linspace(0, 100, 400)
    means = resampled_means(values, "d/a/all")
    assert means.shape == (RESAMPLES, 2)
    share, even = means.std(0)
    assert share == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 400), rel=0.08)
    assert even == pytest.approx(values[:, 1].std() / 20, rel=0.08)
    assert means.mean(0) == pytest.approx([25, 50], abs=0.3)
    assert np.array_equal(means, resampled_means(values, "d/a/all")), "the same in every report"
    assert not np.array_equal(means, resampled_means(values, "d/b/all"))


def test_a_methods_interval_does_not_depend_on_the_others() -> None:
    first = run("one", a=table(["car"] * 50, [0.1] * 30 + [1.0] * 20))
    other = run("two", a=table(["car"] * 50, [0.3] * 50, [0.5] * 50))
    alone = estimate([first], {"A": "d/a"}, False)
    beside = estimate([first, other], {"A": "d/a"}, False)
    pd.testing.assert_frame_equal(beside.loc[alone.index], alone, check_exact=True)


def test_categories_and_means() -> None:
    a = table(["bus", "bus", "bus", "car"], [0.1, 0.1, 2.0, 0.1])
    b = table(["bus"] * 4, [2.0, 0.1, 2.0, 2.0])
    found = estimate([run("m", a=a, b=b)], {"A": "d/a", "B": "d/b"}, True)

    def value(category: str, column: str) -> float:
        return found.loc[("m", "pose_acc_pi_6", category, column), "value"]

    assert value(ALL, "A") == 75 and value(ALL, "B") == 25
    assert value("bus", "A") == pytest.approx(200 / 3) and value("car", "A") == 100
    assert value(CLASS_MEAN, "A") == pytest.approx(250 / 3)
    assert value(ALL, MEAN) == 50 and value(ALL, MEAN_MACRO) == 50
    assert value("bus", MEAN) == pytest.approx(300 / 7), "over photos"
    assert value("car", MEAN) == 100, "over the columns that show it"
    assert found.loc[("m", "pose_acc_pi_6", ALL, MEAN), "n"] == 8
    assert found.loc[("m", "pose_acc_pi_6", "car", "A"), "low"] == 100
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()


def test_a_column_that_is_not_measured_has_no_mean() -> None:
    whole = table(["bus"] * 3, [0.1] * 3, [0.5] * 3)
    found = estimate([run("m", a=whole, b=table(["bus"] * 2, [0.1] * 2))], {"A": "d/a", "B": "d/b"}, True)
    assert ("m", "amodal_iou", ALL, "A") in found.index and ("m", "amodal_iou", ALL, MEAN) not in found.index
    assert ("m", "pose_acc_pi_6", ALL, MEAN) in found.index and ("m", MEDIAN, ALL, MEAN) in found.index


def test_median_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        _, low, high, _ = median(generator.exponential(1.0, 101))
        inside += low <= math.degrees(math.log(2)) <= high
    assert 0.92 <= inside / 400 <= 0.99
    assert median(np.array([0.5])) == pytest.approx((*[math.degrees(0.5)] * 3, 1))


@pytest.mark.parametrize("n", [8, 9, 40, 101, 150])
def test_median_interval_lies_between_two_ranks_as_far_from_either_end(n: int) -> None:
    bounds = median(np.radians(np.arange(1.0, n + 1)))[1:3]  # the k-th smallest error is k degrees
    low, high = map(round, bounds)
    assert low + high == n + 1
    # The median is between the two unless fewer than `low` or at least `high` of n coins show heads.
    cover = sum(math.comb(n, k) for k in range(low, high)) / 2**n
    narrower = sum(math.comb(n, k) for k in range(low + 2, high - 2)) / 2**n
    assert cover > 0.95 > narrower, "within two ranks of the narrowest that covers"
