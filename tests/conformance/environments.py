"""[sig-node] Secrets, ConfigMap, Downward API, Pods: what a container finds in its environment.

Source: kubernetes test/e2e/common/node/{secrets,configmap,downwardapi,pods}.go, test/e2e/common/storage/downwardapi.go;
semantics §14.7, §14.8, §14.10.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from kubelet_secrets.api.meta import CONFIG_MAPS, SECRETS, SERVICES, Resource
from tests.conformance.framework import AGNHOST, Case, Framework, Json, pod_body, secret_body, shell, unique

RESOURCE_QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota", True)
PREFIXES = ("1-", "$_-", "ABC_", "#@!")
IP = r"(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:]+)"
AMOUNTS = {"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}}


async def _three_keys(f: Framework, resource: Resource) -> str:
    end = "\n" if resource is SECRETS else ""
    data = {f"data-{n}": f"value-{n}{end}" for n in (1, 2, 3)}
    name = unique("env-test-")
    await f.create(resource, name, secret_body(data) if resource is SECRETS else {"data": data})
    return name


def _printing_env(**fields: Any) -> Json:
    return pod_body(unique("pod-"), [shell("env-test", "env", **fields)])


async def _one_key(f: Framework, resource: Resource, variable: str) -> None:
    name = await _three_keys(f, resource)
    reference = "secretKeyRef" if resource is SECRETS else "configMapKeyRef"
    env = [{"name": variable, "valueFrom": {reference: {"name": name, "key": "data-1"}}}]
    await f.check_output(_printing_env(env=env), f"{variable}=value-1")


async def _all_keys(f: Framework, resource: Resource, prefixes: tuple[str, ...]) -> None:
    name = await _three_keys(f, resource)
    reference = "secretRef" if resource is SECRETS else "configMapRef"
    sources = [{reference: {"name": name}, **({"prefix": prefix} if prefix else {})} for prefix in prefixes]
    expected = [f"{prefix}data-{n}=value-{n}" for prefix in prefixes for n in (1, 2, 3)]
    await f.check_output(_printing_env(envFrom=sources), *expected)


async def _empty_key(f: Framework, resource: Resource) -> None:
    body = secret_body({"": "value-1\n"}) if resource is SECRETS else {"data": {"": "value-1"}}
    await f.refused(f.create(resource, unique("emptykey-test-"), body), 422)


async def _patch_secret(f: Framework) -> None:
    name, constant = unique("test-secret-"), unique("")
    labels = {"labels": {"testsecret-constant": constant}}
    await f.create(SECRETS, name, {"metadata": labels, **secret_body({"key": "value"}), "type": "Opaque"})
    selector = f"testsecret-constant={constant}"
    assert len(await f.client.list(SECRETS, "", dict, label_selector=selector)) == 1
    patch = {"metadata": {"labels": {"testsecret": "true"}}, **secret_body({"key": "value1"})}
    await f.client.patch(SECRETS, f.namespace, name, patch)
    found = await f.client.get(SECRETS, f.namespace, name, dict)
    assert found["data"] == secret_body({"key": "value1"})["data"]
    await f.client.request_json("DELETE", SECRETS.path(f.namespace), params={"labelSelector": "testsecret=true"})
    assert len(await f.client.list(SECRETS, "", dict, label_selector=selector)) == 0


async def _update_config_map(f: Framework) -> None:
    name = await _three_keys(f, CONFIG_MAPS)
    await f.replace(CONFIG_MAPS, name, {"data": {"data": "value"}})
    assert (await f.client.get(CONFIG_MAPS, f.namespace, name, dict))["data"] == {"data": "value"}


async def _config_map_lifecycle(f: Framework) -> None:
    name, constant = unique("test-configmap"), unique("")
    metadata = {"labels": {"test-configmap-static": constant}}
    await f.create(CONFIG_MAPS, name, {"metadata": metadata, "data": {"valueName": "value"}})
    found = await f.client.get(CONFIG_MAPS, f.namespace, name, dict)
    assert (found["data"], found["metadata"]["labels"]) == ({"valueName": "value"}, metadata["labels"])
    patch = {"metadata": {"labels": {"test-configmap": "patched"}}, "data": {"valueName": "value1"}}
    await f.client.patch(CONFIG_MAPS, f.namespace, name, patch)
    selector = f"test-configmap=patched,test-configmap-static={constant}"
    (found,) = await f.client.list(CONFIG_MAPS, "", dict, label_selector=selector)
    assert (found["metadata"]["name"], found["data"]) == (name, {"valueName": "value1"})
    selector = f"test-configmap-static={constant}"
    await f.client.request_json("DELETE", CONFIG_MAPS.path(f.namespace), params={"labelSelector": selector})
    assert len(await f.client.list(CONFIG_MAPS, f.namespace, dict, label_selector=selector)) == 0


async def _quota(f: Framework, resource: Resource) -> None:
    """[sig-api-machinery] ResourceQuota: an object counts from its creation to its deletion."""
    f.needs_controllers()
    start = len(await f.client.list(resource, f.namespace, dict))
    await f.create(RESOURCE_QUOTAS, "test-quota", {"spec": {"hard": {resource.plural: str(start + 1)}}})

    async def uses(count: int) -> bool:
        status = (await f.client.get(RESOURCE_QUOTAS, f.namespace, "test-quota", dict)).get("status") or {}
        return bool(status.get("used", {}).get(resource.plural) == str(count))

    await f.eventually(partial(uses, start))
    name = await _three_keys(f, resource)
    await f.eventually(partial(uses, start + 1))
    await f.client.delete(resource, f.namespace, name)
    await f.eventually(partial(uses, start))


# --- downward API -----------------------------------------------------------------------------------------------------------


def _field(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _amount(name: str, resource: str) -> Json:
    return {"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource}}}


async def _downward(
    f: Framework,
    env: list[Json],
    *expected: str,
    script: str = "env",
    resources: Json | None = None,
    host_network: bool = False,
    pod_resources: Json | None = None,
) -> None:
    name = unique("downward-api-")
    container = shell("dapi-container", script, env=env, **({"resources": resources} if resources else {}))
    pod = pod_body(name, [container], metadata={"labels": {"name": name}})
    if host_network:
        pod["spec"]["hostNetwork"] = True
    if pod_resources:
        pod["spec"]["resources"] = pod_resources
    wanted = [each.format(name=name, namespace=f.namespace, ip=IP) for each in expected]
    await f.check_output(pod, *wanted, regexp=True)


async def _services(f: Framework) -> None:
    server = unique("server-envvars-")
    container = {"name": "srv", "image": AGNHOST, "args": ["test-webserver"], "ports": [{"containerPort": 9376}]}
    spec: Json = {"restartPolicy": "Always"}
    await f.create_sync(pod_body(server, [container], metadata={"labels": {"name": server}}, **spec))
    service = {"spec": {"ports": [{"port": 8765, "targetPort": 8080}], "selector": {"name": server}}}
    await f.create(SERVICES, "fooservice", service)
    expected = (
        *("FOOSERVICE_SERVICE_HOST=", "FOOSERVICE_SERVICE_PORT=", "FOOSERVICE_PORT=", "FOOSERVICE_PORT_8765_TCP_PORT="),
        *("FOOSERVICE_PORT_8765_TCP_PROTO=", "FOOSERVICE_PORT_8765_TCP=", "FOOSERVICE_PORT_8765_TCP_ADDR="),
    )
    # The node may learn of the service a moment later than of the pod: the framework tries again for 3 min.
    await f.eventually(partial(_prints, f, expected))


async def _prints(f: Framework, expected: tuple[str, ...]) -> bool:
    pod = await f.create_pod(pod_body(unique("client-envvars-"), [shell("env3cont", "env")]))
    await f.wait_success(pod)
    log = await f.logs(pod)
    return all(each in log for each in expected)


def _cases() -> list[Case]:
    found: list[Case] = []
    consumable = "should be consumable"
    for suite, resource in (("[sig-node] Secrets", SECRETS), ("[sig-node] ConfigMap", CONFIG_MAPS)):
        is_secret = resource is SECRETS
        one, variable = (
            ("from pods in env vars", "SECRET_DATA") if is_secret else ("via environment variable", "CONFIG_DATA_1")
        )
        prefixed = (
            f"{consumable} as environment variable names variable names with various prefixes"
            if is_secret
            else f"{consumable} as environment variable names when configmap keys start with a digit"
        )
        empty = (
            "should fail to create secret due to empty secret key"
            if is_secret
            else "should fail to create ConfigMap with empty key"
        )
        plain = ("", "p-")
        found += [
            Case(f"{suite} {consumable} {one}", partial(_one_key, resource=resource, variable=variable), "NC"),
            Case(
                f"{suite} {consumable} via the environment", partial(_all_keys, resource=resource, prefixes=plain), "NC"
            ),
            Case(f"{suite} {prefixed}", partial(_all_keys, resource=resource, prefixes=PREFIXES), "C"),
            Case(f"{suite} {empty}", partial(_empty_key, resource=resource), "C"),
        ]
    found += [
        Case("[sig-node] Secrets should patch a secret", _patch_secret, "C"),
        Case("[sig-node] ConfigMap should update ConfigMap successfully", _update_config_map, "NC"),
        Case("[sig-node] ConfigMap should run through a ConfigMap lifecycle", _config_map_lifecycle, "C"),
        *(
            Case(
                f"ResourceQuota should create a ResourceQuota and capture the life of a {what}",
                partial(_quota, resource=resource),
                "C",
            )
            for what, resource in (("secret", SECRETS), ("configMap", CONFIG_MAPS))
        ),
        Case("[sig-node] Pods should contain environment variables for services", _services, "NC"),
    ]

    cpu, memory = _amount("CPU_LIMIT", "limits.cpu"), _amount("MEMORY_LIMIT", "limits.memory")
    storage = _amount("EPHEMERAL_STORAGE_LIMIT", "limits.ephemeral-storage")
    huge = _amount("HUGEPAGES_LIMIT", "limits.hugepages-2Mi")
    all_amounts = [cpu, memory, _amount("CPU_REQUEST", "requests.cpu"), _amount("MEMORY_REQUEST", "requests.memory")]
    host, pod = _field("HOST_IP", "status.hostIP"), _field("POD_IP", "status.podIP")
    same = "[[ \"${HOST_IP:?}\" == \"${POD_IP:?}\" ]] && echo 'OK' || echo \"HOST_IP: '${HOST_IP}' != POD_IP: '${POD_IP}'\""
    hosts = _field("HOST_IPS", "status.hostIPs")

    def add(text: str, labels: str, env: list[Json], *expected: str, **kwargs: Any) -> None:
        run = lambda f: _downward(f, env, *expected, **kwargs)  # noqa: E731
        found.append(Case(f"[sig-node] Downward API {text}", run, labels))

    add("should provide pod name, namespace and IP address as env vars", "NC",
        [_field("POD_NAME", "metadata.name"), _field("POD_NAMESPACE", "metadata.namespace"), pod],
        "POD_NAME={name}", "POD_NAMESPACE={namespace}", "POD_IP={ip}", resources=AMOUNTS)  # fmt: skip
    add("should provide host IP as an env var", "NC", [host], "HOST_IP={ip}", resources=AMOUNTS)
    add("should provide hostIPs as an env var", "NC", [hosts], "HOST_IPS={ip}", resources=AMOUNTS)
    add("should provide host IP and pod IP as an env var if pod uses host network", "N", [host, pod], "OK", script=same,
        host_network=True)  # fmt: skip
    add("should provide container's limits.cpu/memory and requests.cpu/memory as env vars", "NC", all_amounts,
        "CPU_LIMIT=2", "MEMORY_LIMIT=67108864", "CPU_REQUEST=1", "MEMORY_REQUEST=33554432", resources=AMOUNTS)  # fmt: skip
    add("should provide default limits.cpu/memory from node allocatable", "NC", [cpu, memory], "CPU_LIMIT=[1-9]",
        "MEMORY_LIMIT=[1-9]")  # fmt: skip
    uid = "POD_UID=[a-z0-9]{{8}}-[a-z0-9]{{4}}-[a-z0-9]{{4}}-[a-z0-9]{{4}}-[a-z0-9]{{12}}"
    add("should provide pod UID as env vars", "NC", [_field("POD_UID", "metadata.uid")], uid, resources=AMOUNTS)

    both = "limits.ephemeral-storage and requests.ephemeral-storage"
    add(f"[Feature:EphemeralStorage] should provide container's {both} as env vars", "",
        [storage, _amount("EPHEMERAL_STORAGE_REQUEST", "requests.ephemeral-storage")],
        "EPHEMERAL_STORAGE_LIMIT=67108864", "EPHEMERAL_STORAGE_REQUEST=33554432",
        resources={"requests": {"ephemeral-storage": "32Mi"}, "limits": {"ephemeral-storage": "64Mi"}})  # fmt: skip
    add("[Feature:EphemeralStorage] should provide default limits.ephemeral-storage from node allocatable", "", [storage],
        "EPHEMERAL_STORAGE_LIMIT=[1-9]")  # fmt: skip
    add("[Disruptive] should provide container's limits.hugepages-<pagesize> and requests.hugepages-<pagesize> as env vars", "",
        [huge, _amount("HUGEPAGES_REQUEST", "requests.hugepages-2Mi")], "HUGEPAGES_LIMIT=0", "HUGEPAGES_REQUEST=0",
        resources={"requests": {"cpu": "10m", "hugepages-2Mi": "0Mi"}, "limits": {"hugepages-2Mi": "0Mi"}})  # fmt: skip
    add("[Disruptive] should provide default limits.hugepages-<pagesize> from node allocatable", "", [huge],
        r"HUGEPAGES_LIMIT=((0)|([1-9][0-9]*))\n")  # fmt: skip
    of_pod = "[Feature:PodLevelResources] should provide default limits.cpu/memory from pod level resources"
    add(of_pod, "", [cpu, memory], "CPU_LIMIT=2", "MEMORY_LIMIT=67108864", pod_resources=AMOUNTS)
    given = "[Feature:PodLevelResources] should provide container's limits.cpu/memory from container level resources"
    add(given, "", [cpu, memory], "CPU_LIMIT=1", "MEMORY_LIMIT=33554432", pod_resources=AMOUNTS,
        resources={"limits": {"cpu": "1", "memory": "32Mi"}})  # fmt: skip
    return found


CASES = _cases()
