"""The reject limit: a step fails if it rejects a larger share of its rows than the recipe allows, or all of them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from model.errors import DataError
from pipeline.artifacts.shards import Seal, Shards
from pipeline.artifacts.staging import Reject


def rejected_rows(seals: Iterable[Seal]) -> Iterator[Reject]:
    """The rejected rows of committed shards: the fact 'rejects' of each seal."""
    return ((id, reason, detail) for seal in seals for id, reason, detail in seal.facts["rejects"])


def rejects_of(seals: Iterable[Seal]) -> Counter[str]:
    """Rejects of committed shards, counted by reason: the fact 'rejected' of each seal, or its rejected rows."""
    counts: Counter[str] = Counter()
    for seal in seals:
        counts.update(seal.facts["rejected"] if "rejected" in seal.facts else (r for _, r, _ in rejected_rows([seal])))
    return counts


def earlier_commits(
    shards: Shards, names: Sequence[str], total: int, share: float, others: Mapping[str, int] | None = None
) -> dict[int, Seal]:
    """The shards that an earlier run committed: number -> seal.

    Args:
        shards: the shards of the artifact.
        names: the name of each shard.
        total, share: as in `check_reject_limit`.
        others: reason -> rows that are rejected without being in a shard.

    If the rejects exceed the limit, the shards with rejects are removed and made again, because their input may have
    been repaired since.
    """
    found = shards.committed()
    seals = {number: found[name] for number, name in enumerate(names) if name in found}
    if exceeds(rejects_of(seals.values()) + Counter(others or {}), total, share):
        for number in [number for number, seal in seals.items() if rejects_of([seal])]:
            shards.drop(names[number])
            del seals[number]
    if seals:
        print(f"{len(seals)} of {len(names)} shards were committed by an earlier run", flush=True)
    return seals


def exceeds(rejected: Mapping[str, int], total: int, share: float) -> bool:
    """True if these rejects (reason -> rows) are more than `share` of `total` rows, or all of them."""
    count = sum(rejected.values())
    return count > 0 and (count >= total or count / total > share)


SUMMARY = re.compile(r"(\d+) of (\d+) .+ were rejected, (?:so|more than max_reject_share = (\S+) allows)")
REASON = re.compile(r"  (\S[^\n]*): (\d+)")


def read_reject_limit(message: str) -> dict[str, Any] | None:
    """The figures in a message of `check_reject_limit`; None if it is another message.

    Returns 'rejected' (reason -> rows), 'rows' (all rows) and 'limit' (max_reject_share; None if all were rejected).
    """
    found = SUMMARY.search(message)
    if found is None:
        return None
    lines = map(REASON.fullmatch, message[found.end() :].split("\n")[1:])  # then examples follow, and the remedy
    reasons = {line[1]: int(line[2]) for line in takewhile(bool, lines) if line}
    return {"rejected": reasons, "rows": int(found[2]), "limit": None if found[3] is None else float(found[3])}


def check_reject_limit(what: str, rejected: Mapping[str, int], total: int, share: float, remedy: str) -> None:
    """Raise DataError if the rejects exceed the limit.

    Args:
        what: description of the rows, e.g. 'records of data.pretrain'.
        rejected: reason -> rows.
        total: number of all rows, also of those that are not read yet.
        share: the recipe's `max_reject_share`. Rejecting all rows fails at any share.
        remedy: end of the message: what the user can do.

    The message lists the reasons, the most frequent first.
    """
    if not exceeds(rejected, total, share):
        return
    count = sum(rejected.values())
    limit = "so nothing would be left" if count >= total else f"more than max_reject_share = {share:g} allows"
    reasons = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"  {reason}: {number}" for reason, number in reasons if number]
    raise DataError("\n".join([f"{count} of {total} {what} were rejected, {limit}:", *lines, remedy]))
