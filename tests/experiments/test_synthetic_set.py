"""A synthetic set that a poor model made is judged, not refused."""

import nibabel as nib
import numpy as np
import pytest
from small_federation import small_study, write_volumes

from client.dataset import VolumeDataset
from client.site_config import SiteConfig
from experiments.evaluation import evaluate_synthetic, real_sets
from experiments.synthetic_set import read_synthetic

SIDE = 28  # least for MS-SSIM


@pytest.mark.parametrize("level", [0, 400, 1000])
def test_a_model_that_makes_one_volume_over_and_over_is_judged_by_the_metrics(tmp_path, level):
    """With real patients both would be errors: one image twice, and none of it within the window."""
    study = small_study(volume__shape=[SIDE] * 3)
    always = np.full((SIDE,) * 3, level, np.float32)
    (tmp_path / "synthetic").mkdir()
    for index in range(4):
        nib.save(nib.Nifti1Image(always, np.eye(4)), tmp_path / "synthetic" / f"synthetic-{index}.nii.gz")
    synthetic = read_synthetic(tmp_path / "synthetic", study)
    assert len(synthetic) == 4
    assert synthetic.unique().tolist() == [pytest.approx(level / 500 - 1)]

    config = SiteConfig(
        name="a", data=write_volumes(tmp_path / "real", 4, 1), one_exam_per_patient=True, state=tmp_path / "s"
    )
    real = VolumeDataset.open(config, study.volume)
    metrics = evaluate_synthetic(real_sets([real], [real], 4), synthetic, study)
    assert metrics["pairwise_ms_ssim"]["synthetic"] == 1.0 > metrics["pairwise_ms_ssim"]["real"]
    for distances in metrics["distances"].values():
        assert distances["mmd"]["low"] > 0
