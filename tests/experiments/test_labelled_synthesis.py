"""A generator of images with label maps: what it learns from, what it writes, how its maps are judged."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from small_federation import Federation, small_study

from client.agent.plain_words import in_plain_words
from client.dataset import VolumeDataset
from client.site_config import SiteConfig
from common.errors import DataError
from common.volume.labels import from_channels, to_channels
from experiments.finish_run import comparison
from experiments.label_metrics import compare_labels, described, dice, evaluate_rebuilt_labels
from experiments.synthetic_set import (
    make_synthetic_set,
    read_synthetic,
    read_synthetic_channels,
    read_synthetic_labels,
)
from server.released_model import load_released_model
from server.run_folder import RunFolder

CPU = torch.device("cpu")
SITES = ("a", "b")
LABELS = [{"name": "box", "values": [2]}, {"name": "rim", "values": [5, 6]}]
SIDE = 8


def labelled_study(**changes):
    """A study of bright boxes in a rim, with enough of a codec to tell them apart."""
    return small_study(
        SITES,
        volume__labels=LABELS,
        codec__model__discriminator=None,
        codec__model__quantizer={"kind": "ema", "num_codes": 64, "code_dim": 6},
        codec__training={"rounds": 4, "local_steps": 40, "batch_size": 4, "learning_rate": 0.01},
        **changes,
    )


def write_site(folder, num, seed):
    generator = np.random.default_rng(seed)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(num):
        x, y, z = generator.integers(0, 4, 3)
        labels = np.zeros((SIDE,) * 3, np.uint8)
        labels[x : x + 5, y : y + 5, z : z + 5] = generator.choice([5, 6])
        labels[x + 1 : x + 4, y + 1 : y + 4, z + 1 : z + 4] = 2
        image = np.select([labels == 2, labels > 2], [2.0, 1.0], 0.0) + 0.05 * generator.normal(
            size=labels.shape
        )
        exam = f"p{seed}-{index}.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / "images" / exam)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / "labels" / exam)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    study = labelled_study()
    data = {site: write_site(root / site, 6, seed) for seed, site in enumerate(SITES)}
    RunFolder.create_or_resume(root / "run", study, source={"sites": {}, "images": []})
    Federation(root / "run", study, data).run()
    return root


def dataset_of(place, study, name="a"):
    return VolumeDataset.open(
        SiteConfig(name=name, data=place / name, state=place / "state" / name, one_exam_per_patient=True),
        study.volume,
    )


def test_a_codec_learns_images_and_label_maps_and_a_study_without_labels_images_alone(place):
    labelled = dataset_of(place, labelled_study())
    volumes = labelled.codec_volumes()
    assert volumes.shape == (6, 4, SIDE, SIDE, SIDE)
    assert torch.equal(volumes[:, :1], labelled.volumes())
    maps = labelled.label_maps()
    assert set(maps.unique().tolist()) <= {0, 2, 5, 6}
    numbers = torch.where(maps == 2, 1, torch.where(maps > 2, 2, 0))
    assert torch.equal(volumes[:, 1:], to_channels(numbers, 3))
    plain = dataset_of(place, small_study(SITES))
    assert torch.equal(plain.codec_volumes(), plain.volumes())


def test_an_exam_without_a_label_map_is_refused_before_anything_is_trained(place, tmp_path):
    folder = write_site(tmp_path / "a", 3, 7)
    next((folder / "labels").iterdir()).unlink()
    with pytest.raises(DataError, match="1 of 3 exams have no label map"):
        dataset_of(tmp_path, labelled_study())
    dataset_of(tmp_path, small_study(SITES))  # who needs none does not ask for it


def test_a_synthetic_set_is_a_data_folder_with_label_maps(place, tmp_path):
    run = RunFolder.open(place / "run")
    study = run.study()
    manifest = make_synthetic_set(load_released_model(run, CPU), tmp_path / "set", 3, 0)
    assert manifest["labels"] == {"box": 2, "rim": 5}
    assert json.loads((tmp_path / "set" / "manifest.json").read_text()) == manifest
    names = {file["file"] for volume in manifest["volumes"] for file in volume["files"]}
    assert names == {f"{kind}/synthetic-{i:05d}.nii.gz" for kind in ("images", "labels") for i in range(3)}
    for name in names:
        image = nib.load(tmp_path / "set" / name)
        if name.startswith("labels"):
            assert set(np.unique(np.asarray(image.dataobj))) <= {0, 2, 5}
    maps = read_synthetic_labels(tmp_path / "set", study)
    assert maps.shape == (3, SIDE, SIDE, SIDE)
    assert set(maps.unique().tolist()) <= {0, 1, 2}
    assert read_synthetic(tmp_path / "set", study).shape == (3, 1, SIDE, SIDE, SIDE)
    as_site = SiteConfig(name="a", data=tmp_path / "set", state=tmp_path / "state", one_exam_per_patient=True)
    assert VolumeDataset.open(as_site, study.volume).codec_volumes().shape == (3, 4, SIDE, SIDE, SIDE)
    (tmp_path / "plain").mkdir()
    (tmp_path / "set" / "images" / "synthetic-00000.nii.gz").rename(tmp_path / "plain" / "x.nii.gz")
    with pytest.raises(DataError, match="without label maps"):
        read_synthetic_labels(tmp_path / "plain", study)


def test_a_picture_outlines_the_codec_s_own_classes_however_large_their_channels(
    place, tmp_path, monkeypatch
):
    """Channels that are clamped before they are compared tie where several are large: maps get holes."""
    run = RunFolder.open(place / "run")
    model, dataset = load_released_model(run, CPU), dataset_of(place, run.study())
    decode = model.codec.decode
    monkeypatch.setattr(model.codec, "decode", lambda latent, snap: 9 + decode(latent, snap))
    make_synthetic_set(model, tmp_path / "set", 1, 0)
    drawn = {}
    monkeypatch.setattr("experiments.finish_run.montage", lambda rows, path, spec: drawn.update(rows) or path)
    synthetic = read_synthetic_channels(tmp_path / "set", run.study())
    comparison(model, [dataset], synthetic, tmp_path)
    with torch.inference_mode():
        rebuilt = model.codec.reconstruct(dataset.codec_volumes()[:1])[:, 1:]
    assert rebuilt.argmax(1).any()
    assert (rebuilt > 1).all()  # clamped, all would tie, and all be background
    assert torch.equal(from_channels(drawn["reconstructed"][:, 1:]), rebuilt.argmax(1))
    assert torch.equal(
        from_channels(drawn["synthetic"][:, 1:]), read_synthetic_labels(tmp_path / "set", run.study())
    )
    assert torch.equal(drawn["real"], dataset.codec_volumes()[:1])


def test_the_codec_s_maps_are_those_it_was_given_but_for_a_little(place):
    study = labelled_study()
    run = RunFolder.open(place / "run")
    codec = load_released_model(run, CPU).codec
    found = evaluate_rebuilt_labels(codec, dataset_of(place, study), study)
    assert found.keys() == {"box", "rim"}
    for scores in found.values():
        assert scores["label_dice"]["estimate"] > 0.85
        assert scores["label_dice"]["low"] <= scores["label_dice"]["estimate"] <= scores["label_dice"]["high"]


def test_a_person_who_approves_the_study_is_told_that_it_learns_label_maps():
    told = [word for word in in_plain_words(labelled_study()) if "label maps" in word]
    assert told == ["the networks learn your label maps with them: box, rim"]
    assert not any("label" in word for word in in_plain_words(small_study(SITES)))


def test_dice_of_masks_and_of_nothing():
    masks = torch.zeros(3, 2, 2, 2, dtype=torch.bool)
    masks[0, 0], masks[1, 0, 0] = True, True
    other = torch.zeros_like(masks)
    other[0, 0, 0] = True
    found = dice(masks, other)
    assert found[0] == pytest.approx(2 * 2 / (4 + 2))
    assert found[1] == 0
    assert found[2].isnan()


def test_a_class_is_described_by_its_size_and_its_pieces():
    masks = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    masks[0, 0, 0, :2] = True
    masks[0, 3, 3, 3] = True
    found = described(masks, (2.0, 1.0, 5.0))
    assert found == pytest.approx(
        {"volume_ml": 0.015, "volume_sd_ml": 0.03 / 2**0.5, "pieces": 1.0, "missing": 0.5}
    )


def test_real_maps_are_the_floor_of_synthetic_ones(place):
    study = labelled_study()
    datasets = [dataset_of(place, study, site) for site in SITES]
    maps = torch.zeros(4, SIDE, SIDE, SIDE, dtype=torch.long)
    maps[:, :3, :3, :3] = 1
    found = compare_labels(maps, datasets, study)
    assert found["box"] == pytest.approx(
        {
            "volume_ml": 0.027, "volume_sd_ml": 0.0, "pieces": 1.0, "missing": 0.0,
            "volume_ml_floor": 0.027, "volume_sd_ml_floor": 0.0, "pieces_floor": 1.0, "missing_floor": 0.0,
        }
    )  # fmt: skip
    assert found["rim"]["missing"] == 1.0
    assert found["rim"]["volume_ml_floor"] == pytest.approx(0.098)
