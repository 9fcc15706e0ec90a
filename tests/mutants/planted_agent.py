"""Planted bugs between hospitals: seals, approvals, replays, the lock on code."""

from mutant import Mutant

AGENT = ("tests/client/test_agent.py",)
TRANSPORT = (
    "tests/server/test_flower_transport.py",
    "tests/server/test_find_sites.py",
    "tests/server/test_site_presence.py",
)
PROCESSES = ("tests/deploy/test_processes.py",)
GUARD = ("tests/deploy/test_guarded_supernode.py",)
PROVISION = ("tests/deploy/test_provision.py",)
REVOCATIONS = ("tests/server/test_revocations.py",)

MUTANTS = (
    Mutant(
        "orders taken from anybody",
        "client/agent/gate.py",
        "        verified_header(header, seal, approval.key)\n        if claimed",
        "        if claimed",
        AGENT,
    ),
    Mutant(
        "approvals that the site did not sign",
        "client/approval.py",
        "SealedRecord.read(path).verified(PURPOSE, Approval, self._key)",
        "SealedRecord.read(path).unverified(Approval)",
        AGENT,
    ),
    Mutant(
        "rounds beyond the approved number",
        "client/agent/gate.py",
        "if header.round_index > rounds:",
        "if False:",
        AGENT,
    ),
    Mutant(
        "a study begun as often as the coordinator likes",
        "client/agent/desk.py",
        "if header.run not in runs and len(runs) >= approval.runs:",
        "if False:",
        AGENT,
    ),
    Mutant(
        "rounds that are over done again",
        "client/agent/order_book.py",
        "if known and place.round < max(known).round:",
        "if False:",
        AGENT,
    ),
    Mutant(
        "two orders for one place",
        "client/agent/order_book.py",
        "if known.get(place, header.order_id) != header.order_id:",
        "if False:",
        AGENT,
    ),
    Mutant(
        "tensors that the header does not vouch for",
        "common/federation/packet.py",
        "        if described != sections_of(header):\n",
        "        if False:\n",
        (*AGENT, "tests/common/test_federation_wire.py"),
    ),
    Mutant(
        "more bytes received than were agreed on",
        "client/agent/gate.py",
        " or not sizes.items() <= expected.sizes.items()",
        "",
        AGENT,
    ),
    Mutant(
        "a seal for one purpose good for another",
        "common/seal.py",
        'return b"fedvox " + purpose.encode() + b"\\0" + content',
        'return b"fedvox " + content',
        ("tests/test_docstring_examples.py",),
    ),
    Mutant(
        "reports taken from anybody",
        "server/flower_transport.py",
        "        self.seals.refuse_unsealed(packet, site)\n",
        "",
        TRANSPORT,
    ),
    Mutant(
        "answers to other orders",
        "server/flower_transport.py",
        "if named != order_id and not nameless:",
        "if False:",
        TRANSPORT,
    ),
    Mutant(
        "reports of sites that were revoked meanwhile",
        "server/seals.py",
        "return set(sites) & self.known().keys()",
        "return set(sites)",
        TRANSPORT,
    ),
    Mutant(
        "headers that break their readers",
        "common/federation/headers.py",
        "(ValueError, KeyError, TypeError, RecursionError)",
        "(ValueError, KeyError, TypeError)",
        TRANSPORT,
    ),
    Mutant(
        "names taken from anybody",
        "server/find_sites.py",
        "            self._seals.refuse_unsealed(packet, header.site)\n",
        "",
        TRANSPORT,
    ),
    Mutant(
        "introductions that were overheard",
        "server/find_sites.py",
        " or header.nonce != nonce",
        "",
        TRANSPORT,
    ),
    Mutant(
        "any app run at a site",
        "deploy/guarded_supernode.py",
        "return hashlib.sha256(fab.content).hexdigest() in allowed",
        "return True",
        GUARD,
    ),
    Mutant(
        "any answer taken for the one that is due",
        "deploy/guarded_supernode.py",
        "            while self._unanswered:",
        "            while False:",
        GUARD,
    ),
    Mutant(
        "a connection that has ended leaves its process",
        "deploy/guarded_supernode.py",
        "        os._exit(1)",
        "        pass",
        GUARD,
    ),
    Mutant(
        "sites told of every fault of the server's",
        "deploy/nginx.py",
        "    error_page 500 =503 @busy;\n",
        "",
        PROCESSES,
    ),
    Mutant(
        "a kit of any fingerprint",
        "common/kit.py",
        "if not hmac.compare_digest(found.encode(), wanted.encode()):",
        "if False:",
        PROVISION,
    ),
    Mutant(
        "an enrolment without the kit",
        "server/coordinator.py",
        "if not is_proven(record, invited.token):",
        "if False:",
        PROVISION,
    ),
    Mutant(
        "a revoked site's keys",
        "server/coordinator.py",
        "            and site.enrolment.key.fingerprint not in revoked.keys\n"
        "            and name not in revoked.sites\n",
        "",
        REVOCATIONS,
    ),
    Mutant(
        "an older list of revocations",
        "server/revocations.py",
        "if found.number < at_least:",
        "if False:",
        REVOCATIONS,
    ),
    Mutant(
        "sealed records of anybody",
        "common/sealed_record.py",
        "        key.verify(purpose, self.content.encode(), self.seal)\n",
        "",
        ("tests/common/test_sealed_record.py",),
    ),
    Mutant(
        "a cohort of one",
        "client/site.py",
        "            check_cohort(self.config, self.study.volume)\n",
        "            pass\n",
        ("tests/client/test_checkup.py",),
    ),
    Mutant(
        "links that the courier planted",
        "deploy/site_users.py",
        "if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:",
        "if True:",
        ("tests/deploy/test_two_users.py",),
    ),
    Mutant(
        "submitting runs open to hospitals",
        "deploy/nginx.py",
        "location /v1/fleet/ {{",
        "location /v1/ {{",
        PROCESSES,
    ),
)
