"""Whose keys count no more: for good, whatever older copy somebody puts back."""

import shutil

import pytest

from common.errors import SealError
from common.kit import Enrolment, write_enrolment
from common.seal import SealKey
from common.sealed_record import SealedRecord
from server.coordinator import REVOCATIONS, Coordinator
from server.revocations import REVOKED, Revocations

STUDY = """\
name: small
volume: {shape: [8, 8, 8], spacing_mm: [1, 1, 1]}
codec: {training: {rounds: 1, local_steps: 1}}
diffusion: {model: {denoiser: {channels: [8], attention: [false], head_channels: 8}},
            training: {rounds: 1, local_steps: 1}}
federation: {sites: [north, south, west]}
"""
NODE_KEY = "ecdsa-sha2-nistp384 " + "A" * 136


@pytest.fixture
def coordinator(tmp_path):
    made = Coordinator.create(tmp_path / "coordinator", STUDY, "fed.example.org:443")
    for site in ("north", "south"):
        enrol(made, site, tmp_path, SealKey.generate())
    return made


def enrol(coordinator, site, folder, key):
    kit = coordinator.invite(site, "")
    enrolment = Enrolment(site=site, node_key=NODE_KEY, signing_key=key.public.text, release="0.1.0")
    write_enrolment(folder / f"{site}.enrol", enrolment, key, kit.token)
    coordinator.enrol([folder / f"{site}.enrol"])


def test_the_lists_are_numbered_and_each_holds_the_one_before(coordinator):
    assert coordinator.revocations == Revocations()
    coordinator.revoke("north")
    first = coordinator.revocations
    coordinator.revoke("south")
    second = coordinator.revocations
    assert (first.number, second.number) == (1, 2)
    assert second.revoked[:1] == first.revoked
    assert second.sites == {"north", "south"}
    assert coordinator.keys() == {}


def test_a_site_that_never_enrolled_can_be_revoked_and_its_kit_is_worth_nothing(coordinator, tmp_path):
    kit = coordinator.invite("west", "")
    coordinator.revoke("west")
    key = SealKey.generate()
    enrolment = Enrolment(site="west", node_key=NODE_KEY, signing_key=key.public.text, release="0.1.0")
    write_enrolment(tmp_path / "west.enrol", enrolment, key, kit.token)
    with pytest.raises(SealError, match="was revoked"):
        coordinator.enrol([tmp_path / "west.enrol"])


def test_a_revocation_that_was_cut_short_counts_all_the_same(coordinator, tmp_path, monkeypatch):
    """Killed after the list was written: the site's kit, or its enrolment, still stands in the other file."""
    kit = coordinator.invite("west", "")
    key = SealKey.generate()
    enrolment = Enrolment(site="west", node_key=NODE_KEY, signing_key=key.public.text, release="0.1.0")
    write_enrolment(tmp_path / "west.enrol", enrolment, key, kit.token)
    monkeypatch.setattr(Coordinator, "_save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for site in ("west", "north"):
        with pytest.raises(KeyboardInterrupt):
            coordinator.revoke(site)
    monkeypatch.undo()
    assert set(coordinator.keys()) == {"south"}
    with pytest.raises(SealError, match="was revoked"):
        coordinator.enrol([tmp_path / "west.enrol"])


def test_a_revoked_key_does_not_come_back_under_another_name(coordinator, tmp_path):
    key = SealKey.generate()
    enrol(coordinator, "west", tmp_path, key)
    coordinator.revoke("west")
    content = (coordinator.folder / "sites.json").read_text()
    (coordinator.folder / "sites.json").write_text(content.replace('"west"', '"east"'))
    assert "east" in coordinator.sites
    assert set(coordinator.keys()) == {"north", "south"}


def test_an_older_copy_of_the_list_lets_nobody_in(coordinator):
    path = coordinator.folder / REVOCATIONS
    shutil.copy(path, path.with_suffix(".old"))
    coordinator.revoke("north")
    shutil.copy(path.with_suffix(".old"), path)
    with pytest.raises(SealError, match="list 0 of revocations, and list 1 was there before"):
        coordinator.keys()


def test_a_list_that_is_missing_or_not_the_study_s_lets_nobody_in(coordinator):
    path = coordinator.folder / REVOCATIONS
    SealedRecord.of(REVOKED, Revocations(number=9), SealKey.generate()).write(path)
    with pytest.raises(SealError, match="is not by key"):
        coordinator.keys()
    SealedRecord.of("approval", Revocations(number=9), coordinator.key).write(path)
    with pytest.raises(SealError, match="is not by key"):
        coordinator.keys()
    path.unlink()
    with pytest.raises(SealError, match="No such file"):
        coordinator.keys()
