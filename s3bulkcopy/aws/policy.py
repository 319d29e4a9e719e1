"""IAM policies as values. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s3bulkcopy.aws.stack import Names
    from s3bulkcopy.worker.model import Job

Policy = dict[str, Any]

#: AWS knows the first only, and holds a batch to be that; an emulator may know the second as an action of its own.
SEND = ["sqs:SendMessage", "sqs:SendMessageBatch"]


def _document(*statements: Policy) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(sid: str, actions: list[str], resources: list[str], **more: Any) -> Policy:  # noqa: ANN401 - a condition
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources, **more}


def literal(text: str) -> str:
    """Write a text so that IAM matches it as it stands: wildcards and variables have escapes of their own.

    >>> literal("a*b?c$d")
    'a${*}b${?}c${$}d'
    """
    return "".join(f"${{{c}}}" if c in "*?$" else c for c in text)


def worker_policy(job: Job, names: Names, account: str, partition: str, region: str) -> Policy:
    """What the functions may do: list and read the source prefix, write the destination prefix, use the run's own queues."""
    source, destination = f"arn:{partition}:s3:::{job.source.bucket}", f"arn:{partition}:s3:::{job.destination.bucket}"
    prefix = literal(job.source.prefix)
    only_prefix = {"Condition": {"StringLike": {"s3:prefix": f"{prefix}*"}}} if prefix else {}
    queues = {kind: f"arn:{partition}:sqs:{region}:{account}:{name}" for kind, name in names.queues.items()}
    return _document(
        _allow("List", ["s3:ListBucket"], [source], **only_prefix),
        _allow("Read", ["s3:GetObject", "s3:GetObjectTagging"], [f"{source}/{prefix}*"]),
        _allow("Write", ["s3:PutObject", "s3:PutObjectTagging"], [f"{destination}/{literal(job.destination.prefix)}*"]),
        _allow("Send", SEND, [queues["list"], queues["copy"], queues["reports"]]),
        *_keep(names, account, partition, region),
    )


def braked_policy(names: Names, account: str, partition: str, region: str) -> Policy:
    """What the functions of a halted run may do: end what they took from the queues, and write nothing any more."""
    return _document(*_keep(names, account, partition, region))


def _keep(names: Names, account: str, partition: str, region: str) -> tuple[Policy, Policy]:
    queues = [f"arn:{partition}:sqs:{region}:{account}:{names.queues[kind]}" for kind in ("list", "copy")]
    groups = [f"arn:{partition}:logs:{region}:{account}:log-group:{name}:*" for name in names.log_groups]
    receive = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility"]
    return _allow("Receive", receive, queues), _allow("Log", ["logs:CreateLogStream", "logs:PutLogEvents"], groups)


def trust_policy(account: str) -> Policy:
    """Who may take on the role: Lambda, for this account."""
    return _document(
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": account}},
        }
    )


def caller_policy(
    source: str = "SOURCE", destination: str = "DESTINATION", *, account: str = "*", partition: str = "aws", region: str = "*"
) -> Policy:
    """What whoever runs the tool needs; without names the buckets are to be filled in."""

    def own(service: str, rest: str) -> str:
        return f"arn:{partition}:{service}:{region}:{account}:{rest}"

    role = f"arn:{partition}:iam::{account}:role/s3bulkcopy/s3bulkcopy-*"
    return _document(
        _allow("LookAtBuckets", ["s3:ListBucket"], [f"arn:{partition}:s3:::{source}", f"arn:{partition}:s3:::{destination}"]),
        _allow(
            "OwnQueues",
            ["sqs:CreateQueue", "sqs:DeleteQueue", "sqs:TagQueue", "sqs:ListQueueTags", "sqs:GetQueueUrl",
             "sqs:GetQueueAttributes", "sqs:PurgeQueue", *SEND, "sqs:ReceiveMessage", "sqs:DeleteMessage"],
            [own("sqs", "s3bulkcopy-*")],
        ),
        _allow(
            "OwnFunctions",
            ["lambda:CreateFunction", "lambda:DeleteFunction", "lambda:GetFunction", "lambda:GetFunctionConfiguration",
             "lambda:InvokeFunction", "lambda:ListTags", "lambda:TagResource", "lambda:PutFunctionRecursionConfig",
             "lambda:GetFunctionRecursionConfig"],
            [own("lambda", "function:s3bulkcopy-*")],
        ),
        _allow("OwnMappings", ["lambda:CreateEventSourceMapping", "lambda:UpdateEventSourceMapping",
                               "lambda:DeleteEventSourceMapping", "lambda:GetEventSourceMapping"], ["*"]),
        _allow("TagMappings", ["lambda:TagResource"], [own("lambda", "event-source-mapping:*")]),
        _allow("OwnLogGroups", ["logs:CreateLogGroup", "logs:DeleteLogGroup", "logs:PutRetentionPolicy",
                                "logs:TagResource", "logs:ListTagsForResource"],
               [own("logs", "log-group:/aws/lambda/s3bulkcopy-*")]),
        _allow("OwnRole", ["iam:CreateRole", "iam:DeleteRole", "iam:PutRolePolicy", "iam:DeleteRolePolicy",
                           "iam:TagRole", "iam:ListRoleTags"], [role]),
        _allow("HandRoleToLambda", ["iam:PassRole"], [role],
               Condition={"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}),
        _allow("Find", ["sqs:ListQueues", "lambda:ListFunctions", "lambda:ListEventSourceMappings",
                        "lambda:GetAccountSettings", "logs:DescribeLogGroups", "iam:ListRoles"], ["*"]),
    )  # fmt: skip
