"""Options of two engines: which apply, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from s3bulkcopy import options
from s3bulkcopy.settings import BucketPrefix, LocalSettings, PropertySettings, StackSettings
from s3bulkcopy.worker.model import MULTIPART_BYTES, PART_BYTES, split_place


def chosen(*arguments: str, **variables: str) -> tuple[Result, StackSettings | LocalSettings | None]:
    """Give what a command line and variables of the environment ask for."""
    found: list[StackSettings | LocalSettings] = []

    @click.command()
    @options.engine_options
    @options.copy_options
    @options.stack_options
    @options.output_options
    def command(**values: Any) -> None:
        found.append(options.engine_settings(values))

    result = CliRunner().invoke(command, arguments, env={f"S3BULKCOPY_{name}": value for name, value in variables.items()})
    return result, found[0] if found else None


def test_an_option_of_the_other_engine_is_refused() -> None:
    for arguments in (["--engine", "local", "--workers", "3"], ["--processes", "3"]):
        result, settings = chosen(*arguments)

        assert (result.exit_code, settings, "is an option of the" in result.stderr) == (2, None, True)


def test_one_lister_needs_the_local_engine_and_its_variable_is_ignored_without() -> None:
    result, settings = chosen("--one-lister")
    by_variable, of_variable = chosen(ONE_LISTER="1")

    assert (result.exit_code, settings) == (2, None)
    assert "--one-lister is an option of the local engine: leave it out, or add --engine local" in result.stderr
    assert of_variable == StackSettings()
    assert by_variable.stderr == "note: S3BULKCOPY_ONE_LISTER is ignored, as it is for the local engine\n"


def test_a_variable_for_the_other_engine_is_named_and_ignored() -> None:
    local, lambdas = chosen("--engine", "local", "--processes", "2", WORKERS="20", TAG="a=b"), chosen(PROCESSES="3")

    assert local[1] == LocalSettings(2)
    assert local[0].stderr.splitlines() == [
        "note: S3BULKCOPY_WORKERS is ignored, as it is for the lambda engine",
        "note: S3BULKCOPY_TAG is ignored, as it is for the lambda engine",
    ]
    assert lambdas[1] == StackSettings()
    assert lambdas[0].stderr == "note: S3BULKCOPY_PROCESSES is ignored, as it is for the local engine\n"


def test_variables_for_the_engine_in_use_are_taken_in_silence() -> None:
    result, settings = chosen(ENGINE="local", PROCESSES="3")

    assert (settings, result.output) == (LocalSettings(3), "")


def test_nothing_is_said_of_variables_where_only_errors_are_wanted() -> None:
    result, settings = chosen("--engine", "local", "--processes", "2", "--quiet", WORKERS="20")

    assert (settings, result.output) == (LocalSettings(2), "")


def test_without_a_number_there_is_a_process_for_each_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("--engine", "local")[1] == LocalSettings(len(os.sched_getaffinity(0)))

    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert chosen("--engine", "local")[1] == LocalSettings(os.cpu_count() or 1)


@pytest.mark.parametrize("url", ["https://store.example", "http://127.0.0.1:9000/", "HTTP://[::1]:80", "https://a.b/with/path"])
def test_an_endpoint_is_a_scheme_and_a_host(url: str) -> None:
    assert options.EndpointType().convert(url, None, None) == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("store:9000", "'store:9000' has no scheme: write https://store:9000, or http://store:9000 if it has no TLS"),
        ("ftp://store", "speaks ftp, and S3 is spoken over HTTP: write https://store, or http://store"),
        ("http://store:99999", "Port out of range 0-65535; write http://HOST or http://HOST:PORT"),
        ("https://store:port", "as 'port'; write https://HOST or https://HOST:PORT"),
        *(
            (f"http://{rest}", "not just a host, or a host and a port; write http://HOST")
            for rest in ("", "a:0", "a?b", "a#b", "u:p@a")
        ),
    ],
)
def test_another_endpoint_is_refused_with_what_to_write(url: str, said: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        options.EndpointType().convert(url, None, None)
    assert said in caught.value.message


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("1.5h", 5400), ("2d", 172_800)])
def test_an_age_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert options.DurationType().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "2", "d", "-1d", "2 d", "2w", "1e3s"])
def test_another_age_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 30s, 15m, 12h or 2d"):
        options.DurationType().convert(text, None, None)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    assert options.NewFileType().convert(str(tmp_path / "new"), None, None) == tmp_path / "new"
    for path in (tmp_path, Path(os.devnull), tmp_path / "missing" / "new"):
        with pytest.raises(click.BadParameter, match=r"is no file|folder"):
            options.NewFileType().convert(str(path), None, None)


def test_what_goes_on_in_aws_is_for_the_lambda_engine() -> None:
    result, settings = chosen("--engine", "local", "--keep-failed")

    assert (result.exit_code, settings, "is an option of the lambda engine" in result.stderr) == (2, None, True)


def sizes(*arguments: str) -> tuple[Result, tuple[int, int] | None]:
    """Give the sizes of parts that a command line asks for: from which size on, and theirs."""
    found: list[tuple[int, int]] = []

    @click.command()
    @options.copy_options
    def command(**values: Any) -> None:
        copy = options.copy_settings({"source": None, "destination": None, **values})
        found.append((copy.multipart_bytes, copy.part_bytes))

    result = CliRunner().invoke(command, arguments)
    return result, found[0] if found else None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 * 1024**2),
        ("5GiB", 5 * 1024**3),
        ("5GB", 5 * 10**9),
        ("1.5gib", 3 * 512 * 1024**2),
        ("5242880", 5 * 1024**2),
    ],
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert sizes("--part-size", text, "--multipart-threshold", text)[1] == (size, size)


def test_sizes_have_the_defaults_of_the_job() -> None:
    assert sizes()[1] == (MULTIPART_BYTES, PART_BYTES)


@pytest.mark.parametrize("text", ["4MiB", "6GiB", "lots", "-1", "", "1 PiB"])
def test_sizes_that_s3_does_not_take_are_refused(text: str) -> None:
    result, found = sizes("--part-size", text)

    assert (result.exit_code, found) == (2, None)
    assert "between 5,242,880 and 5,368,709,120 bytes" in result.stderr or "is not a size" in result.stderr


# ------------------------------------------------------------------------------------------------------------ properties


def asked(*arguments: str) -> tuple[Result, PropertySettings | None]:
    """Give the properties that a command line asks for."""
    found: list[PropertySettings] = []

    @click.command()
    @options.property_options
    def command(**values: Any) -> None:
        found.append(options.property_settings(values))

    result = CliRunner().invoke(command, arguments)
    return result, found[0] if found else None


KEY = "arn:aws:kms:eu-west-1:111122223333:key/0b6ab9d5-7c9f-4b4e-8a52-2f2a8f9d1c11"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], PropertySettings()),
        (["--storage-class", "preserve"], PropertySettings(storage_class="preserve")),
        (["--sse-kms-key-id", KEY], PropertySettings(sse="aws:kms", kms_key_id=KEY)),
        (
            ["--sse", "aws:kms:dsse", "--sse-kms-key-id", "alias/a/b"],
            PropertySettings(sse="aws:kms:dsse", kms_key_id="alias/a/b"),
        ),
        (["--bucket-key"], PropertySettings(bucket_key=True)),
        (["--no-bucket-key"], PropertySettings(bucket_key=False)),
        (["--acl", "bucket-owner-full-control"], PropertySettings(acl="bucket-owner-full-control")),
        (["--tags", "drop"], PropertySettings(tags="drop")),
        (
            ["--tags", "replace", "--object-tag", "a=b=c", "--object-tag", "d="],
            PropertySettings(tags="replace", tag_set=(("a", "b=c"), ("d", ""))),
        ),
        (["--metadata", "replace"], PropertySettings(metadata="replace")),
        (
            ["--metadata", "replace", "--metadata-entry", "x-amz-meta-Team=a b", "--content-type", "text/plain"],
            PropertySettings(metadata="replace", entries=(("team", "a b"),), content_headers=(("content-type", "text/plain"),)),
        ),
        (
            ["--metadata", "replace", "--cache-control", "no-cache", "--expires", "2027-01-31T12:00:00+02:00"],
            PropertySettings(
                metadata="replace",
                content_headers=(("cache-control", "no-cache"), ("expires", "Sun, 31 Jan 2027 10:00:00 GMT")),
            ),
        ),
        (["--checksum-algorithm", "SHA256"], PropertySettings(checksum_algorithm="SHA256")),
        (["--annotations", "drop"], PropertySettings(annotations="drop")),
        (["--request-payer"], PropertySettings(request_payer=True)),
        (
            ["--expected-source-owner", "111122223333", "--expected-destination-owner", "444455556666"],
            PropertySettings(source_owner="111122223333", destination_owner="444455556666"),
        ),
    ],
)
def test_properties_are_read(arguments: list[str], expected: PropertySettings) -> None:
    result, found = asked(*arguments)

    assert (found, result.exit_code) == (expected, 0), result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--storage-class", "COLD"], "is not one of"),
        (["--sse", "AES256", "--sse-kms-key-id", KEY], "AES256 knows no key"),
        (["--sse", "AES256", "--bucket-key"], "knows no bucket keys"),
        (["--sse", "aws:kms:dsse", "--no-bucket-key"], "knows no bucket keys"),
        (["--sse-kms-key-id", "my key"], "is not a KMS key"),
        (["--object-tag", "a=b"], "is for --tags replace"),
        (["--tags", "drop", "--object-tag", "a=b"], "is for --tags replace"),
        (["--tags", "replace"], "or --tags drop for none"),
        (["--tags", "replace", "--object-tag", "aws:a=b"], "are taken"),
        (["--tags", "replace", "--object-tag", "a=b", "--object-tag", "a=c"], "each key once"),
        (["--tags", "replace", *(word for n in range(11) for word in ("--object-tag", f"k{n}=v"))], "at most 10 tags"),
        (["--metadata-entry", "a=b"], "--metadata-entry needs --metadata replace"),
        (["--content-type", "text/plain"], "--content-type needs --metadata replace"),
        (["--expires", "2027-01-01"], "that the objects have now are not kept"),
        (["--metadata", "replace", "--metadata-entry", "a b=c"], "is no metadata"),
        (["--metadata", "replace", "--metadata-entry", "a=ø"], "printable ASCII"),
        (["--metadata", "replace", "--metadata-entry", "a=x\r\nx-amz-acl: public-read"], "printable ASCII"),
        (["--metadata", "replace", "--metadata-entry", "a=b", "--metadata-entry", "A=c"], "names a key twice"),
        (["--metadata", "replace", "--metadata-entry", f"a={'b' * 2048}"], "at most 2,048 bytes"),
        (["--metadata", "replace", "--content-type", "text\n/plain"], "printable ASCII"),
        (["--metadata", "replace", "--expires", "soon"], "is no date"),
        (["--expected-source-owner", "me"], "12 digits"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_out(arguments: list[str], words: str) -> None:
    result, found = asked(*arguments)

    assert (result.exit_code, found) == (2, None)
    assert words in " ".join(result.stderr.split())


# -------------------------------------------------------------------------------------------------------------- locations

POINT = "arn:aws:s3:eu-west-1:111122223333:accesspoint/point"


@pytest.mark.parametrize(
    ("text", "expected", "written"),
    [
        ("s3://bucket/a/b", BucketPrefix("bucket", "a/b"), "s3://bucket/a/b"),
        (POINT, BucketPrefix(POINT), POINT),
        (f"{POINT}/", BucketPrefix(POINT), POINT),
        (f"s3://{POINT}/a/b c", BucketPrefix(POINT, "a/b c"), f"{POINT}/a/b c"),
        (POINT.replace("accesspoint/", "accesspoint:") + "/x", BucketPrefix(POINT, "x"), f"{POINT}/x"),
        (
            "arn:aws-us-gov:s3:us-gov-west-1:111122223333:accesspoint/p/x",
            BucketPrefix("arn:aws-us-gov:s3:us-gov-west-1:111122223333:accesspoint/p", "x"),
            "arn:aws-us-gov:s3:us-gov-west-1:111122223333:accesspoint/p/x",
        ),
        ("s3://p-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias/x", None, "s3://p-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias/x"),
    ],
)
def test_an_access_point_stands_in_the_place_of_a_bucket(text: str, expected: BucketPrefix | None, written: str) -> None:
    found = options.BucketPrefixType().convert(text, None, None)

    assert expected in (found, None)
    assert str(found) == written
    assert split_place(written) == (found.bucket, found.prefix)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arn:aws:s3::111122223333:accesspoint/abc.mrap", "multi-region"),
        ("arn:aws:s3-object-lambda:eu-west-1:111122223333:accesspoint/p", "Object Lambda"),
        ("arn:aws:s3-outposts:eu-west-1:111122223333:outpost/op-1/accesspoint/p", "Outposts"),
        ("arn:aws:s3:::bucket", "no access point"),
        ("arn:", "no access point"),
        (f"{POINT}/{'x' * 1025}", "1024 bytes"),
        ("./here", "on this machine"),
        ("/here", "on this machine"),
    ],
)
def test_another_arn_or_a_path_is_refused_with_the_form_that_is_meant(text: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        options.BucketPrefixType().convert(text, None, None)
