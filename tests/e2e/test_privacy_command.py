"""`fedvox privacy plan`, as a coordinator and a data protection officer call it."""

import json

import pytest
from command_line import fedvox, refused

KNOWN = ("--patients", 300, "--sites", 3, "--delta", "1e-5", "--sampling-rate", 0.1)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    words = ("--epsilon", 8, "--steps", 1000, "--pooled", "--plot", "plan.png", "--json")
    result = fedvox("privacy", "plan", *KNOWN, *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_the_known_plan_in_numbers(known):
    _, answer = known
    assert answer["noise_multiplier"] == pytest.approx(2.05, abs=5e-3)
    assert 7.98 < answer["epsilon"]["against_server"] <= 8
    assert answer["epsilon"]["by_stage"] == {"diffusion": answer["epsilon"]["against_server"]}
    assert answer["epsilon"]["against_outsider"] == pytest.approx(3.97, abs=0.02)
    assert answer["epsilon"]["patient_known_to"]["3"] > answer["epsilon"]["patient_known_to"]["2"] > 8
    assert answer["membership_inference"]["largest_auc"] < 0.8725
    assert answer["plans"]["diffusion"]["rounds"] == 1000


def test_the_plot_is_a_picture(known):
    folder, _ = known
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_two_stages_read_as_text(tmp_path):
    words = ("--epsilon", 1, "--steps", 20, "--codec-steps", 10, "--steps-per-round", 5, "--spare-rounds", 1)
    result = fedvox("privacy", "plan", *KNOWN, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    for words in ("codec alone", "diffusion alone", "known to 2 sites", "1500 trainable parameters"):
        assert words in text
    assert "steps paid for, codec │ 15" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epsilon", 8, "--steps", 10, "--steps-per-round", 3), "no whole number of rounds"),
        (("--epsilon", 1e-9, "--steps", 10, "--delta", 1e-12), "no noise keeps"),
        (("--epsilon", 8, "--steps", 10, "--steps-per-round", 5, "--pooled"), "steps a round"),
        (("--epsilon", 8, "--steps", 10, "--sampling-rate", 0.001), "sampling rate 0.001 of 300"),
        (("--epsilon", 8, "--steps", 10, "--delta", 0), "delta 0"),
        (("--epsilon", 8), "--steps"),
    ],
)
def test_plans_that_make_no_sense_get_one_clear_line(tmp_path, words, said):
    refused(fedvox("privacy", "plan", *KNOWN, *words, cwd=tmp_path), said)


def test_no_private_stage_is_refused(tmp_path):
    refused(fedvox("privacy", "plan", *KNOWN, "--epsilon", 8, "--steps", 0, cwd=tmp_path), "no stage")


def test_the_audit_passes_and_notices_missing_noise(tmp_path):
    sound = fedvox("privacy", "audit", "--json", cwd=tmp_path)
    assert sound.returncode == 0, sound.stderr
    assert json.loads(sound.stdout)["epsilon_lower_bound"] < 1
    broken = fedvox("privacy", "audit", "--noise-factor", 0.125, cwd=tmp_path)
    assert broken.returncode == 1
    assert "THE PROMISE IS BROKEN" in broken.stdout
