"""site.yaml: what only the site knows about its data and its machine.

    name: alder
    data: /data/breast-mri        # folder of NIfTI files, or with images/ and labels/
    patients: patients.csv        # optional: which file is of which patient
    select: {site: alder, part: [generator, labelled]}   # optional: which rows of that table
    compute: {device: cuda, threads: 8}
    state: /var/lib/fedvox        # caches and the site's own files
    policy: {epsilon: 8, delta: 1.0e-5, ledger: /var/lib/fedvox/ledger}

Relative paths are meant from the folder of the file they stand in.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from client.policy import Policy
from common.federation.config import SiteName
from common.frozen import FrozenModel, load_yaml, parse


def _as_tuple(value: object) -> object:
    """Let ``part: test`` mean ``part: [test]``."""
    return (value,) if isinstance(value, str) else value


class Selection(FrozenModel):
    """The rows of the patient table that are this site's; an absent key selects all.

    Attributes:
        site: Value of the column ``site``.
        part: Values of the column ``part``.
    """

    site: str | None = None
    part: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] | None = None

    def __str__(self) -> str:
        site = [f"site '{self.site}'"] if self.site is not None else []
        part = [f"part '{', '.join(self.part)}'"] if self.part is not None else []
        return " and ".join(site + part) or "all rows"


class Compute(FrozenModel):
    """What changes only speed and memory.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:1``.
        threads: Threads that torch may use; all cores if absent.
        amp: Train in mixed precision; on CUDA only. On a CPU it is slower, and PyTorch 2.13's bfloat16 3D
            convolutions compute wrong weight gradients there.
    """

    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    threads: PositiveInt | None = None
    amp: bool = False

    @model_validator(mode="after")
    def _amp_needs_cuda(self) -> "Compute":
        if self.amp and self.device == "cpu":
            raise ValueError("amp: true needs device: cuda; on a CPU leave amp out")
        return self


class AgentConfig(FrozenModel):
    """Where the courier finds the agent.

    Attributes:
        socket: Path of the agent's socket; its folder is the agent's own.
        group: Group of the courier's user.
    """

    socket: Path
    group: str | None = None


class SiteConfig(FrozenModel):
    """One hospital's side of a study.

    Attributes:
        name: The site's name in the study.
        data: Folder with the volumes.
        patients: CSV with the columns file, patient and, if wanted, class, site and part. Without it
            every exam counts as its own patient, which a private study refuses unless
            `one_exam_per_patient` says that it is so.
        one_exam_per_patient: Whether no person has two exams in the folder; only without a table.
        select: Rows of that table to use.
        compute: Device and threads.
        state: Folder for the site's own files; it holds data derived from patients.
        cache: Folder of preprocessed volumes; ``state``/cache if absent. May be deleted at any time.
        policy: What the site allows, whatever it is asked.
        agent: Where its agent listens; only at a hospital of its own.
    """

    name: SiteName
    data: Path
    patients: Path | None = None
    one_exam_per_patient: bool = False
    select: Selection | None = None
    compute: Compute = Compute()
    state: Path = Path("state")
    cache: Path | None = None
    policy: Policy = Policy()
    agent: AgentConfig | None = None

    @model_validator(mode="after")
    def _selects_from_a_table(self) -> "SiteConfig":
        if self.select is not None and self.patients is None:
            raise ValueError("select needs a patient table: name its CSV as patients")
        if self.one_exam_per_patient and self.patients is not None:
            raise ValueError("patients says whose the exams are: leave one_exam_per_patient out")
        return self

    @property
    def knows_its_patients(self) -> bool:
        """Whether somebody has said which exams are of one person."""
        return self.patients is not None or self.one_exam_per_patient

    @property
    def cache_folder(self) -> Path:
        """Where preprocessed volumes are kept."""
        return self.cache if self.cache is not None else self.state / "cache"


def load_site_config(path: Path) -> SiteConfig:
    """Return the site file at ``path``, its paths made absolute.

    Raises:
        ConfigError: The file is missing or says something that cannot be meant.
    """
    config = parse(SiteConfig, load_yaml(path), where=str(path))
    folder = path.resolve().parent
    paths = {key: getattr(config, key) for key in ("data", "patients", "state", "cache")}
    anchored: dict[str, object] = {
        key: folder / value.expanduser() for key, value in paths.items() if value is not None
    }
    if config.policy.ledger is not None:
        ledger = folder / config.policy.ledger.expanduser()
        anchored["policy"] = config.policy.model_copy(update={"ledger": ledger})
    if config.agent is not None:
        socket = folder / config.agent.socket.expanduser()
        anchored["agent"] = config.agent.model_copy(update={"socket": socket})
    return config.model_copy(update=anchored)
