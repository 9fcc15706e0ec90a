"""A federation of tiny sites with tiny networks, called directly."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from client.policy import Policy
from client.private.ledger import Ledger
from client.site import Site
from client.site_config import Compute, SiteConfig
from common.frozen import parse
from common.study import Study
from common.study_privacy import PrivateCodecStage
from experiments.in_process import InProcessTransport
from server.checkpoint import CheckpointStore
from server.events import EventLog
from server.ledger_heads import LedgerHeads
from server.rounds import RunRecords, run_study
from server.state import GlobalState, initial_state, start_diffusion, start_from_public


def small_study(sites=("a", "b"), **changes) -> Study:
    """Return a study of 8x8x8 volumes; ``changes`` are dotted paths with double underscores."""
    content = {
        "name": "small",
        "seed": 3,
        "volume": {"shape": [8, 8, 8], "spacing_mm": [1, 1, 1]},
        "codec": {
            "model": {
                "channels": 8,
                "num_res_blocks": 0,
                "quantizer": {"kind": "ema", "num_codes": 8, "code_dim": 2},
                "discriminator": {"start_step": 2, "channels": 8, "num_layers": 1},
            },
            "training": {"rounds": 2, "local_steps": 3, "batch_size": 2},
        },
        "diffusion": {
            "model": {
                "denoiser": {"channels": [8], "attention": [False], "head_channels": 8},
                "sampler": {"kind": "euler", "num_steps": 2},
            },
            "training": {"rounds": 2, "local_steps": 2, "batch_size": 2},
        },
        "federation": {"sites": list(sites)},
    }
    for path, value in changes.items():
        target = content
        *parents, last = path.split("__")
        for part in parents:
            target = target[part]
        target[last] = value
    return parse(Study, content, "small")


def write_volumes(folder: Path, num: int, seed: int) -> Path:
    """Write ``num`` random smooth volumes, one patient each."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(num):
        coarse = generator.normal(size=(4, 4, 4)).repeat(2, 0).repeat(2, 1).repeat(2, 2)
        nib.save(nib.Nifti1Image(coarse.astype(np.float32), np.eye(4)), folder / f"p{seed}-{index}.nii.gz")
    return folder


def write_patient_table(folder: Path) -> None:
    """Say of every file in ``folder`` that it is of a patient of its own."""
    names = sorted(path.name for path in folder.glob("*.nii.gz"))
    rows = [f"{name},{name.removesuffix('.nii.gz')}" for name in names]
    (folder / "patients.csv").write_text("\n".join(["file,patient", *rows]) + "\n")


PRIVATE = {
    "sampling_rate": 0.5,
    "nominal_patients": 4,
    "noise_multiplier": 3.0,
    "spare_rounds": 2,
    "draws": 2,
}


def private_study(public: GlobalState, sites=("a", "b"), epsilon=20.0, stage=None, **changes) -> Study:
    """Return a private study that starts from ``public``, a state of `small_study`."""
    privacy = {
        "epsilon": epsilon,
        "delta": 1e-5,
        "public_model": public.model_digest,
        "trainable": {"kind": "lora", "rank": 1},
        "diffusion": stage or PRIVATE,
    }
    return small_study(sites, privacy=privacy, codec__training={"rounds": 0, "local_steps": 1}, **changes)


GRADIENT_CODEC = {
    "codec__model__quantizer": {"kind": "gradient", "num_codes": 8, "code_dim": 2},
    "codec__model__discriminator": None,
}
PRIVATE_CODEC = {
    "sampling_rate": 0.5,
    "nominal_patients": 4,
    "noise_multiplier": 3.0,
    "spare_rounds": 1,
    "where": "decoder",
}


def private_codec_study(public: GlobalState, sites=("a", "b"), epsilon=20.0, stage=None, **changes) -> Study:
    """Return a private study that trains on the codec of ``public`` too, a state with `GRADIENT_CODEC`."""
    privacy = private_study(public, sites, **GRADIENT_CODEC).privacy
    codec = PrivateCodecStage.model_validate(stage or PRIVATE_CODEC)
    return small_study(
        sites,
        privacy=privacy.model_copy(update={"codec": codec, "epsilon": epsilon}).model_dump(),
        **{"codec__training": {"rounds": 2, "local_steps": 1, "learning_rate": 1.0}}
        | GRADIENT_CODEC
        | changes,
    )


def public_state(**changes) -> GlobalState:
    """Return a state of `small_study` that no patient touched, stirred so that gradients flow."""
    study = small_study(("public",), **changes)
    state = start_diffusion(initial_state(study), study)
    generator = torch.Generator().manual_seed(5)
    stirred = {n: t + 0.1 * torch.randn(t.shape, generator=generator) for n, t in state.denoiser.items()}
    return dataclasses.replace(state, denoiser=stirred, denoiser_average=stirred)


def make_site(name: str, data: Path, state: Path, study: Study, stream: str | None = None) -> Site:
    """Return a site with one thread and silent progress; in a private study, with a ledger of its own."""
    policy = Policy()
    if study.privacy is not None:
        ledger = state / name / "ledger"
        if not ledger.exists():
            Ledger.create(ledger)
        policy = Policy(epsilon=study.privacy.epsilon, delta=study.privacy.delta, ledger=ledger)
    table = data / "patients.csv" if (data / "patients.csv").is_file() else None
    config = SiteConfig(
        name=name,
        data=data,
        patients=table,
        one_exam_per_patient=table is None,
        state=state / name,
        compute=Compute(threads=1),
        policy=policy,
    )
    return Site(config, study, stream=stream, on_step=lambda *_: None)


def opened(folder: Path, study: Study, data: dict[str, Path], public: GlobalState) -> "Federation":
    """Return a federation that is about to begin a private study from ``public``."""
    made = Federation(folder, study, {name: data[name] for name in study.federation.sites})
    made.store.save(start_from_public(public, study))
    return made


class Federation:
    """Sites, checkpoints and log under one folder."""

    def __init__(self, folder: Path, study: Study, data: dict[str, Path], streams=None) -> None:
        self.study = study
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.sites = {
            name: make_site(name, path, folder / "sites", study, (streams or {}).get(name))
            for name, path in data.items()
        }
        self.transport = InProcessTransport(self.sites)
        self.store = CheckpointStore(folder / "checkpoints", study.digest)
        self.log = EventLog(folder / "events.jsonl")
        self.heads = LedgerHeads(folder / "ledger_heads.json")

    def run(self, transport=None, after_round=None):
        """Run to the end and return the final state."""
        records = RunRecords("small-run", self.store, self.log, self.heads)
        return run_study(self.study, transport or self.transport, records, after_round)
