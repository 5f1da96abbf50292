"""Bisection: which items of a list kill the process that works on them, each by itself."""

from collections.abc import Callable, MutableMapping

ALONE = 2
"""Deaths of an item alone, one after the other, that prove that it is the cause. One may be an accident."""
DIED, SURVIVED, RUNNING = "died", "survived", "running"
INTERRUPTED = 3
"""Starts of one trial without an outcome, because the program that watches it ended too; then it counts as a death."""


def bisect(count: int, survives: Callable[[int, int], bool], found_one: Callable[[list[int]], None]) -> list[int]:
    """The items of range(count) that kill their process each time they are tried alone, in order.

    Args:
        count: number of items; all together killed their process before.
        survives: tries the items [first, last); False if the process died.
        found_one: called with the items found so far after each; it may raise an error to stop.

    A range that survives is innocent. One that dies is halved, so an accident costs time and convicts nobody, unless it
    hits the same single item ALONE times in a row. For one guilty item there are at most ceil(log2 count) + 2 deaths;
    each further one adds at most as many. Items that kill only together are not found.
    """
    found: list[int] = []

    def search(first: int, last: int) -> None:
        if last - first == 1:
            if not any(survives(first, last) for _ in range(ALONE)):
                found.append(first)
                found_one(found)
        elif not survives(first, last):
            halve(first, last)

    def halve(first: int, last: int) -> None:
        middle = (first + last) // 2
        search(first, middle)
        search(middle, last)

    if count == 1:
        search(0, 1)
    elif count > 1:
        halve(0, count)
    return found


class Journal:
    """The trials of one bisection, kept by `save`, so that another process goes on with it.

    Args:
        trials: name of a trial -> its outcome, or 'running N' at its start N. A trial without an outcome is made again:
            whoever ended the whole program says little about its pictures. After INTERRUPTED starts it counts as a
            death, because a picture may take all memory of its machine.
        save: called with the trials after each change.
    """

    def __init__(self, trials: MutableMapping[str, str], save: Callable[[MutableMapping[str, str]], None]) -> None:
        self._trials, self._save = trials, save
        self._seen: dict[str, int] = {}

    def remembered(self, name: str, survives: Callable[[], bool]) -> bool:
        """The outcome of a trial, from the journal if it was made before. Trials come in the same order each time."""
        self._seen[name] = self._seen.get(name, 0) + 1
        key = f"{name} {self._seen[name]}"
        outcome = self._trials.get(key, f"{RUNNING} 0")
        if outcome not in (DIED, SURVIVED):
            starts = int(outcome.split()[-1]) + 1
            if starts > INTERRUPTED:
                outcome = DIED
            else:
                self._note(key, f"{RUNNING} {starts}")
                outcome = SURVIVED if survives() else DIED
            self._note(key, outcome)
        return outcome == SURVIVED

    def _note(self, key: str, outcome: str) -> None:
        self._trials[key] = outcome
        self._save(self._trials)
