"""A tiny segmentation experiment: volumes with boxes, a split, a trained generator, a plan."""

import shutil

import nibabel as nib
import numpy as np
import torch
import yaml
from small_federation import Federation, small_study

from common.frozen import parse
from experiments.segmentation.arms import Bench
from experiments.segmentation.plan import SegmentationPlan
from server.run_folder import RunFolder

CPU = torch.device("cpu")
SITES = ("a", "b")
PATIENTS = {"generator": 3, "labelled": 2, "validation": 1, "test": 2}  # of each site, two exams each
PLAN = {
    "name": "segmentation-tiny",
    "study": "tiny",
    "data": "volumes",
    "classes": [{"name": "box", "values": [1]}],
    "pretext": {"block": 4},
    "pretraining": {"steps": 2, "batch_size": 2},
    "fine_tuning": {"steps": 2, "batch_size": 2},
    "num_volumes": 4,
    "pretraining_seeds": 2,
    "sampling_seeds": 1,
    "seeds": 2,
    "standing": "primary",
    "labels": [1, 2],
    "arms": [
        {"name": "scratch", "source": "scratch"},
        {"name": "noise", "source": "noise"},
        {"name": "federated", "source": "synthetic", "run": "run"},
        {"name": "one volume", "source": "one_volume", "run": "run"},
        {"name": "local", "source": "synthetic", "run": "not there"},
        {"name": "real", "source": "real"},
    ],
}


def rows():
    """Return (exam, patient, site, part): both sides of everybody."""
    return [
        (f"{site}-{part}-{index}-{side}", f"{site}{part}{index}", site, part)
        for site in SITES
        for part, num in PATIENTS.items()
        for index in range(num)
        for side in ("left", "right")
    ]


def make_place(root):
    """Write data, study files, and the run of a generator that was trained on the generator's patients."""
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / "data" / "volumes" / name).mkdir(parents=True)
    for exam, *_ in rows():
        box = np.zeros((8, 8, 8), np.uint8)
        x, y, z = generator.integers(0, 4, 3)
        box[x : x + 4, y : y + 4, z : z + 4] = 1
        voxels = (box + 0.3 * generator.normal(size=box.shape)).astype(np.float32)
        for name, content in (("images", voxels), ("labels", box)):
            nib.save(nib.Nifti1Image(content, np.eye(4)), root / "data" / "volumes" / name / f"{exam}.nii.gz")
    (root / "configs").mkdir()
    table = "".join(",".join(row) + "\n" for row in rows())
    (root / "configs" / "split.csv").write_text("file,patient,site,part\n" + table)
    study = small_study(SITES)
    content = study.model_dump(mode="json") | {"simulation": {"split": "split.csv"}}
    (root / "configs" / "tiny.yaml").write_text(yaml.safe_dump(content))
    made = bench_at(root)
    trained_on = sorted(made.cohort("generator").patient_of_image)
    RunFolder.create_or_resume(root / "runs" / "run", study, source={"sites": {}, "images": trained_on})
    flat = root / "of-sites"
    for site in SITES:
        (flat / site).mkdir(parents=True)
        for exam, _, own, part in rows():
            if (own, part) == (site, "generator"):
                shutil.copy(root / "data" / "volumes" / "images" / f"{exam}.nii.gz", flat / site)
    Federation(root / "runs" / "run", study, {site: flat / site for site in SITES}).run()
    return root


def bench_at(root, **changes):
    plan = parse(SegmentationPlan, PLAN | changes, "plan")
    return Bench.of_files(plan, root / "configs", root / "data", root / "runs", root / "experiment", CPU)
