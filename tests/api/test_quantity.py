"""Quantities: parsing and exact arithmetic.

Source: k8s.io/apimachinery/pkg/api/resource/quantity_test.go; semantics §4.4.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.api.quantity import InvalidQuantity, canonical, divide_ceil, is_zero, milli_value, parse, value


@pytest.mark.parametrize(
    ("text", "whole", "milli"),
    [
        pytest.param("250m", 1, 250, id="milli"),
        pytest.param("1250m", 2, 1250, id="milli-above-one"),
        pytest.param("64Mi", 67108864, 67108864000, id="Mi"),
        pytest.param("1500k", 1500000, 1500000000, id="k"),
        pytest.param("0.1Ki", 103, 102400, id="fraction-of-Ki"),
        pytest.param("1e3", 1000, 1000000, id="exponent"),
        pytest.param("1E3", 1000, 1000000, id="capital-exponent"),
        pytest.param("12E-1", 2, 1200, id="negative-exponent"),
        pytest.param("2E", 2 * 10**18, 2 * 10**21, id="exa"),
        pytest.param("1Ei", 2**60, 2**60 * 1000, id="Ei"),
        pytest.param("100n", 1, 1, id="nano"),
        pytest.param("3u", 1, 1, id="micro"),
        pytest.param(".5", 1, 500, id="no-whole-part"),
        pytest.param("1.", 1, 1000, id="no-fraction-digits"),
        pytest.param("+7", 7, 7000, id="plus"),
        pytest.param("-1500m", -2, -1500, id="negative-rounds-away-from-zero"),
        pytest.param("007", 7, 7000, id="leading-zeros"),
        pytest.param(2, 2, 2000, id="json-integer"),
        pytest.param(0.5, 1, 500, id="json-number"),
        pytest.param(1e-7, 1, 1, id="json-small-number"),
    ],
)
def test_value_and_milli_value(text: str | float, whole: int, milli: int) -> None:
    assert (value(text), milli_value(text)) == (whole, milli)


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        pytest.param("0.0000000001", Fraction(1, 10**9), id="finer-than-nano-is-rounded-up"),
        pytest.param("-0.0000000001", Fraction(-1, 10**9), id="and-down-when-negative"),
        pytest.param("100E", Fraction(2**63 - 1), id="capped"),
        pytest.param("-100E", Fraction(1 - 2**63), id="capped-when-negative"),
        pytest.param("1e99999999", Fraction(2**63 - 1), id="huge-exponent-costs-nothing"),
        pytest.param("1e-99999999", Fraction(1, 10**9), id="tiny-exponent-costs-nothing"),
    ],
)
def test_limits(text: str, exact: Fraction) -> None:
    assert parse(text) == exact


FORMAT = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", FORMAT, id="empty"),
        pytest.param("abc", FORMAT, id="word"),
        pytest.param("1 Mi", FORMAT, id="blank"),
        pytest.param("1Mb", FORMAT, id="foreign-suffix"),
        pytest.param("1\n", FORMAT, id="line-break"),
        pytest.param("--1", FORMAT, id="two-signs"),
        pytest.param("٣", FORMAT, id="digits-of-other-scripts"),
        pytest.param("1e", "unable to parse quantity's suffix", id="no-exponent"),
        pytest.param("1ki", "unable to parse quantity's suffix", id="small-ki"),
        pytest.param("1K", "unable to parse quantity's suffix", id="capital-k"),
        pytest.param("1i", "unable to parse quantity's suffix", id="i"),
        pytest.param(".", "unable to parse numeric part of quantity", id="dot"),
        pytest.param("9" * 5000, "unable to parse numeric part of quantity", id="endless"),
    ],
)
def test_what_is_no_quantity(text: str, message: str) -> None:
    with pytest.raises(InvalidQuantity) as caught:
        parse(text)
    assert str(caught.value) == message


SUFFIXES = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9}


@given(st.integers(0, 10**9), st.integers(0, 999), st.sampled_from(sorted(SUFFIXES)))
def test_decimal_suffixes_are_powers_of_ten(whole: int, fraction: int, suffix: str) -> None:
    number = Decimal(f"{whole}.{fraction:03d}").scaleb(SUFFIXES[suffix])
    expected = -(-Fraction(number) * 10**9 // 1)
    assert parse(f"{whole}.{fraction:03d}{suffix}") == Fraction(-int(-expected), 10**9)


@given(st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_division_rounds_up_exactly(dividend: int, divisor: int) -> None:
    """Above 2^53 a float division would not."""
    quotient = divide_ceil(dividend, divisor)
    assert quotient * divisor >= dividend > (quotient - 1) * divisor


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_integers_are_themselves(number: int) -> None:
    assert value(str(number)) == number
    assert is_zero(str(number)) == (number == 0)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("0", "0"),
        ("0Mi", "0"),
        ("1", "1"),
        (1, "1"),
        (0.5, "500m"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("0.1", "100m"),
        ("100", "100"),
        ("1100", "1100"),
        ("1000", "1k"),
        ("64Mi", "64Mi"),
        ("1024Ki", "1Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("1023", "1023"),
        ("0.1Mi", "104857600m"),
        ("1e3", "1e3"),
        ("1500e0", "1500"),
        ("12e6", "12e6"),
        ("-1000m", "-1"),
        ("1n", "1n"),
        ("5E", "5E"),
    ],
)
def test_canonical_form(text: str | float, written: str) -> None:
    """Source: resource/quantity_test.go, TestQuantityString and TestQuantityParseEmit."""
    assert canonical(text) == written
    assert parse(written) == parse(text)
    assert canonical(written) == written
