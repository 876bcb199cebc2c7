"""``$(NAME)`` in values, commands, arguments and sub-paths.

Pure. One pass from left to right; what was substituted is not looked at again.

Source: third_party/forked/golang/expansion/expand.go and pkg/kubelet/container/helpers.go; semantics §6.4, §5.3.
"""

from __future__ import annotations

from collections.abc import Callable

from kubelet_secrets.errors import ContainerConfigError


def expand(text: str, lookup: Callable[[str], str | None]) -> str:
    """Replace each ``$(NAME)`` that *lookup* knows.

    Args:
        text: ``$$`` stands for one ``$``; any other ``$`` that opens no closed ``$(…)`` stays as it is.
        lookup: value of a name, or None when it is undefined: then ``$(NAME)`` stays. Called once per reference, in order.
    """
    parts: list[str] = []
    done = 0  # text[:done] is in *parts*
    at = text.find("$")
    while 0 <= at < len(text) - 1:
        parts.append(text[done:at])
        follower = text[at + 1]
        if follower == "$":
            parts.append("$")
            done = at + 2
        elif follower == "(":
            end = text.find(")", at + 2)
            if end < 0:
                # Unclosed: "$(" is literal, and later references are looked for behind it (there is none, without a ")").
                parts.append("$(")
                done = at + 2
            else:
                name = text[at + 2 : end]
                value = lookup(name)
                parts.append(f"$({name})" if value is None else value)
                done = end + 1
        else:
            parts.append("$" + follower)
            done = at + 2
        at = text.find("$", done)
    parts.append(text[done:])
    return "".join(parts)


def expand_strict(text: str, lookup: Callable[[str], str | None]) -> str:
    """Expand a ``subPathExpr``: there, a name that is undefined or empty is an error.

    Raises:
        ContainerConfigError: ``missing value for A, B``, sorted, each name once.

    Source: ExpandContainerVolumeMounts.
    """
    missing: set[str] = set()

    def noting_lookup(name: str) -> str:
        value = lookup(name)
        if not value:
            missing.add(name)
        return value or ""

    expanded = expand(text, noting_lookup)
    if missing:
        # Go sorts by bytes.
        names = sorted(missing, key=lambda name: name.encode("utf-8", "surrogatepass"))
        raise ContainerConfigError(f"missing value for {', '.join(names)}")
    return expanded


def referenced_names(text: str) -> tuple[str, ...]:
    """The names that *text* refers to, each once, in order."""
    names: dict[str, None] = {}

    def noting_lookup(name: str) -> None:
        names[name] = None

    expand(text, noting_lookup)
    return tuple(names)
