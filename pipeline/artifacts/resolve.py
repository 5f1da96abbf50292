"""From what a user types to an artifact: an id or its first digits, KIND/NAME/ID, a tag, a step, or `latest`.

Only the folders that can hold the artifact are listed: one listing for each kind, name or both, and none for a tag or
for a whole KIND/NAME/ID.
"""

from collections.abc import Collection, Iterable
from typing import Any, Protocol

from model.errors import ArtifactError
from pipeline.artifacts.spec import FULL_ID, ID_LENGTH, ArtifactRef
from pipeline.artifacts.tags import HEX, LATEST, Tags

LONGEST = 200
"""Characters of the text that an error repeats."""
SHOWN = 5
"""Artifacts that an error about an ambiguous name lists."""


class Made(Protocol):
    """An artifact, as far as its age and step count."""

    @property
    def ref(self) -> ArtifactRef:
        """Kind, name and id."""

    @property
    def manifest(self) -> Any:
        """Its manifest."""


class Store(Protocol):
    """A store, as far as finding needs it."""

    fs: Any
    base: str
    root: str

    def kinds(self) -> list[str]:
        """Kinds that have a folder."""

    def names(self, kind: str) -> list[str]:
        """Names that have a folder in a kind."""

    def ids(self, kind: str, name: str) -> list[str]:
        """Ids that have a folder, with a manifest or without."""

    def exists(self, ref: ArtifactRef) -> bool:
        """True if it has a manifest."""

    def get(self, ref: ArtifactRef) -> Any:
        """The artifact, or None."""


def resolve(store: Store, text: str, kinds: Collection[str] = ()) -> ArtifactRef:
    """The artifact that a text means.

    Args:
        store: the store.
        text: as a user types it.
        kinds: the kinds that are wanted, for `latest` and for names of several kinds; any if empty.

    In this order, the first that fits: KIND/NAME/ID or KIND/NAME or KIND/latest; the first digits of an id, if it has
    digits 0-9 a-f only; a tag; `latest`; a step of a plan, a name, or a kind, which mean their newest artifact.
    Raises ArtifactError if there is none, or more than one.
    """
    given = text.strip().strip("/")
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}..."
    if not given:
        raise ArtifactError(f"'{text}' is not an artifact id; 'agevlm artifacts' lists them")
    if "/" in given:
        return _by_path(store, text, given.split("/"))
    if HEX.fullmatch(given):
        found = _by_digits(store, given.lower(), [(k, n) for k in store.kinds() for n in store.names(k)])
        if found:
            return _one(text, found)
    tag = Tags(store.fs, store.base).get(given)
    if tag is not None and tag.target is not None:
        if not store.exists(tag.target):
            raise ArtifactError(
                f"tag '{given}' is {tag.target}, which is gone: 'agevlm untag {given}', or make it again"
            )
        return tag.target
    if given == LATEST:
        places = [(kind, name) for kind in (sorted(kinds) or store.kinds()) for name in store.names(kind)]
        return _newest(store, text, places)
    return _by_name(store, text, given, kinds)


def named(store: Store, text: str) -> bool:
    """True if a text is the name of a step, a name of artifacts, or a kind."""
    return bool(_places(store, text, ()))


def _by_path(store: Store, text: str, parts: list[str]) -> ArtifactRef:
    """KIND/latest, KIND/NAME, KIND/NAME/latest, KIND/NAME/ID."""
    kind, name, last = (*parts, LATEST)[:3]
    if len(parts) > 3 or kind not in store.kinds():
        raise ArtifactError(f"'{text}' is not an artifact; write KIND/NAME/ID; kinds are {_words(store.kinds())}")
    if len(parts) == 2 and name == LATEST:
        return _newest(store, text, [(kind, found) for found in store.names(kind)])
    if name not in store.names(kind):
        raise ArtifactError(f"'{text}': no {kind} is called '{name[:LONGEST]}'; names are {_words(store.names(kind))}")
    if last == LATEST:
        return _newest(store, text, [(kind, name)])
    return _one(text, _by_digits(store, last.lower(), [(kind, name)])) if last else _none(store, text)


def _by_digits(store: Store, digits: str, places: Iterable[tuple[str, str]]) -> list[ArtifactRef]:
    """The artifacts of some kinds and names whose ids start so."""
    if len(digits) > ID_LENGTH:
        return []
    if FULL_ID.fullmatch(digits):  # a look at each place costs less than listing it
        return [ref for k, n in places if store.exists(ref := ArtifactRef(kind=k, name=n, id=digits))]
    ids = ((k, n, found) for k, n in places for found in store.ids(k, n) if found.startswith(digits))
    return [ref for k, n, i in ids if store.exists(ref := ArtifactRef(kind=k, name=n, id=i))]


def _by_name(store: Store, text: str, given: str, kinds: Collection[str]) -> ArtifactRef:
    places = _places(store, given, kinds)
    if not places:
        return _none(store, text)
    if len({kind for kind, _, _ in places}) > 1:
        raise ArtifactError(f"'{text}' is ambiguous: {_words([f'{k}/{n}' for k, n, _ in places])}; write one of these")
    return _newest(store, text, [(kind, name) for kind, name, _ in places], {step for _, _, step in places} - {""})


def _places(store: Store, given: str, kinds: Collection[str]) -> list[tuple[str, str, str]]:
    """Kind, name and step ('' for any) of the artifacts that a step's key, a name or a kind means.

    A step's key is the name of its artifact, or the step's name with that name: 'stage4_lm', 'segment-pretrain'. The
    folder of a kind has the artifacts of one step or of the training stages, so that its first one tells the step.
    """
    all_places = [(kind, name) for kind in store.kinds() if not kinds or kind in kinds for name in store.names(kind)]
    found = [(kind, name, "") for kind, name in all_places if name == given]
    for kind, name in all_places:
        step = given.removesuffix(f"-{name}")
        if step != given and _made_by(store, kind, name) == step:
            found.append((kind, name, step))
    return found or [(kind, name, "") for kind, name in all_places if kind == given]


def _made_by(store: Store, kind: str, name: str) -> str:
    """The step that makes the artifacts of a kind and name; '' if there are none."""
    for found in store.ids(kind, name):
        artifact = store.get(ArtifactRef(kind=kind, name=name, id=found))
        if artifact is not None:
            return str(artifact.manifest.spec.step)
    return ""


def _newest(store: Store, text: str, places: Iterable[tuple[str, str]], steps: Collection[str] = ()) -> ArtifactRef:
    """The artifact of some kinds and names that was started last. Raises ArtifactError if a manifest is damaged."""
    newest: tuple[str, ArtifactRef] | None = None
    for kind, name in places:
        for found in store.ids(kind, name):
            artifact = store.get(ArtifactRef(kind=kind, name=name, id=found))
            if artifact is None or (steps and artifact.manifest.spec.step not in steps):
                continue
            started = str(artifact.manifest.provenance.started)
            if newest is None or started > newest[0]:
                newest = started, artifact.ref
    return _none(store, text) if newest is None else newest[1]


def _one(text: str, refs: list[ArtifactRef]) -> ArtifactRef:
    if not refs:
        raise ArtifactError(f"no artifact's id starts with '{text}'; 'agevlm artifacts' lists them")
    if len(refs) > 1:
        raise ArtifactError(f"'{text}' is ambiguous: {_words([str(ref) for ref in refs])}; type more digits")
    return refs[0]


def _none(store: Store, text: str) -> ArtifactRef:
    what = "no artifact's id starts with" if HEX.fullmatch(text) else "no artifact, tag or step is called"
    raise ArtifactError(f"{what} '{text}' in {store.root}; 'agevlm artifacts' and 'agevlm tags' list them")


def _words(items: Collection[str]) -> str:
    shown = list(items)[:SHOWN]
    return ", ".join(shown) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "") or "none"
