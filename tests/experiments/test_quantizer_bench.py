"""The quantizer bench on small smooth volumes, held to the bars of the real one.

The bench itself (300 steps on real MRI) takes a quarter of an hour: `python -m experiments.quantizer_bench`.
Here every quantizer passes the same bars on volumes of 16 voxels a side, in seconds.
"""

import pytest
import torch
from torch.nn import functional

from common.codec.config import (
    EmaQuantizerConfig,
    FsqQuantizerConfig,
    GradientQuantizerConfig,
    NoQuantizerConfig,
)
from common.federation.config import TrainingConfig
from experiments.codec_trial import PatientVolumes
from experiments.quantizer_bench import quantizer_bench_text, run_quantizer_bench

QUANTIZERS = (
    NoQuantizerConfig(code_dim=2),
    EmaQuantizerConfig(num_codes=512, code_dim=2),
    GradientQuantizerConfig(num_codes=512, code_dim=2),
    FsqQuantizerConfig(levels=(23, 22)),
)
SCHEDULE = TrainingConfig(rounds=1, local_steps=300, batch_size=4, learning_rate=4e-3)


def smooth_volumes(num, seed):
    """Return shapes of several sizes with soft borders and some texture, in [-1, 1]."""
    noise = torch.randn(num, 1, 18, 18, 18, generator=torch.Generator().manual_seed(seed))
    coarse = functional.interpolate(noise[..., ::3, ::3, ::3], size=(16, 16, 16), mode="trilinear")
    fine = functional.avg_pool3d(noise, 3, stride=1)
    volumes = (2 * coarse + fine).tanh()
    return PatientVolumes(volumes, tuple(f"{seed}-{index}" for index in range(num)))


@pytest.fixture(scope="module")
def rows():
    found = run_quantizer_bench(smooth_volumes(40, 0), smooth_volumes(12, 1), QUANTIZERS, SCHEDULE)
    return {row["kind"]: row for row in found}


def test_codebooks_of_512_codes_are_used(rows):
    for kind in ("ema", "gradient"):
        assert rows[kind]["codes"] == 512
        assert rows[kind]["perplexity"] >= 256, (kind, rows[kind])


@pytest.mark.parametrize("kind", ["ema", "gradient", "fsq"])
def test_every_quantizer_keeps_the_deviation_and_costs_little(rows, kind):
    assert rows[kind]["intensity_std_kept"] >= 0.9
    for name in ("psnr_over_global_mse", "psnr_mean_over_patients"):
        cost = rows[kind][f"{name}_cost"]
        assert 0 < cost <= 1.5
        assert cost == pytest.approx(rows["none"][name] - rows[kind][name])


def test_the_codec_without_a_quantizer_learned_something_to_compare_with(rows):
    assert rows["none"]["psnr_over_global_mse"] > 18
    assert rows["none"]["codes"] is None


def test_the_table_has_a_row_for_each_and_no_cost_for_the_reference(rows):
    facts = {"steps": 300, "batch_size": 4, "training_seed": 0, "held_out_part": "x", "held_out_patients": 12}
    text = quantizer_bench_text({**facts, "rows": list(rows.values())})
    assert [line.split("|")[1].strip() for line in text.splitlines()[4:]] == [f"`{kind}`" for kind in rows]
    assert text.splitlines()[4].count("| - ") == 4
