"""`fedvox study run`, killed without warning in the middle and resumed, ends with the same bits."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from command_line import fedvox
from small_federation import small_study, write_volumes

from common.artifact import read_tensor_folder

COMMAND = Path(sys.executable).parent / "fedvox"
ROUNDS_BEFORE_THE_KILL = 3


def finished_rounds(run):
    events = run / "events.jsonl"
    return events.read_text().count('"event":"round_finished"') if events.exists() else 0


def last_checkpoint(run):
    groups, _ = read_tensor_folder(run / "checkpoints" / "diffusion-0004")
    return {f"{group}.{name}": tensor for group, ts in groups.items() for name, tensor in ts.items()}


@pytest.fixture
def killed(tmp_path):
    """A process of `study run` that was killed, with all it started, after some rounds."""
    for seed, site in enumerate(("a", "b")):
        write_volumes(tmp_path / "data" / site, 3, seed)
    training = {"rounds": 4, "local_steps": 2, "batch_size": 2}
    study = small_study(volume__shape=[28, 28, 28], codec__training=training, diffusion__training=training)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    words = [COMMAND, "study", "run", "small.yaml", "--data", "data", "--name", "killed", "--json"]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    run, until = tmp_path / "runs" / "killed", time.monotonic() + 240
    while finished_rounds(run) < ROUNDS_BEFORE_THE_KILL and process.poll() is None:
        assert time.monotonic() < until, (tmp_path / "log").read_text()
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    log.close()
    return run


def test_a_killed_process_resumes_to_the_bits_of_one_that_was_not(killed):
    folder = killed.parents[1]
    assert ROUNDS_BEFORE_THE_KILL <= finished_rounds(killed) < 8
    assert not (killed / "report.html").exists()
    assert fedvox("study", "resume", "--run", "runs/killed", "--json", cwd=folder).returncode == 0
    whole = fedvox("study", "run", "small.yaml", "--data", "data", "--name", "whole", "--json", cwd=folder)
    assert whole.returncode == 0, whole.stderr
    left, right = last_checkpoint(killed), last_checkpoint(folder / "runs" / "whole")
    assert left.keys() == right.keys()
    assert not [name for name in left if not bool((left[name] == right[name]).all())]
    volumes = [sorted((run / "synthetic").glob("*.nii.gz")) for run in (killed, folder / "runs" / "whole")]
    assert len(volumes[0]) == len(volumes[1]) > 0
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*volumes, strict=True))
