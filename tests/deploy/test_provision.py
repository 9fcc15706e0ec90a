"""From an empty coordinator and empty sites to approved studies, and what is refused on the way."""

import base64
import datetime
import hashlib
import json
import shutil
import stat
import subprocess
import zipfile

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from client.installation import Installation
from common.errors import ConfigError, SealError
from common.kit import read_kit
from common.seal import SealKey
from deploy.authority import Authority, days_left
from server.coordinator import Coordinator
from tests.e2e.command_line import fedvox, refused
from tests.small_federation import small_study, write_volumes

SITES = ("north", "south")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A coordinator with two kits, and north installed from its own."""
    folder = tmp_path_factory.mktemp("provision")
    study = small_study(SITES)
    (folder / "study.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_none=True)))
    write_volumes(folder / "data", 6, 1)
    result = fedvox("provision", "study.yaml", "--address", "fed.example.org:443", cwd=folder)
    assert result.returncode == 0, result.stderr
    prints = fingerprints(result.stdout)
    result = fedvox(
        "site", "install", "kits/north.kit", "--fingerprint", prints["north"], "--data", "data",
        "--into", "north", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, prints, result.stdout


def fingerprints(text):
    """Kit fingerprints as the table shows them, folded lines joined."""
    found, current = {}, None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) == 2 and cells[0].endswith(".kit"):
            current = cells[0].removesuffix(".kit")
            found[current] = ""
        if len(cells) == 2 and current:
            found[current] += cells[1]
    return found


def test_a_kit_has_its_fingerprint_and_nobody_s_private_key(made):
    folder, prints, _ = made
    assert set(prints) == set(SITES)
    kit, texts = read_kit(folder / "kits" / "north.kit", prints["north"].upper())
    assert kit.site == "north"
    assert kit.address == "fed.example.org:443"
    assert "RUNBOOK.md" in texts
    everything = "".join(texts.values()) + kit.model_dump_json()
    assert "PRIVATE KEY" not in everything
    assert (
        json.loads((folder / "coordinator" / "sites.json").read_text())["sites"]["south"]["token"]
        not in everything
    )


def test_an_altered_kit_and_a_kit_of_another_fingerprint_are_refused(made, tmp_path):
    folder, prints, _ = made
    content = bytearray((folder / "kits" / "south.kit").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "south.kit").write_bytes(bytes(content))
    words = ("site", "install", "south.kit", "--data", ".", "--fingerprint")
    refused(fedvox(*words, prints["south"], cwd=tmp_path), "not the one that you were told")
    (tmp_path / "south.kit").write_bytes((folder / "kits" / "south.kit").read_bytes())
    refused(fedvox(*words, prints["north"], cwd=tmp_path), "not the one that you were told")
    assert not (tmp_path / "site").exists()
    with pytest.raises(ConfigError, match="No such file"):
        read_kit(tmp_path / "none.kit", prints["north"])


def test_a_file_that_is_no_kit_is_refused(tmp_path):
    for name, content in (("a", b"text"), ("b", None)):
        path = tmp_path / name
        if content is None:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("kit.json", "{}")
        else:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match="no kit"):
            read_kit(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_keys_are_born_at_the_site_and_are_their_owner_s_alone(made):
    folder, _, said = made
    for key in ("keys/sign.key", "courier/node.key"):
        path = folder / "north" / key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "PRIVATE KEY" in path.read_text()
    node = load_ssh_private_key((folder / "north" / "courier" / "node.key").read_bytes(), None)
    assert node.curve.name == "secp384r1"
    enrolment = (folder / "north" / "north.enrol").read_text()
    assert "PRIVATE" not in enrolment
    assert Installation(folder / "north").key.public.fingerprint in "".join(said.split())
    for key in ("study.key", "ca.key", "server.key"):
        assert stat.S_IMODE((folder / "coordinator" / key).stat().st_mode) == 0o600
    refused(
        fedvox("site", "install", "kits/north.kit", "--fingerprint", made[1]["north"], "--data", "data",
               "--into", "north", cwd=folder),
        "holds a site's keys",
    )  # fmt: skip


def test_a_site_is_enrolled_once_with_the_kit_it_was_given(made, tmp_path):
    folder, _, _ = made
    result = fedvox("provision", "enrol", "north/north.enrol", cwd=folder)
    assert result.returncode == 0, result.stderr
    coordinator = Coordinator(folder / "coordinator")
    assert coordinator.keys() == {"north": Installation(folder / "north").key.public}
    assert fedvox("provision", "enrol", "north/north.enrol", cwd=folder).returncode == 0  # the same again
    record = json.loads((folder / "north" / "north.enrol").read_text())
    forged = json.loads(record["content"]) | {"site": "south"}
    key = SealKey.generate()
    forged["signing_key"] = key.public.text
    content = json.dumps(forged, sort_keys=True)
    seal = base64.b64encode(key.sign("enrolment", content.encode())).decode()
    (tmp_path / "south.enrol").write_text(
        json.dumps({"content": content, "seal": seal, "proof": record["proof"]})
    )
    refused(
        fedvox("provision", "enrol", tmp_path / "south.enrol", cwd=folder),
        "was not written with the kit of south",
    )
    (tmp_path / "south.enrol").write_text(json.dumps({**record, "content": content}))
    with pytest.raises(SealError):
        coordinator.enrol([tmp_path / "south.enrol"])
    refused(
        fedvox("provision", "study.yaml", "--address", "x:1", "--site", "north", cwd=folder), "is enrolled"
    )
    assert set(coordinator.keys()) == {"north"}


def test_a_first_call_that_was_cut_short_is_repeated(made, tmp_path):
    """Killed before the study's key, before the authority, before the certificate."""
    folder, _, _ = made
    shutil.copy(folder / "study.yaml", tmp_path)
    words = ("provision", "study.yaml", "--address", "fed.example.org:443")
    home = tmp_path / "coordinator"
    home.mkdir()
    for lost in ((), ("ca.key",), ("server.crt",)):
        for name in lost:
            (home / name).unlink()
        result = fedvox(*words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert Authority(home).days_left > 3649
        assert days_left(home / "server.crt") > 89


def test_a_revoked_site_s_keys_never_count_again(made, tmp_path):
    folder, _, _ = made
    shutil.copytree(folder / "coordinator", tmp_path / "coordinator")
    coordinator = Coordinator(tmp_path / "coordinator")
    coordinator.enrol([folder / "north" / "north.enrol"])
    coordinator.revoke("north")
    assert coordinator.keys() == {}
    with pytest.raises(SealError, match="was revoked"):
        coordinator.enrol([folder / "north" / "north.enrol"])
    with pytest.raises(ConfigError, match="revoked"):
        coordinator.invite("north", "")
    with pytest.raises(ConfigError, match="is not known"):
        coordinator.revoke("east")


def test_the_certificate_is_for_the_address_and_is_renewed_in_place(made, tmp_path):
    folder = tmp_path
    authority = Authority.create(folder, "small")
    authority.issue("fed.example.org")
    first = (folder / "server.crt").read_bytes()
    assert 89 < days_left(folder / "server.crt") <= 90
    assert (
        days_left(folder / "server.crt", datetime.datetime.now(datetime.UTC) + datetime.timedelta(100)) < -9
    )
    found = x509.load_pem_x509_certificate(first)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "fed.example.org" in names.get_values_for_type(x509.DNSName)
    key = load_pem_private_key((folder / "server.key").read_bytes(), None)
    assert key.public_key() == found.public_key()
    Authority(folder).issue("10.0.0.1")
    assert (folder / "server.crt").read_bytes() != first
    at = folder / "server.crt"
    checked = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", folder / "ca.crt", "-verify_ip", "10.0.0.1", at],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    with pytest.raises(ConfigError, match="holds an authority"):
        Authority.create(folder, "small")
    with pytest.raises(ConfigError, match="no certificate"):
        days_left(folder / "none.crt")


def test_approval_says_in_plain_words_what_will_happen_and_what_has_changed(made):
    folder, _, _ = made
    result = fedvox("site", "approve", "north/site.yaml", "--yes", cwd=folder)
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    for words in (
        "NO PRIVACY IS PROMISED",
        "in 2 rounds of 3 steps",
        "stay at your site",
        "down to 2 of them",
    ):
        assert words in text
    assert f"approved: study {small_study(SITES).digest}" in text
    longer = small_study(SITES, codec__training={"rounds": 9, "local_steps": 3, "batch_size": 2})
    (folder / "longer.yaml").write_text(yaml.safe_dump(longer.model_dump(mode="json", exclude_none=True)))
    result = fedvox("site", "approve", "north/site.yaml", "longer.yaml", "--yes", cwd=folder)
    assert "changed: codec.training.rounds: 2 -> 9" in " ".join(result.stdout.split())


def test_a_study_that_would_go_on_with_one_site_alone_is_not_approved(made):
    folder, _, _ = made
    alone = small_study(federation={"sites": list(SITES), "min_sites": 1})
    (folder / "alone.yaml").write_text(yaml.safe_dump(alone.model_dump(mode="json", exclude_none=True)))
    refused(
        fedvox("site", "approve", "north/site.yaml", "alone.yaml", "--yes", cwd=folder),
        "goes on with 1 sites",
    )


def test_there_is_nothing_to_call_off_without_an_agent(made):
    folder, _, _ = made
    for left_behind in (None, "1\n", "nonsense"):  # 1 is somebody else
        if left_behind is not None:
            (folder / "north" / "state").mkdir(exist_ok=True)
            (folder / "north" / "state" / "agent.pid").write_text(left_behind)
        refused(fedvox("site", "cancel", "north/site.yaml", cwd=folder), "no agent of this site is running")
