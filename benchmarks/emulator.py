"""How much of the emulator's own CopyObject rate the pipeline reaches, both measured in one run on one emulator.

    python benchmarks/emulator.py [--objects 20000] [--rounds 3]

Raw: one process that copies listed keys on kept connections and does nothing else, at its best number of connections; as the
account's root, whose requests the emulator does not check, and as a role with the workers' rights, which it checks as theirs.
Pipeline: `s3bulkcopy run`, its working phase alone (listing, copying, accounting; not deploying and tearing down). They take
turns on the same keys, and the ratio is to the role's rate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import boto3

from s3bulkcopy.aws.policy import worker_policy
from s3bulkcopy.aws.stack import Names
from s3bulkcopy.demo import Store, keys
from s3bulkcopy.emulator import ACCOUNT, CREDENTIALS, Emulator
from s3bulkcopy.worker import aio
from s3bulkcopy.worker.copying import Copier
from s3bulkcopy.worker.model import Item, Job
from s3bulkcopy.worker.pacing import Pace
from s3bulkcopy.worker.s3 import S3
from s3bulkcopy.worker.sigv4 import Credentials

CONNECTIONS = (4, 16, 64)


def role_credentials(job: Job) -> Credentials:
    """Make a role with the rights that a run gives to its workers, and give credentials of it."""
    iam, sts = boto3.client("iam"), boto3.client("sts")
    names = Names(job.run_id)
    rights = worker_policy(job, names, ACCOUNT, "aws", job.destination.region)
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}
    role = iam.create_role(RoleName=names.stem, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", **trust}))
    iam.put_role_policy(RoleName=names.stem, PolicyName="work", PolicyDocument=json.dumps(rights))
    made = sts.assume_role(RoleArn=role["Role"]["Arn"], RoleSessionName="bench")["Credentials"]
    return Credentials(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])


async def copy_raw(credentials: Credentials, job: Job, items: list[Item], connections: int) -> float:
    """Copy the items; give the rate in objects a second."""
    s3 = S3(lambda: credentials)
    copier = Copier(s3, Pace(connections, connections), lambda _: 0.1)
    began = time.perf_counter()
    outcome = await copier.copy(job, items, float("inf"), attempt=1)
    if outcome.counts.copied != len(items):
        raise SystemExit(f"only {outcome.counts.copied} of {len(items)} were copied: {outcome.failures[:1]}")
    s3.close()
    return len(items) / (time.perf_counter() - began)


def copy_by_pipeline(source: str, destination: str, objects: int) -> tuple[float, float]:
    """Run the command; give its rate in objects a second, in its working phase and over all."""
    command = [sys.executable, "-m", "s3bulkcopy", "run", source, destination, "--output", "json"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    phases = next(line for line in map(json.loads, lines) if line.get("event") == "phases")
    return objects / phases["work"], objects / json.loads(lines[-1])["seconds"]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with Emulator() as emulator:
        os.environ |= emulator.variables
        store = Store(emulator.url)
        store.make("bench-source")
        store.fill("bench-source", keys(chosen.objects))
        items = list(store.items("bench-source").values())
        root = Credentials(*CREDENTIALS.values())
        ratios = []
        print(f"{'raw/s, root':>12} {'raw/s, role':>12} {'pipeline/s':>11} {'ratio':>6} {'whole run/s':>12}")
        for n in range(chosen.rounds):
            store.make(f"bench-raw-{n}")
            store.make(f"bench-pipeline-{n}")
            job = Job(f"bench-{n}", store.location("bench-source"), store.location(f"bench-raw-{n}"))
            clients = root, role_credentials(job)
            as_root, as_role = (max(aio.run(copy_raw(who, job, items, some)) for some in CONNECTIONS) for who in clients)
            rate, whole = copy_by_pipeline("bench-source", f"bench-pipeline-{n}", chosen.objects)
            ratios.append(rate / as_role)
            print(f"{as_root:12,.0f} {as_role:12,.0f} {rate:11,.0f} {ratios[-1]:6.2f} {whole:12,.0f}")
        print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
