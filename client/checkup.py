"""What a site brings to a study, found out by a person at the site before anything is approved."""

import math
from typing import Any

import torch

from client.admission import check_admitted
from client.cohort import check_cohort
from client.dataset import VolumeDataset
from client.site_config import SiteConfig
from common.disk_room import refuse_full_disk
from common.errors import ConfigError, DataError
from common.study import Study

FLOAT_BYTES = 4
SPARE_BYTES = 2 << 30


def checkup(config: SiteConfig, study: Study) -> dict[str, Any]:
    """Return patients, volumes and room of a site, after reading and checking every volume.

    Raises:
        PolicyError: The site's own policy refuses the study.
        DataError: A file is not what the study needs, or there are too few patients for its promise.
        ConfigError: The site has no such device.
        ArtifactError: Its disk has too little room.
    """
    check_admitted(config, study)
    check_cohort(config, study.volume)
    _refuse_missing_device(config)
    dataset = VolumeDataset.open(config, study.volume)
    _refuse_far_fewer(dataset.num_patients, study)
    free = refuse_full_disk(config.state, _bytes_for(study, len(dataset.exams)), f"study {study.name}")
    return {
        "patients": dataset.num_patients,
        "volumes": len(dataset.exams),
        "device": config.compute.device,
        "free GB for state": round(free / 1e9, 1),
    }


def _refuse_missing_device(config: SiteConfig) -> None:
    device = torch.device(config.compute.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"compute.device is {config.compute.device}, and PyTorch sees {torch.cuda.device_count()} GPUs",
            "look at nvidia-smi and the driver, or set compute.device",
        )


def _refuse_far_fewer(patients: int, study: Study) -> None:
    """With far fewer patients than was agreed, what is learnt drowns in the noise that was planned."""
    agreed = max((plan.nominal_patients for plan in study.private_plans.values()), default=0)
    if 2 * patients < agreed:
        raise DataError(
            f"{patients} patients, and the study's noise is planned for {agreed}",
            "tell the coordinator: fedvox privacy plan --patients",
        )


def _bytes_for(study: Study, volumes: int) -> int:
    """Return what caches of so many volumes may fill, with orders, models and logs beside them."""
    voxels = study.volume.num_codec_channels * math.prod(study.volume.shape)
    return 2 * volumes * voxels * FLOAT_BYTES + SPARE_BYTES
