"""What commands need to find the account that a run is in, and to name the way there."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from s3bulkcopy.aws.endpoint import check_scheme
from s3bulkcopy.aws.session import AwsSession, identity
from s3bulkcopy.aws.stack import is_run_id
from s3bulkcopy.errors import UsageError
from s3bulkcopy.settings import AwsSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


def look_in(session: AwsSession, aws: AwsSettings) -> str:
    """Give the region to look in, having made sure that AWS answers at all."""
    region = aws.region or session.region
    if not region:
        raise UsageError("no region given", hint="give --region, or set AWS_REGION or a region in your profile")
    check_scheme(aws.endpoint_url)
    identity(session)
    return region


def check_run_id(text: str) -> None:
    """Raise UsageError for what does not look like a run's id."""
    if not is_run_id(text):
        hint = "it looks like 20261123-121632-4f2a91; `s3bulkcopy status` lists them"
        raise UsageError(f"{text!r} is not a run id", hint=hint)


def words(aws: AwsSettings, region: str) -> dict[str, str]:
    """Give the options by which another command reaches the same account."""
    found = {"region": region, "profile": aws.profile, "endpoint-url": aws.endpoint_url}
    return {name: value for name, value in found.items() if value}


def flags(options: Mapping[str, str]) -> str:
    """Write such options as they are typed."""
    return "".join(f" --{name} {shlex.quote(value)}" for name, value in options.items())


def settings(aws: AwsSettings, remembered: Mapping[str, str]) -> AwsSettings:
    """Give the settings that were asked for, and of those that were not, the remembered ones."""
    return AwsSettings(
        aws.region or remembered.get("region"),
        aws.profile or remembered.get("profile"),
        aws.endpoint_url or remembered.get("endpoint-url"),
    )
