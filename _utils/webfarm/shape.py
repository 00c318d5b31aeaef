"""The base of the pillar's models, and their mistakes as lines: path, what was found, what is
allowed.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86400)]


class Model(BaseModel):
    """A frozen part of the pillar; an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def shown(value: object) -> str:
    """``value`` for a message: ASCII, at most 60 characters."""
    try:
        text = ascii(value)
    except ValueError:  # Python does not write an integer of more than 4300 digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def lines(error: ValidationError, root: str) -> list[str]:
    """A line for each of pydantic's mistakes, with its path below ``root``."""
    out = []
    for fault in error.errors(include_url=False):
        path = [root, *(_key(part) for part in fault["loc"] if part != "[key]")]
        where = ".".join(path)[:160]
        if fault["type"] == "missing":
            out.append(f"{where}: is missing")
        elif fault["type"] in ("extra_forbidden", "invalid_key"):
            out.append(f"{where}: is not a known key")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            out.append(f"{where}: {shown(fault['input'])}: {message[0].lower()}{message[1:]}")
    return out


def _key(part: int | str) -> str:
    return ascii(part)[1:-1] if isinstance(part, str) else str(part)
