"""A fake of Elastic Beanstalk's environments, and of the EC2 instances below them.

A swap makes both environments `Updating` for `pending_s`, and is refused while they are not
`Ready`. Their names change with the answer, or at the end (`names_last`).
"""

import copy
import math
import time
from dataclasses import dataclass, field
from typing import Any, Final

from tests.fakes.aws import Invalid, QueryService, element
from tests.fakes.base import Call

APPLICATION: Final = "shop"
LIVE: Final = "shop.eu-west-1.elasticbeanstalk.com"
IDLE: Final = "shop-idle.eu-west-1.elasticbeanstalk.com"
BLUE: Final = "e-blueblue01"
GREEN: Final = "e-greengreen"


@dataclass
class FakeElasticBeanstalk(QueryService):
    namespace = "http://elasticbeanstalk.amazonaws.com/docs/2010-12-01/"
    version = "2010-12-01"
    signed_for = "elasticbeanstalk"
    writing_actions = frozenset({"SwapEnvironmentCNAMEs", "CreateEnvironment", "UpdateEnvironment"})

    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id."""
    versions: set[str] = field(default_factory=lambda: {"v1", "v2"})
    stacks: set[str] = field(default_factory=lambda: {"64bit Amazon Linux 2023 v4.5.0 running X"})
    instances: dict[str, list[str]] = field(default_factory=dict)
    """Environment's id -> its instances' ids."""
    health: dict[str, str] = field(default_factory=dict)
    """Instance's id -> HealthStatus."""
    enhanced: bool = True
    health_fails: bool = False
    """DescribeInstancesHealth is answered with 503."""
    page_max: int = 100
    names_last: bool = False
    _busy_until: dict[str, float] = field(default_factory=dict)
    _at_the_end: list[tuple[float, str, str]] = field(default_factory=list)

    def put(self, id_: str, name: str, cname: str, **more: Any) -> None:
        self.environments[id_] = {
            "EnvironmentId": id_,
            "EnvironmentName": name,
            "ApplicationName": APPLICATION,
            "VersionLabel": "v1",
            "CNAME": cname,
            "EndpointURL": f"awseb-{id_}.eu-west-1.elb.amazonaws.com",
            "Status": "Ready",
            "Health": "Green",
            "HealthStatus": "Ok",
            "Tier": {"Name": "WebServer", "Type": "Standard", "Version": "1.0"},
            **more,
        }

    def cname(self, id_: str) -> str:
        self._catch_up()
        return str(self.environments[id_]["CNAME"])

    def snapshot(self) -> Any:
        self._catch_up()
        return copy.deepcopy(self.environments)

    # ------------------------------------------------------------ the API

    def carry_out(self, action: str, given: dict[str, Any]) -> Any:
        self._catch_up()
        match action:
            case "DescribeEnvironments":
                return self._described(given)
            case "SwapEnvironmentCNAMEs":
                return self._swapped(given)
            case "DescribeEnvironmentResources":
                environment = self._one(given)
                ids = self.instances.get(environment["EnvironmentId"], [])
                return {
                    "EnvironmentResources": {
                        "EnvironmentName": environment["EnvironmentName"],
                        "Instances": [{"Id": id_} for id_ in ids],
                    }
                }
            case "DescribeInstancesHealth":
                return self._instances_health(given)
            case "CreateEnvironment":
                return self._created(given)
            case "UpdateEnvironment":
                return self._updated(given)
        raise Invalid("InvalidAction", f"Could not find operation {action}")

    def _described(self, given: dict[str, Any]) -> Any:
        ids, names = given.pop("EnvironmentIds", None), given.pop("EnvironmentNames", None)
        application = given.pop("ApplicationName", None)
        deleted = given.pop("IncludeDeleted", "true") == "true"
        start = int(given.pop("NextToken", "0"))
        if given:
            raise Invalid("ValidationError", f"unexpected parameters: {sorted(given)}")
        found = [
            one
            for one in self.environments.values()
            if (ids is None or one["EnvironmentId"] in ids)
            and (names is None or one["EnvironmentName"] in names)
            and (application is None or one["ApplicationName"] == application)
            and (deleted or one["Status"] != "Terminated")
        ]
        page = found[start : start + self.page_max]
        more = start + self.page_max < len(found)
        return {
            "Environments": page,
            "NextToken": str(start + self.page_max) if more else None,
        }

    def _swapped(self, given: dict[str, Any]) -> None:
        source, destination = (
            self._one(
                {
                    key: given.pop(f"{side}{key}")
                    for key in ("EnvironmentId", "EnvironmentName")
                    if f"{side}{key}" in given
                }
            )
            for side in ("Source", "Destination")
        )
        if given:
            raise Invalid("ValidationError", f"unexpected parameters: {sorted(given)}")
        if source is destination:
            raise Invalid("InvalidParameterValue", "Source and destination are the same")
        for one in (source, destination):
            if one["Status"] != "Ready":
                raise Invalid(
                    "InvalidParameterValue",
                    f"Environment named {one['EnvironmentName']} is in an invalid state for this "
                    f"operation. Must be Ready.",
                )
        fails, self.fails_next = self.fails_next, False
        until = time.monotonic() + self.pending_s
        if not fails and not self.names_last:
            source["CNAME"], destination["CNAME"] = destination["CNAME"], source["CNAME"]
        elif not fails:
            self._at_the_end.append((until, source["EnvironmentId"], destination["EnvironmentId"]))
        for one in (source, destination):
            self._update(one, until)

    def _update(self, environment: dict[str, Any], until: float) -> None:
        if until > time.monotonic():
            environment["Status"] = "Updating"
            self._busy_until[environment["EnvironmentId"]] = until

    def _catch_up(self) -> None:
        now = time.monotonic()
        for at, source, destination in list(self._at_the_end):
            if at <= now:
                one, other = self.environments[source], self.environments[destination]
                one["CNAME"], other["CNAME"] = other["CNAME"], one["CNAME"]
                self._at_the_end.remove((at, source, destination))
        for id_, at in list(self._busy_until.items()):
            if at <= now and not math.isinf(at):
                self.environments[id_]["Status"] = "Ready"
                del self._busy_until[id_]

    def _one(self, given: dict[str, Any]) -> dict[str, Any]:
        id_, name = given.get("EnvironmentId"), given.get("EnvironmentName")
        if id_ is None and name is None:
            raise Invalid("MissingParameter", "EnvironmentId or EnvironmentName must be given")
        for one in self.environments.values():
            is_it = id_ in (None, one["EnvironmentId"]) and name in (None, one["EnvironmentName"])
            if is_it and one["Status"] != "Terminated":
                return one
        raise Invalid("InvalidParameterValue", f"No Environment found for {id_ or name}.")

    def _instances_health(self, given: dict[str, Any]) -> Any:
        environment = self._one(given)
        if self.health_fails:
            raise Invalid("ServiceUnavailable", "The service is unavailable", 503)
        if not self.enhanced:
            raise Invalid(
                "InvalidRequestException",
                "Enhanced health reporting is not enabled for this environment",
            )
        ids = self.instances.get(environment["EnvironmentId"], [])
        start = int(given.get("NextToken", "0"))
        more = start + self.page_max < len(ids)
        return {
            "InstanceHealthList": [
                {"InstanceId": id_, "HealthStatus": self.health.get(id_, "Ok")}
                for id_ in ids[start : start + self.page_max]
            ],
            "NextToken": str(start + self.page_max) if more else None,
        }

    def _created(self, given: dict[str, Any]) -> Any:
        name = given.get("EnvironmentName", "")
        if not 4 <= len(name) <= 40:
            raise Invalid("InvalidParameterValue", "Length of EnvironmentName must be 4 to 40.")
        if any(
            one["EnvironmentName"] == name and one["Status"] != "Terminated"
            for one in self.environments.values()
        ):
            raise Invalid("InvalidParameterValue", f"Environment {name} already exists.")
        self._known_version(given)
        given_of = [key for key in ("SolutionStackName", "TemplateName") if key in given]
        if len(given_of) != 1:
            raise Invalid("InvalidParameterCombination", "a solution stack or a template")
        cname = f"{given.get('CNAMEPrefix', name)}.eu-west-1.elasticbeanstalk.com"
        if any(one["CNAME"] == cname for one in self.environments.values()):
            raise Invalid("InvalidParameterValue", f"DNS name ({cname}) is not available.")
        id_ = f"e-{len(self.environments):0>10}"
        self.put(id_, name, cname, VersionLabel=given["VersionLabel"], Status="Launching")
        self._busy_until[id_] = time.monotonic() + self.pending_s
        return self.environments[id_]

    def _updated(self, given: dict[str, Any]) -> Any:
        environment = self._one(given)
        if environment["Status"] != "Ready":
            raise Invalid(
                "InvalidParameterValue",
                f"Environment named {environment['EnvironmentName']} is in an invalid state for "
                f"this operation. Must be Ready.",
            )
        self._known_version(given)
        environment["VersionLabel"] = given["VersionLabel"]
        self._update(environment, time.monotonic() + self.pending_s)
        return environment

    def _known_version(self, given: dict[str, Any]) -> None:
        if given.get("VersionLabel") not in self.versions:
            raise Invalid(
                "InvalidParameterValue",
                f"No Application Version named '{given.get('VersionLabel')}' found.",
            )


@dataclass
class FakeEc2(QueryService):
    """DescribeInstances by a filter on ids, and nothing else."""

    namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"
    version = "2016-11-15"
    signed_for = "ec2"

    instances: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Id -> `{"address": …, "state": …}`."""
    page_max: int = 100
    fails_on: str | None = None
    """A call that asks for this instance is answered with 503."""

    def put(self, id_: str, address: str, state: str = "running") -> None:
        self.instances[id_] = {"address": address, "state": state}

    def snapshot(self) -> Any:
        return copy.deepcopy(self.instances)

    def carry_out(self, action: str, given: dict[str, Any]) -> Any:
        if action != "DescribeInstances":
            raise Invalid("InvalidAction", f"The action {action} is not valid")
        filters = given.get("Filter") or []
        if [one["Name"] for one in filters] != ["instance-id"]:
            raise Invalid("InvalidParameterValue", f"this fake filters by instance-id: {filters}")
        asked = filters[0]["Value"]
        if len(asked) > 200:
            raise Invalid("FilterLimitExceeded", "The maximum number of filter values is 200")
        if self.fails_on in asked:
            raise Invalid("Unavailable", "The service is unavailable", 503)
        found = [id_ for id_ in asked if id_ in self.instances]
        start = int(given.get("NextToken", "0"))
        return [
            {
                "instanceId": id_,
                "instanceState": {"name": self.instances[id_]["state"]},
                "privateIpAddress": self.instances[id_]["address"],
            }
            for id_ in found[start : start + self.page_max]
        ], (str(start + self.page_max) if start + self.page_max < len(found) else None)

    def answered(self, action: str, result: Any) -> str:
        instances, token = result
        inner = "".join(
            element("item", {"reservationId": "r-1", "instancesSet": [one]}, "item")
            for one in instances
        )
        more = element("nextToken", token) if token else ""
        return (
            f'<{action}Response xmlns="{self.namespace}"><requestId>request</requestId>'
            f"<reservationSet>{inner}</reservationSet>{more}</{action}Response>"
        )

    def error_text(self, status: int, code: str, message: str) -> str:
        inner = element("Errors", {"Error": {"Code": code, "Message": message}})
        return f"<Response>{inner}<RequestID>request</RequestID></Response>"


def asked_for(calls: list[Call], action: str) -> int:
    """How many of the calls were of this action."""
    return sum(1 for call in calls if call.body.startswith(f"Action={action}&".encode()))
