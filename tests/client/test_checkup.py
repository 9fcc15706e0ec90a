"""What a person at a site is told before anything is approved, and what is refused then and later."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from client.checkup import checkup
from client.cohort import SmallCohortError, check_cohort
from client.policy import Policy
from client.site import Site
from client.site_config import Compute, SiteConfig
from common.errors import ArtifactError, ConfigError, DataError, ErrorCode
from common.federation.messages import TrainOrder
from common.federation.stage import Stage
from tests.small_federation import small_study, write_volumes

STUDY = small_study(("a",))


@pytest.fixture
def config(tmp_path):
    write_volumes(tmp_path / "data", 3, 1)
    return SiteConfig(name="a", data=tmp_path / "data", state=tmp_path / "state")


def with_policy(config, **policy):
    return config.model_copy(update={"policy": Policy(**policy)})


def test_patients_volumes_and_room_are_told(config):
    facts = checkup(config, STUDY)
    assert (facts["patients"], facts["volumes"], facts["device"]) == (3, 3, "cpu")
    assert facts["free GB for state"] > 0


def test_exams_of_one_person_are_one_patient(config, tmp_path):
    table = tmp_path / "patients.csv"
    files = sorted(path.name for path in config.data.iterdir())
    table.write_text("file,patient\n" + "".join(f"{name},one\n" for name in files))
    known = config.model_copy(update={"patients": table})
    assert check_cohort(known, STUDY.volume) == 1
    with pytest.raises(SmallCohortError, match=r"1 patients, and policy\.min_patients is 2"):
        check_cohort(with_policy(known, min_patients=2), STUDY.volume)


def test_a_small_cohort_is_refused_with_a_code_and_no_volume_is_opened(config):
    for path in config.data.iterdir():
        path.write_bytes(b"nobody may read this")
    site = Site(with_policy(config, min_patients=4), STUDY)
    report = site.execute(TrainOrder(STUDY.digest, "a", Stage.CODEC, 1, {}))
    assert report.code is ErrorCode.DATA
    assert not config.cache_folder.exists()  # where digests of files that were read would be
    with pytest.raises(SmallCohortError):
        checkup(site.config, STUDY)
    with pytest.raises(DataError, match="same image"):  # large enough, they would have been read
        checkup(config, STUDY)


def test_a_missing_gpu_is_named(config, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="PyTorch sees 1 GPUs"):
        checkup(config.model_copy(update={"compute": Compute(device="cuda:1")}), STUDY)
    checkup(config.model_copy(update={"compute": Compute(device="cuda:0")}), STUDY)


def test_too_little_room_is_named_before_it_runs_out(config, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 10**9 if Path(path).exists() else 0))
    with pytest.raises(ArtifactError, match=r"1\.00 GB are free"):
        checkup(config, STUDY)
