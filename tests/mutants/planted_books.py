"""Planted bugs of the books: accountants, ledgers, and what the server checks of them."""

from mutant import Mutant

LEDGER = (
    "tests/client/test_ledger.py",
    "tests/client/test_ledger_faults.py",
    "tests/server/test_ledger_heads.py",
)
ACCOUNT = ("tests/common/test_privacy_accountant.py", "tests/common/test_privacy_plan.py")
ROUND = ("tests/client/test_private_round.py",)
STUDY = ("tests/server/test_private_study.py",)

MUTANTS = (
    Mutant(
        "a site that speaks for another",
        "server/flower_transport.py",
        "return report if report.site == site else None",
        "return report",
        ("tests/server/test_flower_transport.py",),
    ),
    Mutant(
        "patient set and hours in the public export",
        "client/ledger_export.py",
        '"events": _public_events(ledger),',
        '"events": ledger_rows(ledger),',
        LEDGER,
    ),
    Mutant(
        "a ledger for everybody's eyes",
        "client/private/ledger.py",
        "            folder.chmod(OWNER_ONLY)  # it may have been there, empty\n",
        "",
        LEDGER,
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
        "client/private/line_file.py",
        "            os.fsync(file.fileno())\n        if size",
        "        if size",
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
        "fork forgotten",
        "server/ledger_heads.py",
        "                self._forked.append(site)\n",
        "                pass\n",
        LEDGER,
    ),
    Mutant(
        "cap not enforced",
        "client/private/budget.py",
        "if not would_be <= budget.epsilon:",
        "if not would_be <= 2 * budget.epsilon:",
        LEDGER,
    ),
    Mutant(
        "what fitted once fits for ever",
        "client/private/budget.py",
        "known.get(mechanism, 0) >= steps",
        "known.get(mechanism, 0) > 0",
        ("tests/client/test_budget.py",),
    ),
    Mutant(
        "a ledger that is not read again after it was changed",
        "client/private/ledger.py",
        "if not content.startswith(checked):",
        "if len(content) < len(checked):",
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
        "discriminator non-private",
        "common/study.py",
        "if privacy.codec is None and rounds > 0:",
        "if False:",
        STUDY,
    ),
    Mutant(
        "discriminator beside a private codec",
        "common/study.py",
        "if privacy.codec is not None and model.discriminator is not None:",
        "if False:",
        STUDY,
    ),
    Mutant(
        "EMA codebook in a private codec",
        "common/study.py",
        '_PRIVATE_QUANTIZERS = ("gradient", "fsq")',
        '_PRIVATE_QUANTIZERS = ("gradient", "fsq", "ema")',
        STUDY,
    ),
    Mutant(
        "only the last private stage promised",
        "common/study.py",
        "tuple(plan.event for plan in self.private_plans.values())",
        "tuple(plan.event for plan in self.private_plans.values())[-1:]",
        STUDY,
    ),
    Mutant(
        "loss accepted by the server",
        "common/federation/allow_list.py",
        "if private and (report.metrics or report.seconds):",
        "if False:",
        STUDY,
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
