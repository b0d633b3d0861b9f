"""Route 53: two weighted records, or one record whose target is switched whole.

What records mean and what a change of them takes is in `route53_records`; the calls are here. A
change is one batch, which Route 53 carries out whole or not at all. It is no conditional one:
the records are read again just before it.
"""

from typing import Any, Final

from turnout.config.outer.route53 import Route53
from turnout.config.weights import WHOLE
from turnout.control.outer.aws import AwsClient, Turns
from turnout.control.outer.route53_records import (
    batch,
    canonical,
    changed,
    reading,
    repeated,
    share_of,
    weights_for,
)
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    Context,
    OuterError,
    Progress,
    Reading,
    Refused,
    ReplyLost,
    Tail,
    Verdict,
    Wanted,
)

WHO: Final = "Route 53"
_PAGES_MAX: Final = 50
"""A name has at most 100 weighted records of each type, and a page 300."""


class _NoSuchZone(OuterError):
    """NoSuchHostedZone."""


class _NoSuchChange(OuterError):
    """NoSuchChange."""


def make_router(settings: Route53, context: Context) -> "Route53Router":
    """Raises ModuleNotFoundError when boto3 is not installed."""
    return Route53Router(settings, context)


class Route53Router:
    """The records of one name."""

    def __init__(self, settings: Route53, context: Context) -> None:
        self._settings = settings
        self._names = context.names
        self._aws = AwsClient(
            "route53",
            context,
            who=WHO,
            meanings={"NoSuchHostedZone": _NoSuchZone, "NoSuchChange": _NoSuchChange},
        )

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            atomic=True,
            weighted=bool(self._settings.set_identifiers),
            exchange=False,
            conditional=False,
        )

    def expressible(self, second_weight: int) -> int | None:
        if not self._settings.set_identifiers:
            return second_weight if second_weight in (0, WHOLE) else None
        return share_of(*weights_for(second_weight))

    async def read(self) -> Reading:
        return await self._read(None)

    def preview(self, wanted: Wanted, reading: Reading) -> dict[str, Any]:
        return batch(self._settings, self._names, wanted, reading)

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        request = batch(self._settings, self._names, wanted, if_read)
        return await self._change(request, if_read)

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        # Route 53 names a change in its answer only, and lists none. What is there is written
        # again, as it is: nothing changes, and the new change is in sync no sooner than the one
        # whose answer was lost.
        request = repeated(self._settings, reading)
        return await self._change(request, reading)

    async def poll(self, change: Change) -> Progress:
        try:
            answer = await self._aws.call("get_change", Id=change.id)
        except _NoSuchChange:
            return Progress(
                Verdict.UNKNOWN,
                f"Route 53 knows no change {change.id}: these credentials are of another account "
                f"than those that made it, or it is too long ago",
            )
        about = answer.get("ChangeInfo", {})
        status = about.get("Status", "no status")
        since = about.get("SubmittedAt")
        detail = f"{status} since {since:%Y-%m-%d %H:%M:%S %Z}" if since else str(status)
        match status:
            case "INSYNC":
                return Progress(Verdict.IN_SYNC, detail)
            case "PENDING":
                return Progress(Verdict.PENDING, detail)
        return Progress(Verdict.UNKNOWN, f"{detail}, which is neither PENDING nor INSYNC")

    async def tail(self, old_upstream: int) -> Tail:
        # Route 53 counts queries, not requests, and that only for whom pays for it.
        return Tail(ttl_s=(await self.read()).ttl_s)

    async def close(self) -> None:
        await self._aws.close()

    # ------------------------------------------------------------ calls

    async def _read(self, turns: Turns | None) -> Reading:
        return reading(self._settings, self._names, await self._record_sets(turns))

    async def _record_sets(self, turns: Turns | None) -> list[dict[str, Any]]:
        """All record sets of the name; those that follow it in the zone may be among them."""
        name = canonical(self._settings.name)
        found: list[dict[str, Any]] = []
        start: dict[str, Any] = {"StartRecordName": name}
        for _ in range(_PAGES_MAX):
            try:
                page = await self._aws.call(
                    "list_resource_record_sets",
                    turns=turns,
                    HostedZoneId=self._settings.zone_id,
                    **start,
                )
            except _NoSuchZone as error:
                raise self._no_zone(error) from error
            found += page.get("ResourceRecordSets", [])
            if not page.get("IsTruncated") or canonical(page.get("NextRecordName", "")) != name:
                return found
            start = {
                f"Start{key.removeprefix('Next')}": page[key]
                for key in ("NextRecordName", "NextRecordType", "NextRecordIdentifier")
                if key in page
            }
        raise Refused(f"{WHO}: {name} has more than {_PAGES_MAX} pages of records")

    async def _change(self, request: dict[str, Any], before: Reading) -> Change:
        """Send the batch, unless the records are other ones than `before`."""
        turns = await self._aws.turns(reads=1)
        difference = changed(self._settings, before, await self._read(turns))
        if difference:
            raise Conflict(f"{WHO}: {difference}")
        try:
            answer = await self._aws.call(
                "change_resource_record_sets", writes=True, turns=turns, **request
            )
        except _NoSuchZone as error:
            raise self._no_zone(error) from error
        change_id = str(answer.get("ChangeInfo", {}).get("Id", ""))
        if not change_id:
            raise ReplyLost(f"{WHO}: ChangeResourceRecordSets: its answer names no change")
        return Change(change_id.removeprefix("/change/"))

    def _no_zone(self, error: OuterError) -> Refused:
        return Refused(
            f"{error}. Correct zone_id ({self._settings.zone_id}), or use credentials of the "
            f"account that has it"
        )
