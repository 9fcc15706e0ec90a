"""Planted bugs of the private step: what a patient adds, how much noise there is, which networks it takes."""

from mutant import Mutant

STEP = ("tests/client/test_private_step.py", "tests/client/test_gradient_engines.py")
SECRET = ("tests/client/test_secret_stream.py",)
GUARD = ("tests/client/test_privacy_guard.py",)
AUDIT = ("tests/experiments/test_privacy_audit.py",)

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
        "part, [count_rows(part)])",
        "part, [1] * count_rows(part))",
        STEP,
    ),
    Mutant(
        "clip per volume",
        "client/private/private_step.py",
        "mean[name] = mean[name] + share * tensor if name in mean else share * tensor",
        "mean[name] = torch.cat([mean[name], tensor]) if name in mean else tensor",
        STEP,
    ),
    Mutant(
        "more memory for a patient with more volumes",
        "client/private/private_step.py",
        "        num = count_rows(rows)\n        mean: Gradients = {}\n",
        "        return self.engine(module, self.loss, rows, [count_rows(rows)])\n",
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
        "        _refuse_moving_state(tried, loss, rows, engine)\n",
        "",
        GUARD,
    ),
    Mutant(
        "a memory that moves with gradients only",
        "common/privacy/guard.py",
        "    engine(module, loss, rows, [1] * count_rows(rows))\n    after",
        "    after",
        GUARD,
    ),
    Mutant(
        "a memory in an attribute",
        "common/privacy/guard.py",
        "            if isinstance(value, Tensor):\n",
        "            if False:\n",
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
)
