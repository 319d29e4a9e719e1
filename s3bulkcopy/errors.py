"""Every error that a user can meet, each with its exit code.

    S3BulkCopyError                        1
    ├── UsageError                         2   bad input: nothing was touched
    │   └── NotAws                             … because what answers is another store
    ├── ObjectsFailed                      3   the run ended, and some objects are not at the destination
    ├── BucketUnavailable                  4   not found, or someone else's
    │   └── BucketRefused                      … because it does not let these credentials in
    ├── NotPermitted                       5   no credentials, expired ones, or an action they do not cover
    ├── DeployFailed                       6   what was made is gone again
    │   ├── NameTaken                          … because something of that name is in the way
    │   └── QuotaTooSmall                      … because the account's concurrency does not allow it
    ├── JournalUnusable                    1   what is needed to go on with a run is foreign, damaged or out of reach
    │   ├── JournalMissing                 2   … because it is not on this machine
    │   ├── JournalDamaged                     … because what is in it makes no sense
    │   ├── JournalForeign                     … because another version of s3bulkcopy wrote it
    │   └── JournalHeld                        … because another process is counting the run
    ├── LeftBehind                         7   something could not be removed
    ├── CountsIncomplete                   8   the run ended, but not every event was seen
    │   └── CountsDiffer                       … or all were, and they do not add up
    ├── Halted                             9   someone stopped the run
    ├── Interrupted                      130   Ctrl-C or SIGTERM
    └── Detached                           0   no error: the run goes on without this command, as was asked for
        ├── Uncounted                      1   … because its journal cannot be written: the disk may be full
        ├── SignedOut                      5   … because its credentials have expired and none came in their place
        ├── OutOfReach                    10   … because AWS was not to be reached for a long time
        └── HungUp                       129   … because its terminal was closed (SIGHUP)

A message names the thing and the cause; `hint` names the next step. Both are plain text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3bulkcopy.worker.model import Counts

#: What a command's exit code says.
EXIT_CODES = {
    0: "every selected object is at the destination; with --detach: the work is queued",
    1: "unexpected",
    2: "bad usage: nothing was touched",
    3: "the run ended, and some objects failed, or are archived (they are listed)",
    4: "a bucket was not found, or refused",
    5: "not permitted: no credentials, expired ones, or an action denied",
    6: "could not deploy: what was made is gone again",
    7: "something was left behind: the command that removes it is printed",
    8: "the run ended, but the counts are incomplete, or do not add up",
    9: "halted, or dismissed by `teardown`",
    10: "AWS was out of reach for a long time: the run goes on, `attach` follows it",
    129: "the terminal was closed: the run goes on, and `attach` follows it",
    130: "interrupted: torn down first; `attach` goes on with a run of the local engine",
}


def cause_of(error: Exception) -> str:
    """Write an error of the system without the path, which the message around it names.

    >>> cause_of(FileNotFoundError(2, "No such file or directory", "/a")), cause_of(EOFError("too short"))
    ('No such file or directory', 'too short')
    """
    return getattr(error, "strerror", None) or str(error)


class S3BulkCopyError(Exception):
    """Something a user can meet and mend."""

    exit_code = 1
    #: What was known of the objects of a run that it has stopped; None where nothing was queued.
    counts: Counts | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep the message and what to do about it."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(S3BulkCopyError):
    """The command line, or what it points at, makes no sense."""

    exit_code = 2


class NotAws(UsageError):
    """What is asked for is in AWS, and what answers is not."""


class ObjectsFailed(S3BulkCopyError):
    """The run ended, and some selected objects are not at the destination."""

    exit_code = 3


class BucketUnavailable(S3BulkCopyError):
    """A bucket does not exist, or belongs to someone who does not let us in."""

    exit_code = 4


class BucketRefused(BucketUnavailable):
    """A bucket exists, and does not let us in, or belongs to another account than it should."""


class NotPermitted(S3BulkCopyError):
    """Credentials are missing, expired, or do not cover an action."""

    exit_code = 5


class DeployFailed(S3BulkCopyError):
    """The run's resources could not be made; what was made is gone again."""

    exit_code = 6


class NameTaken(DeployFailed):
    """A resource of the run's name exists and is not the run's; a teardown must leave it alone."""

    def __init__(self, message: str, resource: str, hint: str = "") -> None:
        """Keep the name of what is in the way."""
        super().__init__(message, hint)
        self.resource = resource


class QuotaTooSmall(DeployFailed):
    """The account's concurrency quota does not allow the workers asked for."""


class JournalUnusable(S3BulkCopyError):
    """The journal of a run is missing, foreign, damaged, out of reach, or another process has it."""


class JournalMissing(JournalUnusable):
    """This machine has no journal of the run."""

    exit_code = 2


class JournalDamaged(JournalUnusable):
    """What is in the journal makes no sense; nobody can go on with it."""


class JournalForeign(JournalUnusable):
    """Another version of s3bulkcopy wrote the journal, and its workers' reports are not for us to read either."""


class JournalHeld(JournalUnusable):
    """Another process has the journal, and counts the run."""


class LeftBehind(S3BulkCopyError):
    """Something of a run is still in the account."""

    exit_code = 7


class CountsIncomplete(S3BulkCopyError):
    """The run ended without every event having been seen."""

    exit_code = 8


class CountsDiffer(CountsIncomplete):
    """Every event was seen, and what was listed is not what has an outcome: a fault of ours, or of the store's."""


class Halted(S3BulkCopyError):
    """Someone stopped the run from elsewhere."""

    exit_code = 9


class Interrupted(S3BulkCopyError):
    """Ctrl-C or SIGTERM; the run was torn down first."""

    exit_code = 130


class Detached(S3BulkCopyError):
    """The run goes on without this command, whatever it made stays in place; `hint` says how to follow it."""

    exit_code = 0


class Uncounted(Detached):
    """What is heard of the run cannot be taken down; it stays in the reports queue."""

    exit_code = 1


class SignedOut(Detached):
    """The credentials have expired while the run was watched."""

    exit_code = 5


class OutOfReach(Detached):
    """AWS could not be reached while the run was watched."""

    exit_code = 10


class HungUp(Detached):
    """The terminal was closed; the run goes on without this command."""

    exit_code = 129
