"""Elastic Beanstalk: two environments that swap their names, and one's instances as servers.

The environment that holds the live name has all traffic; `SwapEnvironmentCNAMEs` exchanges the
names of the two. It says nothing of what is wanted: made twice it undoes itself. So the names
are read before each call and decide whether one is made at all, and nothing here repeats one.

A swap takes seconds to minutes, in which both environments are `Updating` and no other is taken
on. Clients then go on by what they remember of DNS, for the name's time to live and longer.
Calls: ElasticBeanstalk 2010-12-01 (DescribeEnvironments, SwapEnvironmentCNAMEs,
DescribeEnvironmentResources, DescribeInstancesHealth), EC2 DescribeInstances.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from turnout.config.outer.aws import BeanstalkInstances, ElasticBeanstalk
from turnout.config.weights import WHOLE
from turnout.control.outer.aws import AwsClient, Turns
from turnout.control.outer.beanstalk_environments import (
    EnvironmentNow,
    batches,
    called,
    digest,
    is_environment,
    is_id,
    named,
    names_wanted,
    progress_of,
    reading_of,
    servers_of,
)
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    Context,
    FoundServers,
    NotDone,
    OuterError,
    Progress,
    Reading,
    Refused,
    Tail,
    Throttled,
    Wanted,
    differences,
)

# ---------------------------------------------------------------- the router


class Beanstalk:
    """Two environments, one of which holds the live name."""

    capabilities = Capabilities(atomic=True, weighted=False, exchange=True, conditional=False)

    def __init__(self, settings: ElasticBeanstalk, context: Context) -> None:
        self._settings = settings
        self._names = context.names
        self._client = AwsClient(
            "elasticbeanstalk", context, who="Elastic Beanstalk", region=settings.region
        )

    def expressible(self, second_weight: int) -> int | None:
        return second_weight if second_weight in (0, WHOLE) else None

    async def read(self) -> Reading:
        return reading_of(await self._found(), self._settings, self._names)

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        after = names_wanted(wanted, reading, self._settings.cname, self._names)
        if after == dict(reading.exact):
            return {"call": "none: the names are as they should be", "names": after}
        return {"call": "SwapEnvironmentCNAMEs", **self._ids(reading), "names": after}

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        after = names_wanted(wanted, if_read, self._settings.cname, self._names)
        turns = await self._client.turns(reads=len(self._asked()))
        found = await self._found(turns)
        now = reading_of(found, self._settings, self._names)
        if now.version != if_read.version:
            before = {"names": if_read.exact, **if_read.settings}
            what = differences(before, {"names": now.exact, **now.settings})
            raise Conflict(f"Elastic Beanstalk: {'; '.join(what)}")
        if after == dict(now.exact):
            return self._change("", now.exact, after)
        if now.problems:
            raise Refused("; ".join(now.problems))
        busy = [
            f"{called(name, one)} is {one.get('Status')}"
            for name, one in zip(self._names, found, strict=True)
            if one is not None and one.get("Status") != "Ready"
        ]
        if busy:
            raise Throttled(f"Elastic Beanstalk: {'; '.join(busy)}: no swap is taken on")
        answer = await self._client.call(
            "swap_environment_cnames", writes=True, turns=turns, **self._ids(if_read)
        )
        meta = answer.get("ResponseMetadata") or {}
        return self._change(str(meta.get("RequestId") or ""), now.exact, after)

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        return self._change("", reading.exact, dict(reading.exact))

    async def poll(self, change: Change) -> Progress:
        return progress_of(
            await self._found(), change, self._names, time.time(), self._settings.start_timeout
        )

    async def tail(self, old_upstream: int) -> Tail:
        return Tail(self._settings.ttl)

    async def close(self) -> None:
        await self._client.close()

    # ------------------------------------------------------------ parts

    def _ids(self, reading: Reading) -> dict[str, str]:
        """By id: a name may have passed to another environment."""
        source, destination = (
            str(reading.settings.get(name, {}).get("EnvironmentId")) for name in self._names
        )
        return {"SourceEnvironmentId": source, "DestinationEnvironmentId": destination}

    def _change(self, id_: str, before: Mapping[str, Any], after: Mapping[str, str]) -> Change:
        # Wall clock: it is stored, and polled by whoever is alive then.
        return Change(id_, {"before": dict(before), "after": dict(after), "at": time.time()})

    def _asked(self) -> list[Mapping[str, list[str]]]:
        """What each reading call asks for: both in one where that can be."""
        first, second = (self._settings.environments[name] for name in self._names)
        if is_id(first) == is_id(second):
            return [{next(iter(named(first))): [first, second]}]
        return [named(first), named(second)]

    async def _found(self, turns: Turns | None = None) -> list[EnvironmentNow | None]:
        """The two, in order."""
        described = [one for which in self._asked() for one in await self._described(which, turns)]
        return [
            next((one for one in described if is_environment(one, environment)), None)
            for environment in (self._settings.environments[name] for name in self._names)
        ]

    async def _described(
        self, which: Mapping[str, list[str]], turns: Turns | None
    ) -> list[dict[str, Any]]:
        return await self._client.every(
            "describe_environments",
            "Environments",
            sends="NextToken",
            gets="NextToken",
            turns=turns,
            IncludeDeleted=False,
            **which,
        )


# ---------------------------------------------------------------- servers


class Instances:
    """The instances of one environment, looked at in intervals."""

    def __init__(self, settings: BeanstalkInstances, context: Context) -> None:
        self._settings = settings
        self._tell = context.tell
        self._beanstalk = AwsClient(
            "elasticbeanstalk", context, who="Elastic Beanstalk", region=settings.region
        )
        self._ec2 = AwsClient("ec2", context, who="EC2", region=settings.region)
        self._which: dict[str, Any] = {
            key.removesuffix("s"): value[0] for key, value in named(settings.environment).items()
        }
        self._health: Mapping[str, str] = {}
        self._told = ""

    async def snapshots(self) -> AsyncIterator[FoundServers]:
        last: FoundServers | None = None
        while True:
            now = await self._look()
            if now != last:
                yield now
                last = now
            await asyncio.sleep(self._settings.interval)

    async def close(self) -> None:
        await self._beanstalk.close()
        await self._ec2.close()

    async def _look(self) -> FoundServers:
        """Raises OuterError when the environment's instances cannot be told."""
        answer = await self._beanstalk.call("describe_environment_resources", **self._which)
        resources = answer.get("EnvironmentResources") or {}
        ids = sorted(str(one["Id"]) for one in resources.get("Instances") or () if one.get("Id"))
        instances: list[dict[str, Any]] = []
        failed: OuterError | None = None
        for batch in batches(ids):
            try:
                instances += await self._instances(batch)
            except NotDone as error:
                failed = error
        if failed is not None and not instances:
            raise failed
        await self._ask_health()
        servers = servers_of(instances, self._health, self._settings.port)
        missing = set(ids) - {str(instance.get("InstanceId")) for instance in instances}
        return FoundServers(
            servers,
            revision=digest([[one.address, one.ready, one.draining] for one in servers]),
            complete=not missing and failed is None,
        )

    async def _instances(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        # By a filter: by their ids, one that has just gone would refuse the whole call.
        reservations = await self._ec2.every(
            "describe_instances",
            "Reservations",
            sends="NextToken",
            gets="NextToken",
            Filters=[{"Name": "instance-id", "Values": list(ids)}],
        )
        return [one for each in reservations for one in each.get("Instances") or ()]

    async def _ask_health(self) -> None:
        """Keep what was last known while it cannot be asked; nothing is known where there is no
        such report."""
        try:
            found = await self._beanstalk.every(
                "describe_instances_health",
                "InstanceHealthList",
                sends="NextToken",
                gets="NextToken",
                AttributeNames=["HealthStatus"],
                **self._which,
            )
        except (Refused, NotDone) as error:
            if isinstance(error, Refused):
                self._health = {}
            self._say(
                str(error),
                "its instances are taken as they run; for their health switch enhanced health "
                "reporting on, and allow elasticbeanstalk:DescribeInstancesHealth",
            )
            return
        self._told = ""
        self._health = {
            str(one.get("InstanceId")): str(one.get("HealthStatus") or "") for one in found
        }

    def _say(self, what: str, remedy: str) -> None:
        if what != self._told:  # once, not in each interval
            self._tell(what, remedy)
        self._told = what


def make_router(settings: ElasticBeanstalk, context: Context) -> Beanstalk:
    return Beanstalk(settings, context)


def make_discovery(settings: BeanstalkInstances, context: Context) -> Instances:
    return Instances(settings, context)
