"""Label and field selectors: the text of ``-l`` and ``--field-selector``, parsed, matched and printed again.

Pure. Called by the API server for list, watch and delete-collection, and by whoever has to know which single object a
selector names. Errors are ``ValueError`` with upstream's text; they quote the selector, which is never secret.

Source: k8s.io/apimachinery/pkg/labels/selector.go and pkg/fields/selector.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.validation.names import label_value_errors, qualified_name_errors


class Operator(Enum):
    """How a label requirement compares; the value is what stands between key and value in the text."""

    EQUALS = "="
    DOUBLE_EQUALS = "=="
    NOT_EQUALS = "!="
    IN = " in "
    NOT_IN = " notin "
    GREATER_THAN = ">"
    LESS_THAN = "<"
    EXISTS = ""
    DOES_NOT_EXIST = "!"


_BINARY_OPERATORS = {
    "in": Operator.IN,
    "notin": Operator.NOT_IN,
    "=": Operator.EQUALS,
    "==": Operator.DOUBLE_EQUALS,
    "!=": Operator.NOT_EQUALS,
    ">": Operator.GREATER_THAN,
    "<": Operator.LESS_THAN,
}
_SYMBOLS = ("==", "!=", "=", "!", "(", ")", ",", ">", "<")
_END = ""


@dataclass(frozen=True, slots=True)
class LabelRequirement:
    """One comma-separated part of a label selector."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()  # sorted, each once

    def matches(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case Operator.IN | Operator.EQUALS | Operator.DOUBLE_EQUALS:
                return self.key in labels and labels[self.key] in self.values
            case Operator.NOT_IN | Operator.NOT_EQUALS:
                return self.key not in labels or labels[self.key] not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels
            case Operator.GREATER_THAN | Operator.LESS_THAN:
                actual, bound = _parse_int(labels.get(self.key, "")), _parse_int(self.values[0])
                if actual is None or bound is None:
                    return False
                return actual > bound if self.operator is Operator.GREATER_THAN else actual < bound

    def __str__(self) -> str:
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return "!" + self.key
            case Operator.IN | Operator.NOT_IN:
                return f"{self.key}{self.operator.value}({','.join(self.values)})"
            case _:
                return f"{self.key}{self.operator.value}{self.values[0]}"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Every requirement has to match; none at all matches everything. ``str()`` parses back to the same selector."""

    requirements: tuple[LabelRequirement, ...] = ()  # sorted by key

    @property
    def is_empty(self) -> bool:
        return not self.requirements

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        return all(requirement.matches(labels or {}) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One comma-separated part of a field selector."""

    field: str  # "metadata.name"
    value: str
    is_equal: bool = True  # False: the field must differ from *value*

    def __str__(self) -> str:
        value = re.sub(r"([\\,=])", r"\\\1", self.value)
        return f"{self.field}{'=' if self.is_equal else '!='}{value}"


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Every requirement has to match; none at all matches everything. ``str()`` parses back to the same selector."""

    requirements: tuple[FieldRequirement, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.requirements

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it asks about, for checking which of them the resource supports."""
        return tuple(requirement.field for requirement in self.requirements)

    def exact(self, field: str) -> str | None:
        """The one value *field* must have, or None when the selector leaves that open.

        Source: fields.Selector.RequiresExactMatch, which the node authorizer and the watch cache ask.
        """
        for requirement in self.requirements:
            if requirement.field == field and requirement.is_equal:
                return requirement.value
        return None

    def matches(self, fields: Callable[[str], str] | Mapping[str, str]) -> bool:
        """Args: *fields* gives the object's value of a field; a mapping without the field counts as ``""``."""
        read = fields if callable(fields) else lambda field: fields.get(field, "")
        return all((read(part.field) == part.value) is part.is_equal for part in self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


def parse_label_selector(text: str) -> LabelSelector:
    """Parse ``a=b,c!=d,e in (f,g),h,!i,j>1``.

    Raises:
        ValueError: with upstream's text, for example ``found ',', expected: !, identifier, or 'end of string'``.
    """
    return LabelSelector(tuple(sorted(_LabelParser(text).requirements(), key=lambda part: part.key)))


def parse_field_selector(text: str) -> FieldSelector:
    r"""Parse ``metadata.name=x,status.phase!=Running``; ``\,``, ``\=`` and ``\\`` stand for themselves in a value.

    Raises:
        ValueError: with upstream's text, for example ``invalid selector: 'a'; can't understand 'a'``.
    """
    requirements = []
    for term in sorted(filter(None, _split_terms(text))):
        found = re.search("!=|==|=", term)
        if found is None:
            raise ValueError(f"invalid selector: '{text}'; can't understand '{term}'")
        value = _unescape(term[found.end() :])
        requirements.append(FieldRequirement(term[: found.start()], value, found.group() != "!="))
    return FieldSelector(tuple(requirements))


def exact_name(selector: FieldSelector) -> str | None:
    """The single object a list or watch is about, or None: what the node authorizer takes as the request's name."""
    return selector.exact("metadata.name")


class _LabelParser:
    """Recursive descent over the tokens, one method per rule of upstream's grammar."""

    def __init__(self, text: str) -> None:
        self._tokens = [*_scan(text), (_END, True)]
        self._at = 0

    def requirements(self) -> Iterator[LabelRequirement]:
        while True:
            token, is_symbol = self._peek()
            if token == _END and is_symbol:
                return
            if is_symbol and token != "!":
                raise ValueError(f"found '{token}', expected: !, identifier, or 'end of string'")
            try:
                yield self._requirement()
            except ValueError as error:
                raise ValueError(f"unable to parse requirement: {error}") from None
            separator, is_symbol = self._take()
            if is_symbol and separator == _END:
                return
            if not is_symbol or separator != ",":
                raise ValueError(f"found '{separator}', expected: ',' or 'end of string'")
            following, is_symbol = self._peek()
            if is_symbol and following != "!":
                raise ValueError(f"found '{following}', expected: identifier after ','")

    def _peek(self) -> tuple[str, bool]:
        return self._tokens[self._at]

    def _take(self) -> tuple[str, bool]:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _requirement(self) -> LabelRequirement:
        key, is_symbol = self._take()
        is_negated = is_symbol and key == "!"
        if is_negated:
            key, is_symbol = self._take()
        if is_symbol:
            raise ValueError(f"found '{key}', expected: identifier")
        if errors := qualified_name_errors(key):
            # "<nil>" is how upstream prints the path that a selector in a query string does not have.
            raise ValueError(f"<nil>: Invalid value: {go_quote(key)}: {'; '.join(errors)}")
        token, is_symbol = self._peek()
        if is_symbol and token in (_END, ","):
            return LabelRequirement(key, Operator.DOES_NOT_EXIST if is_negated else Operator.EXISTS)
        if is_negated:
            return LabelRequirement(key, Operator.DOES_NOT_EXIST)
        return self._binary(key)

    def _binary(self, key: str) -> LabelRequirement:
        token, is_symbol = self._take()
        operator = _BINARY_OPERATORS.get(token)
        if operator is None or is_symbol is token.isalpha():
            raise ValueError(f"found '{token}', expected: in, notin, =, ==, !=, gt, lt")
        values = self._values() if operator in (Operator.IN, Operator.NOT_IN) else (self._exact_value(),)
        if not values:
            raise ValueError("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty")
        for index, value in enumerate(values):
            if operator in (Operator.GREATER_THAN, Operator.LESS_THAN) and _parse_int(value) is None:
                detail = "for 'Gt', 'Lt' operators, the value must be an integer"
                raise ValueError(f"values[{index}]: Invalid value: {go_quote(value)}: {detail}")
            if errors := label_value_errors(value):
                raise ValueError(f"values[{index}][{key}]: Invalid value: {go_quote(value)}: {'; '.join(errors)}")
        return LabelRequirement(key, operator, values)

    def _exact_value(self) -> str:
        token, is_symbol = self._peek()
        if is_symbol and token in (_END, ","):
            return ""
        self._take()
        if is_symbol:
            raise ValueError(f"found '{token}', expected: identifier")
        return token

    def _values(self) -> tuple[str, ...]:
        token, is_symbol = self._take()
        if not is_symbol or token != "(":
            raise ValueError(f"found '{token}' expected: '('")
        token, is_symbol = self._peek()
        if is_symbol and token == ")":
            self._take()
            return ()
        if is_symbol and token != ",":
            raise ValueError(f"found '{token}', expected: ',', ')' or identifier")
        values = {""} if is_symbol else set()
        while True:
            token, is_symbol = self._take()
            if not is_symbol:
                values.add(token)
                following, is_symbol = self._peek()
                if not is_symbol or following not in (",", ")"):
                    raise ValueError(f"found '{following}', expected: ',' or ')'")
                token, is_symbol = self._take()
            if token == ")":
                return tuple(sorted(values))
            if token != ",":
                raise ValueError(f"found '{token}', expected: ',', or identifier")
            following, is_symbol = self._peek()
            if is_symbol and following in (",", ")"):
                values.add("")


def _scan(text: str) -> Iterator[tuple[str, bool]]:
    """Yield (token, is it a symbol); blanks separate and vanish."""
    at = 0
    while at < len(text):
        if text[at] in " \t\r\n":
            at += 1
            continue
        symbol = next((symbol for symbol in _SYMBOLS if text.startswith(symbol, at)), None)
        if symbol is not None:
            yield symbol, True
            at += len(symbol)
            continue
        end = at
        while end < len(text) and text[end] not in " \t\r\n=!(),><":
            end += 1
        yield text[at:end], False
        at = end


def _split_terms(text: str) -> list[str]:
    """Split at every comma that no backslash precedes; the backslashes stay."""
    return [match.group() for match in re.finditer(r"(?:\\.|[^\\,]|\\\Z)+", text, re.DOTALL)]


def _unescape(value: str) -> str:
    out = []
    rest = iter(value)
    for char in rest:
        if char == "\\":
            escaped = next(rest, "")
            if escaped not in ("\\", ",", "=") or not escaped:
                raise ValueError(f"invalid field selector: invalid escape sequence: \\{escaped}")
            out.append(escaped)
        elif char in ",=":
            raise ValueError(f"invalid field selector: unescaped character in value: {ord(char)}")
        else:
            out.append(char)
    return "".join(out)


def _parse_int(text: str) -> int | None:
    """A signed 64-bit decimal, or None."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        return None
    value = int(text)
    return value if -(2**63) <= value < 2**63 else None
