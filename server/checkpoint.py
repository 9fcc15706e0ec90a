"""A checkpoint a round, atomic; the newest complete one is where a run goes on."""

import re
import shutil
from pathlib import Path

from common.artifact import read_tensor_folder, write_tensor_folder
from common.errors import ArtifactError
from common.federation.stage import Stage
from server.state import GlobalState

KEPT_PER_STAGE = 2  # the newest, and one to fall back to if the newest is damaged
NAME = re.compile(r"^(codec|diffusion)-(\d{4,})$")
GROUPS = ("codec", "denoiser", "denoiser_average", "denoiser_frozen", "optimizer")


class CheckpointStore:
    """Checkpoints of one run.

    Args:
        folder: Where they lie.
        study_digest: The study they must belong to.
    """

    def __init__(self, folder: Path, study_digest: str) -> None:
        self.folder = folder
        self.study_digest = study_digest

    def save(self, state: GlobalState) -> None:
        """Write ``state`` and drop what is older than the newest two of its stage.

        Raises:
            ArtifactError: The disk is full; the earlier checkpoints are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "study_digest": self.study_digest,
            "stage": state.stage.value,
            "round_index": state.round_index,
            "ended": state.ended,
        }
        groups = {group: getattr(state, group) for group in GROUPS}
        write_tensor_folder(self.folder / f"{state.stage.value}-{state.round_index:04d}", groups, facts)
        for old in self._of_stage(state.stage)[:-KEPT_PER_STAGE]:
            shutil.rmtree(old)

    def load_newest(self) -> GlobalState | None:
        """Return the newest complete state, or None if no round was finished.

        Raises:
            ArtifactError: Checkpoints exist, but none can be read.
        """
        candidates = self._of_stage(Stage.CODEC) + self._of_stage(Stage.DIFFUSION)
        failure: ArtifactError | None = None
        for path in reversed(candidates):
            try:
                return self._load(path)
            except ArtifactError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return None

    def _load(self, path: Path) -> GlobalState:
        groups, manifest = read_tensor_folder(path)
        if manifest.get("study_digest") != self.study_digest:
            raise ArtifactError(f"{path} belongs to another study", "move it out of the run's folder")
        return GlobalState(
            stage=Stage(manifest["stage"]),
            round_index=int(manifest["round_index"]),
            ended=bool(manifest.get("ended", False)),
            **{group: groups.get(group, {}) for group in GROUPS},
        )

    def _of_stage(self, stage: Stage) -> list[Path]:
        """Return the stage's checkpoint folders, oldest first."""
        if not self.folder.is_dir():
            return []
        named = [(match, path) for path in self.folder.iterdir() if (match := NAME.match(path.name))]
        return [path for _, path in sorted((int(m[2]), path) for m, path in named if m[1] == stage.value)]
