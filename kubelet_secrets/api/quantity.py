"""Resource quantities (``250m``, ``64Mi``, ``1e3``) as exact numbers.

Pure arithmetic on ``Fraction`` and ``int``: nothing here rounds through a float. Used for ``resourceFieldRef`` (semantics
§4.4), the sizes of emptyDir volumes, and resource limits.

Source: k8s.io/apimachinery/pkg/api/resource, ParseQuantity, Value, MilliValue. Differs: upstream divides two float64 for
``resourceFieldRef`` and so loses exactness above 2^53; here the quotient is exact.
"""

from __future__ import annotations

import re
from fractions import Fraction

from kubelet_secrets.api.core import Quantity
from kubelet_secrets.errors import KubeletSecretsError

_FORMAT = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eEinumkKMGTP]*[-+]?[0-9]*)")
_FORMAT_TEXT = r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
_EXPONENT = re.compile(r"[eE]([-+]?[0-9]+)")
_SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}
_BINARY_SUFFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL_SUFFIXES = {-9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
_NANO = 10**9
_LARGEST = 2**63 - 1
_MOST_DIGITS = 4000  # Python reads no more of them; upstream has no limit
_LARGEST_EXPONENT = 4000  # 10**±this is far beyond both caps; larger exponents would only burn memory


class InvalidQuantity(KubeletSecretsError, ValueError):
    """The text is not a quantity. The message is upstream's and does not quote the text."""


def parse(quantity: Quantity) -> Fraction:
    """Read a quantity as it stands in JSON.

    Returns:
        The exact value; finer than 10^-9 is rounded away from zero and the size is capped at 2^63-1, as upstream does.

    Raises:
        InvalidQuantity: with the text that the API server would print.
    """
    text = repr(quantity) if isinstance(quantity, float) else str(quantity)
    match = _FORMAT.fullmatch(text)
    if not text or match is None or not re.match(r"[+-]?[0-9.]", text):
        raise InvalidQuantity(f"quantities must match the regular expression '{_FORMAT_TEXT}'")
    sign, whole, fraction, suffix = match[1], match[2], match[3] or "", match[4]
    if (not whole and not fraction) or len(whole + fraction) > _MOST_DIGITS:
        raise InvalidQuantity("unable to parse numeric part of quantity")
    number = Fraction(int(whole + fraction or "0"), 10 ** len(fraction)) * _multiplier(suffix)
    # Away from zero, then capped: the sign comes last so that both directions behave alike.
    number = min(Fraction(-(-number * _NANO // 1), _NANO), Fraction(_LARGEST))
    return -number if sign == "-" else number


def value(quantity: Quantity) -> int:
    """The quantity in whole units, rounded away from zero (``Quantity.Value``)."""
    return _round_away(parse(quantity))


def milli_value(quantity: Quantity) -> int:
    """The quantity in thousandths, rounded away from zero (``Quantity.MilliValue``)."""
    return _round_away(parse(quantity) * 1000)


def divide_ceil(dividend: int, divisor: int) -> int:
    """``dividend / divisor`` rounded up, exactly. *divisor* is not zero."""
    return -(-dividend // divisor)


def is_zero(quantity: Quantity) -> bool:
    return parse(quantity) == 0


def canonical(quantity: Quantity) -> str:
    """The quantity as the API server writes it back: ``1000m`` → ``1``, ``0.5`` → ``500m``, ``1.5Gi`` → ``1536Mi``.

    The family of the suffix is kept: powers of two, of ten, or an exponent.

    Source: Quantity.CanonicalizeBytes, AsCanonicalBytes, AsCanonicalBase1024Bytes.
    """
    number = parse(quantity)
    if number == 0:
        return "0"
    suffix = _FORMAT.fullmatch(repr(quantity) if isinstance(quantity, float) else str(quantity))
    assert suffix is not None, "it parsed"
    is_binary = suffix[4].endswith("i") and abs(number) >= 1024 and number.denominator == 1
    if is_binary:
        mantissa, power = _without_factor(int(number), 1024)
        return f"{mantissa}{_BINARY_SUFFIXES[power]}"
    mantissa, exponent = _without_factor(int(number * _NANO), 10)
    exponent -= 9
    mantissa, exponent = mantissa * 10 ** (exponent % 3), exponent - exponent % 3
    if _EXPONENT.fullmatch(suffix[4]):
        return f"{mantissa}e{exponent}" if exponent else str(mantissa)
    return f"{mantissa}{_DECIMAL_SUFFIXES[exponent]}"


def _multiplier(suffix: str) -> Fraction:
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    exponent = _EXPONENT.fullmatch(suffix)
    if exponent is None:
        raise InvalidQuantity("unable to parse quantity's suffix")
    power = max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, int(exponent[1])))
    return Fraction(10) ** power


def _without_factor(number: int, factor: int) -> tuple[int, int]:
    """*number* with every *factor* divided out, and how many those were."""
    count = 0
    while number % factor == 0:
        number //= factor
        count += 1
    return number, count


def _round_away(number: Fraction) -> int:
    return -(-number // 1) if number >= 0 else number.__floor__()
