"""A fake of CloudWatch: values of metrics, alarms, and the ways in which an answer is not whole.

It speaks what boto3 1.43 and 1.44 choose of the service's protocols: JSON 1.0 by `X-Amz-Target`.
A metric is its name with exactly its dimensions; any other one has no values, and that is
`Complete`. Requests are validated as the API's reference says.
"""

import copy
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from tests.fakes.aws import Invalid, signed_by
from tests.fakes.base import FakeService, Fault

TARGET: Final = "GraniteServiceVersion20100801."
STATS: Final = re.compile(r"SampleCount|Average|Sum|Minimum|Maximum|p\d{1,2}(\.\d+)?")

Key = tuple[str, str, frozenset[tuple[str, str]]]
"""Namespace, name, dimensions."""


@dataclass
class FakeCloudWatch(FakeService):
    values: dict[tuple[Key, str], dict[int, float]] = field(default_factory=dict)
    """Metric and statistic -> begin of the period -> value."""
    alarms: dict[str, dict[str, Any]] = field(default_factory=dict)
    composite: set[str] = field(default_factory=set)
    """Which of the alarms are composite ones."""
    status: str = "Complete"
    """What the last page says of each metric."""
    message: tuple[str, str] | None = None
    twice: bool = False
    """Two series are answered for each query."""
    page_max: int = 1000
    """Values in one answer, metrics or alarms."""
    denied: tuple[int, str, str] = (
        403, "ExpiredToken", "The security token included in the request is expired",
    )  # fmt: skip

    def put(
        self,
        namespace: str,
        name: str,
        dimensions: Mapping[str, str],
        stat: str,
        values: Mapping[int, float],
    ) -> None:
        key = (namespace, name, frozenset(dimensions.items()))
        self.values.setdefault((key, stat), {}).update(values)

    def alarm(self, name: str, state: str, *, composite: bool = False, **more: Any) -> None:
        self.alarms[name] = {
            "AlarmName": name,
            "StateValue": state,
            "StateReason": f"Threshold Crossed: {state}",
            "StateUpdatedTimestamp": datetime(2026, 11, 1, tzinfo=UTC).timestamp(),
            **more,
        }
        (self.composite.add if composite else self.composite.discard)(name)

    # ------------------------------------------------------------ the protocol

    def writes(self, request: web.Request, body: bytes) -> bool:
        return False

    def snapshot(self) -> Any:
        return copy.deepcopy((self.values, self.alarms))

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        try:
            if request.headers.get("Content-Type") != "application/x-amz-json-1.0":
                raise Invalid("UnknownOperationException", "this fake speaks JSON 1.0 only", 404)
            signed_by(request, "monitoring")
            action = request.headers["X-Amz-Target"].removeprefix(TARGET)
            self.journal[-1].note = action
            result = self._carried_out(action, json.loads(body))
        except Invalid as error:
            return _error(error.status, error.code, str(error))
        return web.Response(text=json.dumps(result), content_type="application/x-amz-json-1.0")

    def refusal(self, fault: Fault, request: web.Request) -> web.Response:
        match fault:
            case Fault.THROTTLED:
                return _error(400, "Throttling", "Rate exceeded")
            case Fault.DENIED:
                return _error(*self.denied)
        return _error(500, "InternalServiceError", "Request processing has failed")

    def _carried_out(self, action: str, given: dict[str, Any]) -> dict[str, Any]:
        match action:
            case "GetMetricData":
                return self._data(given)
            case "ListMetrics":
                return self._listed(given)
            case "DescribeAlarms":
                return self._alarms(given)
        raise Invalid("InvalidAction", f"Could not find operation {action}")

    # ------------------------------------------------------------ the API

    def _data(self, given: dict[str, Any]) -> dict[str, Any]:
        start, end = given["StartTime"], given["EndTime"]
        if start >= end:
            raise Invalid(
                "ValidationError",
                "The parameter StartTime must be less than the parameter EndTime.",
            )
        queries = given["MetricDataQueries"]
        ids = [query["Id"] for query in queries]
        if len(queries) > 500 or len(set(ids)) < len(ids):
            raise Invalid("ValidationError", "at most 500 queries, each with an id of its own")
        if given.get("ScanBy", "TimestampDescending") != "TimestampDescending":
            raise Invalid("ValidationError", "this fake gives the newest first only")
        skipped = int(given.get("NextToken", "0"))
        more = False
        results = []
        for query in queries:
            found = self._points(query, start, end)
            page = found[skipped : skipped + self.page_max]
            goes_on = skipped + self.page_max < len(found)
            more = more or goes_on
            status = "PartialData" if goes_on else self.status
            results.append(self._result(query, page, status))
            if self.twice:
                results.append({**results[-1], "Label": "another"})
        token = {"NextToken": str(skipped + self.page_max)} if more else {}
        return {"MetricDataResults": results, "Messages": [], **token}

    def _points(self, query: dict[str, Any], start: float, end: float) -> list[tuple[int, float]]:
        if not re.fullmatch(r"[a-z][A-Za-z0-9_]*", query["Id"]) or "MetricStat" not in query:
            raise Invalid("ValidationError", f"The value {query['Id']} for parameter Id is invalid")
        asked = query["MetricStat"]
        period, stat, metric = asked["Period"], asked["Stat"], asked["Metric"]
        if period not in (1, 5, 10, 20, 30) and (period <= 0 or period % 60):
            raise Invalid("ValidationError", f"Period {period} must be a multiple of 60")
        if not STATS.fullmatch(stat):
            raise Invalid("ValidationError", f"The value {stat} for parameter Stat is not valid")
        dimensions = frozenset((one["Name"], one["Value"]) for one in metric["Dimensions"])
        found = self.values.get(((metric["Namespace"], metric["MetricName"], dimensions), stat), {})
        # Below three hours of age whole minutes; a start within one begins with the minute.
        start = math.floor(start / 60) * 60
        return sorted(((at, value) for at, value in found.items() if start <= at < end), key=_old)

    def _result(
        self, query: dict[str, Any], page: list[tuple[int, float]], status: str
    ) -> dict[str, Any]:
        code, value = self.message or ("", "")
        return {
            "Id": query["Id"],
            "Label": query["MetricStat"]["Metric"]["MetricName"],
            "Timestamps": [at for at, _ in page],
            "Values": [value if math.isfinite(value) else _words(value) for _, value in page],
            "StatusCode": status,
            **({"Messages": [{"Code": code, "Value": value}]} if self.message else {}),
        }

    def _listed(self, given: dict[str, Any]) -> dict[str, Any]:
        filters = given.get("Dimensions", [])
        if len(filters) > 10:
            raise Invalid("InvalidParameterValue", "at most 10 dimensions")
        found = []
        for namespace, name, dimensions in sorted({key for key, _ in self.values}, key=repr):
            wanted = all((one["Name"], one["Value"]) in dimensions for one in filters)
            if wanted and given["Namespace"] == namespace and given["MetricName"] == name:
                pairs = [{"Name": key, "Value": value} for key, value in sorted(dimensions)]
                found.append({"Namespace": namespace, "MetricName": name, "Dimensions": pairs})
        return self._page(given, {"Metrics": found})

    def _alarms(self, given: dict[str, Any]) -> dict[str, Any]:
        if len(given["AlarmNames"]) > 100:
            raise Invalid("ValidationError", "at most 100 names")
        types = given.get("AlarmTypes", ["MetricAlarm"])
        found = [self.alarms[name] for name in given["AlarmNames"] if name in self.alarms]
        metric = [one for one in found if one["AlarmName"] not in self.composite]
        composite = [one for one in found if one["AlarmName"] in self.composite]
        return self._page(
            given,
            {
                "MetricAlarms": metric if "MetricAlarm" in types else [],
                "CompositeAlarms": composite if "CompositeAlarm" in types else [],
            },
        )

    def _page(self, given: dict[str, Any], lists: dict[str, list[Any]]) -> dict[str, Any]:
        start = int(given.get("NextToken", "0"))
        stop = start + self.page_max
        more = any(len(found) > stop for found in lists.values())
        page = {key: found[start:stop] for key, found in lists.items()}
        return {**page, "NextToken": str(stop)} if more else page


def _old(point: tuple[int, float]) -> int:
    return -point[0]


def _words(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _error(status: int, code: str, message: str) -> web.Response:
    # The code in the header is the one of the Query protocol, which boto3 asks for.
    kind = "Sender" if status < 500 else "Receiver"
    return web.Response(
        status=status,
        text=json.dumps({"__type": f"com.amazonaws.cloudwatch#{code}", "message": message}),
        content_type="application/x-amz-json-1.0",
        headers={"x-amzn-query-error": f"{code};{kind}"},
    )
