"""Planted bugs of the site: what it reads, pays for and says."""

from mutant import Mutant

ROUND = ("tests/client/test_private_round.py",)

MUTANTS = (
    Mutant(
        "exams encoded in batches",
        "client/latent_store.py",
        "(codec.encode(volume[None].to(device))).cpu() for volume in volumes]",
        "(codec.encode(part.to(device))).cpu() for part in volumes.split(8)]",
        ("tests/client/test_latent_store.py",),
    ),
    Mutant(
        "latents of an earlier version of the code",
        "client/latent_store.py",
        "model, code_digest(), self.device.type",
        "model, self.device.type",
        ("tests/client/test_latent_store.py",),
    ),
    Mutant(
        "text of exceptions sent by the framework",
        "client/app.py",
        "packet_from_records(message.content)))\n    except Exception as error:",
        "packet_from_records(message.content)))\n    except FedvoxError as error:",
        ("tests/client/test_app.py",),
    ),
    Mutant(
        "a codec that is no number paid for",
        "client/frozen_store.py",
        " or first_not_finite(tensors)",
        "",
        ROUND,
    ),
    Mutant(
        "a codec that cannot encode paid for",
        "client/private_tasks.py",
        "        store.codec(order)  # a codec that cannot encode is refused while it costs nothing\n",
        "",
        ROUND,
    ),
    Mutant(
        "agent chosen by the coordinator",
        "client/app.py",
        "if SOCKET in context.node_config",
        "if SOCKET in context.run_config",
        ("tests/client/test_app.py",),
    ),
    Mutant(
        "studies without noise beside private ones",
        "client/policy.py",
        "return self.ledger is not None if self.require_privacy is None else self.require_privacy",
        "return bool(self.require_privacy)",
        ROUND,
    ),
    Mutant(
        "exams counted as patients",
        "client/admission.py",
        "    if not config.knows_its_patients:\n",
        "    if False:\n",
        ROUND,
    ),
    Mutant(
        "cap compared at the study's delta",
        "client/admission.py",
        "spends = _epsilon_of(study.private_events, policy.delta)",
        "spends = _epsilon_of(study.private_events, 1e-5)",
        ROUND,
    ),
    Mutant(
        "one order done twice at once",
        "client/private/ledger.py",
        'with (self.folder / "order").open("w") as lock:\n            fcntl.flock(lock, fcntl.LOCK_EX)\n',
        'with (self.folder / "order").open("w"):\n',
        ROUND,
    ),
    Mutant(
        "orders paid for before they are looked at",
        "client/private_tasks.py",
        "wrong = first_difference(order.parameters, expected) or first_not_finite(order.parameters)",
        "wrong = None",
        ROUND,
    ),
    Mutant(
        "latent scale from the site's latents",
        "client/latent_store.py",
        "scale = LatentScale.from_moments(*codec.codebook_moments())",
        "every = codec.encode(volumes.to(device)).transpose(0, 1).flatten(1)\n"
        "    scale = LatentScale.from_moments(every.mean(1), every.std(1))",
        ("tests/client/test_latent_store.py",),
    ),
    Mutant(
        "loss in the reply",
        "client/stored_report.py",
        "seconds=0.0, **header)",
        "seconds=0.0, metrics={'loss': 0.5}, **header)",
        ROUND,
    ),
    Mutant(
        "training time in the reply",
        "client/stored_report.py",
        "seconds=0.0, **header)",
        "seconds=0.25, **header)",
        ROUND,
    ),
    Mutant(
        "codes that patients can decide",
        "client/site.py",
        "code if self.study.privacy is None or code in SAYS_NOTHING_OF_PATIENTS else ErrorCode.INTERNAL",
        "code",
        ROUND,
    ),
    Mutant(
        "volumes read before the reservation",
        "client/private_round.py",
        "        self.ledger.reserve(\n",
        "        store.latents(order, context.dataset)\n        self.ledger.reserve(\n",
        ROUND,
    ),
    Mutant(
        "whole rounds charged as one step",
        "client/private_round.py",
        "event=self.plan.event_of(rounds=1),",
        "event=self.plan.event_of(rounds=1).model_copy(update={'steps': 1}),",
        ROUND,
    ),
    Mutant(
        "noise of one round used again in the next attempt",
        "client/private_round.py",
        "secret = RoundSecret.drawn()",
        "secret = RoundSecret(bytes(32))",
        ROUND,
    ),
    Mutant(
        "reply sent without being stored",
        "client/private_round.py",
        "        self.ledger.commit(key, reply)\n",
        "",
        ROUND,
    ),
    Mutant(
        "policy not asked",
        "client/site.py",
        "        check_admitted(self.config, self.study)\n",
        "",
        ROUND,
    ),
)
