"""What the API accepts as a name, a label, a key: one function per rule, each returning the texts of what is wrong.

Pure. An empty list means "valid". The texts are upstream's to the letter, because clients and tests compare them; they
go behind a field path and the offending value in :mod:`kubelet_secrets.api.validation.fields`.

Source: k8s.io/apimachinery/pkg/util/validation/validation.go; pkg/api/validation/path; semantics §1.2, §6.2.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

DNS1123_LABEL_MAX = 63
DNS1123_SUBDOMAIN_MAX = 253
_LABEL_PART_MAX = 63

_QUALIFIED_NAME = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_QUALIFIED_NAME_MESSAGE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)
_LABEL_VALUE = f"({_QUALIFIED_NAME})?"
_LABEL_VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character"
)
_DNS1123_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS1123_LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character"
)
_DNS1123_SUBDOMAIN = rf"{_DNS1123_LABEL}(\.{_DNS1123_LABEL})*"
_DNS1123_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)
_DNS1035_LABEL = "[a-z]([-a-z0-9]*[a-z0-9])?"
_DNS1035_LABEL_MESSAGE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character"
)
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_CONFIG_KEY_MESSAGE = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
_PORT_NAME_CHARACTERS = re.compile(r"[-a-z0-9]+\Z")


def regex_message(message: str, pattern: str, *examples: str) -> str:
    """Source: validation.RegexError, including its two spaces before each further "or"."""
    if not examples:
        return f"{message} (regex used for validation is '{pattern}')"
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"


def max_length_message(length: int) -> str:
    return f"must be no more than {length} characters"


def dns1123_label_errors(value: str) -> list[str]:
    """A namespace, a container, a volume."""
    errors = []
    if len(value) > DNS1123_LABEL_MAX:
        errors.append(max_length_message(DNS1123_LABEL_MAX))
    if not re.fullmatch(_DNS1123_LABEL, value):
        if re.fullmatch(_DNS1123_SUBDOMAIN, value):
            errors.append("must not contain dots")
        else:
            errors.append(regex_message(_DNS1123_LABEL_MESSAGE, _DNS1123_LABEL, "my-name", "123-abc"))
    return errors


def dns1123_subdomain_errors(value: str) -> list[str]:
    """A Secret, a ConfigMap, a Pod, a Node: most names."""
    message = regex_message(_DNS1123_SUBDOMAIN_MESSAGE, _DNS1123_SUBDOMAIN, "example.com")
    return _form_errors(value, DNS1123_SUBDOMAIN_MAX, _DNS1123_SUBDOMAIN, message)


def dns1035_label_errors(value: str) -> list[str]:
    """A Service."""
    message = regex_message(_DNS1035_LABEL_MESSAGE, _DNS1035_LABEL, "my-name", "abc-123")
    return _form_errors(value, DNS1123_LABEL_MAX, _DNS1035_LABEL, message)


def path_segment_errors(value: str) -> list[str]:
    """A Role, a ClusterRole: anything that can be one segment of a URL."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{illegal}'" for illegal in ("/", "%") if illegal in value]


def mask_trailing_dash(prefix: str) -> str:
    """A prefix may end in a dash, as a name made from it does not: what its rule is asked about instead."""
    return prefix[:-2] + "a" if len(prefix) > 1 and prefix.endswith("-") else prefix


def qualified_name_errors(value: str) -> list[str]:
    """A label key; an annotation key after lower-casing."""
    errors = []
    name_message = regex_message(_QUALIFIED_NAME_MESSAGE, _QUALIFIED_NAME, "MyName", "my.name", "123-abc")
    parts = value.split("/")
    if len(parts) > 2:
        suffix = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        return ["a qualified name " + name_message + suffix]
    name = parts[-1]
    if len(parts) == 2:
        if not parts[0]:
            errors.append("prefix part must be non-empty")
        else:
            errors += ["prefix part " + text for text in dns1123_subdomain_errors(parts[0])]
    if not name:
        errors.append("name part must be non-empty")
    elif len(name) > _LABEL_PART_MAX:
        errors.append("name part " + max_length_message(_LABEL_PART_MAX))
    if not re.fullmatch(_QUALIFIED_NAME, name):
        errors.append("name part " + name_message)
    return errors


def label_value_errors(value: str) -> list[str]:
    message = regex_message(_LABEL_VALUE_MESSAGE, _LABEL_VALUE, "MyValue", "my_value", "12345")
    return _form_errors(value, _LABEL_PART_MAX, _LABEL_VALUE, message)


def config_key_errors(value: str) -> list[str]:
    """A key of ``Secret.data``, ``ConfigMap.data`` and ``binaryData``, and of the references to them."""
    message = regex_message(_CONFIG_KEY_MESSAGE, _CONFIG_KEY, "key.name", "KEY_NAME", "key-name")
    errors = _form_errors(value, DNS1123_SUBDOMAIN_MAX, _CONFIG_KEY, message)
    if value in (".", ".."):
        errors.append(f"must not be '{value}'")
    elif value.startswith(".."):
        errors.append("must not start with '..'")
    return errors


def env_name_errors(value: str) -> list[str]:
    """A name of an environment variable, or a prefix of one.

    Source: IsRelaxedEnvVarName (RelaxedEnvironmentVariableValidation, KEP-4369).
    """
    errors = []
    if not value:
        errors.append("environment variable name must be non-empty")
    if any(not " " <= rune <= "~" or rune == "=" for rune in value):
        errors.append(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
        )
    return errors


def port_name_errors(value: str) -> list[str]:
    """Source: IsValidPortName (RFC 6335)."""
    errors = []
    if len(value) > 15:
        errors.append(max_length_message(15))
    if not _PORT_NAME_CHARACTERS.match(value):
        errors.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        errors.append("must contain at least one letter (a-z)")
    if "--" in value:
        errors.append("must not contain consecutive hyphens")
    if value and (value[0] == "-" or value[-1] == "-"):
        errors.append("must not begin or end with a hyphen")
    return errors


def ip_errors(value: str) -> list[str]:
    try:
        ip_address(value)
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return []


def port_number_errors(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else ["must be between 1 and 65535, inclusive"]


def _form_errors(value: str, longest: int, pattern: str, message: str) -> list[str]:
    """Both rules are asked: a value can be too long and of the wrong form."""
    errors = [max_length_message(longest)] if len(value) > longest else []
    return errors if re.fullmatch(pattern, value) else [*errors, message]
