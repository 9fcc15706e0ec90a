"""Every error fedvox raises on purpose, with value and remedy.

    FedvoxError
    ├── ConfigError              a YAML file says something that cannot be meant
    │   └── UnknownKeyError
    ├── DataError                a file or folder of volumes is not what the study needs
    │   ├── EmptyDatasetError
    │   ├── UnreadableVolumeError
    │   ├── VolumeShapeError
    │   ├── NonFiniteVolumeError
    │   ├── ConstantVolumeError
    │   ├── PatientTableError
    │   └── DuplicatePatientError
    ├── FederationError          a round cannot be finished as the study asks
    │   ├── QuorumError
    │   ├── RejectedReportError
    │   ├── WireError
    │   ├── SealError         a message is not by whom it says
    │   ├── VersionError      two ends that speak different protocols
    │   ├── UnapprovedError   a study, or a part of it, that the site's people have not approved
    │   ├── ReplayError       an order that was overtaken, or two orders for one place
    │   └── InterruptedOrderError   an order that was called off, or was not done in its time
    ├── PrivacyError             going on would break a privacy guarantee
    │   ├── AccountingError      a privacy cost cannot be told, so nothing may be spent
    │   ├── BudgetError          an order would pass the site's cap
    │   └── LedgerError          the ledger is broken, rolled back or forked
    ├── MetricError              a metric is asked for what its inputs cannot answer
    ├── RunError                 a run folder cannot be used as asked
    └── ArtifactError            a checkpoint or release is incomplete or altered

The text of these errors is for the person at the machine where they are raised. What crosses
the site's border is an `ErrorCode` and nothing else: text may name files, and file names may name
patients.
"""

import enum


class ErrorCode(enum.Enum):
    """What a site tells the coordinator when it could not do an order."""

    DATA = "E_DATA"  # the site's volumes cannot be read as the study asks
    CONFIG = "E_CONFIG"  # the order's study does not validate here
    NEED_FROZEN = "E_NEED_FROZEN"  # the frozen networks of this run are not on the site's disk
    BUDGET = "E_BUDGET"  # the order would pass the site's cap, or the rounds that the study pays for
    LEDGER = "E_LEDGER"  # the site's ledger does not continue what the coordinator saw
    DISK = "E_DISK"  # the site's disk is full, or a file on it is damaged
    MEMORY = "E_MEMORY"  # the device ran out of memory
    DEVICE = "E_DEVICE"  # the GPU is gone, or does not answer
    DIVERGED = "E_DIVERGED"  # training ended with non-finite parameters
    SEAL = "E_SEAL"  # the order is not signed by the study's coordinator
    VERSION = "E_VERSION"  # the two ends speak different protocols
    UNAPPROVED = "E_UNAPPROVED"  # nobody at the site has approved this study, or this much of it
    REPLAY = "E_REPLAY"  # the site has moved on from the order's round, or knows another order by its place
    BUSY = "E_BUSY"  # the site is doing another order
    UNKNOWN = "E_UNKNOWN"  # the site does not know the order that was asked after: send it whole
    CANCELLED = "E_CANCELLED"  # the order was called off, by either end
    DEADLINE = "E_DEADLINE"  # the order was not done in its time
    INTERNAL = "E_INTERNAL"  # anything else; the site's own log has the text


class FedvoxError(Exception):
    """Base of all errors raised on purpose: one line of what, one of what to do.

    Args:
        message: What is wrong, with the offending value.
        remedy: What the reader can do about it.
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ConfigError(FedvoxError):
    """A study or site file says something that cannot be meant."""

    code = ErrorCode.CONFIG


class UnknownKeyError(ConfigError):
    """A YAML key that no model knows; the message names the nearest one."""


class DataError(FedvoxError):
    """A file or folder of volumes is not what the study needs."""

    code = ErrorCode.DATA


class EmptyDatasetError(DataError):
    """A folder without a single NIfTI volume."""


class UnreadableVolumeError(DataError):
    """A file that is truncated or not NIfTI."""


class VolumeShapeError(DataError):
    """A volume that is not three-dimensional, or whose channels do not match."""


class NonFiniteVolumeError(DataError):
    """A volume with NaN or infinite voxels."""


class ConstantVolumeError(DataError):
    """A volume whose intensities leave no window to scale by."""


class PatientTableError(DataError):
    """A patient table that misses a file, or names one that does not exist."""


class DuplicatePatientError(DataError):
    """One patient at two sites, or in two parts of a split."""


class FederationError(FedvoxError):
    """A round cannot be finished as the study asks."""


class QuorumError(FederationError):
    """Fewer sites than the study's minimum returned a valid report."""


class RejectedReportError(FederationError):
    """A report failed the allow-list check: name, shape, dtype or finiteness."""


class WireError(FederationError):
    """A message does not hold the fields its kind requires."""

    code = ErrorCode.CONFIG


class SealError(FederationError):
    """A message is not by whom it says."""

    code = ErrorCode.SEAL


class VersionError(FederationError):
    """Two ends that speak different protocols."""

    code = ErrorCode.VERSION


class UnapprovedError(FederationError):
    """A study, or a part of it, that the site's people have not approved."""

    code = ErrorCode.UNAPPROVED


class ReplayError(FederationError):
    """An order that was overtaken, or two orders for one place."""

    code = ErrorCode.REPLAY


class InterruptedOrderError(FederationError):
    """An order that was called off, or was not done in its time.

    Args:
        code: Which of both.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__("the order was interrupted", "it starts anew when it is sent again")
        self.code = code


class PrivacyError(FedvoxError):
    """Going on would break a privacy guarantee."""


class AccountingError(PrivacyError):
    """A privacy cost cannot be told, so nothing may be spent."""

    code = ErrorCode.CONFIG


class BudgetError(PrivacyError):
    """An order would pass the site's cap."""

    code = ErrorCode.BUDGET


class LedgerError(PrivacyError):
    """The ledger is broken, rolled back or forked."""

    code = ErrorCode.LEDGER


class MetricError(FedvoxError):
    """A metric is asked for what its inputs cannot answer."""


class RunError(FedvoxError):
    """A run folder cannot be used as asked."""


class ArtifactError(FedvoxError):
    """A checkpoint or release is incomplete or altered, or could not be written."""

    code = ErrorCode.DISK
