"""How preproduction certifies: the settings under ``webfarm:preproduction``, beside its servers."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from webfarm.shape import Model

Kind = Literal["packages", "releases"]
LONGEST_COMMAND = 4000


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable text in one line")
    return value


Url = Annotated[str, StringConstraints(pattern=r"^/[!-~]{0,1999}$")]
Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
Word = Annotated[str, Field(max_length=1000), AfterValidator(_printable)]


class Check(Model):
    """One HTTP request and the answer that it must have.

    path
        With its query; printable ASCII without spaces.
    contains
        What the first MiB of the body must hold; empty: anything.
    """

    path: Url = "/"
    status: Annotated[int, Field(ge=100, le=599)] = 200
    contains: Annotated[str, Field(max_length=1000), AfterValidator(_printable)] = ""

    def __str__(self) -> str:
        said = f"GET {self.path}: {self.status}"
        return f"{said} with {self.contains!a}" if self.contains else said


class Certifying(Model):
    """What production needs a certificate for, and what a certificate takes.

    certify
        What is refused in production without one; an empty list: nothing is.
    max_age_days
        For how long a certificate counts.
    smoke
        Each is asked for once, by the master from the server; the soak repeats them in turn.
    command
        A command of yours as a list of words, run on the server as root without a shell; its exit
        code must be 0. It gets no arguments beyond these.
    command_seconds, reboot_seconds, install_seconds
        How long the command, a reboot until the server is ready, and an install may take.
    soak_seconds, soak_requests
        How long synthetic traffic goes on, and how many requests are spread over that time.
    """

    certify: tuple[Kind, ...] = ("packages", "releases")
    max_age_days: Annotated[int, Field(ge=1, le=3650)] = 90
    smoke: Annotated[tuple[Check, ...], Field(min_length=1, max_length=100)] = (Check(),)
    command: Annotated[tuple[Word, ...], Field(max_length=100)] = ()
    command_seconds: Annotated[int, Field(ge=1, le=3600)] = 300
    install_seconds: Annotated[int, Field(ge=10, le=86400)] = 3600
    reboot_seconds: Annotated[int, Field(ge=10, le=7200)] = 900
    soak_seconds: Annotated[int, Field(ge=1, le=86400)] = 60
    soak_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 600

    @model_validator(mode="after")
    def _runnable(self) -> "Certifying":
        if self.command and not self.command[0].startswith("/"):
            raise ValueError("command must begin with the absolute path of a program")
        if sum(map(len, self.command)) > LONGEST_COMMAND:
            raise ValueError(f"command must not be longer than {LONGEST_COMMAND} characters")
        return self
