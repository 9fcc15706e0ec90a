"""A private study to start from: the public model's networks, and noise calibrated to a promise."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from common.artifact import write_text_atomic
from common.errors import ConfigError, RunError
from common.federation.stage import Stage
from common.frozen import parse
from common.privacy.plan import PrivacyPlan, calibrate
from common.study import Study
from experiments.study_template import name_from
from server.checkpoint import CheckpointStore
from server.run_folder import RunFolder

SAMPLING_RATE = 0.1
SMALLEST_BATCH = 4  # patients a step: below, a step is nothing but noise
SPARE_SHARE = 10  # one spare round for so many rounds
TRAINABLE = {"kind": "bias"}
"""Of the denoiser; the best of those compared on phantoms (`experiments.privacy_utility`)."""
LEARNING_RATE = 0.03  # the server's, best with these
LEARNING_RATE_WITH_CODEC = 0.01  # the same server's moves the whole decoder too, which has more to spoil

TRAINED_OF_CODEC = "decoder"  # how volumes look; the latents, which the denoiser knows, stay as they are
_STAGE_KEYS = ("sampling_rate", "nominal_patients", "noise_multiplier", "spare_rounds", "clip_norm")

HEADER = """\
# {file}: what all sites agree on. `fedvox study check {file}` says what it promises.
# Each of {rounds} rounds is one private step. The noise keeps what tells of one patient's presence within
# epsilon {epsilon:g} at delta {delta:g} at every site, {spare} lost rounds included. All numbers are public.
"""


def write_private_template(
    path: Path,
    public_run: Path,
    sites: Sequence[str],
    nominal_patients: int,
    epsilon: float,
    delta: float,
    rounds: int,
    codec_rounds: int = 0,
    split: Path | None = None,
) -> None:
    """Write a private study that starts from the model of ``public_run``.

    Args:
        path: Where to.
        public_run: Folder of a finished run on public volumes.
        sites: The hospitals.
        nominal_patients: Public number of patients of each; real numbers may differ.
        epsilon: Promise.
        delta: Promise.
        rounds: Rounds of one private step of the denoiser.
        codec_rounds: Rounds of one private step of the codec before them; 0 leaves the codec as it is.
        split: Table that deals one data folder out to the sites, for a simulation.

    Raises:
        ConfigError: ``path`` exists, or the study would not be valid.
        RunError: The run has no model.
    """
    if path.exists():
        raise ConfigError(f"{path} exists", "choose another name")
    run = RunFolder.open(public_run)
    public = run.study()
    state = CheckpointStore(run.checkpoints, public.digest).load_newest()
    if state is None or state.stage is not Stage.DIFFUSION:
        raise RunError(
            f"{public_run} has no trained denoiser yet", "finish it: fedvox study resume --run ..."
        )
    told = public.diffusion.model.condition.kind == "site"
    if told and len(sites) != len(public.federation.sites):
        raise ConfigError(
            f"the public model is told which of {len(public.federation.sites)} sites a volume is of, and the "
            f"study would have {len(sites)}",
            "train the public model with diffusion.model.condition: {kind: none}",
        )
    wanted = [_plan(nominal_patients, number) for number in (codec_rounds, rounds) if number]
    plans, _ = calibrate(wanted, epsilon, delta)
    content = public.model_dump(mode="json", exclude_none=True)
    content["name"] = name_from(path)
    content["codec"].pop("training")
    content["codec"]["model"].pop("discriminator", None)
    rate = LEARNING_RATE_WITH_CODEC if codec_rounds else LEARNING_RATE
    content["diffusion"]["training"] = {"rounds": rounds, "local_steps": 1, "learning_rate": rate}
    content["federation"] = {
        "sites": list(sites),
        "strategy": {"kind": "fedadam", "learning_rate": rate},
    }
    content["privacy"] = {
        "epsilon": epsilon,
        "delta": delta,
        "public_model": state.model_digest,
        "trainable": TRAINABLE,
        "diffusion": {name: getattr(plans[-1], name) for name in (*_STAGE_KEYS, "draws")},
    }
    if codec_rounds:
        content["codec"]["training"] = {
            "rounds": codec_rounds,
            "local_steps": 1,
            "learning_rate": rate,
        }
        content["privacy"]["codec"] = {name: getattr(plans[0], name) for name in _STAGE_KEYS} | {
            "where": TRAINED_OF_CODEC
        }
    parse(Study, content, where="the study asked for")
    if split is not None:
        content["simulation"] = {"split": str(split.resolve())}
    steps = f"{codec_rounds} + {rounds}" if codec_rounds else str(rounds)
    spare = sum(plan.spare_rounds for plan in plans)
    header = HEADER.format(file=path.name, rounds=steps, spare=spare, epsilon=epsilon, delta=delta)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, header + yaml.safe_dump(content, sort_keys=False))


def _plan(nominal_patients: int, rounds: int) -> PrivacyPlan:
    """Return a plan of single-step rounds whose noise is still to be found."""
    return PrivacyPlan(
        sampling_rate=min(1.0, max(SAMPLING_RATE, SMALLEST_BATCH / nominal_patients)),
        nominal_patients=nominal_patients,
        rounds=rounds,
        spare_rounds=-(-rounds // SPARE_SHARE),
        noise_multiplier=1.0,
    )
