"""The comparison: who learns from whom, for how long, and on whose patients it is judged."""

import json

import nibabel as nib
import numpy as np
import pytest
import yaml
from small_federation import private_study, public_state, small_study

from client.site_config import Compute
from common.errors import ConfigError, RunError
from experiments.baselines.arms import arms_of
from experiments.baselines.compare import compare
from experiments.baselines.measure import psnr_differences
from experiments.baselines.table import comparison_text

PARTS = {"generator": 3, "test": 4}


def study_with_split(folder):
    """Write volumes of two sites, their split and a small study; return the study's file."""
    data, rows = folder / "data", ["file,patient,site,part"]
    data.mkdir()
    generator = np.random.default_rng(0)
    for site in ("a", "b"):
        for part, num in PARTS.items():
            for index in range(num):
                name = f"{site}-{part}-{index}"
                blocks = generator.normal(size=(7, 7, 7)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
                nib.save(nib.Nifti1Image(blocks.astype(np.float32), np.eye(4)), data / f"{name}.nii.gz")
                rows.append(f"{name}.nii.gz,{name},{site},{part}")
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    # MS-SSIM of three scales needs 28 voxels a side.
    content = small_study(volume__shape=[28, 28, 28]).model_dump(mode="json")
    content["simulation"] = {"split": "split.csv", "parts": ["generator"]}
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    return folder / "small.yaml"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    file = study_with_split(folder)
    said = []
    results = compare(file, folder / "data", folder / "runs", Compute(threads=1), said.append)
    return folder, file, results


def test_a_private_study_has_no_arms_without_noise():
    with pytest.raises(RunError, match="is private"):
        arms_of(private_study(public_state()), ("generator",))


def test_every_arm_makes_the_same_number_of_steps_in_a_row_but_the_longer_one():
    study = small_study(("a", "b"))
    arms = {arm.name: arm for arm in arms_of(study, ("generator",))}
    assert list(arms) == ["federated", "pooled", "pooled-3x", "local-a", "local-b"]
    for stage in ("codec", "diffusion"):
        steps = {name: getattr(arm.study, stage).training.total_steps for name, arm in arms.items()}
        longer = steps.pop("pooled-3x")
        assert set(steps.values()) == {getattr(study, stage).training.total_steps}
        assert longer == 3 * steps["pooled"]
        batch = {getattr(arm.study, stage).training.batch_size for arm in arms.values()}
        assert len(batch) == 1


def test_no_arm_learns_from_a_test_patient_and_each_from_whom_it_should(comparison):
    folder, _, _ = comparison
    learned = {}
    for arm in ("federated", "pooled", "pooled-3x", "local-a", "local-b"):
        arm_sites = sorted((folder / "runs" / arm / "sites").iterdir())
        learned[arm] = {site.name: len(list((site / "cache").rglob("*.safetensors"))) for site in arm_sites}
    assert learned == {
        "federated": {"a": 3, "b": 3},
        "pooled": {"pooled": 6},
        "pooled-3x": {"pooled": 6},
        "local-a": {"a": 3},
        "local-b": {"b": 3},
    }


def test_the_results_name_their_seed_steps_and_patients_and_compare_everything(comparison):
    _, _, results = comparison
    assert results["training_seed"] == 3
    assert results["steps"] == {"codec": 6, "diffusion": 4}
    assert results["test_patients"] == {"a": 4, "b": 4}
    assert results["psnr_federated_minus"].keys() == {"pooled", "pooled-3x", "local-a", "local-b"}
    others = {"pooled", "pooled-3x", "local-a", "local-b", "federated-snapped"}
    assert results["mmd_federated_minus"].keys() == others
    assert {g["n"] for g in results["generation"].values()} == {6}
    json.dumps(results, allow_nan=False)


def test_a_second_call_trains_nothing_and_says_the_same(comparison):
    folder, file, results = comparison
    logs = sorted((folder / "runs").glob("*/events.jsonl"))
    before = [log.read_bytes() for log in logs]
    again = compare(file, folder / "data", folder / "runs", Compute(threads=1), lambda _: None)
    assert [log.read_bytes() for log in logs] == before
    assert again == results


def test_a_difference_is_within_patients_of_one_site_and_never_mixes_sites():
    first = {"a": {"p": 30.0, "q": 20.0}, "b": {"r": 0.0, "s": 1.0}, "c": {"t": 9.0, "u": 9.0}}
    second = {"a": {"p": 29.0, "q": 18.0}, "b": {"r": 50.0, "s": 51.0}, "c": {"t": 0.0, "u": 0.0}}
    differences = psnr_differences(first, second, ["a", "b"])
    assert differences.keys() == {"a", "b"}
    assert differences["a"]["estimate"] == pytest.approx(1.5)
    assert 1.0 <= differences["a"]["low"] <= differences["a"]["high"] <= 2.0
    assert differences["b"] == {"estimate": -50.0, "low": -50.0, "high": -50.0}


def test_a_split_that_trains_on_its_test_part_is_refused(tmp_path):
    file = study_with_split(tmp_path)
    file.write_text(file.read_text().replace("- generator", "- generator\n  - test"))
    with pytest.raises(ConfigError, match="trains on its test part"):
        compare(file, tmp_path / "data", tmp_path / "runs", Compute(threads=1), lambda _: None)


def test_the_longer_arm_turns_adversarial_at_the_same_share_of_its_steps():
    arms = {arm.name: arm.study for arm in arms_of(small_study(("a", "b")), ("generator",))}
    shares = {
        name: study.codec.model.discriminator.start_step / study.codec.training.total_steps
        for name, study in arms.items()
    }
    assert set(shares.values()) == {2 / 6}


def test_the_text_shows_every_arm_and_judges_a_local_model_on_the_others_patients(comparison):
    _, _, results = comparison
    text = comparison_text(results)
    counts = {arm: text.count(f"| `{arm}` |") for arm in results["generation"]}
    trained = {"pooled": 4, "pooled-3x": 4, "local-a": 4, "local-b": 4}  # in all four tables
    assert counts == {"federated": 2, "federated-snapped": 2, **trained}
    local, pooled = (
        next(line for line in text.splitlines() if line.startswith(f"| `{arm}` | ") and line.count("|") == 4)
        for arm in ("local-a", "pooled")
    )
    assert local.split("|")[2].strip() == "-"  # its own patients
    assert "-" not in {cell.strip() for cell in pooled.split("|")}
    assert "Training seed 3 only" in text
