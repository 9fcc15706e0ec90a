"""Every command of the README, as it stands there, run in its order by somebody who follows it.

Only two things differ from the page: `/data/` is a folder of the test, and after `study init` the new
study is made shorter, since the page promises hours and the test has seconds.
"""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import fedvox, save_volume
from real_data import DATA, needs_real_data
from small_federation import write_patient_table

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "experiments" / "configs"
SHORT = {"rounds": 1, "local_steps": 2, "batch_size": 2}
SMALL_DENOISER = {"channels": [8] * 3, "attention": [False] * 3, "head_channels": 8}


def readme_commands():
    """Return the command lines of the README, indented or fenced, in order."""
    page = (ROOT / "README.md").read_text()
    indented = re.findall(r"^ {4,}(\S.*)$", page, re.MULTILINE)
    fenced = [
        line
        for block in re.findall(r"^```.*?\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    return [shlex.split(command) for command in (*indented, *fenced)]


def shorten(study_file):
    """Make a study small enough for a test; what it says of data and sites stays."""
    content = yaml.safe_load(study_file.read_text())
    if "privacy" in content:
        content["diffusion"]["training"]["rounds"] = 2
        study_file.write_text(yaml.safe_dump(content))
        return
    for stage in ("codec", "diffusion"):
        content[stage]["training"] |= SHORT
    content["codec"]["model"] |= {"channels": 8, "num_res_blocks": 0}
    content["diffusion"]["model"]["denoiser"] = SMALL_DENOISER
    content["diffusion"]["model"]["sampler"] = {"kind": "euler", "num_steps": 2}
    study_file.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A folder with the volumes that the README speaks of, its `/data/`."""
    folder = tmp_path_factory.mktemp("newcomer")
    generator = np.random.default_rng(0)
    for place in ("mri/north", "mri/south", "public/open", "unseen"):
        for index in range(3):
            name = f"{Path(place).name}-{index}.nii.gz"
            save_volume(folder / "data" / place / name, generator, side=32, spacing_mm=4.0)
        write_patient_table(folder / "data" / place)
    return folder


def test_the_readme_has_commands_and_this_file_knows_all_of_them():
    kinds = {
        " ".join(words[:3] if words[1] in {"study", "site"} else words[:2]) for words in readme_commands()
    }
    assert kinds == {
        "make demo",
        ".venv/bin/fedvox demo",
        ".venv/bin/fedvox study init",
        ".venv/bin/fedvox study check",
        ".venv/bin/fedvox study run",
        ".venv/bin/fedvox study status",
        ".venv/bin/fedvox study resume",
        ".venv/bin/fedvox synth",
        ".venv/bin/fedvox evaluate",
        ".venv/bin/fedvox site ledger",
    }


def test_following_the_readme_from_a_new_study_to_metrics(newcomer):
    followed = []
    for _, *words in readme_commands():
        if words[0] == "demo" or any("experiments/configs" in word for word in words):
            continue  # the two tests below
        local = [word.replace("/data/", "data/") for word in words]
        result = fedvox(*local, cwd=newcomer)
        assert result.returncode == 0, (words, result.stderr)
        if words[:2] == ["study", "init"]:
            shorten(newcomer / words[2])
        followed.append(words[0])
    assert followed == ["study"] * 5 + ["synth", "evaluate"] + ["study"] * 5 + ["site"]
    for run in ("study", "private"):
        assert (newcomer / "runs" / run / "report.html").is_file()
    assert len(list((newcomer / "synthetic").glob("*.nii.gz"))) == 64


def test_make_demo_installs_and_runs_the_demo():
    shown = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert any("pip install" in line and "constraints.txt" in line for line in shown)
    assert shown[-1] == ".venv/bin/fedvox demo"  # run by test_command_line in its tiny form


@needs_real_data
def test_the_real_study_of_the_readme_runs(tmp_path):
    [words] = [w for w in readme_commands() if any("experiments/configs" in word for word in w)]
    _, *verb, config, option, data = words
    assert (verb, option) == (["study", "run"], "--data")
    study_file = tmp_path / Path(config).name
    study_file.write_text((ROOT / config).read_text().replace("splits/", f"{CONFIGS}/splits/"))
    shorten(study_file)
    folder = DATA / Path(data).name
    result = fedvox(*verb, study_file, option, folder, "--runs", tmp_path / "runs", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "hippocampus" / "metrics.json").is_file()
