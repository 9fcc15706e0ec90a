"""What is compared, fixed before anything was measured on MRI.

Everything here was chosen on phantoms or on public subjects: the trainable set and the learning rate are the
best of `CANDIDATES` on phantoms that no other job uses, by the first primary metric at epsilon 8.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.diffusion.config import TrainableConfig

DELTA = 1e-5
PRIMARY_METRICS = ("denoising loss", "MMD² random_conv")
"""Named beforehand; smaller is better. Both are measured on patients whom no model saw."""

TRAINABLE_SETS = {
    "300": TrainableConfig(kind="lora", rank=1, where="attention"),
    "1500": TrainableConfig(kind="bias"),
    "5000": TrainableConfig(kind="lora", rank=1, where="conv2"),
}
"""By the number of parameters aimed at; the results say how many they are."""

NO_NOISE = (
    1e-3  # noise multiplier of "epsilon infinity": the same code, and nothing worth the name of privacy
)
INFINITE = "inf"
PUBLIC_ONLY = "public"


def from_least_noise(targets: Iterable[str]) -> list[str]:
    """Return epsilons from infinity down: files of figures keep no order."""
    return sorted(targets, key=float, reverse=True)


@dataclass(frozen=True)
class Candidate:
    """A trainable set and the server's learning rate."""

    trainable: str
    learning_rate: float

    @property
    def name(self) -> str:
        """Short name."""
        return f"d{self.trainable}-lr{self.learning_rate:g}"


@dataclass(frozen=True)
class PhantomSize:
    """Phantom hospitals with so many patients each.

    Attributes:
        patients: Of each of the three hospitals.
        sampling_rate: q.
        arms: Epsilons to train at.
    """

    patients: int
    sampling_rate: float
    arms: tuple[str, ...] = ("8",)


@dataclass(frozen=True)
class Settings:
    """The whole comparison.

    Attributes:
        rounds: Rounds of one private step, in every arm.
        draws: Noise draws per volume.
        public_share: Part of the public schedules' rounds that is run; 1 but in the smoke version.
        candidates: Tried on phantoms.
        tuning: The phantoms they are tried on.
        sizes: Phantom hospitals.
        phantom_seeds: Replicates of each size.
        test_phantoms: Unseen phantoms of each hospital.
        public_phantoms: Phantoms of the public hospital.
        folds: Folds of the MRI that are run, of five.
        mri_seeds: Replicates of each fold.
        mri_arms: Epsilons to train at.
        mri_sampling_rate: q.
        loss_draws: Times and noises per test volume.
        sets: Synthetic sets, each as large as the test set, that MMD² is averaged over.
    """

    rounds: int = 300
    draws: int = 4
    public_share: float = 1.0
    candidates: tuple[Candidate, ...] = tuple(
        Candidate(trainable, rate) for trainable in TRAINABLE_SETS for rate in (0.01, 0.03, 0.1)
    )
    tuning: PhantomSize = field(default_factory=lambda: PhantomSize(100, 0.1))
    sizes: tuple[PhantomSize, ...] = (
        PhantomSize(25, 0.25, (INFINITE, "8")),
        PhantomSize(100, 0.1),
        PhantomSize(300, 0.07),
        PhantomSize(1000, 0.03),
    )
    phantom_seeds: tuple[int, ...] = (0, 1, 2)
    test_phantoms: int = 20
    public_phantoms: int = 64
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    mri_seeds: tuple[int, ...] = (0, 1)
    mri_arms: tuple[str, ...] = (INFINITE, "8", "3", "1")
    mri_sampling_rate: float = 0.25
    loss_draws: int = 32
    sets: int = 6


def smoke_settings() -> Settings:
    """Return a version of minutes that runs every kind of job and proves nothing."""
    return Settings(
        rounds=3,
        public_share=0.0,
        candidates=(Candidate("300", 0.01),),
        tuning=PhantomSize(6, 0.5),
        sizes=(PhantomSize(4, 0.5, (INFINITE, "8")), PhantomSize(6, 0.5)),
        phantom_seeds=(0, 1),
        test_phantoms=3,
        public_phantoms=4,
        folds=(0, 1),
        mri_seeds=(0,),
        mri_arms=(INFINITE, "8"),
        loss_draws=2,
        sets=1,
    )
