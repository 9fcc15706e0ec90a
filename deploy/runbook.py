"""What lies in a kit beside its keys: one page for the site's engineer, and how to run it in containers."""

from pathlib import Path

from common.kit import Kit

COMPOSE = "compose.site.yaml"

RUNBOOK = """\
# {site}: joining the study "{study}"

The coordinator is {address}. Only outbound connections to it are needed.

1. Ask the coordinator by telephone for the fingerprint of this kit, and install it:

       fedvox site install {site}.kit --fingerprint HEX --data /data/mri --into site{ledger}

2. Send `site/{site}.enrol` to the coordinator, and read the fingerprint that `install` printed to them by
   telephone.
{private}3. Read what the study would do with your patients, and approve it:

       fedvox site approve site/site.yaml

4. Start the agent, which owns data, GPU and ledger, and the connection, which owns neither:

       fedvox site start site/site.yaml
       fedvox site connect site/site.yaml

Better as services: `fedvox site units site/site.yaml` writes systemd units, `compose.site.yaml` beside this
page runs both in containers. Keys were made on your machine and never leave it. Back up `site/keys`.
"""


LEDGER = " --ledger /var/lib/fedvox/ledger"
PRIVATE = """\
   **The study is private.** What it costs your patients is entered in the site's ledger, one folder for all
   studies that the site ever takes part in. If it is your first, make it: `fedvox site ledger create
   site/site.yaml`. Never make another: it would forget what was spent. Say in `site/site.yaml` which exams
   are of one patient (`patients:`), and how much all studies together may spend (`policy.epsilon`).
"""


def kit_texts(kit: Kit) -> dict[str, str]:
    """Return the texts of a kit, by file name."""
    ledger, private = (LEDGER, PRIVATE) if kit.study.privacy is not None else ("", "")
    words = {"site": kit.site, "study": kit.study.name, "address": kit.address}
    return {
        "RUNBOOK.md": RUNBOOK.format(**words, ledger=ledger, private=private),
        COMPOSE: (Path(__file__).parent / "containers" / COMPOSE).read_text(encoding="utf-8"),
    }
