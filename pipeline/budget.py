"""The reject budget: a step fails loudly if it rejects more of its rows than the recipe allows, or every one."""

from collections.abc import Mapping

from model.errors import DataError


def exceeds(rejected: Mapping[str, int], total: int, share: float) -> bool:
    """Whether these rejects (reason -> rows) are more than `share` of `total` rows, or all of them."""
    count = sum(rejected.values())
    return count > 0 and (count >= total or count / total > share)


def check_budget(what: str, rejected: Mapping[str, int], total: int, share: float, remedy: str) -> None:
    """Fail if too much is rejected.

    Args:
        what: the rows and whose they are, e.g. 'records of data.pretrain'.
        rejected: reason -> rows.
        total: rows that were read, or will be where the step is not done yet.
        share: the recipe's `max_reject_share`. Rejecting every row fails whatever it is: nothing would be left.
        remedy: what the user can do.

    Raises DataError that lists the reasons, the most frequent first.
    """
    if not exceeds(rejected, total, share):
        return
    count = sum(rejected.values())
    limit = "so nothing would be left" if count >= total else f"more than max_reject_share = {share:g} allows"
    reasons = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"  {reason}: {number}" for reason, number in reasons if number]
    raise DataError("\n".join([f"{count} of {total} {what} were rejected, {limit}:", *lines, remedy]))
