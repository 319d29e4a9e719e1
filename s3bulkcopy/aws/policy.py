"""IAM policies as values. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from s3bulkcopy.aws.stack import Names
    from s3bulkcopy.worker.model import Job, Location
    from s3bulkcopy.worker.properties import Policy as Properties

Policy = dict[str, Any]


class Keys(NamedTuple):
    """The KMS keys that a job needs, each as AWS or the command line names it: an ARN, an id, or an alias."""

    source: tuple[str, ...] = ()
    destination: tuple[str, ...] = ()


#: An access point's alias, which stands in the place of a bucket's name; its first part is the access point's, maybe cut.
_ALIAS = re.compile(r"(.+)-[a-z0-9]+-s3alias")

#: AWS knows the first only, and holds a batch to be that; an emulator may know the second as an action of its own.
SEND = ["sqs:SendMessage", "sqs:SendMessageBatch"]

#: What copying by parts needs beside the right to write: to see what is there, and to give it up. Tags are looked at besides.
PARTS = ["s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"]


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


def read_actions(properties: Properties) -> list[str]:
    """Give what copying needs of the source's objects."""
    return [
        "s3:GetObject",
        *(["s3:GetObjectTagging"] if properties.tags == "copy" else []),
        *(["s3:GetObjectAnnotation", "s3:ListObjectAnnotations"] if properties.annotations == "copy" else []),
        *(["s3:GetObjectAcl"] if properties.preserves_acl else []),
    ]


def write_actions(properties: Properties) -> list[str]:
    """Give what copying needs of the destination's objects."""
    return [
        "s3:PutObject",
        *(["s3:PutObjectTagging"] if properties.tags != "drop" else []),
        *(["s3:PutObjectAnnotation"] if properties.annotations == "copy" else []),
        *(["s3:PutObjectAcl"] if properties.acl else []),
        *PARTS,
        *(["s3:GetObjectTagging"] if properties.tags != "drop" else []),
    ]


def worker_policy(job: Job, names: Names, account: str, partition: str, region: str, keys: Keys | None = None) -> Policy:
    """What the functions may do: list and read the source prefix, write the destination prefix, use the run's own queues."""
    queues = {kind: f"arn:{partition}:sqs:{region}:{account}:{name}" for kind, name in names.queues.items()}
    reading, writing = read_actions(job.policy), write_actions(job.policy)
    keys = keys or Keys()
    return _document(
        *_on_bucket("List", ["s3:ListBucket"], job.source, partition, **_only_prefix(job.source)),
        *_on_objects("Read", reading, job.source, partition),
        *_on_objects("Write", writing, job.destination, partition),
        *_on_bucket("Look", ["s3:ListBucket"], job.destination, partition, **_only_prefix(job.destination)),
        *_on_keys("Decrypt", ["kms:Decrypt"], keys.source, account, partition, job.source.region),
        *_on_keys("Encrypt", ENCRYPT, keys.destination, account, partition, job.destination.region),
        _allow("Send", SEND, [queues["list"], queues["copy"], queues["reports"]]),
        *_keep(names, account, partition, region),
    )


#: What writing under a KMS key needs; to decrypt is for objects that are put together from parts (S3 user guide, "SSE-KMS").
ENCRYPT = ["kms:GenerateDataKey", "kms:Encrypt", "kms:Decrypt"]


def _only_prefix(place: Location) -> dict[str, Any]:
    """Give the condition that only a prefix is listed."""
    prefix = literal(place.prefix)
    return {"Condition": {"StringLike": {"s3:prefix": f"{prefix}*"}}} if prefix else {}


def bucket_arn(place: Location, partition: str) -> str:
    """Give the ARN of a bucket, or of an access point: of one that is named by its alias as far as that tells.

    >>> from s3bulkcopy.worker.model import Location
    >>> bucket_arn(Location("b", "", "eu-west-1", ""), "aws")
    'arn:aws:s3:::b'
    >>> bucket_arn(Location("ap-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias", "", "eu-west-1", ""), "aws")
    'arn:aws:s3:eu-west-1:*:accesspoint/ap*'
    """
    if place.bucket.startswith("arn:"):
        return place.bucket
    if alias := _ALIAS.fullmatch(place.bucket):
        return f"arn:{partition}:s3:{place.region}:*:accesspoint/{alias[1]}*"
    return f"arn:{partition}:s3:::{place.bucket}"


def objects_arn(place: Location, partition: str) -> str:
    """Give the ARN of all objects below a location."""
    arn = bucket_arn(place, partition)
    return f"{arn}{'/object' if ':accesspoint/' in arn else ''}/{literal(place.prefix)}*"


def _on_bucket(sid: str, actions: list[str], place: Location, partition: str, **more: Any) -> list[Policy]:  # noqa: ANN401
    return _through(sid, actions, bucket_arn(place, partition), f"arn:{partition}:s3:::*", **more)


def _on_objects(sid: str, actions: list[str], place: Location, partition: str) -> list[Policy]:
    behind = f"arn:{partition}:s3:::*/{literal(place.prefix)}*"
    return _through(sid, actions, objects_arn(place, partition), behind)


def _through(sid: str, actions: list[str], arn: str, behind: str, **more: Any) -> list[Policy]:  # noqa: ANN401 - a condition
    """Allow actions on a resource; on one of an access point also on the bucket behind it, whatever it is called, through it.

    AWS asks both whether a request through an access point is allowed (S3 user guide, "Access point policies").
    """
    statements = [_allow(sid, actions, [arn], **more)]
    if ":accesspoint/" in arn:
        point = arn.partition("/object/")[0]
        through: dict[str, Any] = {"ArnLike": {"s3:DataAccessPointArn": point}}
        statements.append(_allow(f"{sid}Behind", actions, [behind], Condition=more.get("Condition", {}) | through))
    return statements


def _on_keys(sid: str, actions: list[str], keys: tuple[str, ...], account: str, partition: str, region: str) -> list[Policy]:
    """Allow the use of KMS keys. IAM knows keys by their ARNs only; what is named by its alias is told by a condition."""
    arns = [key for key in keys if ":key/" in key]
    arns += [f"arn:{partition}:kms:{region}:{account}:key/{key}" for key in keys if ":" not in key and "/" not in key]
    aliases = [key.rpartition(":")[2] for key in keys if ":key/" not in key and "alias/" in key]
    statements = [_allow(sid, actions, arns)] if arns else []
    if aliases:
        named = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": aliases}, "StringLike": {"kms:ViaService": "s3.*"}}
        statements.append(_allow(f"{sid}ByAlias", actions, [f"arn:{partition}:kms:{region}:*:key/*"], Condition=named))
    return statements


# ------------------------------------------------------------------------------------ what others have to add to their policies


def principals(caller_arn: str, account: str, partition: str, role_arn: str | None, *, is_local: bool) -> Policy:
    """Give who reads and writes, as a statement names them: the account, and of it those who ask.

    The role of a run is made anew each time, so that only its path can be named.
    """
    session = re.fullmatch(r"arn:[a-z-]+:sts::\d+:assumed-role/([^/]+)/.*", caller_arn)
    stem = f"arn:{partition}:iam::{account}:role/"
    callers = [f"{stem}{session[1]}", f"{stem}*/{session[1]}"] if session else [caller_arn]
    workers = [] if is_local else [role_arn or f"{stem}s3bulkcopy/*"]
    return {
        "Principal": {"AWS": f"arn:{partition}:iam::{account}:root"},
        "Condition": {"ArnLike": {"aws:PrincipalArn": [*callers, *workers]}},
    }


def source_statements(job: Job, partition: str, who: Policy) -> list[Policy]:
    """Give what the policy of the source bucket, or access point, has to say so that these may read."""
    return [
        _to(who, ["s3:ListBucket"], bucket_arn(job.source, partition)),
        _to(who, read_actions(job.policy), objects_arn(job.source, partition)),
    ]


def destination_statements(job: Job, partition: str, who: Policy) -> list[Policy]:
    """Give what the policy of the destination bucket, or access point, has to say so that these may write, and clean up."""
    return [
        _to(who, ["s3:ListBucket", "s3:ListBucketMultipartUploads"], bucket_arn(job.destination, partition)),
        _to(who, write_actions(job.policy), objects_arn(job.destination, partition)),
    ]


def key_statement(who: Policy, *, decrypts: bool) -> Policy:
    """Give what the policy of a KMS key has to say so that these may use it: of the source's objects, or for the copies."""
    return _to(who, ["kms:Decrypt"] if decrypts else ENCRYPT, "*")


def _to(who: Policy, actions: list[str], resource: str) -> Policy:
    return {"Effect": "Allow", "Principal": who["Principal"], "Action": actions, "Resource": resource,
            "Condition": who["Condition"]}  # fmt: skip


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
        _allow("FindUploads", ["s3:ListBucketMultipartUploads"], [f"arn:{partition}:s3:::{destination}"]),
        _allow("AbortUploads", ["s3:AbortMultipartUpload"], [f"arn:{partition}:s3:::{destination}/*"]),
        _allow("LookAtKeys", ["s3:GetEncryptionConfiguration"],
               [f"arn:{partition}:s3:::{source}", f"arn:{partition}:s3:::{destination}"]),
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
