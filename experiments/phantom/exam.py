"""From a seed to an exam: who the patient is, what her breast is made of, how the scanner saw it.

Patient ``index`` of a hospital is drawn from (seed, hospital's name, index) alone: she is the same however
many patients there are, and both of her breasts share her density and shape.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from experiments.phantom.anatomy import Anatomy, BreastShape, build_anatomy, draw_shape
from experiments.phantom.field import Field3, Grid
from experiments.phantom.hospital import DENSITIES, Density, Hospital
from experiments.phantom.lesion import grow_lesion
from experiments.phantom.parenchyma import gland_share, grow_gland
from experiments.phantom.scanner import Layer, acquire, label_map
from experiments.phantom.tissue import ENHANCEMENT, LESION_ENHANCEMENT, Tissue
from experiments.phantom.vessel import grow_vessels

BREAST_OFFSET_MM = 80.0  # from the sternum to the middle of the scan
RIB_THICKNESS_MM = 11.0
RIB_PERIOD_MM = 30.0
RIB_TILT = 0.35  # ribs fall toward the side


@dataclass(frozen=True)
class Appointment:
    """One exam before it is made: cheap to draw, enough for the patient table.

    Attributes:
        hospital: Where.
        index: Which patient.
        side: +1 for the right breast, -1 for the left.
        has_lesion: Whether the breast holds an enhancing lesion.
        seed: Seed of the whole phantom set.
    """

    hospital: Hospital
    index: int
    side: int
    has_lesion: bool
    seed: int

    @property
    def patient(self) -> str:
        """Name of the patient."""
        return f"{self.hospital.name}-{self.index:03d}"

    @property
    def name(self) -> str:
        """Name of the exam."""
        return f"{self.patient}-{'right' if self.side > 0 else 'left'}"


@dataclass(frozen=True)
class PhantomExam:
    """One exam of one breast, axes in RAS.

    Attributes:
        channels: Phases before contrast agent, early and late (3, x, y, z), float32 in scanner units.
        labels: Values of `Tissue` (x, y, z), uint8.
        spacing_mm: Millimetres between voxel centres along x, y, z.
        affine: Voxel to millimetre, float64 (4, 4).
        density: BI-RADS density of the patient.
        has_lesion: Whether there is an enhancing lesion.
        side: +1 for the right breast, -1 for the left.
    """

    channels: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    density: Density
    has_lesion: bool
    side: int


def appointments(hospital: Hospital, index: int, seed: int) -> tuple[Appointment, ...]:
    """Return the one or two exams of patient ``index``."""
    generator = _generator(hospital, index, seed, purpose=0)
    both = generator.random() < hospital.population.both_breasts_rate
    first = 1 if generator.random() < 0.5 else -1
    lesions = generator.random(2) < hospital.population.lesion_rate
    sides = (first, -first) if both else (first,)
    return tuple(
        Appointment(hospital, index, side, bool(lesion), seed)
        for side, lesion in zip(sides, lesions, strict=False)
    )


def all_appointments(hospital: Hospital, seed: int) -> list[Appointment]:
    """Return the exams of all patients of a hospital, in the order of their indices."""
    return [exam for index in range(hospital.num_patients) for exam in appointments(hospital, index, seed)]


def make_patient(hospital: Hospital, index: int, seed: int) -> PhantomExam:
    """Return the first exam of patient ``index``."""
    return make_exam(appointments(hospital, index, seed)[0])


def make_exam(appointment: Appointment) -> PhantomExam:
    """Return the exam of ``appointment``: the same bits for the same appointment."""
    hospital, index, seed, side = appointment.hospital, appointment.index, appointment.seed, appointment.side
    traits = _generator(hospital, index, seed, purpose=1)
    density: Density = DENSITIES[int(traits.choice(len(DENSITIES), p=hospital.population.density_shares))]
    share = gland_share(density, traits)
    shape = draw_shape(hospital.population, traits)
    background = float(np.exp(traits.normal(0.0, 0.3)))

    generator = _generator(hospital, index, seed, purpose=2 if side > 0 else 3)
    grid = Grid(hospital.scanner.shape, hospital.scanner.spacing_mm)
    anatomy = build_anatomy(_asymmetric(shape, generator), grid, side, generator)
    gland = grow_gland(anatomy, share, generator)
    layers = _layers(anatomy, gland, background, generator)
    if appointment.has_lesion:
        lesion = grow_lesion(anatomy, gland, generator)
        curve = LESION_ENHANCEMENT[lesion.kinetics].scaled(generator.uniform(0.85, 1.2))
        layers.append(Layer(Tissue.LESION, lesion.coverage, curve, uptake=lesion.uptake))
    return PhantomExam(
        channels=acquire(layers, hospital.scanner, generator),
        labels=label_map(layers, grid.shape),
        spacing_mm=grid.spacing_mm,
        affine=_affine(grid, side),
        density=density,
        has_lesion=appointment.has_lesion,
        side=side,
    )


def _generator(hospital: Hospital, index: int, seed: int, purpose: int) -> np.random.Generator:
    """Return the generator of one purpose for one patient."""
    site = zlib.crc32(hospital.name.encode())
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(site, index, purpose)))


def _asymmetric(shape: BreastShape, generator: np.random.Generator) -> BreastShape:
    """Return the shape of one side: nobody's two breasts are mirror images."""
    wider, longer = 1 + 0.02 * generator.standard_normal(2)
    return replace(
        shape,
        radius_u=shape.radius_u * wider,
        radius_w=shape.radius_w * wider,
        projection=shape.projection * longer,
    )


def _layers(
    anatomy: Anatomy, gland: Field3, background: float, generator: np.random.Generator
) -> list[Layer]:
    """Return all tissue but the lesion, from the skin inward."""
    grid, shape = anatomy.grid, anatomy.shape
    behind = -anatomy.above_muscle_mm
    inside = grid.coverage(anatomy.depth_mm - np.float32(shape.skin))
    between_ribs = behind - np.float32(shape.muscle)
    chest_depth = between_ribs - np.float32(RIB_THICKNESS_MM)
    parenchyma = ENHANCEMENT[Tissue.FIBROGLANDULAR].scaled(background)
    return [
        Layer(Tissue.SKIN, grid.coverage(anatomy.depth_mm), ENHANCEMENT[Tissue.SKIN]),
        Layer(Tissue.FAT, inside, ENHANCEMENT[Tissue.FAT], 1 + 0.06 * grid.smooth_noise(22.0, generator)),
        Layer(
            Tissue.FIBROGLANDULAR,
            gland,
            parenchyma,
            brightness=1 + 0.08 * grid.smooth_noise(14.0, generator),
            uptake=np.exp(0.3 * grid.smooth_noise(35.0, generator)),
        ),
        Layer(
            Tissue.MUSCLE,
            grid.coverage(behind) * inside,
            ENHANCEMENT[Tissue.MUSCLE],
            1 + 0.08 * grid.smooth_noise(16.0, generator),
        ),
        Layer(Tissue.RIB, _ribs(anatomy, between_ribs, generator), ENHANCEMENT[Tissue.RIB]),
        Layer(Tissue.LUNG, grid.coverage(chest_depth), ENHANCEMENT[Tissue.LUNG]),
        Layer(Tissue.VESSEL, grow_vessels(anatomy, generator) * inside, ENHANCEMENT[Tissue.VESSEL]),
    ]


def _ribs(anatomy: Anatomy, between_ribs: Field3, generator: np.random.Generator) -> Field3:
    """Return the coverage of the ribs: slanting bars in the layer behind the muscle."""
    phase = generator.uniform(0, RIB_PERIOD_MM)
    along = anatomy.axes[2] + RIB_TILT * anatomy.axes[0] + phase
    off_centre = np.abs((along / RIB_PERIOD_MM) % 1 - 0.5) * RIB_PERIOD_MM
    layer = np.minimum(between_ribs, RIB_THICKNESS_MM - between_ribs)
    return anatomy.grid.coverage(np.minimum(layer, 6.5 - off_centre).astype(np.float32))


def _affine(grid: Grid, side: int) -> np.ndarray:
    """Return voxel to mm with the sternum at x = 0."""
    affine = np.diag([*grid.spacing_mm, 1.0])
    corner = [-(n - 1) / 2 * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    affine[:3, 3] = corner
    affine[0, 3] += side * BREAST_OFFSET_MM
    return affine
