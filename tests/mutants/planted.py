"""Planted bugs: each breaks a privacy guarantee in a way seen in published code, and a test must notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A change of one place in one file.

    Attributes:
        name: What is broken.
        file: Path from the project's root.
        old: Text that stands there exactly once.
        new: What it becomes.
        tests: Test files that should notice.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


STEP = ("tests/client/test_private_step.py",)
SECRET = ("tests/client/test_secret_stream.py",)
GUARD = ("tests/client/test_privacy_guard.py",)
LEDGER = ("tests/client/test_ledger.py",)
ACCOUNT = ("tests/common/test_privacy_accountant.py", "tests/common/test_privacy_plan.py")
AUDIT = ("tests/experiments/test_privacy_audit.py",)
ROUND = ("tests/client/test_private_round.py",)
STUDY = ("tests/server/test_private_study.py",)

MUTANTS = (
    Mutant(
        "noise off",
        "client/private/noise.py",
        "((total + standard_deviation * noise) / step)",
        "(total / step)",
        STEP + AUDIT,
    ),
    Mutant(
        "noise of two thirds of its scale",
        "client/private/noise.py",
        "standard_deviation * noise)",
        "standard_deviation * noise / 1.5)",
        SECRET,
    ),
    Mutant(
        "noise of the clip norm alone, without sigma",
        "client/private/private_step.py",
        "deviation = self.plan.noise_multiplier * self.plan.clip_norm",
        "deviation = self.plan.clip_norm",
        STEP,
    ),
    Mutant(
        "noise per patient",
        "client/private/private_step.py",
        "                total[name] += tensor",
        "                total[name] += noised(tensor, self.plan.clip_norm, secret.stream(name, patient))",
        STEP,
    ),
    Mutant(
        "clip off",
        "client/private/private_step.py",
        "(clip_norm / norms).clamp(max=1.0)",
        "torch.ones_like(norms)",
        STEP,
    ),
    Mutant(
        "clip per draw",
        "client/private/private_step.py",
        "rows, [count_rows(rows)])",
        "rows, [1] * count_rows(rows))",
        STEP,
    ),
    Mutant(
        "clip per volume",
        "client/private/private_step.py",
        "rows, [count_rows(rows)])",
        "rows, [2] * (count_rows(rows) // 2))",
        STEP,
    ),
    Mutant(
        "clip per layer",
        "client/private/private_step.py",
        "return {name: _weighted_sum(tensor, factors, finite) for name, tensor in gradients.items()}",
        "return {n: _weighted_sum(t, (clip_norm / t.flatten(1).norm(dim=1)).clamp(max=1), finite) "
        "for n, t in gradients.items()}",
        STEP,
    ),
    Mutant(
        "non-finite gradients let through",
        "client/private/private_step.py",
        "finite = torch.isfinite(norms)",
        "finite = torch.ones_like(norms, dtype=torch.bool)",
        STEP,
    ),
    Mutant(
        "normaliser |D|",
        "client/private/private_step.py",
        "/ self.plan.nominal_batch)",
        "/ (self.plan.sampling_rate * max(1, len(patients))))",
        STEP,
    ),
    Mutant(
        "normaliser of the drawn batch",
        "client/private/private_step.py",
        "/ self.plan.nominal_batch)",
        "/ max(1, len(drawn)))",
        STEP,
    ),
    Mutant(
        "batch truncated",
        "client/private/private_step.py",
        "for patient in drawn:",
        "for patient in drawn[:3]:",
        STEP,
    ),
    Mutant(
        "shuffled instead of Poisson batches",
        "client/private/patient_sampling.py",
        "    return [\n        pseudonym\n        for pseudonym in pseudonyms\n",
        "    num = round(sampling_rate * len(pseudonyms))\n"
        "    return __import__('random').sample(list(pseudonyms), num) or [\n"
        "        pseudonym\n        for pseudonym in pseudonyms\n",
        SECRET,
    ),
    Mutant(
        "one coin for all patients",
        "client/private/patient_sampling.py",
        'secret.stream("coin", stage, step, pseudonym)',
        'secret.stream("coin", stage, step, len(pseudonyms), pseudonym)',
        SECRET,
    ),
    Mutant(
        "seed of the secret fixed",
        "client/private/secret_stream.py",
        "return cls(os.urandom(32))",
        "return cls(bytes(32))",
        SECRET,
    ),
    Mutant(
        "the same noise served twice",
        "client/private/secret_stream.py",
        "self.__used.add(message)",
        "self.__used.discard(message)",
        SECRET,
    ),
    Mutant(
        "EMA codebook on",
        "common/privacy/guard.py",
        "        _refuse_moving_state(tried, loss, rows)\n",
        "",
        GUARD,
    ),
    Mutant(
        "BatchNorm allowed",
        "common/privacy/guard.py",
        "isinstance(layer, _BatchNorm) or running",
        "running",
        GUARD,
    ),
    Mutant(
        "batch-coupled loss allowed",
        "common/privacy/guard.py",
        "        _refuse_mixed_losses(tried, loss, rows)\n",
        "",
        GUARD,
    ),
    Mutant(
        "accountant reset per round",
        "common/privacy/ledger_format.py",
        "steps[mechanism] = steps.get(mechanism, 0) + entry.event.steps",
        "steps[mechanism] = entry.event.steps",
        LEDGER,
    ),
    Mutant(
        "only committed rounds charged",
        "common/privacy/ledger_format.py",
        "        if isinstance(entry, Reserve):\n",
        "        answered = [e.order for e in entries if not isinstance(e, Reserve)]\n"
        "        if isinstance(entry, Reserve) and entry.order in answered:\n",
        LEDGER,
    ),
    Mutant(
        "retried round charged once",
        "client/private/ledger.py",
        "            self._append(next_line(_head(lines), entry))\n\n    def commit",
        "            if not any(getattr(line.entry, 'order', None) == entry.order for line in lines):\n"
        "                self._append(next_line(_head(lines), entry))\n\n    def commit",
        LEDGER,
    ),
    Mutant(
        "ledger truncated at the first bad line",
        "client/private/ledger.py",
        'raise LedgerError(f"line {number} of the ledger does not follow from the one before", _MEND)',
        "break",
        LEDGER,
    ),
    Mutant(
        "rollback accepted",
        "client/private/ledger.py",
        "if not known.issuperset(heads):",
        "if False:",
        LEDGER,
    ),
    Mutant(
        "reservation not flushed to the disk",
        "client/private/ledger.py",
        "                os.fsync(file.fileno())\n            if size",
        "            if size",
        LEDGER,
    ),
    Mutant(
        "a missing ledger is a fresh budget",
        "client/private/ledger.py",
        'if not (folder / "replies").is_dir():',
        'folder.mkdir(exist_ok=True)\n        (folder / "replies").mkdir(exist_ok=True)\n        if False:',
        LEDGER,
    ),
    Mutant(
        "gradients of a failed pass kept",
        "client/private/gradient_engines.py",
        "            watched.cleanup()\n        _forget(module)\n",
        "            watched.remove_hooks()\n",
        STEP,
    ),
    Mutant(
        "half precision in the private step",
        "client/private/private_step.py",
        "enabled=False",
        "enabled=torch.is_autocast_enabled('cpu')",
        STEP,
    ),
    Mutant(
        "gradients that hooks did not see",
        "common/privacy/guard.py",
        "        _refuse_wrong_gradients(tried, loss, rows, engine)\n",
        "",
        GUARD,
    ),
    Mutant(
        "fork forgotten",
        "server/ledger_heads.py",
        "                self._forked.append(site)\n",
        "                pass\n",
        LEDGER,
    ),
    Mutant(
        "cap not enforced",
        "client/private/ledger.py",
        "if not would_be <= budget.epsilon:",
        "if not would_be <= 2 * budget.epsilon:",
        LEDGER,
    ),
    Mutant(
        "the smaller of two accountants",
        "common/privacy/accountant.py",
        "largest = max(by_pld, by_prv)",
        "largest = 0.9 * min(by_pld, by_prv)",
        ACCOUNT,
    ),
    Mutant(
        "spare rounds for free",
        "common/privacy/plan.py",
        "return self.event_of(self.rounds + self.spare_rounds)",
        "return self.event_of(self.rounds)",
        ACCOUNT,
    ),
    Mutant(
        "pooled noise claimed for local training",
        "common/privacy/summary.py",
        "    if several:\n",
        "    if False:\n",
        ACCOUNT,
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
        "discriminator non-private",
        "common/study.py",
        "if self.privacy is not None and self.codec.training.rounds > 0:",
        "if False:",
        STUDY,
    ),
    Mutant(
        "loss in the reply",
        "client/stored_report.py",
        "seconds=0.0, **header)",
        "seconds=0.0, metrics={'loss': 0.5}, **header)",
        ROUND,
    ),
    Mutant(
        "loss accepted by the server",
        "common/federation/allow_list.py",
        "if private and (report.metrics or report.seconds):",
        "if False:",
        STUDY,
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
        "            self.ledger.reserve(\n",
        "            store.latents(order, context.dataset)\n            self.ledger.reserve(\n",
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
        "            self.ledger.commit(key, stored)\n",
        "",
        ROUND,
    ),
    Mutant(
        "policy not asked",
        "client/site.py",
        "        check_policy(self.config.policy, self.study)\n",
        "",
        ROUND,
    ),
    Mutant(
        "a renamed run has a fresh budget",
        "client/private/ledger.py",
        "p.study == entry.study and p.order.stage",
        "p.order.run == entry.order.run and p.order.stage",
        ROUND,
    ),
    Mutant(
        "proof of the ledger not checked",
        "server/collect.py",
        "                self.heads.accept(report.site, report.ledger)\n",
        "                pass\n",
        STUDY,
    ),
    Mutant(
        "a study that breaks its promise",
        "common/study.py",
        "if not spent <= self.privacy.epsilon:",
        "if False:",
        STUDY,
    ),
)
