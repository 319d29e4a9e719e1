"""What to do about an answer that is not a success: one axis, what comes next. Pure."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from s3bulkcopy.worker.model import MAX_CODE_BYTES, clip
from s3bulkcopy.worker.xml import unescaped

if TYPE_CHECKING:
    from s3bulkcopy.worker.model import FatalKind


class Next(Enum):
    """What to do about a fault."""

    #: Ask again after a pause; the fault passes.
    RETRY = auto()
    #: As RETRY, and at once: what was wrong with the request is known now, and mended.
    MENDED = auto()
    #: As RETRY, and ask less often: S3 says that it is too much.
    SLOW_DOWN = auto()
    #: This object is not at the destination and asking again would not change it.
    RECORD = auto()
    #: The object is gone since it was listed, it is said.
    VANISHED = auto()
    #: The destination exists already, and the job does not overwrite.
    EXISTS = auto()
    #: The object has changed since it was listed, or is larger than was known.
    CHANGED = auto()
    #: The object has changed, or the destination exists already: the answer does not say which.
    PRECONDITION = auto()
    #: Denied: for good, or only as long as a fresh role's permissions are on their way.
    DENIED = auto()
    #: This environment's credentials are of no use any more.
    EXPIRED = auto()
    #: No request of this run can succeed.
    STOP = auto()


class Fault(NamedTuple):
    """An answer that is not a success, or no answer at all."""

    next: Next
    code: str
    cause: str

    def __str__(self) -> str:
        """Give the fault as S3 gave it."""
        return f"{self.code}: {self.cause}" if self.cause else self.code


class Stop(Exception):
    """The run cannot go on; it ends as `Fatal` of this kind."""

    def __init__(self, kind: FatalKind, cause: str) -> None:
        """Keep the kind and the cause."""
        super().__init__(cause)
        self.kind = kind
        self.cause = cause


def stop_for(fault: Fault) -> Stop:
    """Give how a run ends at a fault that no request of it can get past."""
    return Stop("not_found" if fault.code == "NoSuchBucket" else "not_permitted", str(fault))


class Failed(Exception):
    """A request failed for good, or for longer than we ask."""

    def __init__(self, fault: Fault, doing: str) -> None:
        """Keep the fault; `doing` names the request."""
        super().__init__(f"{doing}: {fault}")
        self.fault = fault


#: Codes of ours for stores that take a request for another: one that answers something else, and one that stores an upload of
#: nothing in place of a copy. And what to do about them.
UNKNOWN_ANSWER, COPY_UNKNOWN = "UnknownAnswer", "CopyUnknown"
WHAT_TO_DO = {
    UNKNOWN_ANSWER: "the store does not know what is asked for: leave out --acl preserve, or give --tags drop, as it says",
    COPY_UNKNOWN: "the store does not know such a copy: a higher --multipart-threshold copies more objects by one request",
}

#: What stores say, or do, about a request, or something that it asks for, that they do not know.
NOT_KNOWN = frozenset({"NotImplemented", "MethodNotAllowed", "HTTP 501", "HTTP 405", UNKNOWN_ANSWER, COPY_UNKNOWN})

_SLOW_DOWN = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequestsException",
     "RequestLimitExceeded", "KMS.ThrottlingException", "ServiceUnavailable", "Slow Down"}
)  # fmt: skip
_RETRY = frozenset(
    {"InternalError", "RequestTimeout", "RequestTimeTooSkewed", "OperationAborted", "TemporaryRedirect", "BadDigest",
     "IncompleteBody", "InternalFailure", "ServiceFailure", "ConditionalRequestConflict"}
)  # fmt: skip
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_STOP = frozenset(
    {"NoSuchBucket", "PermanentRedirect", "AuthorizationHeaderMalformed", "InvalidAccessKeyId", "SignatureDoesNotMatch",
     "InvalidToken", "AccountProblem", "AllAccessDisabled", "NotSignedUp", "InvalidBucketName"}
)  # fmt: skip
#: What S3 says, with a mere InvalidRequest, of an object that one CopyObject cannot copy.
_TOO_LARGE = "larger than the maximum allowable size for a copy source"
_CONDITIONS = {"if-none-match": Next.EXISTS, "": Next.PRECONDITION}
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "Forbidden", "403"})


def classify(status: int, code: str, cause: str, condition: str = "") -> Fault:
    """Put an error answer on the axis.

    `code` and `cause` are the Code and Message of the error document, empty where there was none; `condition` is its
    Condition, which tells the two preconditions of a copy apart. KMS throttles with a 400 whose message says so.
    """
    return Fault(_next(status, code, cause, condition), clip(code or f"HTTP {status}", MAX_CODE_BYTES), clip(cause))


def _next(status: int, code: str, cause: str, condition: str) -> Next:  # noqa: PLR0911 - a table, read from top to bottom
    if code in _SLOW_DOWN or (status == 503 and not code) or _is_kms_throttling(f"{code} {cause}".lower()):
        return Next.SLOW_DOWN
    if code in _EXPIRED:
        return Next.EXPIRED
    if code in _STOP or status == 301:
        return Next.STOP
    if code == "NoSuchKey":  # a 404 that does not say so may be a proxy's own
        return Next.VANISHED
    if status == 412 or code == "PreconditionFailed":
        return _CONDITIONS.get(condition.lower(), Next.CHANGED)
    if _TOO_LARGE in cause:
        return Next.CHANGED
    if code in _DENIED or (status in (401, 403) and not code):
        return Next.DENIED
    if status == 501:
        return Next.RECORD
    if code in _RETRY or status >= 500 or status in (408, 429) or status == 307 or (status == 409 and not code):
        return Next.RETRY
    return Next.RECORD


def _is_kms_throttling(text: str) -> bool:
    return "kms" in text and "throttl" in text


_FIELDS = [rf"(?s)<{name}>(.*?)</{name}>".encode() for name in ("Code", "Message", "Condition")]


def read_error(status: int, body: bytes) -> Fault:
    """Read an error document, or what stands in its place."""
    code, message, condition = (
        unescaped(found[1].decode("utf-8", "replace")) if (found := re.search(pattern, body)) else "" for pattern in _FIELDS
    )
    return classify(status, code, message, condition)


def lost(error: BaseException) -> Fault:
    """Give the fault of a request that got no answer: a reset, a timeout, a name that does not resolve."""
    return Fault(Next.RETRY, clip(type(error).__name__, MAX_CODE_BYTES), clip(str(error)))
