"""One authority follows another, and at no moment does a site that did as told lose the coordinator."""

import shutil
import subprocess

import pytest

from client.installation import Installation, install
from common.authority_notice import NOTICE, AuthorityNotice
from common.errors import ConfigError, SealError
from common.kit import Kit
from common.seal import SealKey
from common.sealed_record import SealedRecord
from deploy.authority import Authority
from server.coordinator import Coordinator
from tests.server.test_revocations import STUDY

HOST = "fed.example.org"


@pytest.fixture
def coordinator(tmp_path):
    made = Coordinator.create(tmp_path / "coordinator", STUDY, f"{HOST}:443")
    Authority.create(made.folder, "small").issue(HOST)
    return made


@pytest.fixture
def site(coordinator, tmp_path):
    kit: Kit = coordinator.invite("north", Authority(coordinator.folder).pem)
    install(tmp_path / "north", kit, {}, tmp_path)
    return Installation(tmp_path / "north")


def believes(site, coordinator):
    """Return whether a site's authorities vouch for the server's certificate, as OpenSSL sees it."""
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", site.folder / "ca.crt", "-verify_hostname", HOST,
         coordinator.folder / "server.crt"],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


def test_the_whole_change(coordinator, site):
    home = coordinator.folder
    assert believes(site, coordinator)
    Authority(home).prepare_next("small")
    notice = coordinator.notice(Authority(home).pem)
    assert believes(site, coordinator)
    Authority(home).issue(HOST)  # renewed in between, by the old one still
    assert believes(site, coordinator)
    assert site.trust(notice).number == 1
    assert believes(site, coordinator)
    Authority(home).switch(HOST)
    assert believes(site, coordinator)
    Authority(home).issue(HOST)
    assert believes(site, coordinator)
    before = (site.folder / "ca.crt").read_text()
    Authority(home).forget_old()
    assert site.trust(coordinator.notice(Authority(home).pem)).number == 2
    assert believes(site, coordinator)
    after = (site.folder / "ca.crt").read_text()
    assert (before.count("BEGIN"), after.count("BEGIN")) == (2, 1)


def test_a_site_that_was_not_told_does_not_believe_the_new_one(coordinator, site):
    Authority(coordinator.folder).prepare_next("small")
    Authority(coordinator.folder).switch(HOST)
    assert not believes(site, coordinator)


def test_what_was_killed_half_way_goes_on(coordinator, site, monkeypatch):
    home = coordinator.folder
    Authority(home).prepare_next("small")
    site.trust(coordinator.notice(Authority(home).pem))
    monkeypatch.setattr(Authority, "issue", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Authority(home).switch(HOST)
    monkeypatch.undo()
    assert believes(site, coordinator)  # the old certificate, of an authority that is believed
    Authority(home).issue(HOST)
    assert believes(site, coordinator)


def test_steps_out_of_order_are_refused(coordinator):
    home = coordinator.folder
    with pytest.raises(ConfigError, match="no other authority is prepared"):
        Authority(home).switch(HOST)
    Authority(home).prepare_next("small")
    key, believed = (home / "ca.next.key").read_bytes(), (home / "ca.crt").read_bytes()
    Authority(home).prepare_next("small")  # again, after a call that was cut short
    assert ((home / "ca.next.key").read_bytes(), (home / "ca.crt").read_bytes()) == (key, believed)
    with pytest.raises(ConfigError, match="another authority is prepared"):
        Authority(home).forget_old()
    Authority(home).switch(HOST)


def test_no_step_destroys_the_key_that_signs(coordinator):
    home = coordinator.folder
    Authority(home).prepare_next("small")
    (home / "ca.crt").write_text(
        (home / "ca.crt").read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    )
    with pytest.raises(ConfigError, match="is of no authority that is believed"):
        Authority(home).switch(HOST)
    Authority(home).issue(HOST)


def test_a_key_that_is_not_of_the_authority_is_refused(coordinator, tmp_path):
    (tmp_path / "other").mkdir()
    Authority.create(tmp_path / "other", "other")
    shutil.copy(tmp_path / "other" / "ca.key", coordinator.folder / "ca.key")
    with pytest.raises(ConfigError, match="is not the key of"):
        Authority(coordinator.folder)


def test_a_stranger_s_notice_and_an_older_one_change_nothing(coordinator, site, tmp_path):
    stranger = AuthorityNotice(number=9, authorities="strange")
    SealedRecord.of(NOTICE, stranger, SealKey.generate()).write(tmp_path / "strange.notice")
    before = (site.folder / "ca.crt").read_text()
    with pytest.raises(SealError, match="is not by key"):
        site.trust(tmp_path / "strange.notice")
    shutil.copy(coordinator.notice("first"), tmp_path / "first.notice")
    coordinator.notice("second")
    site.trust(coordinator.folder / "authority.notice")
    with pytest.raises(SealError, match="notice 1, and notice 2 was there before"):
        site.trust(tmp_path / "first.notice")
    assert (site.folder / "ca.crt").read_text() == "second" != before
