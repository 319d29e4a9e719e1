"""The dead letters of a run that was kept: what was done after all is deleted from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from s3bulkcopy.aws.discover import depths
from s3bulkcopy.aws.session import translate
from s3bulkcopy.worker.model import CopyTask, ListTask, MalformedMessage, PartTask, decode_task

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from s3bulkcopy.aws.session import AwsSession
    from s3bulkcopy.worker.model import Range, Task

#: How long a letter that is looked at is ours, in seconds; one that stays can be seen by others after that.
_VISIBILITY_SECONDS = 60

#: How long letters that others look at are waited for, and how often it is looked, in seconds.
_WAIT_SECONDS, _PAUSE_SECONDS = 150.0, 3.0


def forget(
    session: AwsSession,
    region: str,
    urls: dict[str, str],
    run_id: str,
    failed: Collection[str],
    ranges: Sequence[Range],
    retried: Collection[str] | None = None,
    *,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> tuple[int, int]:
    """Delete the letters of which nothing failed again, neither one of the keys nor one of the ranges.

    Gives how many, and how many tasks are left there. Where not all that had failed was retried, `retried` has the keys that
    were, and only letters that hold no others are deleted.

    Letters that someone looked at a moment ago are waited for: they cannot be seen for a while.
    """
    dead = {kind: url for kind, url in urls.items() if kind.endswith("-dead")}
    waited = 0.0
    while waited < _WAIT_SECONDS and any(depth.in_flight for depth in depths(session, region, dead).values()):
        if not waited:
            say(f"waiting until the dead letters of run {run_id} can be seen again, for {_WAIT_SECONDS:.0f} s at most")
        sleep(_PAUSE_SECONDS)
        waited += _PAUSE_SECONDS
    number = left = 0
    sqs = session.client("sqs", region)
    for kind in ("list-dead", "copy-dead"):
        if (url := urls.get(kind)) is None:
            continue
        try:
            for message in _messages(sqs, url):
                task = _task_in(message["Body"])
                if task is None or task.job.run_id != run_id:
                    continue
                if _is_done(task, failed, ranges, retried):
                    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                    number += 1
                else:
                    left += 1
        except (ClientError, BotoCoreError) as error:
            raise translate(error, f"tending the dead letters in {url}") from error
    return number, left


def _messages(sqs: Any, url: str) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - boto3's
    seen: set[str] = set()
    while True:
        # Asked without waiting, SQS looks at some of its servers only: letters that are there would be taken for done.
        answer = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=_VISIBILITY_SECONDS, WaitTimeSeconds=1
        )
        some = [message for message in answer.get("Messages", ()) if message["MessageId"] not in seen]
        if not some:
            return
        seen |= {message["MessageId"] for message in some}
        yield from some


def _task_in(body: str) -> Task | None:
    try:
        task = decode_task(body)
    except MalformedMessage:
        return None
    return task if isinstance(task, CopyTask | PartTask | ListTask) else None


def _is_done(task: Task, failed: Collection[str], ranges: Sequence[Range], retried: Collection[str] | None) -> bool:
    if isinstance(task, CopyTask | PartTask):
        return not any(item.key in failed or (retried is not None and item.key not in retried) for item in task.items)
    return retried is None and not any(_meet(*mine, *other) for mine in task.ranges for other in ranges)


def _meet(after: str, until: str | None, other_after: str, other_until: str | None) -> bool:
    """Tell whether two ranges have a key in common; a part of a range that failed again may be what is left of it.

    >>> _meet("a", "c", "b", None), _meet("a", "b", "b", None)
    (True, False)
    """
    return (until is None or other_after < until) and (other_until is None or after < other_until)
