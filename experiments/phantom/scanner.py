"""From tissue to numbers: signal per phase, coil bias, blur, and the noise of a magnitude image."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from experiments.phantom.field import Field3, Grid
from experiments.phantom.hospital import Scanner
from experiments.phantom.tissue import BASE_SIGNAL, Enhancement, Tissue

NUM_PHASES = 3  # before contrast agent, early, late
FWHM_PER_STD = 2.3548
LARGEST_VALUE = 32767  # files hold 16-bit whole numbers, as scanners write them


@dataclass(frozen=True)
class Layer:
    """One tissue, drawn over the layers before it.

    Attributes:
        tissue: What it is.
        coverage: Share of each voxel that it takes from what lies beneath.
        enhancement: How it takes up contrast agent.
        brightness: Factor on its signal, per voxel.
        uptake: Factor on its enhancement, per voxel.
    """

    tissue: Tissue
    coverage: Field3
    enhancement: Enhancement
    brightness: Field3 | float = 1.0
    uptake: Field3 | float = 1.0


def label_map(layers: list[Layer], shape: tuple[int, int, int]) -> np.ndarray:
    """Return, for each voxel, the last tissue that takes more than half of it (uint8)."""
    labels = np.full(shape, Tissue.AIR, dtype=np.uint8)
    for layer in layers:
        labels[layer.coverage > 0.5] = layer.tissue
    return labels


def acquire(layers: list[Layer], scanner: Scanner, generator: np.random.Generator) -> np.ndarray:
    """Return the three phases (3, x, y, z) in the scanner's units: whole numbers in float32."""
    grid = Grid(scanner.shape, scanner.spacing_mm)
    shading = _shading(grid, scanner, generator)
    sigma = [scanner.blur_mm / FWHM_PER_STD / spacing for spacing in scanner.spacing_mm]
    phases = []
    for signal in _signal(layers, scanner):
        blurred = ndimage.gaussian_filter(signal * shading, sigma, truncate=3.0)
        # Rice: the magnitude of a complex signal with normal noise in both parts.
        in_phase, quadrature = generator.standard_normal((2, *grid.shape), dtype=np.float32)
        noise = np.float32(scanner.noise)
        phases.append(np.hypot(blurred + noise * in_phase, noise * quadrature))
    gain = scanner.gain * np.exp(generator.normal(0.0, 0.1))
    numbers = np.clip(np.rint(np.stack(phases) * gain), 0, LARGEST_VALUE)
    return np.asarray(numbers, dtype=np.float32)


def _signal(layers: list[Layer], scanner: Scanner) -> np.ndarray:
    """Return the ideal signal (3, x, y, z), relative to unsuppressed fat."""
    phases = np.zeros((NUM_PHASES, *scanner.shape), dtype=np.float32)
    for layer in layers:
        base = BASE_SIGNAL[layer.tissue] * layer.brightness
        if layer.tissue is Tissue.FAT:
            base = base * (1 - scanner.fat_suppression)
        for phase, strength in enumerate((0.0, layer.enhancement.early, layer.enhancement.late)):
            target = base * (1 + scanner.contrast_uptake * strength * layer.uptake)
            phases[phase] += layer.coverage * (target - phases[phase])
    return phases


def _shading(grid: Grid, scanner: Scanner, generator: np.random.Generator) -> Field3:
    """Return the multiplicative bias field: a smooth random part and the fall-off from the coil in front."""
    smooth = scanner.bias * grid.smooth_noise(180.0, generator)
    y = grid.axes[1]
    falloff = scanner.coil_falloff * (y - y.max() / 2) / 100
    return np.asarray(np.exp(smooth + falloff), dtype=np.float32)
