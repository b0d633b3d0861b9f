"""Where the tokens come from by which Azure and Google Cloud know who calls.

By default from the platform itself: the machine, or the pod, on which Turnout runs has an
identity there. Otherwise from a file that somebody renews, or from a command.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from turnout.config.document import Place
from turnout.config.knobs import Choice, Duration, Name, Section, Text, knob
from turnout.config.places import FilePath


class AzureIdentity(StrEnum):
    """How Turnout proves to Microsoft Entra ID who it is."""

    BY_ENVIRONMENT = "by_environment"
    MANAGED = "managed"
    WORKLOAD = "workload"
    CLIENT_SECRET = "client_secret"


class TokenSection(Section):
    """What all of them have."""

    token_file: Annotated[str | None, FilePath()] = knob(
        None,
        "A file that holds a token and nothing else. It is read for every call, so that whoever "
        "renews it has nothing to reload.",
    )
    token_command: tuple[Annotated[str, Text(1024)], ...] = knob(
        [],
        "A command that prints a token, such as `[gcloud, auth, print-access-token]`: the token "
        "alone, or a JSON object with `access_token` or `accessToken` and, if it is to be known, "
        "`expires_in` (seconds) or `expires_on` (seconds since 1970). No shell takes part in it.",
    )
    reuse: Annotated[float, Duration("1s", "1h")] = knob(
        "5m", "How long a command's token is used when it does not say when it expires."
    )
    timeout: Annotated[float, Duration("100ms", "2m")] = knob(
        "10s", "How long it may take to get a token; `call_timeout` bounds that, too."
    )

    def conflicts(self) -> Iterator[tuple[Place, str]]:
        """Say what does not go together in it: where, from this section on, and what to write."""
        if self.token_command and not self.token_command[0]:
            yield ("token_command", 0), "it is empty; expected the name of a program"
        if self.token_file is not None and self.token_command:
            yield ("token_command",), "there is token_file already. Leave one of them out"


class AzureCredentials(TokenSection):
    """How Turnout gets a token of Microsoft Entra ID. A secret is never written here: it is in
    the environment, under the names that Azure's own tools use."""

    identity: Annotated[AzureIdentity, Choice(AzureIdentity)] = knob(
        "by_environment",
        "Without a file or a command. `managed`: the platform's own, by IDENTITY_ENDPOINT and "
        "IDENTITY_HEADER where they are set (App Service, Container Apps), otherwise by the "
        "instance metadata service of a virtual machine. `workload`: a federated token in the "
        "file that AZURE_FEDERATED_TOKEN_FILE names (AKS). `client_secret`: an application's, in "
        "AZURE_CLIENT_SECRET. `by_environment`: the last two where their variables are set, "
        "otherwise `managed`.",
    )
    tenant_id: Annotated[str | None, Name()] = knob(
        None, "The directory; left out: what AZURE_TENANT_ID says. Not for `managed`."
    )
    client_id: Annotated[str | None, Name()] = knob(
        None,
        "The application, or the user-assigned managed identity; left out: what AZURE_CLIENT_ID "
        "says. `managed` without either is the identity that the system assigned.",
    )

    def conflicts(self) -> Iterator[tuple[Place, str]]:
        yield from super().conflicts()
        if self.identity is not AzureIdentity.BY_ENVIRONMENT:
            for key in ("token_file", "token_command"):
                if getattr(self, key):
                    yield (key,), "it is not asked with an identity. Leave one of them out"


class GoogleCredentials(TokenSection):
    """How Turnout gets an access token of Google Cloud: without a file or a command from the
    metadata server (GCE_METADATA_HOST names another). A service account's key file is for
    `token_command`: `gcloud auth activate-service-account` once, and
    `[gcloud, auth, print-access-token]` here."""

    service_account: Annotated[str, Text(254, may_be_empty=False)] = knob(
        "default", "Which of the machine's service accounts: `default`, or its e-mail address."
    )
