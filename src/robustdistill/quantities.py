"""Numbers as users write them: fractions, steps relative to the radius, and what is no number."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator

from robustdistill.errors import UserError


def parse_number(value: Any) -> Any:
    """Numbers may be written as fractions: "8/255" is 8 / 255. Anything else passes unchanged."""
    if isinstance(value, str) and value.count("/") == 1:
        try:
            top, bottom = (float(part) for part in value.split("/"))
            return top / bottom
        except (ValueError, ZeroDivisionError):
            return value
    return value


def absolute_step(step: float | str, eps: float) -> float:
    """The step in pixel units: 0.01, "2/255", "eps", "eps/4" or "0.1*eps". UserError for anything else."""
    text = str(step).replace(" ", "")
    head, slash, tail = text.partition("/")
    relative = text.endswith("*eps") or head == "eps"
    try:
        if text.endswith("*eps"):
            size = float(text.removesuffix("*eps"))
        else:
            size = (1.0 if relative else float(head)) / (float(tail) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"step {step!r} is no step size; write a number, '2/255', 'eps/4' or '0.1*eps'") from None
    if not 0 < size < math.inf:
        raise UserError(f"step {step!r} is no step size: it must be more than 0, such as 'eps/4' or '2/255'")
    return size * eps if relative else size


def no_switch(value: Any) -> Any:
    """`value`, unless it is true or false, which Python would take for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a number belongs here")
    return value


def no_radius(eps: float) -> str:
    """Why `eps` is no L-inf radius, as a sentence."""
    hint = f"; did you mean {eps:g}/255?" if 1 <= eps <= 255 else ": write a number from 0 to 1, such as 8/255"
    return f"eps {eps:g} is no radius for pixels in [0, 1]{hint}"


def radius_of(eps: float | str) -> float:
    """An L-inf radius as a number, given as one or as "8/255". UserError for anything else."""
    try:
        value = float(parse_number(eps))
    except ValueError:
        raise UserError(f"eps {eps!r} is no number; write 0.03 or 8/255") from None
    if not 0 <= value < 1:
        raise UserError(no_radius(value))
    return value


Number = Annotated[float, BeforeValidator(parse_number), BeforeValidator(no_switch)]
Whole = Annotated[int, BeforeValidator(no_switch)]
