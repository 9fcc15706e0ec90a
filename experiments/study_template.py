"""The study that `fedvox study init` writes: small, commented, and runnable as it stands."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from common.artifact import write_text_atomic
from common.errors import ConfigError
from common.frozen import parse
from common.study import Study

TEMPLATE = """\
# A fedvox study: everything all sites agree on. `fedvox study check {file}` explains it.
name: {name}
seed: 1                       # steers initialisation and batches; never privacy noise

volume:
  shape: [{shape}]            # voxels along x, y, z (RAS); each axis divisible by the downsampling
  spacing_mm: [{spacing}]     # millimetres; `keep` leaves an axis as acquired
  channels: [image]           # names; several channels are files EXAM_0000.nii.gz, EXAM_0001.nii.gz, ...
  intensity: {{kind: percentile, low: 0.5, high: 99.5}}   # or {{kind: fixed, low: -1000, high: 400}} for CT
  output_range: [0, 1000]     # intensities of synthetic volumes

codec:                        # first stage: 3D VQ-GAN
  model:
    downsampling: [2, 2, 2]
    quantizer: {{kind: fsq, levels: [8, 8, 8, 8]}}        # or ema, gradient
  training: {{rounds: 10, local_steps: 30, batch_size: 8, learning_rate: 0.002}}

diffusion:                    # second stage: latent diffusion
  model:
    objective: flow           # or v, eps
    denoiser: {{channels: [16, 32, 64], attention: [false, false, true]}}
    condition: {condition}
    sampler: {{kind: heun, num_steps: 12}}
  training: {{rounds: 20, local_steps: 30, batch_size: 8, learning_rate: 0.002}}

federation:
  sites: [{sites}]
  strategy: {{kind: fedavg}}  # or fedprox, fedavgm, fedadam
"""
CONDITION = "{kind: site, dropout: 0.1}               # or none, class"
NO_CONDITION = "{kind: none}                            # or site, class"


def write_template(path: Path, sites: Sequence[str], shape: str, spacing: str) -> None:
    """Write a commented study to ``path``.

    Raises:
        ConfigError: ``path`` exists, or the study would not be valid.
    """
    if path.exists():
        raise ConfigError(f"{path} exists", "choose another name")
    name = name_from(path)
    text = TEMPLATE.format(
        file=path.name,
        name=_quoted(name),
        shape=shape.replace(",", ", "),
        spacing=spacing.replace(",", ", "),
        sites=", ".join(map(_quoted, sites)),
        # One site has no style that others have not.
        condition=CONDITION if len(sites) > 1 else NO_CONDITION,
    )
    parse(Study, yaml.safe_load(text), where="the study asked for")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, text)


def _quoted(name: str) -> str:
    """Return a name as YAML takes it for text: bare, `no` is a truth value and `1` a number.

    >>> _quoted("north"), _quoted("no")
    ('north', "'no'")
    """
    return yaml.safe_dump(name, width=1000).removesuffix("\n").removesuffix("\n...")


def name_from(path: Path) -> str:
    """Return a study's name made from its file's."""
    letters = "".join(c if c.isalnum() or c in "-_" else "-" for c in path.stem.lower())
    return letters.strip("-_") or "study"
