"""How reports are combined: closed forms, Flower's own rules as oracle, what a bad site can do."""

import math

import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy.multikrum import select_multikrum
from hypothesis import given
from hypothesis import strategies as st

from common.codec.codebook import COUNTS, SUMS
from common.federation.config import FederationConfig
from common.federation.messages import TrainReport
from common.federation.stage import Stage
from server.combine import combined, krum

ANYTHING = st.floats(-(2.0**100), 2.0**100, width=32)
START = {"v": torch.tensor([1.0, -1.0]), "w": torch.zeros(3)}


def federation(sites, kind, weights=None, **options):
    return FederationConfig(sites=tuple(sites), weights=weights, aggregation={"kind": kind, **options})


def reports(tensors_of):
    return [TrainReport("d", site, Stage.CODEC, 1, tensors, 1, 0.0) for site, tensors in tensors_of.items()]


def changed(*by):
    """Return sites a, b, c, ... that changed every number of START by so much."""
    names = "abcdefghij"
    return {names[i]: {n: t + change for n, t in START.items()} for i, change in enumerate(by)}


def result(tensors_of, kind, start=START, **options):
    return combined(reports(tensors_of), start, federation(tensors_of, kind, **options))


@pytest.mark.parametrize(
    ("kind", "options", "by", "expected"),
    [
        ("mean", {}, (1.0, 2.0, 6.0), 3.0),
        ("mean", {"weights": {"a": 1.0, "b": 1.0, "c": 2.0}}, (1.0, 3.0, 6.0), 4.0),
        ("median", {}, (1.0, 2.0, 1e6), 2.0),
        ("median", {}, (1.0, 2.0, 4.0, 1e6), 3.0),
        ("trimmed_mean", {"trim": 1}, (-1e6, 1.0, 2.0, 6.0, 1e6), 3.0),
        ("trimmed_mean", {"trim": 2}, (-1e6, 1.0, 2.0, 6.0, 1e6), 2.0),
        ("krum", {"faulty": 1}, (1.0, 1.1, 1.3, 1.6, 1e6), 1.1),
        ("norm_clipping", {}, (1.0, 2.0, 1e6), 5 / 3),
        ("norm_clipping", {"times_median": 2.0}, (1.0, 2.0, 1e6), 7 / 3),
        ("norm_clipping", {"weights": {"a": 1.0, "b": 1.0, "c": 2.0}}, (1.0, 2.0, -1e6), -1 / 4),
    ],
)
def test_closed_forms(kind, options, by, expected):
    found = result(changed(*by), kind, **options).tensors
    for name, start in START.items():
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], start.double() + expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "median", "trimmed_mean", "krum", "norm_clipping"])
@given(order=st.permutations(range(5)))
def test_the_order_of_arrival_changes_no_bit(kind, order):
    generator = torch.Generator().manual_seed(3)
    tensors_of = {
        s: {n: torch.randn(t.shape, generator=generator) for n, t in START.items()} for s in "abcde"
    }
    arrived = [reports(tensors_of)[index] for index in order]
    rule = federation("abcde", kind)
    first, second = combined(reports(tensors_of), START, rule), combined(arrived, START, rule)
    assert first.shares == second.shares
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in START)


@pytest.mark.parametrize("kind", ["median", "trimmed_mean", "krum", "norm_clipping"])
@given(bad=st.lists(ANYTHING, min_size=5, max_size=5), place=st.integers(0, 4))
def test_one_site_that_sends_anything_moves_the_model_no_further_than_the_honest_ones(kind, bad, place):
    honest = [0.5, 0.8, 1.0, 1.2]
    tensors_of = changed(*honest[:place], 0.0, *honest[place:])
    site = "abcde"[place]
    tensors_of[site] = {"v": torch.tensor(bad[:2]), "w": torch.tensor(bad[2:])}
    moved = {n: t - START[n].double() for n, t in result(tensors_of, kind).tensors.items()}
    furthest = math.sqrt(sum(float(t.square().sum()) for t in moved.values()))
    assert furthest <= max(honest) * math.sqrt(5) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("faulty", [1, 2])
def test_krum_chooses_what_flower_s_does(faulty, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2 * faulty + 4, 7, generator=generator, dtype=torch.float64)
    squared = torch.cdist(vectors, vectors).square()
    records = [RecordDict({"arrays": ArrayRecord({"w": Array(vector.numpy())})}) for vector in vectors]
    (theirs,) = select_multikrum(records, faulty, 1)
    assert records[krum(squared, faulty)] is theirs


def test_shares_say_of_which_site_less_counts():
    assert result(changed(1.0, 2.0, 8.0), "norm_clipping").shares == pytest.approx(
        {"a": 1, "b": 1, "c": 0.25}
    )
    assert result(changed(1.0, 1.1, 1.3, 1.6, 9.0), "krum").shares == {"a": 0, "b": 1, "c": 0, "d": 0, "e": 0}
    assert result(changed(1.0, 2.0), "mean").shares == {"a": 1, "b": 1}


def test_clipped_codebook_sums_are_still_sums():
    start = {"w": torch.zeros(2), COUNTS: torch.tensor([2.0, 1.0, 1.0]), SUMS: torch.ones(3, 2)}
    counts = ([1.0, 1.0, 2.0], [2.5, 1.0, 0.5], [0.0, 0.0, 4.0])
    tensors_of = {
        site: {"w": torch.full((2,), 1e5 * i), COUNTS: torch.tensor(c), SUMS: torch.full((3, 2), 1.0 + i)}
        for i, (site, c) in enumerate(zip("abc", counts, strict=True))
    }
    found = result(tensors_of, "norm_clipping", start=start).tensors
    assert bool((found[COUNTS] >= 0).all())
    assert float(found[COUNTS].sum()) == pytest.approx(4.0)
    apart = result(
        {s: {COUNTS: t[COUNTS], SUMS: t[SUMS]} for s, t in tensors_of.items()},
        "norm_clipping",
        start={COUNTS: start[COUNTS], SUMS: start[SUMS]},
    ).tensors
    assert torch.equal(apart[COUNTS], found[COUNTS])  # whatever the parameters did
