"""[sig-storage] Secrets, ConfigMap, Projected secret, Projected configMap: files made of an object's keys.

Four upstream files with the same tests, which differ in where things lie and what they are called; so here is one table, and
what differs is a :class:`Source`.

Source: kubernetes test/e2e/common/storage/{secrets_volume,configmap_volume,projected_secret,projected_configmap}.go;
semantics §14.1-14.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from kubelet_secrets.api.meta import CONFIG_MAPS, SECRETS, Resource
from tests.conformance.framework import (
    Case,
    Framework,
    Json,
    agnhost,
    busybox,
    content_line,
    loop_args,
    mode_line,
    mount,
    pod_body,
    secret_body,
    unique,
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files come from."""

    resource: Resource
    projected: bool
    volume: str  # the volume's name, and its directory below /etc

    def body(self, data: Mapping[str, str]) -> Json:
        return secret_body(data) if self.resource is SECRETS else {"data": dict(data)}

    @property
    def three_keys(self) -> dict[str, str]:
        """A Secret's values end with a newline, a ConfigMap's do not."""
        end = "\n" if self.resource is SECRETS else ""
        return {f"data-{n}": f"value-{n}{end}" for n in (1, 2, 3)}

    def make_volume(self, name: str, obj: str, *, default_mode: int | None = None, **fields: Any) -> Json:
        mode = {} if default_mode is None else {"defaultMode": default_mode}
        if self.projected:
            kind = "secret" if self.resource is SECRETS else "configMap"
            return {"name": name, "projected": {"sources": [{kind: {"name": obj, **fields}}], **mode}}
        if self.resource is SECRETS:
            return {"name": name, "secret": {"secretName": obj, **fields, **mode}}
        return {"name": name, "configMap": {"name": obj, **fields, **mode}}

    @property
    def path(self) -> str:
        return f"/etc/{self.volume}"

    async def create(self, f: Framework, name: str, data: Mapping[str, str] | None = None) -> str:
        await f.create(self.resource, name, self.body(self.three_keys if data is None else data))
        return name


SECRET = Source(SECRETS, projected=False, volume="secret-volume")
CONFIG_MAP = Source(CONFIG_MAPS, projected=False, volume="configmap-volume")
PROJECTED_SECRET = Source(SECRETS, projected=True, volume="projected-secret-volume")
PROJECTED_CONFIG_MAP = Source(CONFIG_MAPS, projected=True, volume="projected-configmap-volume")


def _security(user: int | None, fs_group: int | None) -> Json:
    context = {"runAsUser": user, "fsGroup": fs_group}
    return {"securityContext": {key: value for key, value in context.items() if value is not None}}


async def _consume(
    f: Framework,
    source: Source,
    *,
    default_mode: int | None = None,
    mapped: str = "",
    item_mode: int | None = None,
    user: int | None = None,
    fs_group: int | None = None,
    shows_mode: bool = True,
) -> None:
    """mounttest prints one file of the volume, and its mode.

    Args:
        mapped: ``key:path``; the volume then has this one file.
    """
    key, _, shown = mapped.partition(":")
    path = f"{source.path}/{shown or 'data-1'}"
    items = [{"key": key, "path": shown, **({} if item_mode is None else {"mode": item_mode})}] if mapped else None
    name = await source.create(f, unique("volume-test-"))
    fields = {} if items is None else {"items": items}
    pod = pod_body(
        unique("pod-"),
        [
            agnhost(
                f"{source.volume}-test",
                "mounttest",
                f"--file_content={path}",
                f"--file_mode={path}",
                mounts=[mount(source.volume, source.path, readOnly=True)],
            )
        ],
        volumes=[source.make_volume(source.volume, name, default_mode=default_mode, **fields)],
        terminationGracePeriodSeconds=1,
        **_security(user, fs_group),
    )
    expected = [content_line(path, f"value-{(key or 'data-1')[-1]}")]
    if shows_mode:
        expected.append(mode_line(path, item_mode if item_mode is not None else default_mode))
    await f.check_output(pod, *expected)


async def _same_name_elsewhere(f: Framework, source: Source) -> None:
    name = unique("secret-test-")
    other = await f.create_namespace()
    strange = {"this_should_not_match_content_of_other_secret": "similarly_this_should_not_match\n"}
    await f.create(source.resource, name, source.body(strange), namespace=other)
    await source.create(f, name)
    path = f"{source.path}/data-1"
    reader = agnhost(
        "secret-volume-test",
        "mounttest",
        f"--file_content={path}",
        f"--file_mode={path}",
        mounts=[mount(source.volume, source.path, readOnly=True)],
    )
    pod = pod_body(unique("pod-secrets-"), [reader], volumes=[source.make_volume(source.volume, name)])
    await f.check_output(pod, content_line(path, "value-1"), mode_line(path, None))


async def _two_volumes(f: Framework, source: Source) -> None:
    name = await source.create(f, unique("volume-test-"))
    names = (source.volume, f"{source.volume}-2")
    path = f"{source.path}/data-1"
    reader = agnhost(
        f"{source.volume}-test",
        "mounttest",
        f"--file_content={path}",
        f"--file_mode={path}",
        mounts=[mount(each, f"/etc/{each}", readOnly=True) for each in names],
    )
    pod = pod_body(unique("pod-"), [reader], volumes=[source.make_volume(each, name) for each in names])
    await f.check_output(pod, content_line(path, "value-1"), mode_line(path, None))


async def _updates(f: Framework, source: Source) -> None:
    name = await source.create(f, unique("test-upd-"), {"data-1": "value-1"})
    path = f"{source.path}/data-1"
    reader = agnhost("agnhost-container", *loop_args(path), mounts=[mount(source.volume, source.path, readOnly=True)])
    pod = await f.create_sync(pod_body(unique("pod-"), [reader], volumes=[source.make_volume(source.volume, name)]))
    await f.wait_log(pod, "agnhost-container", "value-1")
    await f.replace(source.resource, name, source.body({"data-1": "value-2"}))
    await f.wait_log(pod, "agnhost-container", "value-2")


async def _optional_updates(f: Framework, source: Source) -> None:
    """One object goes, one changes its key, one comes, in volumes where each is optional."""
    gone, changed, made = (unique(f"test-opt-{each}-") for each in ("del", "upd", "create"))
    for name in (gone, changed):
        await source.create(f, name, {"data-1": "value-1"})
    root = f"{source.path}s"
    rows = (
        ("delete", "dels", gone, "data-1"),
        ("update", "upds", changed, "data-3"),
        ("create", "creates", made, "data-1"),
    )
    pod = await f.create_sync(
        pod_body(
            unique("pod-"),
            [
                agnhost(
                    f"{short}-volume-test",
                    *loop_args(f"{root}/{each}/{key}"),
                    mounts=[mount(f"{short}-volume", f"{root}/{each}", readOnly=True)],
                )
                for each, short, _, key in rows
            ],
            volumes=[source.make_volume(f"{short}-volume", name, optional=True) for _, short, name, _ in rows],
        )
    )
    await f.wait_log(pod, "creates-volume-test", f"Error reading file {root}/create/data-1")
    await f.wait_log(pod, "upds-volume-test", f"Error reading file {root}/update/data-3")
    await f.wait_log(pod, "dels-volume-test", "value-1")
    await f.client.delete(source.resource, f.namespace, gone)
    await f.replace(source.resource, changed, source.body({"data-3": "value-3"}))
    await source.create(f, made, {"data-1": "value-1"})
    await f.wait_log(pod, "creates-volume-test", "value-1")
    await f.wait_log(pod, "upds-volume-test", "value-3")
    await f.wait_log(pod, "dels-volume-test", f"Error reading file {root}/delete/data-1")


async def _not_optional(f: Framework, source: Source, *, exists: bool) -> None:
    """Without the object, or without the one key that the volume names, the pod waits."""
    name = unique("test-opt-create-")
    fields: Json = {"optional": False}
    if exists:
        await source.create(f, name)
        fields["items"] = [{"key": "data-4", "path": "path/to/data-4"}]
    path = f"{source.path}s/create"
    reader = agnhost(
        "creates-volume-test", *loop_args(f"{path}/data-1"), mounts=[mount("creates", path, readOnly=True)]
    )
    pod = pod_body(unique("pod-"), [reader], volumes=[source.make_volume("creates", name, **fields)])
    await f.stays_pending(await f.create_pod(pod))


async def _binary_data(f: Framework) -> None:
    name = await f.create_config_map(
        unique("configmap-test-upd-"), {"data-1": "value-1"}, binaryData={"dump.bin": "3sr+utD+/w=="}
    )
    mounts = [mount("configmap-volume", "/etc/configmap-volume", readOnly=True)]
    pod = await f.create_pod(
        pod_body(
            unique("pod-configmaps-"),
            [
                agnhost("agnhost-container", *loop_args("/etc/configmap-volume/data-1"), mounts=mounts),
                busybox(
                    "configmap-volume-binary-test", "hexdump", "-C", "/etc/configmap-volume/dump.bin", mounts=mounts
                ),
            ],
            volumes=[CONFIG_MAP.make_volume("configmap-volume", name)],
        )
    )
    await f.wait_running(pod)
    await f.wait_log(pod, "agnhost-container", "value-1")
    await f.wait_log(pod, "configmap-volume-binary-test", "de ca fe ba d0 fe ff")


async def _immutable(f: Framework, source: Source) -> None:
    """Only the API server has a part in this."""
    data = source.three_keys
    await source.create(f, "immutable", data)
    data["data-4"] = "value-4\n"
    await f.replace(source.resource, "immutable", source.body(data))
    await f.replace(source.resource, "immutable", source.body(data) | {"immutable": True})
    changed = source.body(data | {"data-5": "value-5\n"})
    await f.refused(f.replace(source.resource, "immutable", changed | {"immutable": True}), 422)
    await f.refused(f.replace(source.resource, "immutable", source.body(data) | {"immutable": False}), 422)
    labels = {"metadata": {"labels": {"label1": "value1"}}}
    await f.client.patch(source.resource, f.namespace, "immutable", labels)
    await f.client.delete(source.resource, f.namespace, "immutable")


def _cases() -> list[Case]:
    found: list[Case] = []

    def add(suite: str, text: str, labels: str, run: Any, *args: Any, **kwargs: Any) -> None:
        found.append(Case(f"{suite} {text}", partial(run, *args, **kwargs) if args or kwargs else run, labels))

    consumable = "should be consumable from pods in volume"
    for suite, source in (("Secrets", SECRET), ("Projected secret", PROJECTED_SECRET)):
        mapped = "data-1:new-path-data-1"
        elsewhere = (
            "should be able to mount in a volume regardless of a different secret existing with same name in different "
            "namespace"
        )
        add(suite, consumable, "NC", _consume, source=source)
        add(suite, f"{consumable} with defaultMode set", "NC", _consume, source=source, default_mode=0o400)
        add(suite, f"{consumable} as non-root with defaultMode and fsGroup set", "NC", _consume, source=source,
            default_mode=0o440, user=1000, fs_group=1001)  # fmt: skip
        add(suite, f"{consumable} with mappings", "NC", _consume, source=source, mapped=mapped)
        add(suite, f"{consumable} with mappings and Item Mode set", "NC", _consume, source=source, mapped=mapped,
            item_mode=0o400)  # fmt: skip
        add(suite, elsewhere, "N" if source.projected else "NC", _same_name_elsewhere, source=source)
        add(suite, "should be consumable in multiple volumes in a pod", "NC", _two_volumes, source=source)
        add(suite, "optional updates should be reflected in volume", "NC", _optional_updates, source=source)
        for what, exists in (
            ("secret object does not exist", False),
            ("the key in the secret object does not exist", True),
        ):
            text = f"Should fail non-optional pod creation due to {what}"
            add(suite, text, "SN", _not_optional, source=source, exists=exists)
    add("Secrets", "should be immutable if `immutable` field is set", "C", _immutable, source=SECRET)

    for suite, source in (("ConfigMap", CONFIG_MAP), ("Projected configMap", PROJECTED_CONFIG_MAP)):
        mapped = "data-2:path/to/data-2"
        add(suite, consumable, "NC", _consume, source=source)
        add(suite, f"{consumable} with defaultMode set", "NC", _consume, source=source, default_mode=0o400)
        add(suite, f"{consumable} as non-root with defaultMode and fsGroup set", "N", _consume, source=source,
            default_mode=0o440, user=1000, fs_group=1001)  # fmt: skip
        add(suite, f"{consumable} as non-root", "NC", _consume, source=source, user=1000)
        add(suite, f"{consumable} as non-root with FSGroup", "N", _consume, source=source, user=1000, fs_group=1001)
        add(suite, f"{consumable} with mappings", "NC", _consume, source=source, mapped=mapped)
        if source.projected:  # upstream's sets the volume's mode where the text says the item's
            add(suite, f"{consumable} with mappings and Item mode set", "NC", _consume, source=source, mapped=mapped,
                default_mode=0o400)  # fmt: skip
        else:
            add(suite, f"{consumable} with mappings and Item mode set", "NC", _consume, source=source, mapped=mapped,
                item_mode=0o400)  # fmt: skip
        add(suite, f"{consumable} with mappings as non-root", "NC", _consume, source=source, mapped=mapped, user=1000)
        add(suite, f"{consumable} with mappings as non-root with FSGroup", "N", _consume, source=source, mapped=mapped,
            user=1000, fs_group=1001, shows_mode=False)  # fmt: skip
        add(suite, "updates should be reflected in volume", "NC", _updates, source=source)
        add(suite, "optional updates should be reflected in volume", "NC", _optional_updates, source=source)
        add(suite, "should be consumable in multiple volumes in the same pod", "NC", _two_volumes, source=source)
        for what, exists in (
            ("configMap object does not exist", False),
            ("the key in the configMap object does not exist", True),
        ):
            text = f"Should fail non-optional pod creation due to {what}"
            add(suite, text, "SN", _not_optional, source=source, exists=exists)
    add("ConfigMap", "binary data should be reflected in volume", "NC", _binary_data)
    add("ConfigMap", "should be immutable if `immutable` field is set", "C", _immutable, source=CONFIG_MAP)
    return found


CASES = _cases()
