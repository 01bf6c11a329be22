"""Numbers as people read them, the same in the terminal, the tables and the page."""

import math

from flatmin._core import Integer, Optional, Real, SequenceOf, checked_anywhere

ANY_NUMBER = Real(infinite=True, undefined=True)
_DIGITS = Integer(1, 17)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@checked_anywhere(value=ANY_NUMBER, digits=_DIGITS)
def format_number(value: float, digits: int = 4) -> str:
    """A number with `digits` significant digits; NaN is what was not measured.

    Args:
        value: the number.
        digits: significant digits, at most 17.

    Returns:
        Text such as `13,400`, `0.3142`, `1.2×10⁻⁹` or `not measured`.
    """
    value = float(value)
    if math.isnan(value):
        return "not measured"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 <= power < 7:
        places = max(digits - 1 - power, 0)
        text = f"{float(f'{mantissa}e{power}'):,.{places}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = power_of_ten(power) if mantissa == "1" else f"{mantissa}×{power_of_ten(power)}"
    return text.replace("-", "−")


@checked_anywhere(interval=Optional(SequenceOf(ANY_NUMBER, 2)), digits=_DIGITS)
def format_interval(interval: tuple[float, float] | None, digits: int = 4) -> str:
    """`[low, high]`, or nothing when there is none.

    Args:
        interval: the two ends, or None.
        digits: significant digits.

    Returns:
        The text, empty for None.
    """
    return "" if interval is None else "[" + ", ".join(format_number(v, digits) for v in interval) + "]"


@checked_anywhere(power=Integer(None))
def power_of_ten(power: int) -> str:
    """`10` with a Unicode superscript, so that both renderers and the terminal can show it.

    Args:
        power: the exponent.

    Returns:
        Text such as `10⁻³`.
    """
    return "10" + str(power).translate(_SUPERSCRIPTS)
