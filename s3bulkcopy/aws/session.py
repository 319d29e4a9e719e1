"""A session with AWS: clients, who we are, where buckets are, and AWS's errors in our words."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    RefreshWithMFAUnsupportedError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.httpsession import ProxyConfiguration, get_cert_path
from botocore.parsers import ResponseParserError
from botocore.utils import get_environ_proxies

from s3bulkcopy import __version__
from s3bulkcopy.errors import BucketRefused, BucketUnavailable, NotAws, NotPermitted, S3BulkCopyError, UsageError
from s3bulkcopy.worker.regions import REGION_HERE
from s3bulkcopy.worker.s3 import SKEW_SECONDS
from s3bulkcopy.worker.sigv4 import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from s3bulkcopy.settings import AwsSettings

_logger = logging.getLogger("s3bulkcopy.aws")

#: Where requests go that belong to no region: any region knows where a bucket is.
_ANY_REGION = "us-east-1"

_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation", "403"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_UNKNOWN_KEY = frozenset(
    {
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "AuthFailure",
    }
)

#: What to look at where credentials are not accepted.
_WHAT_CREDENTIALS = "look at the access key, its secret and --profile; on AWS `aws sts get-caller-identity` tests them"

_BUSY = frozenset({"ThrottlingException", "Throttling", "RequestThrottled", "TooManyRequestsException", "ServiceUnavailable"})

#: Operations whose IAM action has another name.
_ACTIONS = {
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:HeadBucket": "s3:ListBucket",
    "lambda:Invoke": "lambda:InvokeFunction",
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
}

#: How AWS names the action that it refuses, which need not be that of the operation: creating a function also passes a role
#: and sets tags.
_REFUSED = re.compile(r"not authorized to perform: ([a-z0-9-]+:[A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose credentials we have."""

    account: str
    arn: str

    @property
    def partition(self) -> str:
        """The part of AWS that the account is in: `aws`, `aws-cn`, `aws-us-gov`."""
        return self.arn.split(":")[1]


class AwsSession:
    """Opens boto3 clients and keeps them; safe to use from several threads."""

    def __init__(self, settings: AwsSettings) -> None:
        """Open a session as the command line asks; raises UsageError for an unknown profile."""
        self._settings = settings
        self._lock = threading.Lock()
        self._is_hasty = False
        self._pays = False
        self._begin()

    def renew(self) -> None:
        """Begin anew, with the credentials that there are now: files may hold others than a while ago."""
        with self._lock:
            self._begin()

    def pay(self) -> None:
        """Offer from now on to pay for requests to buckets whose owners do not."""
        with self._lock:
            self._pays = True
            self._begin()

    def _begin(self) -> None:
        settings = self._settings
        try:
            self._session = boto3.Session(region_name=settings.region, profile_name=settings.profile)
        except ProfileNotFound as error:
            raise UsageError(
                f"there is no profile '{settings.profile}'", hint="`aws configure list-profiles` shows those there are"
            ) from error
        if not os.access(self.ca_file, os.R_OK):
            raise UsageError(
                f"the certificates to trust cannot be read: {self.ca_file}",
                hint="see AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE, and ca_bundle in the AWS configuration",
            )
        self._profile = settings.profile
        #: Where credentials come from.
        self._chain = self._session
        self._session.events.register("after-call.*", _log_call)
        self._session.events.register_first("needs-retry", _raise_distrust)
        if self._pays:
            self._session.events.register("before-sign.s3", _offer_payment)
        # To tell that a service exists, botocore looks into four hundred folders, twice, for a tenth of a second.
        loader = self._session._session.get_component("data_loader")  # noqa: SLF001 - boto3 has no name for it
        loader.list_available_services = lambda _kind: ("s3", *_SERVICES)
        # Dates are wanted as they stand there, and reading those of a listing takes longer than all else about it.
        parsers = self._session._session.get_component("response_parser_factory")  # noqa: SLF001 - boto3 has no name for it
        parsers.set_parser_defaults(timestamp_parser=str)
        self._endpoint_url = settings.endpoint_url
        self._clients: dict[tuple[str, str | None, bool], Any] = {}

    @property
    def region(self) -> str | None:
        """The region that was asked for or is configured."""
        # boto3 reads AWS_DEFAULT_REGION; the other SDKs, Lambda and most CI systems mean AWS_REGION.
        region: str | None = self._session.region_name or os.environ.get("AWS_REGION")
        return region

    @property
    def has_other_store(self) -> bool:
        """Tell whether an endpoint is named, so that the store need not be AWS's: by option, environment or profile."""
        if self._endpoint_url is not None:
            return True
        session = self._session._session  # noqa: SLF001 - boto3 has no name for it
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            return False
        profile = session.get_scoped_config()
        of_s3 = session.full_config.get("services", {}).get(profile.get("services"), {}).get("s3", {})
        named = (os.environ.get("AWS_ENDPOINT_URL_S3"), os.environ.get("AWS_ENDPOINT_URL"))
        return any((*named, of_s3.get("endpoint_url"), profile.get("endpoint_url")))

    def credentials(self) -> Credentials:
        """Give the credentials that are valid now, renewed where they can be; raises NotPermitted where there are none."""
        return _frozen(self._chain)

    def renewed_credentials(self) -> Credentials:
        """Look for credentials as if for the first time: files may hold others by now. `credentials` follows."""
        try:
            self._chain = boto3.Session(profile_name=self._profile)
        except ProfileNotFound as error:
            raise translate(error, "looking for credentials") from error
        return _frozen(self._chain)

    @property
    def ca_file(self) -> str:
        """The certificates that boto3 trusts: a bundle that was configured, or its own."""
        bundle = self._session._session.get_config_variable("ca_bundle")  # noqa: SLF001 - boto3 has no name for it
        return str(bundle or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True))

    def proxy(self, *urls: str) -> str | None:
        """Give the proxy that boto3 goes through to URLs, as the environment says; raises UsageError where workers cannot."""
        proxies = {ProxyConfiguration(get_environ_proxies(url)).proxy_url_for(url) for url in urls}
        if len(proxies) > 1:
            raise UsageError(
                f"the environment has different proxies for {' and '.join(urls)}, and the local engine goes one way",
                hint="name both hosts in NO_PROXY, or neither",
            )
        proxy: str | None = proxies.pop()
        if proxy is not None and urlsplit(proxy).scheme != "http":
            raise UsageError(
                f"the local engine does not speak {urlsplit(proxy).scheme} to a proxy",
                hint="set HTTPS_PROXY to an http:// URL (what goes through it is encrypted all the same), or NO_PROXY",
            )
        return proxy

    def client(self, service: str, region: str | None = None) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        """Give the client of a service in a region."""
        with self._lock:
            key = service, region, self._is_hasty
            if key not in self._clients:
                self._clients[key] = self._open(*key)
            return self._clients[key]

    @contextmanager
    def hasty(self) -> Iterator[None]:
        """Have clients tell soon that nobody answers, as long as this is entered: for whoever asks again, and says so."""
        before, self._is_hasty = self._is_hasty, True
        try:
            yield
        finally:
            self._is_hasty = before

    def _open(self, service: str, region: str | None, is_hasty: bool) -> Any:  # noqa: ANN401, FBT001
        path_style = service == "s3" and self.has_other_store
        # The first calls of all: an endpoint where nobody answers is to be told soon.
        is_first = service == "sts" or (service == "s3" and not region)
        config = Config(
            retries={"mode": "standard", "max_attempts": 2 if is_hasty else 3 if is_first else 8},
            user_agent_extra=f"s3bulkcopy/{__version__}",
            connect_timeout=5 if is_hasty else 10,
            read_timeout=30 if is_hasty else 130,
            max_pool_connections=32,
            # Left to itself botocore presigns for the global endpoint, which redirects while a bucket is young.
            s3={"addressing_style": "path" if path_style else "virtual"},
        )
        try:
            return self._session.client(
                service,
                region_name=region or self.region or _ANY_REGION,
                endpoint_url=self._endpoint_url,
                config=config,
            )
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"cannot speak to {service}: {error}", hint="see --region and --endpoint-url") from error


def _frozen(session: boto3.Session) -> Credentials:
    try:
        found = session.get_credentials()
        if found is None:
            raise NoCredentialsError
        frozen = found.get_frozen_credentials()
    except (ClientError, BotoCoreError) as error:
        raise translate(error, "looking for credentials") from error
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token or None)


def _raise_distrust(caught_exception: Exception | None = None, **_: Any) -> None:  # noqa: ANN401 - botocore's
    """Have a certificate that is not trusted told at once: asking again, as botocore would for a minute, shows the same one."""
    if isinstance(caught_exception, SSLError):
        raise caught_exception


def _offer_payment(request: Any, **_: Any) -> None:  # noqa: ANN401 - botocore's
    """Say that we pay, also with requests for which boto3 knows no parameter: looking at a bucket."""
    del request.headers["x-amz-request-payer"]  # to set it adds another
    request.headers["x-amz-request-payer"] = "requester"


def _log_call(http_response: Any, parsed: dict[str, Any], model: Any, **_: Any) -> None:  # noqa: ANN401 - botocore's
    """Log a call and its outcome, and nothing that signs it."""
    request_id = parsed.get("ResponseMetadata", {}).get("RequestId", "")
    service = model.service_model.service_name
    _logger.info("%s:%s %s %s", service, model.name, http_response.status_code, request_id)


class Lack(Enum):
    """What keeps AWS from hearing us, and may pass."""

    NETWORK = auto()
    CREDENTIALS = auto()


def lack(error: BaseException) -> Lack | None:
    """Tell whether an error says that we are not heard, for now; None where it says something else."""
    if isinstance(error, S3BulkCopyError):
        return lack(error.__cause__) if error.__cause__ is not None else None
    if isinstance(error, ClientError):
        code, status = error_code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _EXPIRED | _UNKNOWN_KEY:
            return Lack.CREDENTIALS
        return Lack.NETWORK if status >= 500 or code in _BUSY else None  # noqa: PLR2004 - a fault of the server
    if isinstance(
        error, (NoCredentialsError, CredentialRetrievalError, SSOError, TokenRetrievalError, RefreshWithMFAUnsupportedError)
    ):
        return Lack.CREDENTIALS
    return Lack.NETWORK if isinstance(error, (NoConnectionError, HTTPClientError)) else None


def translate(error: Exception, doing: str) -> S3BulkCopyError:  # noqa: PLR0911 - a table, read from top to bottom
    """Put what AWS or the way to it said into our words; `doing` names the request: "listing s3://bucket"."""
    if isinstance(error, S3BulkCopyError):
        return error
    if isinstance(error, ClientError):
        return _translate_answer(error, doing)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return NotPermitted(
            f"no AWS credentials found: {error}",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, give --profile, or run `aws configure`",
        )
    if isinstance(error, CredentialRetrievalError):
        hint = "look at what the profile has its credentials from; after a login, `aws sso login` renews it"
        return NotPermitted(f"{doing}: {error}".strip(), hint=hint)
    if isinstance(error, (SSOError, TokenRetrievalError, RefreshWithMFAUnsupportedError)):
        return NotPermitted(f"{doing}: {error}", hint="log in again: `aws sso login`")
    if isinstance(error, NoRegionError):
        return UsageError(f"{doing}: no region", hint="give --region, or set AWS_REGION")
    if isinstance(error, ParamValidationError):
        return UsageError(f"{doing}: {error}")
    if isinstance(error, SSLError):
        return S3BulkCopyError(
            f"{doing}: {error.kwargs['endpoint_url']} is not trusted: {error.kwargs['error']}",
            hint="name the certificates to trust, a file, in AWS_CA_BUNDLE; the URL must name the host as its certificate does",
        )
    if isinstance(error, (NoConnectionError, HTTPClientError)):
        return S3BulkCopyError(f"{doing}: nobody answers: {error}", hint="look at the network, the proxy and --endpoint-url")
    return S3BulkCopyError(f"{doing}: {error}")


def _translate_answer(error: ClientError, doing: str) -> S3BulkCopyError:
    code, said = error_code(error), str(error.response.get("Error", {}).get("Message", ""))
    if minutes := _minutes_off(error):
        return NotPermitted(
            f"{doing}: refused, and this machine's clock is {abs(minutes):,} minutes {'slow' if minutes > 0 else 'fast'}",
            hint="set the clock: a request is valid for a quarter of an hour before and after its date",
        )
    if code in _EXPIRED:
        return NotPermitted(f"{doing}: the credentials have expired", hint="refresh them, for example with `aws sso login`")
    if code in _UNKNOWN_KEY:
        return NotPermitted(f"{doing}: the credentials are not accepted ({code}: {said})", hint=_WHAT_CREDENTIALS)
    action = action_of(error)
    if code in _DENIED:
        return NotPermitted(f"{doing}: {action} is denied: {said}", hint=f"allow {action}; see Permissions in the README")
    return S3BulkCopyError(f"{doing}: {code}: {said}")


def _minutes_off(error: ClientError) -> int:
    """Give by how many minutes our clock is behind that of a refusal; 0 where that is too few to explain it."""
    answered = answered_at(error.response)
    if answered is None or error.response["ResponseMetadata"].get("HTTPStatusCode") not in (400, 403):
        return 0
    seconds = answered - time.time()
    return round(seconds / 60) if abs(seconds) > SKEW_SECONDS else 0


def answered_at(answer: Mapping[str, Any]) -> float | None:
    """Give when an answer of boto3's was given, in seconds since the epoch; None where it does not say."""
    try:
        return parsedate_to_datetime(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")).timestamp()
    except ValueError:
        return None


def error_code(error: ClientError) -> str:
    """Give AWS's code, without the namespace that some services put before or behind it."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code.rpartition("#")[2].removeprefix("AWS.SimpleQueueService.")


def action_of(error: ClientError) -> str:
    """Name the refused action as IAM does: in AWS's own words where it says, else by the operation that failed.

    boto3 says which operation failed but not of which service; operation names of the services used here do not clash.
    """
    if said := _REFUSED.search(str(error.response.get("Error", {}).get("Message", ""))):
        return said[1]
    operation = str(error.operation_name)
    service = next((name for name, operations in _SERVICES.items() if operation in operations), "s3")
    return _ACTIONS.get(f"{service}:{operation}", f"{service}:{operation}")


_SERVICES = {
    "sqs": frozenset(
        {"CreateQueue", "DeleteQueue", "GetQueueAttributes", "GetQueueUrl", "ListQueues", "ListQueueTags", "PurgeQueue",
         "ReceiveMessage", "DeleteMessage", "SendMessage", "SendMessageBatch", "DeleteMessageBatch", "TagQueue",
         "SetQueueAttributes"}
    ),
    "iam": frozenset(
        {"CreateRole", "DeleteRole", "PutRolePolicy", "DeleteRolePolicy", "ListRoles", "ListRoleTags", "GetRole"}
    ),
    "lambda": frozenset(
        {"CreateFunction", "DeleteFunction", "GetFunction", "GetFunctionConfiguration", "Invoke", "ListFunctions",
         "ListTags", "PutFunctionRecursionConfig", "GetFunctionRecursionConfig", "CreateEventSourceMapping",
         "UpdateEventSourceMapping", "DeleteEventSourceMapping", "GetEventSourceMapping", "ListEventSourceMappings",
         "GetAccountSettings"}
    ),
    "logs": frozenset(
        {"CreateLogGroup", "DeleteLogGroup", "DescribeLogGroups", "PutRetentionPolicy", "ListTagsForResource"}
    ),
    "sts": frozenset({"GetCallerIdentity"}),
}  # fmt: skip


def identity(session: AwsSession) -> Identity:
    """Ask AWS who we are; raises NotPermitted without usable credentials, or NotAws where something else answers."""
    client = session.client("sts")
    try:
        answer = client.get_caller_identity()
        return Identity(answer["Account"], answer["Arn"])
    except (ClientError, BotoCoreError) as error:
        if isinstance(error, ClientError) and _is_of_no_aws(error):
            raise _no_aws(client.meta.endpoint_url) from error
        raise translate(error, "asking AWS who we are") from error
    except (KeyError, ResponseParserError) as error:
        raise _no_aws(client.meta.endpoint_url) from error


def _is_of_no_aws(error: ClientError) -> bool:
    """Tell whether an answer bears no code of AWS's, or says that such requests are unknown."""
    code = error_code(error)
    return not code or code.isdigit() or code in ("NotImplemented", "MethodNotAllowed", "NoSuchBucket")


def _no_aws(url: str) -> NotAws:
    return NotAws(
        f"asking AWS who we are: what answers at {url} is not AWS",
        hint="a store that is not AWS takes --engine local, with `run`; its runs need no teardown",
    )


def bucket_region(session: AwsSession, bucket: str, owner: str = "") -> str:
    """Find where a bucket is; raises BucketUnavailable where it is not, or BucketRefused where it is not for us.

    It is refused, too, if it does not belong to the account `owner`, where that is given. The region of an access point stands
    in its ARN.
    """
    pinned, at = {"ExpectedBucketOwner": owner} if owner else {}, bucket.split(":")[3] if bucket.startswith("arn:") else None
    client = session.client("s3", at)
    try:
        answer = client.head_bucket(Bucket=bucket, **pinned)
    except ClientError as error:
        code, headers = error_code(error), error.response["ResponseMetadata"].get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region")
        if code in ("404", "NoSuchBucket"):
            raise _missing(bucket, client.meta.endpoint_url) from error
        if code in ("301", "PermanentRedirect") and region:
            return str(region)
        if code in _DENIED and not _minutes_off(error):
            _raise_for_credentials(client, bucket, pinned)
            other = f", or does not belong to account {owner}" if owner else ""
            raise BucketRefused(
                f"bucket '{bucket}' refuses these credentials{other}",
                hint="it belongs to someone else, or s3:ListBucket is not allowed; its owner can let you in by bucket policy",
            ) from error
        raise translate(error, f"looking at bucket '{bucket}'") from error
    except BotoCoreError as error:
        raise translate(error, f"looking at bucket '{bucket}'") from error
    found = answer.get("BucketRegion") or answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    return str(at or found or session.region or _ANY_REGION)


def _raise_for_credentials(client: Any, bucket: str, pinned: dict[str, str]) -> None:  # noqa: ANN401 - boto3's
    """Raise NotPermitted where it is our credentials that a bucket refuses: a HEAD request is not told so, another is."""
    try:
        client.list_objects_v2(Bucket=bucket, MaxKeys=1, **pinned)
    except ClientError as error:
        if error_code(error) in _UNKNOWN_KEY | _EXPIRED:
            raise translate(error, f"looking at bucket '{bucket}'") from error
    except BotoCoreError:
        pass


def _missing(bucket: str, endpoint_url: str) -> S3BulkCopyError:
    """Say that a bucket is not there: where the endpoint has a path, which belongs to few stores, for that reason perhaps."""
    if (path := urlsplit(endpoint_url).path.rstrip("/")) == "":
        return BucketUnavailable(f"bucket '{bucket}' does not exist", hint="is the name spelled right?")
    return UsageError(
        f"bucket '{bucket}' does not exist at {endpoint_url}",
        hint=f"--endpoint-url need not have {path}, unless the store's own documentation says so: SRC and DST name buckets",
    )


def encryption_key(session: AwsSession, bucket: str, region: str) -> str:
    """Give the KMS key that a bucket encrypts with by default, as the bucket names it; empty where there is none.

    Also where we may not know: an option names the key then. A key that belongs to AWS itself needs no permission.
    """
    try:
        answer = session.client("s3", region).get_bucket_encryption(Bucket=bucket)
        rules = answer["ServerSideEncryptionConfiguration"]["Rules"]
    except (ClientError, BotoCoreError, KeyError):
        return ""
    defaults = (rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in rules)
    return next((str(one["KMSMasterKeyID"]) for one in defaults if one.get("KMSMasterKeyID")), "")


def bucket_url(session: AwsSession, bucket: str, region: str) -> str:
    """Give the root of a bucket's URLs, as botocore's own endpoint rules have it; no slash at the end."""
    client = session.client("s3", region)
    parts = urlsplit(client.generate_presigned_url("list_objects_v2", Params={"Bucket": bucket}))
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def elsewhere_url(session: AwsSession, bucket: str, region: str) -> str:
    """Give what `bucket_url` gives, for the same bucket in any region of the same partition: its name stands as `{region}`.

    So a worker can follow a redirect, in any partition, with FIPS and dual-stack. Nothing where no region is in the host: of a
    store of one's own, and of an access point, which is where its ARN says.
    """
    number = re.search(r"\d+$", region)
    if number is None:
        return ""
    other = f"{region[: number.start()]}9{number[0]}"  # there need not be one: a partition's rules are the same for all

    def move(builtins: dict[str, Any], **_: Any) -> None:  # noqa: ANN401 - botocore's
        builtins["AWS::Region"] = other

    events = session.client("s3", region).meta.events
    events.register("before-endpoint-resolution.s3", move)
    try:
        url = bucket_url(session, bucket, region)
    finally:
        events.unregister("before-endpoint-resolution.s3", move)
    return url.replace(other, REGION_HERE) if url.count(other) == 1 and other not in bucket else ""


def heeds_if_none_match(session: AwsSession, bucket: str, key: str, region: str) -> bool:
    """Tell whether a store refuses to copy onto an object that exists, where it is asked to.

    The object is copied onto itself, so that a store which does it all the same changes nothing.
    """
    client = session.client("s3", region)
    client.meta.events.register("before-sign.s3.CopyObject", _ask_for_none_match)
    try:
        client.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": key})
    except ClientError as error:
        return error_code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict")
    except BotoCoreError as error:
        raise translate(error, f"asking how bucket '{bucket}' treats what exists") from error
    finally:
        client.meta.events.unregister("before-sign.s3.CopyObject", _ask_for_none_match)
    return False


def _ask_for_none_match(request: Any, **_: Any) -> None:  # noqa: ANN401 - botocore's
    """Add what older versions of boto3 know no parameter for."""
    request.headers["If-None-Match"] = "*"


def free_concurrency(session: AwsSession, region: str) -> int | None:
    """Give how many concurrent executions the account has left in a region; None where it does not say."""
    try:
        answer = session.client("lambda", region).get_account_settings()
    except (ClientError, BotoCoreError):
        return None
    return int(answer["AccountLimit"]["UnreservedConcurrentExecutions"])
