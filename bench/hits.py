"""Web analytics in ClickBench's shape: 43 questions over a generated table of page views.

    python -m bench hits [--rows 10000000] [--threads 2] [--rounds 3] [--peers DuckDB Polars DataFusion chDB]

Schema, rows and questions are our own; like there, most columns are skewed, many strings are empty, and the questions
go from counting everything to top pages by text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.measure import Report, scratch
from bench.query_contest import Query, Rows, contest, options_of

if TYPE_CHECKING:
    import pyarrow

ROWS = 10_000_000
BATCH_ROWS = 500_000
START_US = 1_372_636_800_000_000  # 2013-07-01
DAY_US = 86_400_000_000
MEAN_BAR, LEAST = 1.3, 0.7
PAGES, PHRASES, USERS = 60_000, 40_000, 400_000
WORDS = ("map", "news", "shop", "car", "film", "music", "game", "photo", "book", "travel", "house", "sport", "food")

_JULY = "ts >= TIMESTAMP '2013-07-01' AND ts < TIMESTAMP '2013-08-01'"
QUESTIONS = (
    "SELECT count(*) FROM hits",
    "SELECT count(*) FROM hits WHERE engine <> 0",
    "SELECT sum(engine), count(*), avg(width) FROM hits",
    "SELECT avg(user_id) FROM hits",
    "SELECT count(DISTINCT user_id) FROM hits",
    "SELECT count(DISTINCT phrase) FROM hits",
    "SELECT min(ts), max(ts) FROM hits",
    "SELECT engine, count(*) AS n FROM hits WHERE engine <> 0 GROUP BY engine ORDER BY n DESC, engine",
    "SELECT region, count(DISTINCT user_id) AS u FROM hits GROUP BY region ORDER BY u DESC, region LIMIT 10",
    "SELECT region, sum(engine), count(*) AS c, avg(width), count(DISTINCT user_id) FROM hits GROUP BY region "
    "ORDER BY c DESC, region LIMIT 10",
    "SELECT phone, count(DISTINCT user_id) AS u FROM hits WHERE phone <> '' GROUP BY phone ORDER BY u DESC, phone "
    "LIMIT 10",
    "SELECT phone_kind, phone, count(DISTINCT user_id) AS u FROM hits WHERE phone <> '' GROUP BY phone_kind, phone "
    "ORDER BY u DESC, phone_kind, phone LIMIT 10",
    "SELECT phrase, count(*) AS c FROM hits WHERE phrase <> '' GROUP BY phrase ORDER BY c DESC, phrase LIMIT 10",
    "SELECT phrase, count(DISTINCT user_id) AS u FROM hits WHERE phrase <> '' GROUP BY phrase "
    "ORDER BY u DESC, phrase LIMIT 10",
    "SELECT search, phrase, count(*) AS c FROM hits WHERE phrase <> '' GROUP BY search, phrase "
    "ORDER BY c DESC, search, phrase LIMIT 10",
    "SELECT user_id, count(*) AS n FROM hits GROUP BY user_id ORDER BY n DESC, user_id LIMIT 10",
    "SELECT user_id, phrase, count(*) AS n FROM hits GROUP BY user_id, phrase ORDER BY n DESC, user_id, phrase "
    "LIMIT 10",
    "SELECT user_id, phrase, count(*) AS n FROM hits WHERE user_id < 500 GROUP BY user_id, phrase "
    "ORDER BY user_id, phrase LIMIT 10",
    "SELECT user_id, extract(minute FROM ts) AS m, phrase, count(*) AS n FROM hits GROUP BY user_id, m, phrase "
    "ORDER BY n DESC, user_id, m, phrase LIMIT 10",
    "SELECT count(*) FROM hits WHERE user_id = 77",
    "SELECT count(*) FROM hits WHERE url LIKE '%game%'",
    "SELECT phrase, min(url), count(*) AS c FROM hits WHERE url LIKE '%game%' AND phrase <> '' GROUP BY phrase "
    "ORDER BY c DESC, phrase LIMIT 10",
    "SELECT phrase, min(url), min(title), count(*) AS c, count(DISTINCT user_id) FROM hits WHERE title LIKE '%Game%' "
    "AND url NOT LIKE '%.game.%' AND phrase <> '' GROUP BY phrase ORDER BY c DESC, phrase LIMIT 10",
    "SELECT ts, user_id, url, title FROM hits WHERE url LIKE '%game/map%' ORDER BY ts LIMIT 10",
    "SELECT phrase, ts FROM hits WHERE phrase <> '' ORDER BY ts LIMIT 10",
    "SELECT phrase FROM hits WHERE phrase <> '' ORDER BY phrase LIMIT 10",
    "SELECT ts, phrase FROM hits WHERE phrase <> '' ORDER BY ts, phrase LIMIT 10",
    "SELECT counter, avg(length(url)) AS l, count(*) AS c FROM hits WHERE url <> '' GROUP BY counter "
    "HAVING count(*) > 5000 ORDER BY l DESC, counter LIMIT 25",
    "SELECT substring(referer, 9, 12) AS k, avg(length(referer)) AS l, count(*) AS c FROM hits WHERE referer <> '' "
    "GROUP BY k HAVING count(*) > 1000 ORDER BY l DESC, k LIMIT 25",
    "SELECT " + ", ".join(f"sum(width + {i})" for i in range(30)) + " FROM hits",
    "SELECT search, ip, count(*) AS c, sum(refresh), avg(width) FROM hits WHERE phrase <> '' GROUP BY search, ip "
    "ORDER BY c DESC, search, ip LIMIT 10",
    "SELECT watch, ip, count(*) AS c, sum(refresh), avg(width) FROM hits WHERE phrase <> '' GROUP BY watch, ip "
    "ORDER BY c DESC, watch, ip LIMIT 10",
    "SELECT watch, ip, count(*) AS c, sum(refresh), avg(width) FROM hits GROUP BY watch, ip "
    "ORDER BY c DESC, watch, ip LIMIT 10",
    "SELECT url, count(*) AS c FROM hits GROUP BY url ORDER BY c DESC, url LIMIT 10",
    "SELECT 1 AS one, url, count(*) AS c FROM hits GROUP BY one, url ORDER BY c DESC, url LIMIT 10",
    "SELECT ip, ip - 1 AS a, ip - 2 AS b, ip - 3 AS d, count(*) AS c FROM hits GROUP BY ip, a, b, d "
    "ORDER BY c DESC, ip LIMIT 10",
    f"SELECT url, count(*) AS v FROM hits WHERE counter = 62 AND {_JULY} AND refresh = 0 AND url <> '' GROUP BY url "
    "ORDER BY v DESC, url LIMIT 10",
    f"SELECT title, count(*) AS v FROM hits WHERE counter = 62 AND {_JULY} AND refresh = 0 AND title <> '' "
    "GROUP BY title ORDER BY v DESC, title LIMIT 10",
    f"SELECT url, count(*) AS v FROM hits WHERE counter = 62 AND {_JULY} AND refresh = 0 AND link = 1 GROUP BY url "
    "ORDER BY v DESC, url LIMIT 10 OFFSET 100",
    f"SELECT source, search, engine, CASE WHEN search = 0 AND engine = 0 THEN referer ELSE '' END AS src, url, "
    f"count(*) AS v FROM hits WHERE counter = 62 AND {_JULY} AND refresh = 0 GROUP BY source, search, engine, src, url "
    "ORDER BY v DESC, source, search, engine, src, url LIMIT 10 OFFSET 100",
    f"SELECT ip, date_trunc('day', ts) AS d, count(*) AS v FROM hits WHERE counter = 62 AND {_JULY} AND refresh = 0 "
    "AND source IN (1, 6) GROUP BY ip, d ORDER BY v DESC, ip, d LIMIT 10",
    f"SELECT width, height, count(*) AS v FROM hits WHERE counter = 62 AND {_JULY} AND refresh = 0 "
    "GROUP BY width, height ORDER BY v DESC, width, height LIMIT 10",
    "SELECT date_trunc('minute', ts) AS m, count(*) AS v FROM hits WHERE counter = 62 AND "
    "ts >= TIMESTAMP '2013-07-14' AND ts < TIMESTAMP '2013-07-16' AND refresh = 0 GROUP BY m ORDER BY m LIMIT 10 "
    "OFFSET 100",
)
QUERIES = tuple(
    Query(f"q{number:02d}", sql, ordered="ORDER BY" in sql and number != 24) for number, sql in enumerate(QUESTIONS, 1)
)


def _texts() -> tuple[list[str], list[str], list[str]]:
    """(urls, titles, phrases); the first of each is empty, and they are alike enough for LIKE to have work."""
    random = np.random.default_rng(5)

    def some(count: int) -> list[list[str]]:
        return [[WORDS[i] for i in row] for row in random.integers(0, len(WORDS), (count, 3)).tolist()]

    pages = some(PAGES)
    urls = ["", *(f"https://{a}.example/{b}/{c}?page={i}" for i, (a, b, c) in enumerate(pages))]
    titles = ["", *(f"{a.title()} {b} - {c.title()} {i % 997}" for i, (a, b, c) in enumerate(pages))]
    phrases = ["", *(f"{a} {b} {c} {i % 4001}" for i, (a, b, c) in enumerate(some(PHRASES)))]
    return urls, titles, phrases


def _skewed(random: Any, limit: int, count: int) -> Any:
    """Small numbers are frequent, as in everything people do."""
    return np.minimum((random.random(count) ** 4 * limit).astype(np.int64), limit - 1)


def _mostly_empty(random: Any, empty: float, limit: int, count: int) -> Any:
    """The same, but a share of zeros, which stand for nothing."""
    return np.where(random.random(count) < empty, 0, _skewed(random, limit, count))


def _coded(codes: Any, texts: Sequence[str]) -> pyarrow.Array:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(texts)).cast(pa.string())


def hits(rows: int) -> Iterator[pyarrow.Table]:
    """The page views, in order of time over 60 days, in batches."""
    import pyarrow as pa

    urls, titles, phrases = _texts()
    phones = ["", *(f"phone {i}" for i in range(150))]
    for first in range(0, rows, BATCH_ROWS):
        count = min(BATCH_ROWS, rows - first)
        random = np.random.default_rng(first + 11)
        page = _skewed(random, len(urls), count)
        at = START_US + np.sort(random.integers(first, first + count, count)) * (60 * DAY_US) // rows
        yield pa.table(
            {
                "ts": pa.array(at).cast(pa.timestamp("us")),
                "watch": random.integers(0, 1 << 62, count),
                "user_id": _skewed(random, USERS, count),
                "counter": 1 + _skewed(random, 6_000, count),
                "region": _skewed(random, 9_000, count).astype(np.int32),
                "ip": _skewed(random, 1 << 20, count).astype(np.int32),
                "url": _coded(page, urls),
                "title": _coded(page, titles),
                "referer": _coded(_mostly_empty(random, 0.2, len(urls), count), urls),
                "phrase": _coded(_mostly_empty(random, 0.87, len(phrases), count), phrases),
                "phone": _coded(_mostly_empty(random, 0.94, len(phones), count), phones),
                "phone_kind": _skewed(random, 90, count).astype(np.int16),
                "engine": _mostly_empty(random, 0.95, 50, count).astype(np.int16),
                "search": _mostly_empty(random, 0.85, 90, count).astype(np.int16),
                "source": (_skewed(random, 10, count) - 1).astype(np.int16),
                "width": random.choice(np.array([0, 1024, 1280, 1366, 1920], dtype=np.int16), count),
                "height": random.choice(np.array([0, 768, 800, 1080], dtype=np.int16), count),
                "refresh": (random.random(count) < 0.13).astype(np.int16),
                "link": (random.random(count) < 0.1).astype(np.int16),
            }
        )


def main(arguments: Sequence[str]) -> int:
    """Prints the report; returns how many figures missed their bar."""
    options = options_of("hits", __doc__, arguments, rows=ROWS, rounds=3)
    report = Report(f"{len(QUERIES)} questions over {options.rows:,} page views, {options.threads} threads, warm")
    chosen = [query for query in QUERIES if options.only in query.name]
    with scratch() as work:
        contest(
            report, work, {"hits": Rows(lambda: hits(options.rows), "ts")}, chosen, threads=options.threads,
            rounds=options.rounds, peers=options.peers, mean_bar=MEAN_BAR, least=LEAST,
        )  # fmt: skip
    report.show()
    return report.missed()
