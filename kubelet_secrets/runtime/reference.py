"""Image names, pure: the grammar of ``docker.io/library/busybox:1.36@sha256:…`` and the kubelet's default tag.

Source: github.com/distribution/reference (ParseNormalizedNamed, regexp.go); pkg/kubelet/images, applyDefaultImageTag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kubelet_secrets.errors import ImageError

DEFAULT_DOMAIN = "docker.io"
_OFFICIAL = "library/"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_TAG = r"[\w][\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)
_BARE_ID = re.compile(r"[a-f0-9]{64}")
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class ImageReference:
    domain: str  # docker.io, or host[:port]
    path: str  # library/busybox
    tag: str  # latest, or empty with a digest and no tag
    digest: str  # sha256:…, or empty

    @property
    def repository(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def canonical(self) -> str:
        """The full name, by which images are stored."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> ImageReference:
    """Read an image name; the default domain, ``library/`` and the tag ``latest`` are filled in.

    Raises:
        ImageError: reason ``InvalidImageName``, with the kubelet's message.
    """
    problem = _problem(text)
    if problem is not None:
        raise ImageError(
            "InvalidImageName",
            f"Failed to apply default image tag {_quote(text)}: couldn't parse image name {_quote(text)}: {problem}",
        )
    domain, remainder = _split_domain(text)
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    assert match is not None, text
    tag, digest = match["tag"] or "", match["digest"] or ""
    return ImageReference(
        domain=domain,
        path=match["name"].removeprefix(f"{domain}/"),
        tag=tag if tag or digest else "latest",
        digest=digest,
    )


def apply_default_tag(text: str) -> str:
    """The name the kubelet works with: as it was spelled, plus ``:latest`` when it has neither tag nor digest.

    Raises:
        ImageError: as :func:`parse_reference`.
    """
    reference = parse_reference(text)
    if not reference.digest and not text.endswith(f":{reference.tag}"):
        return f"{text}:{reference.tag}"
    return text


def _problem(text: str) -> str | None:
    """What is wrong with *text*, in the words of the distribution library; None when it parses."""
    if _BARE_ID.fullmatch(text):
        return f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
    domain, remainder = _split_domain(text)
    remote_name = remainder.split("@")[0]
    if ":" in remote_name:
        remote_name = remote_name[: remote_name.index(":")]
    if remote_name.lower() != remote_name:
        return f"invalid reference format: repository name ({remote_name}) must be lowercase"
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        return "invalid reference format"
    if len(match["name"].removeprefix(f"{domain}/")) > _MAX_NAME:
        return "repository name must not be more than 255 characters"
    if match["digest"]:
        algorithm, _, hexadecimal = match["digest"].partition(":")
        lengths = {"sha256": 64, "sha384": 96, "sha512": 128}
        if algorithm not in lengths:
            return "unsupported digest algorithm"
        if len(hexadecimal) != lengths[algorithm]:
            return "invalid checksum digest length"
    return None


def _split_domain(text: str) -> tuple[str, str]:
    """Tell a registry host from the first part of a path: it has a dot, a colon, an upper-case letter, or is localhost."""
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder


def _quote(text: str) -> str:
    """Go's %q for the printable names that get this far."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
