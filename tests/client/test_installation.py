"""What `site install` writes: paths that YAML could misread, and no ledger of an installation's own."""

import pytest

from client.installation import install
from client.site_config import load_site_config
from common.errors import ConfigError
from common.kit import Kit
from common.seal import SealKey
from deploy.runbook import kit_texts
from tests.small_federation import PRIVATE, small_study

PROMISE = {
    "epsilon": 6.0,
    "delta": 1e-5,
    "public_model": "0" * 64,
    "trainable": {"kind": "lora", "rank": 1},
    "diffusion": PRIVATE,
}


def kit(**changes):
    """Return a kit for the site north."""
    study = small_study(("north", "south"), **changes)
    return Kit(
        site="north",
        address="localhost:1",
        authority="x",
        coordinator=SealKey.generate().public.text,
        token="0" * 64,
        study=study,
    )


@pytest.fixture
def private_kit():
    return kit(privacy=PROMISE, codec__training={"rounds": 0, "local_steps": 1})


def test_two_private_studies_of_a_site_share_one_ledger(private_kit, tmp_path):
    ledgers = []
    for name in ("first", "second"):
        install(tmp_path / name, private_kit, {}, tmp_path, ledger=tmp_path / "ledger")
        config = load_site_config(tmp_path / name / "site.yaml")
        assert (config.policy.epsilon, config.policy.delta) == (6.0, 1e-5)
        ledgers.append(config.policy.ledger)
    assert ledgers == [tmp_path / "ledger"] * 2


def test_a_private_study_is_not_installed_without_the_site_s_ledger(private_kit, tmp_path):
    with pytest.raises(ConfigError, match="one ledger for all") as raised:
        install(tmp_path / "north", private_kit, {}, tmp_path)
    assert "--ledger" in raised.value.remedy
    assert not (tmp_path / "north").exists()


def test_a_study_without_privacy_has_no_ledger(tmp_path):
    with pytest.raises(ConfigError, match="no privacy section"):
        install(tmp_path / "north", kit(), {}, tmp_path, ledger=tmp_path / "ledger")
    assert not (tmp_path / "north").exists()


@pytest.mark.parametrize("name", ["MRI #2", "a: b", "it's", "- x", "Brüste", "long " * 60])
def test_a_folder_of_any_name_is_found_again(private_kit, tmp_path, name):
    places = {key: tmp_path / key / name.strip() for key in ("data", "patients", "ledger")}
    install(tmp_path / "north", private_kit, {}, **places)
    config = load_site_config(tmp_path / "north" / "site.yaml")
    assert {"data": config.data, "patients": config.patients, "ledger": config.policy.ledger} == places


def test_the_runbook_of_a_private_study_tells_of_the_ledger(private_kit):
    assert "--ledger" in kit_texts(private_kit)["RUNBOOK.md"]
    assert "ledger create" in kit_texts(private_kit)["RUNBOOK.md"]
    assert "ledger create" not in kit_texts(kit())["RUNBOOK.md"]
