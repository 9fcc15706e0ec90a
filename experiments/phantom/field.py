"""Fields over a grid in millimetres: coordinates, smooth noise, distance to a level set, partial volume.

Everything a phantom is made of is a function of position in millimetres: a finer grid over the same
field of view shows the same anatomy in more detail. Noise is a cubic B-spline over a lattice of
independent normal numbers; its standard deviation is 1 on average over positions.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field3 = NDArray[np.float32]  # x y z


@dataclass(frozen=True)
class Grid:
    """Voxel centres around the origin of the scanner, in RAS.

    Attributes:
        shape: Voxels along x, y, z.
        spacing_mm: Millimetres between voxel centres.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @cached_property
    def axes(self) -> tuple[Field3, Field3, Field3]:
        """Coordinates in mm along x, y, z, shaped to broadcast against one another."""
        centred = (
            ((np.arange(n) - (n - 1) / 2) * s).astype(np.float32)
            for n, s in zip(self.shape, self.spacing_mm, strict=True)
        )
        x, y, z = np.meshgrid(*centred, indexing="ij", sparse=True)
        return x, y, z

    @property
    def voxel_mm(self) -> float:
        """Edge of the cube that has a voxel's volume."""
        return float(np.prod(self.spacing_mm) ** (1 / 3))

    def smooth_noise(self, wavelength_mm: float, generator: np.random.Generator) -> Field3:
        """Return noise whose hills and valleys are about ``wavelength_mm`` apart."""
        knot_mm = wavelength_mm / 2
        bases = [_spline_basis(axis.ravel(), knot_mm) for axis in self.axes]
        lattice = generator.standard_normal([basis.shape[1] for basis in bases]).astype(np.float32)
        # Contracting one axis at a time keeps this at a millisecond; einsum's own loops, unlike
        # BLAS, add in an order that does not depend on the number of threads.
        field = np.einsum("xi,ijk->xjk", bases[0], lattice)
        field = np.einsum("yj,xjk->xyk", bases[1], field)
        field = np.einsum("zk,xyk->xyz", bases[2], field)
        return np.asarray(field / np.float32(_SPLINE_STD**3), dtype=np.float32)

    def distance_mm(self, level: Field3) -> Field3:
        """Return the first-order distance to the surface level = 0, positive where level is."""
        slopes = np.gradient(level, *self.spacing_mm)
        steepness = np.sqrt(sum(slope * slope for slope in slopes))
        return np.asarray(np.clip(level / np.maximum(steepness, 1e-6), -100, 100), dtype=np.float32)

    def coverage(self, distance_mm: Field3) -> Field3:
        """Return the share of a voxel inside a surface at ``distance_mm``: partial volume."""
        return np.asarray(np.clip(0.5 + distance_mm / np.float32(self.voxel_mm), 0, 1), dtype=np.float32)


def noise_at(
    points: NDArray[np.float32], wavelength: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return smooth noise at ``points``, which need not lie on a grid.

    Args:
        points: Coordinates (3, point); their range decides the size of the lattice.
        wavelength: Distance between hills, in the units of the coordinates.
        generator: Draws the lattice.
    """
    positions = points / np.float32(wavelength / 2)
    positions -= positions.min(axis=1, keepdims=True) - 1
    size = np.ceil(positions.max(axis=1)).astype(int) + 3
    lattice = generator.standard_normal(size).astype(np.float32)
    values = ndimage.map_coordinates(lattice, positions, order=3, prefilter=False)
    return np.asarray(values / np.float32(_SPLINE_STD**3), dtype=np.float32)


def _spline_basis(positions_mm: NDArray[np.float32], knot_mm: float) -> NDArray[np.float32]:
    """Return the cubic B-spline weights (position, knot) of knots ``knot_mm`` apart."""
    low, high = positions_mm[0] / knot_mm - 2, positions_mm[-1] / knot_mm + 2
    knots = np.arange(np.floor(low), np.ceil(high) + 1)
    return _cubic_spline(np.abs(positions_mm[:, None] / knot_mm - knots)).astype(np.float32)


def _cubic_spline(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred cubic B-spline at distance ``t`` >= 0 in knots (Unser 1999)."""
    inner = 2 / 3 - t**2 + t**3 / 2
    outer = np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, inner, outer)


# Variance of sum_k N_k B(t - k) averaged over t is the integral of B^2, 151/315.
_SPLINE_STD = (151 / 315) ** 0.5
