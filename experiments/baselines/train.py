"""Train one arm to its end, or go on where an earlier call stopped."""

from dataclasses import dataclass
from pathlib import Path

from client.site_config import Compute
from experiments.baselines.arms import Arm
from experiments.in_process import run_in_process
from experiments.simulate import check_sites, source_of
from server.run_folder import RunFolder
from server.state import GlobalState


@dataclass(frozen=True)
class TrainedArm:
    """An arm with its final state.

    Attributes:
        arm: Which model.
        state: Codec and denoiser after the last round.
        run: Its folder.
    """

    arm: Arm
    state: GlobalState
    run: RunFolder


def train_arm(arm: Arm, data: Path, split: Path, folder: Path, compute: Compute) -> TrainedArm:
    """Return ``arm`` trained; a finished one is read from its newest checkpoint.

    Args:
        arm: Which model.
        data: Folder of volumes.
        split: Which file is of which patient, site and part.
        folder: The arm's run folder.
        compute: Device and threads.

    Raises:
        FedvoxError: What stopped the training.
    """
    configs = arm.site_configs(data, split, folder, compute)
    datasets = check_sites(arm.study, configs)
    run, state = run_in_process(arm.study, configs, folder, source=source_of(datasets))
    return TrainedArm(arm, state, run)
