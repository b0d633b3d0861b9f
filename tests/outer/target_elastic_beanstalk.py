"""Two environments of Elastic Beanstalk that swap their names."""

from collections.abc import Mapping
from typing import Any

from tests.fakes.aws import CREDENTIALS
from tests.fakes.elastic_beanstalk import BLUE, GREEN, IDLE, LIVE, FakeElasticBeanstalk
from tests.outer.target import Target


class ElasticBeanstalkTarget(Target):
    kind = "elastic_beanstalk"
    secrets = (CREDENTIALS["AWS_SECRET_ACCESS_KEY"],)

    fake: FakeElasticBeanstalk

    def make_fake(self) -> FakeElasticBeanstalk:
        fake = FakeElasticBeanstalk()
        fake.put(BLUE, "shop-blue", LIVE)
        fake.put(GREEN, "shop-green", IDLE)
        return fake

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "elastic_beanstalk",
            "environments": {"blue": "shop-blue", "green": "shop-green"},
            "cname": LIVE,
            "start_timeout": "50ms",
        }

    def environment(self) -> Mapping[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT_URL_ELASTIC_BEANSTALK": self.fake.url}

    def second_weight(self) -> int:
        return 10000 if self.fake.cname(GREEN) == LIVE else 0

    def change_weight_outside(self) -> None:
        blue, green = self.fake.environments[BLUE], self.fake.environments[GREEN]
        blue["CNAME"], green["CNAME"] = green["CNAME"], blue["CNAME"]

    def change_settings_outside(self) -> None:
        """The environment of green is terminated, and made anew by the same name."""
        gone = self.fake.environments[GREEN]
        gone["Status"] = "Terminated"
        self.fake.put("e-greenanew1", "shop-green", gone["CNAME"])

    def spoil(self) -> None:
        self.fake.environments[GREEN]["Status"] = "Terminated"
