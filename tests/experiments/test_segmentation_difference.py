"""Whether the intervals hold what they say, by simulation, and whether they agree with other libraries."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from common.errors import MetricError
from experiments.segmentation.difference import bootstrap_t, difference_of, paired_t
from experiments.segmentation.holm import holm

# Of the hippocampus experiment: 5 pretraining seeds with 4 fine-tunings each, 28 test patients.
SHAPE = (5, 4, 28)
PRETRAINING_SD, SEED_SD, PATIENT_SD, REST_SD = 0.004, 0.009, 0.02, 0.03
REPETITIONS = 200


def drawn(
    generator,
    effect=0.0,
    pretraining=PRETRAINING_SD,
    seed=SEED_SD,
    patient=PATIENT_SD,
    rest=REST_SD,
    shape=SHAPE,
):
    """Return differences with this mean and these standard deviations of each thing that varies."""
    num_pretraining, num_seeds, num_patients = shape

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return (
        effect
        + pretraining * normal(num_pretraining, 1, 1)
        + seed * normal(num_pretraining, num_seeds, 1)
        + patient * normal(1, 1, num_patients)
        + rest * normal(*shape)
    )


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def share(hits):
    hits = list(hits)
    return sum(hits) / len(hits)


@pytest.fixture(scope="module", params=[0.0, 0.02], ids=["no effect", "an effect of 0.02"])
def experiments(request):
    """As many experiments as `REPETITIONS`: the true effect, and each one's differences and what is found."""
    effect = request.param
    tables = [drawn(generator_of(seed), effect) for seed in range(REPETITIONS)]
    return effect, tables, [difference_of(table, generator_of(0)) for table in tables]


def test_the_bootstrap_s_interval_holds_the_true_effect_as_often_as_it_says(experiments):
    effect, _, found = experiments
    assert 0.91 <= share(f.bootstrap_t.low <= effect <= f.bootstrap_t.high for f in found) <= 0.98


@pytest.mark.parametrize("shape", [(5, 2, 28), (4, 1, 28)], ids=str)
def test_so_does_that_of_the_smaller_experiments(shape):
    """Of the secondary numbers of labels, and of the labelled volumes."""
    tables = [drawn(generator_of(seed), 0.0, shape=shape) for seed in range(REPETITIONS)]
    found = [difference_of(table, generator_of(0)) for table in tables]
    assert 0.91 <= share(f.bootstrap_t.low <= 0 <= f.bootstrap_t.high for f in found) <= 1
    assert share(f.above_zero for f in found) <= 0.08


def test_the_paired_t_s_interval_holds_the_effect_on_these_patients_as_often_as_it_says():
    """Known: what these patients add to the effect."""
    held = []
    for seed in range(REPETITIONS):
        patients = PATIENT_SD * torch.randn(
            SHAPE[-1], generator=generator_of(10_000 + seed), dtype=torch.float64
        )
        table = drawn(generator_of(seed), 0.02, patient=0) + patients
        interval = paired_t(table)
        held.append(interval.low <= 0.02 + float(patients.mean()) <= interval.high)
    assert 0.91 <= share(held) <= 0.98


def test_improves_is_rarely_said_of_nothing_and_nearly_always_of_something(experiments):
    effect, _, found = experiments
    said = share(f.above_zero for f in found)
    assert said >= 0.9 if effect else said <= 0.08


def test_an_effect_as_small_and_as_noisy_as_the_one_looked_for_is_found():
    """SD 0.011 of the gain over 20 fine-tunings, all noise together, as measured in a small trial."""
    alike = {"pretraining": 0.004, "seed": 0.01, "patient": 0.01, "rest": 0.02}
    tables = [drawn(generator_of(seed), 0.02, **alike) for seed in range(REPETITIONS)]
    spread = torch.stack([table.mean(dim=2).flatten() for table in tables])
    assert float(spread.std(dim=1).mean()) == pytest.approx(0.011, abs=0.002)
    assert share(difference_of(table, generator_of(0)).above_zero for table in tables) >= 0.9


def test_fine_tunings_that_share_a_network_do_not_count_as_independent_evidence():
    """With all luck in the pretraining, twenty fine-tunings of five networks are five."""
    lucky = {"pretraining": 0.02, "seed": 0.0, "patient": 0.0, "rest": 0.001}
    tables = [drawn(generator_of(seed), 0.0, **lucky) for seed in range(REPETITIONS)]
    assert share(paired_t(t).low <= 0 <= paired_t(t).high for t in tables) >= 0.91
    naive = [t.reshape(20, 1, SHAPE[-1]) for t in tables]
    assert share(paired_t(t).low <= 0 <= paired_t(t).high for t in naive) < 0.75


def test_the_paired_t_is_that_of_two_other_libraries():
    table = drawn(generator_of(3), 0.01)
    found = difference_of(table, generator_of(0))
    means = table.mean(dim=(1, 2)).numpy()
    ours = (found.paired_t.low, found.paired_t.high)
    theirs = stats.ttest_1samp(means, 0.0)
    assert ours == pytest.approx(tuple(theirs.confidence_interval()))
    assert found.p_value == pytest.approx(theirs.pvalue)
    described = DescrStatsW(means)
    assert ours == pytest.approx(described.tconfint_mean())
    assert found.p_value == pytest.approx(described.ttest_mean()[1])
    first, second = table + 0.7, torch.full_like(table, 0.7)
    paired = stats.ttest_rel(first.mean(dim=(1, 2)).numpy(), second.mean(dim=(1, 2)).numpy())
    assert found.p_value == pytest.approx(paired.pvalue)


@settings(max_examples=30)  # the other library takes its time
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_another_library(values):
    theirs = multipletests(values, method="holm")[1]
    ours = holm({str(index): value for index, value in enumerate(values)})
    assert list(ours) == [str(index) for index in range(len(values))]
    assert list(ours.values()) == pytest.approx(list(theirs))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.data())
def test_comparisons_to_come_can_only_make_what_holm_says_of_the_others_smaller(values, data):
    every = {str(index): value for index, value in enumerate(values)}
    known = data.draw(st.sets(st.sampled_from(sorted(every)), min_size=1))
    so_far = holm({name: every[name] for name in sorted(known)}, planned=len(every))
    in_the_end = holm(every)
    assert all(so_far[name] >= in_the_end[name] for name in known)


@given(st.floats(-1, 1), st.floats(0.01, 10))
def test_an_interval_moves_and_grows_with_the_data(shift, factor):
    table = drawn(generator_of(1))
    for interval_of in (paired_t, lambda t: bootstrap_t(t, generator_of(0), num_resamples=200)):
        plain, changed = interval_of(table), interval_of(table * factor + shift)
        for end in ("estimate", "low", "high"):
            assert getattr(changed, end) == pytest.approx(getattr(plain, end) * factor + shift, abs=1e-9)


def test_the_order_of_seeds_and_patients_means_nothing_to_the_paired_t():
    table = drawn(generator_of(2))
    shuffled = table[torch.randperm(5, generator=generator_of(0))][
        :, :, torch.randperm(SHAPE[-1], generator=generator_of(1))
    ]
    assert paired_t(shuffled).low == pytest.approx(paired_t(table).low)


def test_the_standard_error_is_that_of_two_random_factors_by_hand():
    """Rows and columns add up exactly: no rest, so the variances of both means add up."""
    rows = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    columns = torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=torch.float64)
    table = rows[:, None] + columns
    from experiments.segmentation.difference import _mean_and_variance

    mean, variance = _mean_and_variance(
        table, torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    )
    assert float(mean) == pytest.approx(1.75)
    assert float(variance) == pytest.approx(float(rows.var() / 3 + columns.var() / 4))


def test_a_resample_s_variance_is_that_of_the_table_it_stands_for():
    from experiments.segmentation.difference import _mean_and_variance

    table = drawn(generator_of(5)).mean(dim=1)
    rows, columns = torch.tensor([[2.0, 0, 1, 1, 1]]), torch.zeros(1, SHAPE[-1])
    columns[0, : SHAPE[-1] // 2] = 2
    rows, columns = rows.double(), columns.double()
    written_out = table[[0, 0, 2, 3, 4]][:, list(itertools.chain(*[range(SHAPE[-1] // 2)] * 2))]
    once = (torch.ones(1, 5, dtype=torch.float64), torch.ones(1, SHAPE[-1], dtype=torch.float64))
    for ours, theirs in zip(
        _mean_and_variance(table, rows, columns), _mean_and_variance(written_out, *once), strict=True
    ):
        assert float(ours) == pytest.approx(float(theirs))


@pytest.mark.parametrize("rounded", [0.0, 1e-17])
def test_a_difference_that_is_always_the_same_is_known_on_any_processor(rounded):
    """Sums in another order end in other last digits: these are no spread."""
    table = torch.full(SHAPE, 0.01, dtype=torch.float64)
    table = table + rounded * torch.randn(SHAPE, dtype=torch.float64, generator=generator_of(1))
    found = difference_of(table, generator_of(0))
    assert found.p_value == 0
    assert found.paired_t.low == found.paired_t.high == pytest.approx(0.01)
    assert found.bootstrap_t.low == found.bootstrap_t.high == pytest.approx(0.01)
    assert found.above_zero
    assert not difference_of(torch.zeros(SHAPE), generator_of(0)).above_zero


@pytest.mark.parametrize("shape", [(1, 20, 28), (5, 4, 1)])
def test_one_pretraining_or_one_patient_says_nothing(shape):
    with pytest.raises(MetricError, match="give no interval"):
        difference_of(torch.zeros(shape), generator_of(0))


def test_what_is_not_finite_is_refused():
    table = drawn(generator_of(0))
    table[0, 0, 0] = torch.nan
    with pytest.raises(MetricError, match="not finite"):
        difference_of(table, generator_of(0))


def test_a_p_value_that_is_none_is_refused():
    with pytest.raises(MetricError, match=r"'a' is 1\.5"):
        holm({"a": 1.5})
