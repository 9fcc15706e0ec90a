"""What makes one phantom hospital differ from another: its scanner and the women it sees."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from common.federation.config import SiteName
from common.frozen import FrozenModel

Share = Annotated[float, Field(ge=0, le=1)]
Density = Literal["a", "b", "c", "d"]  # BI-RADS composition: almost entirely fat ... extremely dense
DENSITIES: tuple[Density, ...] = ("a", "b", "c", "d")


class Scanner(FrozenModel):
    """How a hospital's scanner turns tissue into numbers.

    Attributes:
        shape: Voxels along x, y, z (RAS) of one acquisition.
        spacing_mm: Millimetres between voxel centres along x, y, z (RAS).
        orientation: Axis order and direction in which the files are stored, as three letters.
        gain: Signal units that unsuppressed fat has.
        fat_suppression: Share of the fat signal that the sequence removes.
        contrast_uptake: Factor on all enhancement: dose and timing.
        noise: Standard deviation of either channel of the complex noise, relative to unsuppressed fat.
        blur_mm: Full width at half maximum of the point spread function.
        bias: Strength of the smooth multiplicative bias field, as the standard deviation of its logarithm.
        coil_falloff: Logarithmic loss of signal per 100 mm of distance from the coil in front of the breast.
    """

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    orientation: str = Field(default="RAS", pattern=r"^[RLAPSI]{3}$")
    gain: PositiveFloat = 1000.0
    fat_suppression: Share = 0.7
    contrast_uptake: PositiveFloat = 1.0
    noise: NonNegativeFloat = 0.02
    blur_mm: NonNegativeFloat = 4.0
    bias: NonNegativeFloat = 0.08
    coil_falloff: NonNegativeFloat = 0.25

    @model_validator(mode="after")
    def _orientation_names_each_axis(self) -> "Scanner":
        if any(len(set(pair) & set(self.orientation)) != 1 for pair in ("RL", "AP", "SI")):
            raise ValueError(f"orientation {self.orientation} must have one each of R or L, A or P, S or I")
        return self


class Population(FrozenModel):
    """The women a hospital sees.

    Attributes:
        density_shares: Share of patients with BI-RADS density a, b, c and d; they sum to 1.
        radius_mm: Mean radius of the breast's base on the chest wall.
        projection_mm: Mean distance from chest wall to nipple.
        size_spread: Standard deviation of both, relative.
        ptosis_mm: Mean drop of the nipple below the centre of the base.
        lesion_rate: Share of exams with an enhancing lesion.
        both_breasts_rate: Share of patients who come with two exams, right and left.
    """

    density_shares: tuple[Share, Share, Share, Share] = (0.1, 0.4, 0.4, 0.1)
    radius_mm: PositiveFloat = 58.0
    projection_mm: PositiveFloat = 76.0
    size_spread: Annotated[float, Field(ge=0, le=0.2)] = 0.06
    ptosis_mm: NonNegativeFloat = 12.0
    lesion_rate: Share = 0.4
    both_breasts_rate: Share = 0.15

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> "Population":
        if abs(sum(self.density_shares) - 1) > 1e-9:
            raise ValueError(f"density_shares sum to {sum(self.density_shares):g}, not to 1")
        return self


class Hospital(FrozenModel):
    """One phantom hospital.

    Attributes:
        name: Name of the site; together with the seed it fixes every draw.
        scanner: Its scanner.
        population: Its patients.
        num_patients: How many patients it has.
    """

    name: SiteName
    scanner: Scanner
    population: Population = Population()
    num_patients: PositiveInt


HOSPITALS: tuple[Hospital, ...] = (
    Hospital(
        name="north",
        scanner=Scanner(
            shape=(48, 48, 48),
            spacing_mm=(3.5, 3.5, 3.5),
            orientation="LPS",
            gain=900.0,
            fat_suppression=0.77,
            noise=0.015,
            blur_mm=4.0,
        ),
        population=Population(
            density_shares=(0.1, 0.4, 0.35, 0.15), radius_mm=60.0, projection_mm=84.0, ptosis_mm=10.0
        ),
        num_patients=32,
    ),
    Hospital(
        name="harbor",
        scanner=Scanner(
            shape=(54, 54, 46),
            spacing_mm=(3.0, 3.0, 3.6),
            orientation="RAS",
            gain=420.0,
            fat_suppression=0.84,
            contrast_uptake=1.2,
            noise=0.010,
            blur_mm=3.4,
            bias=0.14,
            coil_falloff=0.40,
        ),
        population=Population(
            density_shares=(0.0, 0.05, 0.45, 0.50),
            radius_mm=54.0,
            projection_mm=74.0,
            ptosis_mm=5.0,
            lesion_rate=0.5,
            both_breasts_rate=0.2,
        ),
        num_patients=24,
    ),
    Hospital(
        name="valley",
        scanner=Scanner(
            shape=(42, 42, 40),
            spacing_mm=(4.0, 4.0, 4.2),
            orientation="PSR",
            gain=3200.0,
            fat_suppression=0.76,
            contrast_uptake=0.85,
            noise=0.020,
            blur_mm=4.8,
            bias=0.06,
            coil_falloff=0.15,
        ),
        population=Population(
            density_shares=(0.40, 0.50, 0.10, 0.0),
            radius_mm=65.0,
            projection_mm=94.0,
            ptosis_mm=18.0,
            lesion_rate=0.35,
            both_breasts_rate=0.1,
        ),
        num_patients=28,
    ),
)
