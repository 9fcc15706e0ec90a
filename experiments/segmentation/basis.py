"""What tells figures of one plan, study, set of volumes, code and libraries from all others."""

import hashlib
import importlib.metadata
from collections.abc import Sequence

from common.code_digest import code_digest
from common.study import Study
from experiments.segmentation.plan import SegmentationPlan

# What decides a job's figures, beside plan, study, volumes and models: never mix those of two versions of it.
_CODE = (
    "common",
    "client",
    "server",
    "experiments/baselines/measure.py",
    "experiments/in_process.py",
    "experiments/job_board.py",
    "experiments/phantom",
    "experiments/privacy_utility/cohort.py",
    "experiments/privacy_utility/phantoms.py",
    "experiments/simulate.py",
    "experiments/study_file.py",
    "experiments/synthetic_set.py",
    *(
        f"experiments/segmentation/{name}.py"
        for name in (
            "arms",
            "cohort",
            "contrast",
            "few_shot",
            "finetune",
            "jobs",
            "network",
            "pairs",
            "plan",
            "posture",
            "pretext",
            "pretrain",
            "scores",
            "sources",
            "teaching",
        )
    ),
)
_LIBRARIES = ("torch", "monai", "numpy")


def code_of_figures() -> str:
    """Return the SHA-256 of the code that decides the figures."""
    return code_digest(_CODE)


def basis_of(plan: SegmentationPlan, studies: Sequence[Study], volumes: Sequence[str]) -> str:
    """Return twelve hexadecimal digits that are others if anything is that decides a figure.

    Args:
        plan: What is run.
        studies: Of its volumes, and of generators that jobs train.
        volumes: Digests of the volumes, part by part.
    """
    versions = [importlib.metadata.version(library) for library in _LIBRARIES]
    content = [plan.key, *(study.digest for study in studies), *volumes, code_of_figures(), *versions]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:12]
