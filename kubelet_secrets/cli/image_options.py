"""Options of ``agent`` and ``up`` about images: pulling them, who may use them, when they go. Most are the kubelet's."""

from __future__ import annotations

import click


def _image_patterns(_context: click.Context, option: click.Parameter, patterns: tuple[str, ...]) -> tuple[str, ...]:
    if patterns:
        from kubelet_secrets.runtime.pullrecords import parse_allow_list

        try:
            parse_allow_list(patterns)
        except ValueError as error:
            raise click.BadParameter(str(error), param=option) from None
    return patterns


IMAGE_OPTIONS = (
    click.option(
        "--image-gc-high-threshold",
        type=click.IntRange(1, 100),
        default=85,
        show_default=True,
        help="Percent of the image store's disk at which unused images are removed; 100: never. Imported ones stay.",
    ),
    click.option(
        "--image-gc-low-threshold",
        type=click.IntRange(0, 100),
        default=80,
        show_default=True,
        help="Percent of the disk down to which they are.",
    ),
    click.option(
        "--max-parallel-image-pulls",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help="How many images are pulled at the same time. A kubelet pulls one unless told otherwise.",
    ),
    click.option(
        "--registry-qps",
        type=click.FloatRange(min=0),
        default=5,
        show_default=True,
        help="Image pulls a second; 0: any number. More are refused, and tried again later.",
    ),
    click.option(
        "--registry-burst",
        type=click.IntRange(min=1),
        default=10,
        show_default=True,
        help="How many may come at once all the same.",
    ),
    click.option(
        "--image-pull-credentials-verification-policy",
        "image_verification",
        type=click.Choice(
            ["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"]
        ),
        default="NeverVerifyPreloadedImages",
        metavar="POLICY",
        show_default=True,
        help="Which images that are here a pod may use without credentials that could pull them: NeverVerify (all), "
        "NeverVerifyPreloadedImages (imported ones), NeverVerifyAllowlistedImages, AlwaysVerify (none). The kubelet's setting "
        "of that name.",
    ),
    click.option(
        "--preloaded-images-verification-allowlist",
        "image_allow_list",
        metavar="IMAGE|PREFIX/*",
        multiple=True,
        callback=_image_patterns,
        help="Those of NeverVerifyAllowlistedImages, without tags. May be repeated.",
    ),
)
