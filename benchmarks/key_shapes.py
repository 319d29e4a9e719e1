"""Shapes of keys: how people name their objects, and some that nobody should. Each gives about as many keys as asked for."""

from __future__ import annotations

import base64
import string
import uuid
from datetime import UTC, datetime, timedelta
from itertools import count, islice, product
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Shape = Callable[[int, Random], Iterable[str]]

HEX = "0123456789abcdef"
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SYLLABLES = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"] + ["an", "er", "in", "on", "st", "th", "qu", "ing"]
START = datetime(2021, 1, 1, tzinfo=UTC)

SHAPES: dict[str, Shape] = {}


def shape(make: Shape) -> Shape:
    SHAPES[make.__name__.replace("_", "-")] = make
    return make


def keys_of(name: str, size: int) -> list[str]:
    """Give the keys of a shape, in order and without repetition: `size` of them, or a few less. The same every time."""
    keys = sorted(set(SHAPES[name](size, Random(name))))  # noqa: S311 - the same every time is the point
    return keys if len(keys) <= size else keys[:size]


# ------------------------------------------------------------------------------------------------------------- building


def token(rng: Random, alphabet: str, length: int) -> str:
    return "".join(rng.choices(alphabet, k=length))


def guid(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def word(rng: Random, syllables: int = 3) -> str:
    return "".join(rng.choices(SYLLABLES, k=rng.randint(1, syllables)))


def words(rng: Random, number: int, syllables: int = 3) -> list[str]:
    known: dict[str, None] = {}
    while len(known) < number:
        known[word(rng, syllables)] = None
    return list(known)


def zipf(rng: Random, total: int, parts: int, power: float = 1.1) -> list[int]:
    """Divide a total into parts by a power law, in random order."""
    weights = [1 / (n + 1) ** power for n in range(parts)]
    rng.shuffle(weights)
    scale = total / sum(weights)
    return [max(1, round(w * scale)) for w in weights]


def times(n: int, seconds: float) -> Iterator[datetime]:
    """Give n times spread over so many seconds."""
    return (START + timedelta(seconds=seconds * i / n) for i in range(n))


def number_text(n: int, digits: str) -> str:
    text = ""
    while n or not text:
        n, rest = divmod(n, len(digits))
        text = digits[rest] + text
    return text


# --------------------------------------------------------------------------------------------------------------- random


@shape
def hex_random(n: int, rng: Random) -> Iterable[str]:
    return (f"{rng.getrandbits(128):032x}" for _ in range(n))


@shape
def hex_shards(n: int, rng: Random) -> Iterable[str]:
    return (f"{rng.randrange(256):02x}/{rng.randrange(256):02x}/{token(rng, HEX, 12)}.bin" for _ in range(n))


@shape
def uuids(n: int, rng: Random) -> Iterable[str]:
    return (guid(rng) + ".json" for _ in range(n))


@shape
def base64_ids(n: int, rng: Random) -> Iterable[str]:
    return (base64.urlsafe_b64encode(rng.randbytes(12)).decode() for _ in range(n))


@shape
def base62_ids(n: int, rng: Random) -> Iterable[str]:
    return ("obj_" + token(rng, BASE62, 14) for _ in range(n))


@shape
def ulids(n: int, rng: Random) -> Iterable[str]:
    for when in times(n, 90 * 86400):
        head = number_text(int(when.timestamp() * 1000), BASE32).rjust(10, "0")
        yield head + token(rng, BASE32, 16)


@shape
def snowflakes(n: int, rng: Random) -> Iterable[str]:
    for when in times(n, 400 * 86400):
        yield f"media/{(int(when.timestamp() * 1000) - 1288834974657) << 22 | rng.getrandbits(22)}"


@shape
def git_objects(n: int, rng: Random) -> Iterable[str]:
    return (f"repo.git/objects/{token(rng, HEX, 2)}/{token(rng, HEX, 38)}" for _ in range(n))


@shape
def hot_folder_of_uuids(n: int, rng: Random) -> Iterable[str]:
    yield from (f"app/{w}/config.json" for w in words(rng, 500))
    yield from (f"app/uploads/{guid(rng)}" for _ in range(n - 500))


@shape
def uuid_folders(n: int, rng: Random) -> Iterable[str]:
    for _ in range(n // 40 + 1):
        head = guid(rng)
        yield from (f"{head}/part-{k:05d}.parquet" for k in range(40))


# --------------------------------------------------------------------------------------------------------------- dates


@shape
def date_hierarchy(n: int, rng: Random) -> Iterable[str]:
    for k, when in enumerate(times(n, 3 * 365 * 86400)):
        yield f"year={when:%Y}/month={when:%m}/day={when:%d}/hour={when:%H}/part-{k % 100:05d}-{rng.randrange(10**6):06d}.gz"


@shape
def date_folders(n: int, rng: Random) -> Iterable[str]:
    return (f"logs/{when:%Y/%m/%d/%H}/{token(rng, HEX, 16)}.log.gz" for when in times(n, 400 * 86400))


@shape
def one_day(n: int, rng: Random) -> Iterable[str]:
    return (f"events/2024/06/17/{when:%H/%M}/{token(rng, HEX, 12)}" for when in times(n, 86400))


@shape
def iso_times(n: int, rng: Random) -> Iterable[str]:
    return (f"{when:%Y-%m-%dT%H:%M:%S}.{rng.randrange(10**6):06d}Z.json" for when in times(n, 30 * 86400))


@shape
def epoch_millis(n: int, rng: Random) -> Iterable[str]:
    return (f"sensor/{int(when.timestamp() * 1000) + rng.randrange(900)}.dat" for when in times(n, 200 * 86400))


@shape
def access_logs(n: int, rng: Random) -> Iterable[str]:
    return (f"{when:%Y-%m-%d-%H-%M-%S}-{token(rng, HEX[:10] + 'ABCDEF', 16)}" for when in times(n, 500 * 86400))


@shape
def cloudtrail(n: int, rng: Random) -> Iterable[str]:
    regions = ["us-east-1"] * 8 + ["us-west-2"] * 4 + ["eu-west-1", "eu-central-1", "ap-southeast-2", "sa-east-1"]
    for when in times(n, 365 * 86400):
        where, account = rng.choice(regions), rng.choice(("111122223333", "444455556666"))
        yield (
            f"AWSLogs/{account}/CloudTrail/{where}/{when:%Y/%m/%d}/"
            f"{account}_CloudTrail_{where}_{when:%Y%m%dT%H%MZ}_{token(rng, BASE62, 16)}.json.gz"
        )


@shape
def load_balancer_logs(n: int, rng: Random) -> Iterable[str]:
    for when in times(n, 100 * 86400):
        yield (
            f"elb/AWSLogs/123456789012/elasticloadbalancing/eu-west-1/{when:%Y/%m/%d}/123456789012_elasticloadbalancing_eu-west-1_"
            f"app.{rng.choice(('front', 'api', 'shop'))}.0123456789abcdef_{when:%Y%m%dT%H%MZ}_10.0.{rng.randrange(4)}."
            f"{rng.randrange(256)}_{token(rng, string.ascii_lowercase + string.digits, 8)}.log.gz"
        )


@shape
def day_month_year(n: int, rng: Random) -> Iterable[str]:
    return (f"{when:%d-%m-%Y}/{when:%H%M%S}_{rng.randrange(10**4):04d}.csv" for when in times(n, 700 * 86400))


@shape
def growing_traffic(n: int, rng: Random) -> Iterable[str]:
    for k in range(n):
        when = START + timedelta(days=900 * (k / n) ** 0.3)
        yield f"traffic/{when:%Y/%m/%d}/{when:%H}/{token(rng, HEX, 10)}"


@shape
def hive_skew(n: int, rng: Random) -> Iterable[str]:
    countries = ["us"] * 50 + ["de"] * 12 + ["fr", "jp", "br", "in", "gb"] * 3 + ["at", "be", "ch", "dk", "se", "nz", "is"]
    for when in times(n, 365 * 86400):
        yield (
            f"warehouse/sales.db/orders/dt={when:%Y-%m-%d}/country={rng.choice(countries)}/"
            f"part-{rng.randrange(200):05d}-{guid(rng)}.c000.snappy.parquet"
        )


@shape
def iceberg(n: int, rng: Random) -> Iterable[str]:
    job = [guid(rng) for _ in range(300)]
    for k in range(n):
        if k % 10:
            yield f"lake/events/data/{k % 1000:05d}-{k}-{job[k % 300]}-{k % 7:05d}.parquet"
        else:
            yield f"lake/events/metadata/{guid(rng)}-m{k % 3}.avro"


@shape
def minutes_compact(n: int, rng: Random) -> Iterable[str]:
    return (f"cam7_{when:%Y%m%d_%H%M%S}_{rng.randrange(1000):03d}.jpg" for when in times(n, 60 * 86400))


# -------------------------------------------------------------------------------------------------------------- numbers


@shape
def numbers_padded(n: int, _: Random) -> Iterable[str]:
    return (f"{k:09d}" for k in range(n))


@shape
def numbers_unpadded(n: int, _: Random) -> Iterable[str]:
    return (f"img_{k}.png" for k in range(n))


@shape
def numbers_from_somewhere(n: int, _: Random) -> Iterable[str]:
    return (f"INV{k:010d}.pdf" for k in range(48_713_906, 48_713_906 + n))


@shape
def numbers_sparse(n: int, rng: Random) -> Iterable[str]:
    return (f"user-{k:012d}" for k in rng.sample(range(10**9), n))


@shape
def reversed_numbers(n: int, _: Random) -> Iterable[str]:
    return (str(k)[::-1] + "/data" for k in range(10**6, 10**6 + n))


@shape
def numbers_base36(n: int, _: Random) -> Iterable[str]:
    return (number_text(k, string.digits + string.ascii_lowercase) for k in range(5 * 10**7, 5 * 10**7 + n))


@shape
def thousands_folders(n: int, _: Random) -> Iterable[str]:
    return (f"scan/{k // 1_000_000:03d}/{k // 1000 % 1000:03d}/{k % 1000:03d}.tif" for k in range(n))


@shape
def tiles(n: int, _: Random) -> Iterable[str]:
    return islice((f"tiles/{z}/{x}/{y}.png" for z in count() for x, y in product(range(2**z), repeat=2)), n)


@shape
def image_variants(n: int, rng: Random) -> Iterable[str]:
    sizes = ("100x100", "1024x768", "200x200", "50x50", "original", "thumb")
    for k in range(n // 6 + 1):
        yield from (f"product/{10**6 + k * 7 + rng.randrange(7)}/{size}.jpg" for size in sizes)


@shape
def part_files(n: int, rng: Random) -> Iterable[str]:
    for k in range(n // 200 + 1):
        yield from (f"job_{k:06d}/_temporary/0/task/part-r-{p:05d}-{rng.randrange(1000)}.bz2" for p in range(200))


# ------------------------------------------------------------------------------------------------------- deep and skewed


@shape
def long_prefix(n: int, rng: Random) -> Iterable[str]:
    head = ("organisation/department/team/project/" * 6)[:200]
    return (head + f"{rng.getrandbits(64):016x}" for _ in range(n))


@shape
def long_prefix_dates(n: int, rng: Random) -> Iterable[str]:
    head = ("a-very/long-path/" * 20)[:200]
    return (head + f"/{when:%Y/%m/%d}/{rng.randrange(10**8):08d}" for when in times(n, 730 * 86400))


@shape
def power_law_users(n: int, rng: Random) -> Iterable[str]:
    for k, size in enumerate(zipf(rng, n, n // 100, 1.2)):
        yield from (f"users/{k:06d}/{token(rng, HEX, 8)}/file-{i}.txt" for i in range(size))


@shape
def giant_folders(n: int, rng: Random) -> Iterable[str]:
    names = words(rng, 4000)
    for k, name in enumerate(names):
        size = n // 4 if k in (100, 2000, 3333) else n // 4 // len(names) + 1
        yield from (f"data/{name}/{i:08d}.bin" for i in range(size))


@shape
def zipf_tenants_dates(n: int, rng: Random) -> Iterable[str]:
    for name, size in zip(words(rng, 300), zipf(rng, n, 300), strict=True):
        yield from (f"{name}/{when:%Y/%m/%d}/{rng.randrange(10**6):06d}.json" for when in times(size, 365 * 86400))


@shape
def huge_and_tiny(n: int, rng: Random) -> Iterable[str]:
    yield from (f"archive/{rng.getrandbits(64):016x}" for _ in range(n // 2))
    yield from (f"home/{w}{k}/.profile" for k, w in enumerate(word(rng) for _ in range(n // 2)))


@shape
def deep_chains(n: int, rng: Random) -> Iterable[str]:
    for _ in range(n // 50 + 1):
        head = "/".join(token(rng, "ab", 1) for _ in range(40))
        yield from (f"{head}/{rng.getrandbits(32):08x}" for _ in range(50))


@shape
def two_far_heaps(n: int, rng: Random) -> Iterable[str]:
    yield from (f"0000/{rng.getrandbits(64):016x}" for _ in range(n // 2))
    yield from (f"zzzz/{k:07d}" for k in range(n // 2))


@shape
def many_tops(n: int, rng: Random) -> Iterable[str]:
    return (f"{w}/{token(rng, HEX, 6)}" for w in words(rng, 20_000) for _ in range(n // 20_000))


@shape
def backups(n: int, rng: Random) -> Iterable[str]:
    for when in times(60, 60 * 86400):
        for host in range(20):
            yield from (f"backup/{when:%Y%m%d}/host{host}/{i // 100}/{token(rng, HEX, 10)}" for i in range(n // 1200))


@shape
def prefixes_of_each_other(n: int, rng: Random) -> Iterable[str]:
    for _ in range(n // 500 + 1):
        head = token(rng, "abcd", 6)
        yield from (head + "x" * k for k in range(500))


@shape
def doubling_heaps(n: int, rng: Random) -> Iterable[str]:
    for k in range(20):
        yield from (f"{chr(ord('a') + k)}/{token(rng, BASE62, 10)}" for _ in range(n >> (k + 1)))


@shape
def doubling_heaps_rising(n: int, rng: Random) -> Iterable[str]:
    for k in range(20):
        yield from (f"{chr(ord('z') - k)}/{token(rng, BASE62, 10)}" for _ in range(n >> (k + 1)))


@shape
def comb(n: int, rng: Random) -> Iterable[str]:
    head = ""
    for k in range(200):
        yield from (f"{head}a{token(rng, HEX, 8)}" for _ in range(n // 200))
        head += "bc"[k % 2]


@shape
def thousand_bytes(n: int, rng: Random) -> Iterable[str]:
    head = "deep/" * 200
    return (head + token(rng, BASE62, 24) for _ in range(n))


# -------------------------------------------------------------------------------------------------- words and characters


@shape
def word_paths(n: int, rng: Random) -> Iterable[str]:
    names = words(rng, 3000)
    return (f"{rng.choice(names)}/{rng.choice(names)}/{rng.choice(names)}.html" for _ in range(n))


@shape
def word_lists(n: int, rng: Random) -> Iterable[str]:
    return (word(rng, 5) + "-" + word(rng, 3) + ".txt" for _ in range(n))


@shape
def emails(n: int, rng: Random) -> Iterable[str]:
    hosts = words(rng, 50)
    return (f"inbox/{word(rng)}.{word(rng)}{rng.randrange(100)}@{rng.choice(hosts)}.com/profile" for _ in range(n))


@shape
def reversed_domains(n: int, rng: Random) -> Iterable[str]:
    hosts = words(rng, 5000, 4)
    tops = ["com"] * 8 + ["org", "net", "de", "io", "co.uk"]
    for _ in range(n):
        yield f"{rng.choice(tops)}.{rng.choice(hosts)}.www/{word(rng)}/{rng.randrange(10**5)}.html"


@shape
def maven(n: int, rng: Random) -> Iterable[str]:
    groups = [f"{w}/{v}" for w, v in zip(words(rng, 400), words(rng, 400), strict=True)]
    for size, group in zip(zipf(rng, n // 5, 400), groups, strict=True):
        for _ in range(size):
            name, version = word(rng, 4), f"{rng.randrange(9)}.{rng.randrange(20)}.{rng.randrange(9)}"
            head = f"maven2/org/{group}/{name}/{version}/{name}-{version}"
            yield from (head + end for end in (".jar", ".jar.sha1", ".pom", ".pom.sha1", "-sources.jar"))


@shape
def mixed_scripts(n: int, rng: Random) -> Iterable[str]:
    blocks = [(0x61, 26), (0x430, 32), (0x3B1, 24), (0x5D0, 27), (0x905, 50), (0x3042, 80), (0x4E00, 3000), (0xAC00, 2000)]
    for _ in range(n):
        first, size = rng.choice(blocks)
        yield "".join(chr(first + rng.randrange(size)) for _ in range(8)) + f"/{rng.randrange(1000)}"


@shape
def cjk_sequence(n: int, _: Random) -> Iterable[str]:
    return (f"{chr(0x4E00 + k % 20_000)}{k // 20_000 or ''}" for k in range(n))


@shape
def wide_sequence(n: int, _: Random) -> Iterable[str]:
    return (chr(k + (0x800 if k >= 0xD800 else 0)) for k in range(0x21, 0x21 + min(n, 1_000_000)))


@shape
def wide_pairs(n: int, _: Random) -> Iterable[str]:
    return ("x/" + chr(0x4E00 + k // 1000) + chr(0x3400 + k % 1000) for k in range(n))


@shape
def emoji(n: int, rng: Random) -> Iterable[str]:
    return ("".join(chr(0x1F300 + rng.randrange(800)) for _ in range(4)) + ".png" for _ in range(n))


@shape
def mixed_case(n: int, rng: Random) -> Iterable[str]:
    forms = (str.lower, str.upper, str.title)
    return (f"{rng.choice(forms)(word(rng, 4))} {rng.choice(forms)(word(rng, 4))}.docx" for _ in range(n))


@shape
def percent_encoded(n: int, rng: Random) -> Iterable[str]:
    return (f"crawl/https%3A%2F%2F{word(rng)}.com%2F{word(rng)}%2F%C3%A4{rng.randrange(10**4)}" for _ in range(n))


@shape
def spaces(n: int, rng: Random) -> Iterable[str]:
    return (f"My Documents/{word(rng)} {word(rng)} ({rng.randrange(100)}) copy {k % 9}.doc" for k in range(n))


@shape
def control_characters(n: int, rng: Random) -> Iterable[str]:
    return (token(rng, "\x01\x02\t\n\r\x1f\x7f\x85\ufffe\uffff\U00010000", 7) for _ in range(n))


# ------------------------------------------------------------------------------------------------------------- a grammar


def grammar(seed: int) -> Shape:
    """Give a random shape: folders within folders, each named and filled in a way of its own. Hold-outs, by their seed."""

    def make(n: int, _: Random) -> Iterator[str]:
        rng = Random(seed)  # noqa: S311
        root = rng.choice(("", "", "data/", word(rng) + "/" + word(rng) + "/", "x" * rng.randrange(300) + "/"))
        levels = [rng.choice(_NAMES)(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 2, 3, 4)))]
        plans = [(rng.choice((1, 2, 5, 12, 30, 100, 400, 3000)), rng.choice((0.0, 0.0, 0.5, 1.1, 1.6))) for _ in levels]
        leaf = rng.choice(_NAMES)(rng)
        ends = rng.choice((("",), (".json",), (".jpg", ".txt"), ("/a", "/b", "/c")))
        between = rng.choice("///-_")

        def fill(head: str, depth: int, size: int) -> Iterator[str]:
            if depth == len(levels):
                yield from (head + leaf(k) + ends[k % len(ends)] for k in range(size))
                return
            parts, power = plans[depth]
            parts = max(1, min(parts, size))
            for k, share in enumerate(zipf(rng, size, parts, power) if power else [size // parts + 1] * parts):
                yield from fill(head + levels[depth](k) + between, depth + 1, share)

        return fill(root, 0, n)

    return make


def _named_numbers(rng: Random) -> Callable[[int], str]:
    width, first, step = rng.choice((0, 4, 6, 9)), rng.choice((0, 1, 10**5)), rng.choice((1, 1, 1, 7, 1000))
    head = rng.choice(("", "", "part-", "v", "id="))
    return lambda k: f"{head}{first + k * step:0{width}d}"


def _named_dates(rng: Random) -> Callable[[int], str]:
    form = rng.choice(("%Y/%m/%d", "%Y-%m-%d", "%Y%m%d", "dt=%Y-%m-%d", "year=%Y/month=%m/day=%d", "%Y-%m-%dT%H:%M:%S", "%s"))
    step = timedelta(seconds=rng.choice((86400, 86400, 3600, 61)))
    limit = 3 * 10**5  # stays within a century
    return lambda k: (START + k % limit * step).strftime(form) + (f".{k // limit}" if k >= limit else "")


def _named_tokens(rng: Random) -> Callable[[int], str]:
    alphabet = rng.choice((HEX, HEX, BASE62, BASE32, string.ascii_lowercase, "01", "абвгдежзиклмнопрст", string.digits))
    length = rng.choice((8, 16, 20, 32)) if len(alphabet) > 2 else 40
    return lambda _: token(rng, alphabet, length)


def _named_guids(rng: Random) -> Callable[[int], str]:
    return lambda _: guid(rng)


def _named_words(rng: Random) -> Callable[[int], str]:
    known: list[str] = words(rng, 2000)
    return lambda k: known[k % 2000] + (str(k // 2000) if k >= 2000 else "")


def _named_characters(rng: Random) -> Callable[[int], str]:
    first, size = rng.choice(((0x4E00, 20_000), (0xAC00, 11_000), (0x1F300, 700), (0x400, 256)))
    return lambda k: chr(first + k % size) + (f"{k // size}" if k >= size else "")


_NAMES = (
    _named_numbers,
    _named_numbers,
    _named_dates,
    _named_dates,
    _named_tokens,
    _named_tokens,
    _named_guids,
    _named_words,
    _named_characters,
)
