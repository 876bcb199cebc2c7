"""[sig-storage] Downward API volume and Projected downwardAPI (the same tests twice), and Projected combined.

Source: kubernetes test/e2e/common/storage/{downwardapi_volume,projected_downwardapi,projected_combined}.go;
semantics §14.3, §14.4.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.conformance.framework import (
    Case,
    Framework,
    Json,
    agnhost,
    content_line,
    loop_args,
    mode_line,
    mount,
    pod_body,
    shell,
    unique,
)

CONTAINER = "client-container"
ROOT = "/etc/podinfo"
RESOURCES = {"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}}


def field(path: str, field_path: str, **fields: Any) -> Json:
    return {"path": path, "fieldRef": {"apiVersion": "v1", "fieldPath": field_path}, **fields}


def _amount(path: str, resource: str) -> Json:
    return {"path": path, "resourceFieldRef": {"containerName": CONTAINER, "resource": resource}}


def _pod(
    projected: bool,
    args: list[str],
    *items: Json,
    default_mode: int | None = None,
    item_mode: int | None = None,
    metadata: Json | None = None,
    resources: Json | None = None,
    **spec: Any,
) -> Json:
    named = field("podname", "metadata.name", **({} if item_mode is None else {"mode": item_mode}))
    files = [
        named,
        _amount("cpu_limit", "limits.cpu"),
        _amount("cpu_request", "requests.cpu"),
        _amount("memory_limit", "limits.memory"),
        _amount("memory_request", "requests.memory"),
        *items,
    ]
    mode = {} if default_mode is None else {"defaultMode": default_mode}
    plain = {"downwardAPI": {"items": files, **mode}}
    volume = {"projected": {"sources": [{"downwardAPI": {"items": files}}], **mode}} if projected else plain
    amounts = {} if resources is None else {"resources": resources}
    container = agnhost(CONTAINER, *args, mounts=[mount("podinfo", ROOT)], **amounts)
    name = unique("downwardapi-volume-")
    return pod_body(name, [container], metadata=metadata, volumes=[{"name": "podinfo", **volume}], **spec)


async def _content(
    f: Framework, projected: bool, file: str, wanted: str, *, regexp: bool = False, **fields: Any
) -> None:
    pod = _pod(projected, ["mounttest", f"--file_content={ROOT}/{file}"], **fields)
    await f.check_output(pod, wanted or f"{pod['metadata']['name']}\n", regexp=regexp)


async def _mode(f: Framework, projected: bool, wanted: int, **fields: Any) -> None:
    path = f"{ROOT}/podname"
    await f.check_output(_pod(projected, ["mounttest", f"--file_mode={path}"], **fields), mode_line(path, wanted))


async def _labels(f: Framework, projected: bool) -> None:
    args = loop_args(f"{ROOT}/labels")
    metadata = {"labels": {"key1": "value1", "key2": "value2"}}
    name = await f.create_sync(_pod(projected, args, field("labels", "metadata.labels"), metadata=metadata))
    await f.wait_log(name, CONTAINER, 'key1="value1"\n')
    await f.update_pod(name, {"labels": {"key3": "value3"}})
    await f.wait_log(name, CONTAINER, 'key3="value3"\n')


async def _annotations(f: Framework, projected: bool) -> None:
    args = loop_args(f"{ROOT}/annotations")
    metadata = {"annotations": {"builder": "bar"}}
    name = await f.create_sync(_pod(projected, args, field("annotations", "metadata.annotations"), metadata=metadata))
    await f.wait_log(name, CONTAINER, 'builder="bar"\n')
    await f.update_pod(name, {"annotations": {"builder": "foo"}})
    await f.wait_log(name, CONTAINER, 'builder="foo"\n')


async def _combined(f: Framework) -> None:
    config_map = await f.create_config_map(unique("configmap-projected-all-"), {"configmap-data": "configmap-value-1"})
    secret = await f.create_secret(unique("secret-projected-all-"), {"secret-data": "secret-value-1"})
    sources = [
        {"downwardAPI": {"items": [field("podname", "metadata.name")]}},
        {"secret": {"name": secret}},
        {"configMap": {"name": config_map}},
    ]
    script = "cat /all/podname && cat /all/secret-data && cat /all/configmap-data"
    name = unique("projected-volume-")
    reader = shell("projected-all-volume-test", script, [mount("podinfo", "/all")])
    pod = pod_body(name, [reader], volumes=[{"name": "podinfo", "projected": {"sources": sources}}])
    await f.check_output(pod, name, "secret-value-1", "configmap-value-1")


def _cases() -> list[Case]:
    found = []
    for suite, projected in (("Downward API volume", False), ("Projected downwardAPI", True)):
        group: Json = {"securityContext": {"runAsUser": 1000, "fsGroup": 1234}}
        rows: list[tuple[str, str, Any]] = [
            ("should provide podname only", "NC", partial(_content, file="podname", wanted="")),
            ("should set DefaultMode on files", "NC", partial(_mode, wanted=0o400, default_mode=0o400)),
            ("should set mode on item file", "NC", partial(_mode, wanted=0o400, item_mode=0o400)),
            (
                "should provide podname as non-root with fsgroup",
                "N",
                partial(_content, file="podname", wanted="", **group),
            ),
            (
                "should provide podname as non-root with fsgroup and defaultMode",
                "N",
                partial(_mode, wanted=0o440, item_mode=0o440, **group),
            ),
            ("should update labels on modification", "NC", _labels),
            ("should update annotations on modification", "NC", _annotations),
            *(
                (
                    f"should provide container's {file.replace('_', ' ')}",
                    "NC",
                    partial(
                        _content, file=file, wanted=content_line(f"{ROOT}/{file}", f"{amount}\n"), resources=RESOURCES
                    ),
                )
                for file, amount in (
                    ("cpu_limit", "2"),
                    ("memory_limit", "67108864"),
                    ("cpu_request", "1"),
                    ("memory_request", "33554432"),
                )
            ),
            *(
                (
                    f"should provide node allocatable ({what}) as default {what} limit if the limit is not set",
                    "NC",
                    partial(_content, file=f"{what}_limit", wanted=": [1-9]", regexp=True),
                )
                for what in ("cpu", "memory")
            ),
        ]
        found += [Case(f"{suite} {text}", partial(run, projected=projected), labels) for text, labels, run in rows]
    text = "should project all components that make up the projection API"
    return [*found, Case(f"Projected combined {text}", _combined, "NC")]


CASES = _cases()
