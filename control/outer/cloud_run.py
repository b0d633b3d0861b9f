"""The traffic of a Cloud Run service, split between two of its revisions.

One `services.patch` with `updateMask=traffic` and the etag: atomic, and refused when the service
was changed since. The colours are revisions; as each deployment makes a new one, they are named
by traffic tags, which stay (or by their names). Entries of other revisions, such as previews
that have a tag and no traffic, are kept as they are found.

In sync: the operation is done, the service is not reconciling any more, what it observed is what
it was told, and what it says of its traffic is what was wanted. Then `settle`, as its
documentation says that traffic "adjustments are not instantaneous".

Sources: google/cloud/run/v2/service.proto and traffic_target.proto (above all the comments on
`reconciling`); cloud.google.com, "Rollbacks, gradual rollouts, and traffic migration".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from turnout.config.outer.google import CloudRun
from turnout.config.weights import WHOLE
from turnout.control.outer.google import (
    NotThere,
    api,
    error_text,
    short_name,
    write_as_read,
)
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Context,
    Progress,
    Reading,
    Tail,
    Verdict,
    Wanted,
    nearest_share,
)
from turnout.control.outer.settling import Settling

PARTS: Final = 100
"""Percentages are whole numbers."""
REVISION: Final = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
LATEST: Final = "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST"
_ANY: Final = "the latest revision"

Document = Mapping[str, Any]
Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sides:
    """How the two upstreams are told in a service's traffic."""

    upstreams: tuple[str, str]
    by_tag: bool
    names: tuple[str, str]
    """Tags, or names of revisions."""


# ---------------------------------------------------------------- what a service says


def understand(document: Document, sides: Sides) -> Reading:
    """A reading of what the API says of the service."""
    traffic = _traffic(document)
    problems = list(_not_steady(traffic))
    warnings = list(_warnings(document))
    revisions: list[str] = []
    for upstream, name in zip(sides.upstreams, sides.names, strict=True):
        found = _revision(traffic, name) if sides.by_tag else name
        if found is None:
            problems.append(
                f"no revision has the traffic tag {name}, which is {upstream}'s."
                f" gcloud run services update-traffic --update-tags={name}=REVISION"
            )
        else:
            revisions.append(found)
    if len(revisions) == 2 and revisions[0] == revisions[1]:
        problems.append(f"both sides are the revision {revisions[0]}. Move one of the tags")
    in_force = shares(traffic)
    if has_failed(document):
        in_force = shares(document.get("trafficStatuses", ()))
        warnings.append(
            f"the last change of its traffic failed: {_condition(document)}. The traffic is split"
            f" as before; the failed change is still in the service's settings"
        )
    known = (*revisions, _ANY)  # of the latest one it is said already
    strangers = {name: share for name, share in in_force.items() if name not in known}
    if len(revisions) == 2 and strangers:
        problems.append(f"other revisions have traffic: {_percentages(strangers)}")
    weight = None
    if not problems:
        weight = in_force.get(revisions[1], 0) * WHOLE // PARTS
    ours = _ours(document, revisions)
    return Reading(
        second_weight=weight,
        version=str(document.get("etag", "")),
        exact={"traffic": ours},
        settings={
            "revisions": dict(zip(sides.upstreams, revisions, strict=False)),
            "tags": {entry["tag"]: entry["revision"] for entry in ours.values() if entry["tag"]},
        },
        problems=problems,
        warnings=warnings,
    )


def shares(entries: Sequence[Document]) -> dict[str, int]:
    """Revision -> its percentage, of those that have one. One revision may have several
    entries."""
    found: dict[str, int] = {}
    for entry in entries:
        share = int(entry.get("percent") or 0)
        if share:
            name = short_name(str(entry.get("revision", ""))) or _ANY
            found[name] = found.get(name, 0) + share
    return found


def has_failed(document: Document) -> bool:
    """Whether its last change was not carried out, so that its traffic is as it was before that."""
    condition = document.get("terminalCondition") or {}
    return (
        not document.get("reconciling", False)
        and condition.get("state") == "CONDITION_FAILED"
        and shares(document.get("trafficStatuses", ())) != shares(_traffic(document))
    )


def _traffic(document: Document) -> Sequence[Document]:
    """Its entries; without any, as documented, all goes to the latest revision."""
    return document.get("traffic") or ({"type": LATEST, "percent": PARTS},)


def _not_steady(traffic: Sequence[Document]) -> Iterator[str]:
    """Entries that follow the latest revision: the next deployment would move traffic."""
    for entry in traffic:
        if entry.get("type") != LATEST:
            continue
        if entry.get("percent"):
            yield (
                f"{entry['percent']} % go to whichever revision is the latest, so the next"
                f" deployment moves traffic."
                f" gcloud run services update-traffic --to-revisions=REVISION={entry['percent']}"
            )


def _warnings(document: Document) -> Iterator[str]:
    template = document.get("template") or {}
    if template.get("revision"):
        yield (
            f"its template names the revision {template['revision']}: a change of traffic may be"
            f" refused with 409, 'already exists'. Deploy without a name for the revision"
        )
    if template.get("sessionAffinity"):
        yield "session affinity is on: clients stay with the revision that they had first"


def _revision(traffic: Sequence[Document], tag: str) -> str | None:
    """The revision that a tag is on; a tag that follows the latest one is on none."""
    for entry in traffic:
        if entry.get("tag") == tag and entry.get("type") != LATEST and entry.get("revision"):
            return short_name(str(entry["revision"]))
    return None


def _ours(document: Document, revisions: Sequence[str]) -> dict[str, Entry]:
    """The two revisions' entries that are in force, in one spelling and by what tells them."""
    entries = document.get("trafficStatuses", ()) if has_failed(document) else _traffic(document)
    found: dict[str, Entry] = {}
    for entry in entries:
        revision = _fixed(entry)
        if revision is None or revision not in revisions:
            continue
        tag, share = str(entry.get("tag") or ""), int(entry.get("percent") or 0)
        key = f"{revision} {tag}".rstrip()
        # Several without a tag are one that is split up.
        share += found[key]["percent"] if key in found else 0
        found[key] = {"revision": revision, "tag": tag, "percent": share}
    return dict(sorted(found.items()))


def _condition(document: Document) -> str:
    """Why, as a part of a sentence."""
    condition = document.get("terminalCondition") or {}
    text = condition.get("message") or condition.get("reason") or condition.get("state")
    return str(text).rstrip(". ")


def _percentages(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {share} %" for name, share in sorted(found.items()))


# ---------------------------------------------------------------- what is asked of it


def split(
    traffic: Sequence[Document], revisions: tuple[str, str], tags: Sequence[str], second: int
) -> list[Entry]:
    """The traffic with `second` percent on the second revision, the rest on the first.

    Each keeps its tags; its share is where it was, else at its side's tag. An entry without
    either would mean nothing and is left out.
    """
    wanted = {revisions[0]: PARTS - second, revisions[1]: second}
    carriers = {revision: _carrier(traffic, revision, tags) for revision in revisions}
    ours: list[Entry] = []
    for index, entry in enumerate(traffic):
        revision = _fixed(entry)
        if revision not in wanted:
            continue
        changed = {key: value for key, value in entry.items() if key != "percent"}
        if index == carriers[revision] and wanted[revision]:
            changed["percent"] = wanted[revision]
        if changed.get("percent") or changed.get("tag"):
            ours.append(changed)
    for revision in revisions:
        if carriers[revision] is None and wanted[revision]:
            ours.append({"type": REVISION, "revision": revision, "percent": wanted[revision]})
    return _put(ours, traffic, revisions)


def restored(
    traffic: Sequence[Document], revisions: Sequence[str], ours: Mapping[str, Document]
) -> list[Entry]:
    """The traffic with the two revisions' entries as they were, the others as they are."""
    back: list[Entry] = [
        {"type": REVISION, "revision": entry["revision"]}
        | {key: entry[key] for key in ("percent", "tag") if entry[key]}
        for entry in ours.values()
    ]
    return _put(back, traffic, revisions)


def _put(
    ours: Sequence[Entry], traffic: Sequence[Document], revisions: Sequence[str]
) -> list[Entry]:
    """The traffic with these entries instead of the two revisions', where their first stands."""
    own = [index for index, entry in enumerate(traffic) if _fixed(entry) in revisions]
    others = [dict(entry) for index, entry in enumerate(traffic) if index not in own]
    there = own[0] if own else len(others)
    return [*others[:there], *ours, *others[there:]]


def _carrier(traffic: Sequence[Document], revision: str, tags: Sequence[str]) -> int | None:
    """Which entry of a revision has its share, or shall have it."""
    own = [index for index, entry in enumerate(traffic) if _fixed(entry) == revision]

    def fitness(index: int) -> tuple[bool, bool]:
        entry = traffic[index]
        return bool(entry.get("percent")), entry.get("tag") in tags

    return max(own, key=fitness, default=None)


def _fixed(entry: Document) -> str | None:
    """The revision of an entry that is on one by its name."""
    if entry.get("type") == LATEST or not entry.get("revision"):
        return None
    return short_name(str(entry["revision"]))


# ---------------------------------------------------------------- how far it is


def progress(document: Document, wanted: Mapping[str, int]) -> Progress:
    """How far the service is with bringing about these percentages."""
    asked = shares(_traffic(document))
    if asked != wanted and has_failed(document):
        return Progress(
            Verdict.FAILED,
            f"its settings still have a change that failed ({_percentages(asked)}):"
            f" {_condition(document)}",
        )
    if asked != wanted:
        return Progress(
            Verdict.UNKNOWN,
            f"somebody else has changed it since: {_percentages(wanted)}, now {_percentages(asked)}",
        )
    if document.get("reconciling", False):
        return Progress(Verdict.PENDING, "the service is reconciling")
    if has_failed(document):
        return Progress(Verdict.FAILED, _condition(document))
    there = shares(document.get("trafficStatuses", ()))
    if there != wanted:
        return Progress(Verdict.PENDING, f"its traffic is {_percentages(there)}")
    observed, generation = document.get("observedGeneration"), document.get("generation")
    # A later deployment that fails stays unobserved for good, and moves no traffic.
    failed = (document.get("terminalCondition") or {}).get("state") == "CONDITION_FAILED"
    if observed != generation and not failed:
        return Progress(Verdict.PENDING, f"generation {generation}, {observed} is observed")
    return Progress(Verdict.IN_SYNC, f"its traffic is {_percentages(there)}")


# ---------------------------------------------------------------- the router


class CloudRunRouter:
    """The two revisions of one service."""

    capabilities = Capabilities(atomic=True, weighted=True, exchange=False, conditional=True)

    def __init__(self, settings: CloudRun, context: Context) -> None:
        by_tag = not settings.revisions
        given = settings.tags if by_tag else settings.revisions
        first, second = context.names
        self._sides = Sides(context.names, by_tag, (given[first], given[second]))
        self._name = (
            f"projects/{settings.project}/locations/{settings.location}/services/{settings.service}"
        )
        self._rest = api(settings, settings.endpoint, context, "Cloud Run")
        self._settling = Settling(settings.settle)

    def expressible(self, second_weight: int) -> int:
        return nearest_share(second_weight, PARTS)

    async def read(self) -> Reading:
        try:
            return (await self._read())[0]
        except NotThere as error:
            return Reading(None, "", {}, {}, problems=[f"there is no such service: {error}"])

    async def _read(self) -> tuple[Reading, Document]:
        document = await self._rest.document("GET", f"/v2/{self._name}")
        return understand(document, self._sides), document

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        ours = restored((), (), reading.exact.get("traffic", {}))
        return {
            "method": "PATCH",
            "path": f"/v2/{self._name}?updateMask=traffic",
            "body": {"etag": reading.version, "traffic": self._becomes(ours, wanted, reading)},
            "kept": "entries of other revisions, as they are then",
        }

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        async def write(now: Reading, document: Document) -> Change:
            # Also when its settings say so already: what they say may be a change that failed.
            traffic = self._becomes(document.get("traffic") or (), wanted, now)
            operation = await self._rest.document(
                "PATCH",
                f"/v2/{self._name}",
                params={"updateMask": "traffic"},
                json={"name": self._name, "etag": now.version, "traffic": traffic},
            )
            return self._change(str(operation.get("name", "")), traffic)

        return await write_as_read(self._read, write, if_read, self._sides.upstreams[1])

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        ours = restored((), (), reading.exact["traffic"])
        return self._change("", self._becomes(ours, wanted, reading))

    def _becomes(
        self, traffic: Sequence[Document], wanted: Wanted, reading: Reading
    ) -> list[Entry]:
        found = reading.settings.get("revisions", {})
        first, second = (str(found.get(upstream, "")) for upstream in self._sides.upstreams)
        if wanted.exact is not None:
            return restored(traffic, (first, second), wanted.exact["traffic"])
        tags = self._sides.names if self._sides.by_tag else ()
        share = self.expressible(wanted.second_weight) * PARTS // WHOLE
        return split(traffic, (first, second), tags, share)

    def _change(self, operation: str, traffic: Sequence[Document]) -> Change:
        return Change(operation, {"shares": shares(traffic)})

    async def poll(self, change: Change) -> Progress:
        if change.id:
            try:
                operation = await self._rest.document("GET", f"/v2/{change.id}")
            except NotThere:
                # It is forgotten some time after its end; the service tells as well.
                operation = {"done": True}
            if not operation.get("done", False):
                return Progress(Verdict.PENDING, "the operation is not done")
            if error := operation.get("error"):
                return Progress(Verdict.FAILED, error_text(error))
        document = await self._rest.document("GET", f"/v2/{self._name}")
        said = progress(document, change.document["shares"])
        if said.verdict is not Verdict.IN_SYNC:
            return said
        return self._settling.done(change, said.detail)

    async def tail(self, old_upstream: int) -> Tail:
        return Tail(ttl_s=0.0)

    async def close(self) -> None:
        await self._rest.close()


def make_router(settings: CloudRun, context: Context) -> CloudRunRouter:
    """For the service that `settings` names."""
    return CloudRunRouter(settings, context)
