"""A comparison measures benchmarks on their own networks, and methods on changed ones."""

import pandas as pd
import pytest

from dmn.compare import Budget, Comparison, Source
from dmn.data import MNIST
from dmn.errors import OptionError
from dmn.tracking import Run

METHODS = {"SplitLRP": {}, "SplitCAM": {"stream": "g"}, "GradCAM": {}}  # no layer is named


def test_benchmarks_and_changed_networks_are_scored_and_shown(tmp_path):
    comparison = Comparison(
        networks={"twin": Source("mnist_unconstrained")},
        methods={"twin": METHODS},
        data=MNIST(),
        metrics=["PositivePrecision", "EfficientMPRT"],
        budget=Budget(validation=1, test=3, expensive=2),
        gallery=1,
        device="cpu",
    )
    report = comparison.run(Run("known", str(tmp_path)))
    summary = pd.read_parquet(report.parent / "summary.parquet").set_index(["entry", "metric"])
    found = summary["n"].unstack()
    assert (found["PositivePrecision"] == 3).all()
    assert (found["EfficientMPRT"] == 2).all()
    assert summary["mean"]["SplitLRP (twin)", "PositivePrecision"] == 1
    assert summary["category"].unstack()["PositivePrecision"].unique().tolist() == ["contributions"]
    text = (report.parent / "report.md").read_text()
    assert "No settings were chosen" in text
    assert (report.parent / "figures/benchmarks.png").is_file()
    assert "constructed, class" in report.read_text()


def test_a_label_that_is_a_benchmark_is_refused():
    with pytest.raises(OptionError, match="networks: constructed is a benchmark; give another"):
        Comparison(
            networks={"constructed": Source("mnist_paired")},
            methods={},
            data=MNIST(),
            metrics=["PositivePrecision"],
        )
