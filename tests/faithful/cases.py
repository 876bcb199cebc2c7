"""Manifests of which container and ``explain`` must tell the same: every volume type, every kind of variable.

In each the pod is called ``web``. Sections are those of the semantics reference that the case is about.
"""

from __future__ import annotations

import base64
import textwrap

WAIT = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"

BINARY = base64.b64encode(bytes(range(256))).decode()

OBJECTS = f"""
---
apiVersion: v1
kind: Secret
metadata: {{name: db}}
data: {{bin: {BINARY}}}
stringData: {{user: jane, password: hunter2, .dot: hidden, a.b-c_D: odd, empty: ""}}
---
apiVersion: v1
kind: Secret
metadata: {{name: other}}
stringData: {{user: john, extra: more}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{user: config-user, level: debug, multi: "one\\ntwo\\n"}}
binaryData: {{blob: {BINARY}}}
"""


def pod(container: str = "{}", *, volumes: str = "[]", metadata: str = "{}", rest: str = "") -> str:
    """The objects and a pod ``web``. *container* is merged into the container's defaults; all are YAML in flow style."""
    return f"""{OBJECTS}
---
apiVersion: v1
kind: Pod
metadata: {{<<: {metadata}, name: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - <<: {container}
    name: app
    image: localhost/busybox:1
    command: [sh, -c, {WAIT!r}]
  volumes: {volumes}
{textwrap.indent(textwrap.dedent(rest), "  ")}
"""


MOUNT = "{volumeMounts: [{name: v, mountPath: /v}]}"


def volume(source: str, *, rest: str = "") -> str:
    return pod(MOUNT, volumes=f"[{{name: v, {source}}}]", rest=rest)


def env(*entries: str, more: str = "", rest: str = "", metadata: str = "{}") -> str:
    return pod(f"{{env: [{', '.join(entries)}]{more}}}", rest=rest, metadata=metadata)


def value_from(name: str, source: str) -> str:
    return f"{{name: {name}, valueFrom: {{{source}}}}}"


PROJECTED = """projected: {sources: [
    {secret: {name: db, items: [{key: user, path: who}, {key: password, path: deep/er/pw, mode: 0400}]}},
    {configMap: {name: settings, items: [{key: user, path: deep/who}, {key: blob, path: blob}]}},
    {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}},
    {serviceAccountToken: {path: tok/en, audience: vault, expirationSeconds: 600}}]}"""

VOLUMES = {
    # §2
    "secret": volume("secret: {secretName: db}"),
    "secret-default-mode": volume("secret: {secretName: db, defaultMode: 0400}"),
    "secret-items": volume(
        "secret: {secretName: db, items: [{key: user, path: a/b/c}, {key: password, path: pw, mode: 0777}]}"
    ),
    "secret-same-path-twice": volume(
        "secret: {secretName: db, items: [{key: user, path: x}, {key: password, path: x}]}"
    ),
    "secret-unclean-path": volume("secret: {secretName: db, items: [{key: user, path: a//b/./c}]}"),
    "secret-optional-key": volume(
        "secret: {secretName: db, optional: true, items: [{key: nope, path: x}, {key: user, path: y}]}"
    ),
    "secret-optional-missing": volume("secret: {secretName: nope, optional: true}"),
    "secret-fs-group": volume("secret: {secretName: db, defaultMode: 0400}", rest="securityContext: {fsGroup: 1234}"),
    "secret-fs-group-no-bits": volume("secret: {secretName: db, defaultMode: 0}", rest="securityContext: {fsGroup: 7}"),
    "secret-as-user": volume("secret: {secretName: db, defaultMode: 0440}", rest="securityContext: {runAsUser: 1000}"),
    "secret-immutable": volume("secret: {secretName: db}").replace(
        "name: db}\ndata", "name: db}\nimmutable: true\ndata"
    ),
    # §2.3, §4.5
    "config-map": volume("configMap: {name: settings}"),
    "config-map-binary-item": volume("configMap: {name: settings, items: [{key: blob, path: b, mode: 0400}]}"),
    "config-map-fs-group": volume(
        "configMap: {name: settings, defaultMode: 0600}", rest="securityContext: {fsGroup: 5}"
    ),
    "config-map-optional-missing": volume("configMap: {name: nope, optional: true}"),
    "config-map-optional-key": volume(
        "configMap: {name: settings, optional: true, defaultMode: 0440,"
        " items: [{key: nope, path: x}, {key: level, path: ./y//z, mode: 0604}]}"
    ),
    "secret-key-twice": volume(
        "secret: {secretName: db, items: [{key: user, path: a}, {key: user, path: b/a, mode: 0640}]}"
    ),
    # §4.1, §4.2
    "projected": volume(PROJECTED),
    "projected-fs-group": volume(
        "projected: {defaultMode: 0400, sources: [{secret: {name: db}}, {configMap: {name: settings}},"
        " {downwardAPI: {items: [{path: n, mode: 0, fieldRef: {fieldPath: metadata.name}}]}}]}",
        rest="securityContext: {fsGroup: 2000}",
    ),
    "projected-optional-keys": volume(
        """projected: {sources: [
            {secret: {name: db, optional: true, items: [{key: nope, path: x}, {key: user, path: y}]}},
            {configMap: {name: settings, optional: true, items: [{key: nope, path: w}, {key: user, path: z}]}}, {}]}"""
    ),
    "projected-resources": pod(
        "{volumeMounts: [{name: v, mountPath: /v}], resources: {limits: {cpu: 1250m, memory: 64Mi}, requests: {cpu: 10m}}}",
        volumes="""[{name: v, projected: {defaultMode: 0444, sources: [{downwardAPI: {items: [
            {path: ./c//cpu, mode: 0400, resourceFieldRef: {containerName: app, resource: limits.cpu, divisor: 1m}},
            {path: mem, resourceFieldRef: {containerName: app, resource: requests.memory, divisor: 1Ki}}]}}]}}]""",
    ),
    "token-defaults": volume("projected: {defaultMode: 0400, sources: [{serviceAccountToken: {path: t}}]}"),
    "projected-default-mode": volume("projected: {defaultMode: 0440, sources: [{secret: {name: db}}]}"),
    "projected-collision": volume("projected: {sources: [{secret: {name: db}}, {secret: {name: other}}]}"),
    "projected-optional": volume(
        "projected: {sources: [{secret: {name: nope, optional: true}}, {configMap: {name: settings}}]}"
    ),
    "token-fs-user": volume(PROJECTED, rest="securityContext: {runAsUser: 1000}"),
    "token-fs-group": volume(PROJECTED, rest="securityContext: {fsGroup: 10000}"),
    "token-fs-user-and-group": volume(PROJECTED, rest="securityContext: {runAsUser: 1000, fsGroup: 10000}"),
    "token-two-users": volume(
        PROJECTED,
        rest="""
        securityContext: {runAsUser: 1000}
        initContainers:
        - {name: first, image: localhost/busybox:1, command: ["true"], securityContext: {runAsUser: 999}}
        """,
    ),
    # §4.4
    "downward": pod(
        "{volumeMounts: [{name: v, mountPath: /v}], resources: {limits: {cpu: 1250m, memory: 64Mi}, requests: {cpu: 10m}}}",
        metadata='{labels: {b: two, a: one}, annotations: {x: "quo\\"te\\nline\\ttab \\u00e9", y: plain}}',
        volumes="""[{name: v, downwardAPI: {defaultMode: 0444, items: [
            {path: name, fieldRef: {fieldPath: metadata.name}},
            {path: namespace, fieldRef: {fieldPath: metadata.namespace}},
            {path: uid, fieldRef: {fieldPath: metadata.uid}},
            {path: labels, fieldRef: {fieldPath: metadata.labels}},
            {path: annotations, fieldRef: {fieldPath: metadata.annotations}},
            {path: one, mode: 0400, fieldRef: {fieldPath: "metadata.labels['a']"}},
            {path: none, fieldRef: {fieldPath: "metadata.annotations['nope']"}},
            {path: cpu, resourceFieldRef: {containerName: app, resource: limits.cpu}},
            {path: milli, resourceFieldRef: {containerName: app, resource: limits.cpu, divisor: 1m}},
            {path: mem, resourceFieldRef: {containerName: app, resource: limits.memory, divisor: 1Mi}},
            {path: request, resourceFieldRef: {containerName: app, resource: requests.memory}},
            {path: disk, resourceFieldRef: {containerName: app, resource: requests.ephemeral-storage}}]}}]""",
    ),
    "downward-fs-group": volume(
        "downwardAPI: {defaultMode: 0400, items: [{path: a/b, fieldRef: {fieldPath: metadata.namespace}}]}",
        rest="securityContext: {fsGroup: 12}",
    ),
    "downward-of-an-init-container": volume(
        """downwardAPI: {items: [
            {path: a, resourceFieldRef: {containerName: first, resource: limits.cpu, divisor: 1m}},
            {path: b, resourceFieldRef: {containerName: first, resource: limits.hugepages-2Mi}}]}""",
        rest="""
        initContainers:
        - {name: first, image: localhost/busybox:1, command: ["true"], resources: {limits: {cpu: 70m}}}
        """,
    ),
    "downward-allocatable": volume(
        "downwardAPI: {items: [{path: cpu, resourceFieldRef: {containerName: app, resource: limits.cpu}}]}"
    ),
    # §5
    "sub-path-file": pod(
        "{volumeMounts: [{name: v, mountPath: /one, subPath: user}, {name: v, mountPath: /v}]}",
        volumes="[{name: v, secret: {secretName: db, defaultMode: 0400}}]",
    ),
    "sub-path-directory": pod(
        "{volumeMounts: [{name: v, mountPath: /d, subPath: a/b}]}",
        volumes="[{name: v, secret: {secretName: db, items: [{key: user, path: a/b/c}, {key: bin, path: a/b/d}]}}]",
    ),
    "sub-path-missing": pod(
        "{volumeMounts: [{name: v, mountPath: /d, subPath: nope}]}", volumes="[{name: v, secret: {secretName: db}}]"
    ),
    "sub-path-expr": pod(
        "{env: [{name: KEY, value: user}], volumeMounts: [{name: v, mountPath: /d, subPathExpr: $(KEY)}]}",
        volumes="[{name: v, configMap: {name: settings}}]",
    ),
    "sub-path-unclean": pod(
        "{volumeMounts: [{name: v, mountPath: /d, subPath: ./a//b/}, {name: v, mountPath: /e, subPath: ..data/a}]}",
        volumes="[{name: v, secret: {secretName: db, items: [{key: user, path: a/b/c}]}}]",
        rest="securityContext: {fsGroup: 7}",
    ),
    "sub-path-of-projected": pod(
        "{volumeMounts: [{name: v, mountPath: /d, subPath: deep}, {name: v, mountPath: /t, subPath: tok/en}]}",
        volumes=f"[{{name: v, {PROJECTED}}}]",
    ),
    "sub-path-of-downward": pod(
        "{volumeMounts: [{name: v, mountPath: /d, subPath: x/name}]}",
        volumes="[{name: v, downwardAPI: {items: [{path: x/name, fieldRef: {fieldPath: metadata.name}}]}}]",
    ),
    "sub-path-expr-of-secret-and-field": pod(
        """{env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}},
            {name: WHO, valueFrom: {secretKeyRef: {name: db, key: user}}}],
            volumeMounts: [{name: v, mountPath: /d, subPathExpr: $(POD)/$(WHO)}]}""",
        volumes="[{name: v, secret: {secretName: db, items: [{key: user, path: web/jane/x}]}}]",
    ),
    "sub-path-over-image": pod(
        "{volumeMounts: [{name: v, mountPath: /etc/resolv.conf, subPath: user}]}",
        volumes="[{name: v, configMap: {name: settings}}]",
    ),
    "nested-mounts": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /v/sub}]}",
        volumes="[{name: v, secret: {secretName: db}}, {name: w, configMap: {name: settings}}]",
    ),
    "nested-hides-a-directory": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /v/a}]}",
        volumes="""[{name: v, secret: {secretName: db, items: [{key: user, path: a/hidden}, {key: user, path: b}]}},
            {name: w, configMap: {name: settings}}]""",
    ),
    "nested-scratch": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: e, mountPath: /v/scratch/deep}]}",
        volumes="[{name: v, secret: {secretName: db}}, {name: e, emptyDir: {}}]",
    ),
    "unclean-mount-paths": pod(
        "{volumeMounts: [{name: v, mountPath: v}, {name: w, mountPath: /w/.//x/}]}",
        volumes="[{name: v, secret: {secretName: db}}, {name: w, configMap: {name: settings}}]",
    ),
    "two-volumes-at-one-place": pod(
        "{volumeMounts: [{name: v, mountPath: /v/}, {name: w, mountPath: /v}]}",
        volumes="[{name: v, secret: {secretName: db}}, {name: w, configMap: {name: settings}}]",
    ),
    "nested-in-another-container": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /d, subPath: a},"
        " {name: v, mountPath: /e, subPath: ..data/a}]}",
        volumes="""[{name: v, secret: {secretName: db, items: [{key: user, path: a/one}, {key: user, path: b}]}},
            {name: w, configMap: {name: settings}}]""",
        rest="""
        initContainers:
        - name: first
          image: localhost/busybox:1
          command: ["true"]
          volumeMounts: [{name: v, mountPath: /x}, {name: w, mountPath: /x/a/new}]
        """,
    ),
    "one-volume-in-itself": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v/user, subPath: a}]}",
        volumes="[{name: v, secret: {secretName: db, items: [{key: user, path: a/one}, {key: user, path: user}]}}]",
    ),
    "one-volume-twice": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /w/}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    "two-volumes-of-one-secret": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /w}]}",
        volumes="[{name: v, secret: {secretName: db}}, {name: w, secret: {secretName: db, defaultMode: 0400}}]",
    ),
    "read-only-recursively": pod(
        "{volumeMounts: [{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: Enabled}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    "read-only-recursively-if-possible": pod(
        "{volumeMounts: [{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: IfPossible}]}",
        volumes="[{name: v, configMap: {name: settings}}]",
    ),
    "read-only-and-not": pod(
        "{volumeMounts: [{name: e, mountPath: /e, readOnly: true}, {name: e, mountPath: /f},"
        " {name: h, mountPath: /h, readOnly: true}, {name: v, mountPath: /v, readOnly: false}]}",
        volumes="[{name: e, emptyDir: {}}, {name: h, hostPath: {path: /etc, type: Directory}},"
        " {name: v, secret: {secretName: db}}]",
    ),
    "sidecar": pod(
        MOUNT,
        volumes="[{name: v, secret: {secretName: db, defaultMode: 0400}}, {name: w, configMap: {name: settings}}]",
        rest=f"""
        initContainers:
        - name: side
          image: localhost/busybox:1
          restartPolicy: Always
          command: [sh, -c, {WAIT!r}]
          envFrom: [{{secretRef: {{name: other}}}}]
          volumeMounts: [{{name: w, mountPath: /w}}, {{name: v, mountPath: /u, subPath: user}}]
        """,
    ),
    "empty-dirs-beside": pod(
        "{volumeMounts: [{name: e, mountPath: /e}, {name: m, mountPath: /m}, {name: v, mountPath: /m/v}]}",
        volumes="[{name: e, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}, {name: v, secret: {secretName: db}}]",
    ),
    "no-token": pod(MOUNT, volumes="[{name: v, secret: {secretName: db}}]", rest="automountServiceAccountToken: false"),
    "two-containers": pod(
        MOUNT,
        volumes="[{name: v, secret: {secretName: db}}, {name: w, configMap: {name: settings}}]",
        rest="",
    ).replace(
        "  volumes:",
        f"  - name: side\n    image: localhost/busybox:1\n    command: [sh, -c, {WAIT!r}]\n"
        "    volumeMounts: [{name: w, mountPath: /w}]\n    envFrom: [{secretRef: {name: other}}]\n  volumes:",
    ),
}


def services(address: str) -> str:
    """Addresses are given once in a cluster, so each case has its own."""
    return f"""
---
apiVersion: v1
kind: Service
metadata: {{name: my-db}}
spec: {{clusterIP: {address}, ports: [{{name: sql, port: 5432}}, {{name: mon-itor, port: 9090, protocol: UDP}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: headless}}
spec: {{clusterIP: None, ports: [{{port: 80}}]}}
"""


ENVIRONMENTS = {
    # §6.1
    "literals": env("{name: A, value: x}", "{name: B}", '{name: C, value: ""}', "{name: A, value: y}"),
    "secret-key": env(value_from("A", "secretKeyRef: {name: db, key: password}")),
    "secret-key-empty": env(value_from("A", "secretKeyRef: {name: db, key: empty}")),
    "config-map-key": env(value_from("A", "configMapKeyRef: {name: settings, key: multi}")),
    "optional-everything": env(
        value_from("A", "secretKeyRef: {name: nope, key: k, optional: true}"),
        value_from("B", "secretKeyRef: {name: db, key: nope, optional: true}"),
        value_from("C", "configMapKeyRef: {name: nope, key: k, optional: true}"),
        more=", envFrom: [{secretRef: {name: nope, optional: true}}, {configMapRef: {name: nope, optional: true}}]",
    ),
    "env-from": env(
        "{name: level, value: mine}",
        value_from("user", "secretKeyRef: {name: nope, key: k, optional: true}"),
        more=", envFrom: [{secretRef: {name: other}}, {configMapRef: {name: settings}},"
        " {prefix: P_, secretRef: {name: other}}]",
    ),
    "env-from-odd-prefixes": env(
        more=', envFrom: [{prefix: 1-, secretRef: {name: other}}, {prefix: "$_-", secretRef: {name: other}},'
        ' {prefix: "#@!", configMapRef: {name: settings}}]',
    ),
    "odd-names": env(
        *(f"{{name: '{name}', value: x}}" for name in ('!"#$%&()', "* +,-./0123456789", ":;<>?@", "[\\]^_`{}|~"))
    ),
    "not-utf8": env(
        value_from("A", "secretKeyRef: {name: latin, key: k}"),
        "{name: B, value: <$(A)>}",
        more=", envFrom: [{prefix: P_, secretRef: {name: latin}}]",
    )
    + "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: latin}\ndata: {k: 4+n/gA==}\n",
    # §4.4
    "fields": env(
        *(
            value_from(f"F{index}", f'fieldRef: {{fieldPath: "{path}"}}')
            for index, path in enumerate(
                (
                    "metadata.name",
                    "metadata.namespace",
                    "metadata.uid",
                    "metadata.labels['a']",
                    "metadata.annotations['none']",
                    "metadata.annotations['kubernetes.io/config.source']",
                    "spec.nodeName",
                    "spec.serviceAccountName",
                    "status.hostIP",
                    "status.hostIPs",
                    "status.podIP",
                    "status.podIPs",
                )
            )
        ),
        metadata="{labels: {a: one}}",
    ),
    "resources": env(
        value_from("CPU", "resourceFieldRef: {resource: limits.cpu}"),
        value_from("MILLI", "resourceFieldRef: {resource: requests.cpu, divisor: 1m}"),
        value_from("MEM", "resourceFieldRef: {resource: limits.memory, divisor: 1k}"),
        value_from("NONE", "resourceFieldRef: {resource: requests.memory}"),
        value_from("NODE", "resourceFieldRef: {resource: limits.ephemeral-storage}"),
        more=", resources: {limits: {cpu: 250m, memory: 150000k}, requests: {cpu: 100m, memory: 0}}",
    ),
    "resources-of-others": env(
        value_from("FIRST", "resourceFieldRef: {containerName: first, resource: limits.cpu, divisor: 1m}"),
        value_from("OWN", "resourceFieldRef: {containerName: app, resource: requests.cpu, divisor: 1m}"),
        value_from("HUGE", "resourceFieldRef: {resource: limits.hugepages-2Mi}"),
        more=", resources: {limits: {cpu: 250m}}",
        rest="""
        initContainers:
        - {name: first, image: localhost/busybox:1, command: ["true"], resources: {limits: {cpu: 70m}}}
        """,
    ),
    "resources-of-zero": env(
        value_from("CPU", "resourceFieldRef: {resource: limits.cpu}"), more=", resources: {limits: {cpu: 0}}"
    ),
    "resources-of-the-pod": env(
        value_from("CPU", "resourceFieldRef: {resource: limits.cpu}"),
        value_from("MEM", "resourceFieldRef: {resource: limits.memory, divisor: 1Mi}"),
        value_from("NONE", "resourceFieldRef: {resource: requests.cpu, divisor: 1m}"),
        rest="resources: {limits: {cpu: 1500m, memory: 96Mi}, requests: {cpu: 10m}}",
    ),
    "unicode": env(
        "{name: A, value: 中文 $(é) Ü}",
        value_from("B", "configMapKeyRef: {name: words, key: k}"),
        value_from("C", "secretKeyRef: {name: words, key: k}"),
        '{name: D, value: "<$(B)$(C)$£€>"}',
    )
    + '\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {k: "ß \\U0001F30D"}\n'
    + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: words}\nstringData: {k: ñandú}\n",
    "host-network": env(
        value_from("IP", "fieldRef: {fieldPath: status.podIP}"),
        value_from("HOST", "fieldRef: {fieldPath: status.hostIP}"),
        '{name: URL, value: "http://$(IP)/"}',
        rest="hostNetwork: true",
    ),
    # §6.3
    "service-of-the-masters-name": env() + services("10.96.77.4").replace("my-db", "kubernetes"),
    "service-of-the-masters-name-without-links": env(rest="enableServiceLinks: false")
    + services("10.96.77.5").replace("my-db", "kubernetes"),
    "service-links": env("{name: U, value: $(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT_SQL)}") + services("10.96.77.1"),
    "no-service-links": env("{name: U, value: $(MY_DB_SERVICE_HOST)}", rest="enableServiceLinks: false")
    + services("10.96.77.2"),
    "variable-over-service": env("{name: MY_DB_PORT, value: mine}") + services("10.96.77.3"),
    # §6.4
    "expansion": env(
        "{name: FWD, value: $(LATER)}",
        "{name: LATER, value: v}",
        value_from("PW", "secretKeyRef: {name: db, key: password}"),
        "{name: URL, value: $(FROM_user):$(PW)@$(LATER)/$(NOPE)}",
        "{name: ESC, value: $$(PW) $$$(PW) $$$$(PW)}",
        "{name: ODD, value: '$(PW $($(PW) $() $PW ${PW} $'}",
        "{name: TWICE, value: $(URL)}",
        "{name: PW, value: $(PW)+}",
        more=", envFrom: [{prefix: FROM_, secretRef: {name: other}}]",
    ),
}

FILE_KEYS = pod(
    """{env: [
        {name: A, valueFrom: {fileKeyRef: {volumeName: e, path: x.env, key: A}}},
        {name: C, valueFrom: {fileKeyRef: {volumeName: e, path: x.env, key: C, optional: true}}},
        {name: D, value: <$(A)>}]}""",
    volumes="[{name: e, emptyDir: {}}]",
    rest="""
    initContainers:
    - name: first
      image: localhost/busybox:1
      command: [sh, -c, "printf \\"# made\\\\nB='b'\\\\nA='a # b'\\\\nC='c'\\\\n\\" > /e/x.env"]
      volumeMounts: [{name: e, mountPath: /e}]
    """,
)
ENVIRONMENTS["file-keys"] = FILE_KEYS  # §6.5

REFUSED_BY_THE_NODE = {
    # §2.3, §4.1, §8.1
    "secret-missing": volume("secret: {secretName: nope}"),
    "secret-key-missing": volume("secret: {secretName: db, items: [{key: nope, path: x}]}"),
    "config-map-missing": volume("configMap: {name: nope}"),
    "config-map-key-missing": volume("configMap: {name: settings, items: [{key: nope, path: x}]}"),
    "projected-missing": volume("projected: {sources: [{secret: {name: nope}}]}"),
    "trust-bundle-switched-off": volume("projected: {sources: [{clusterTrustBundle: {name: b, path: ca.pem}}]}"),
    "projected-file-and-directory": volume(
        "projected: {sources: [{secret: {name: db}},"
        " {downwardAPI: {items: [{path: user/x, fieldRef: {fieldPath: metadata.name}}]}}]}"
    ),
    "projected-key-missing": volume(
        "projected: {sources: [{configMap: {name: settings, items: [{key: nope, path: x}]}}, {secret: {name: db}}]}"
    ),
    "projected-two-missing": volume("projected: {sources: [{secret: {name: nope}}, {configMap: {name: gone}}]}"),
    # §6.1, §6.6
    "env-secret-missing": env(value_from("A", "secretKeyRef: {name: nope, key: k}")),
    "env-secret-key-missing": env(value_from("A", "secretKeyRef: {name: db, key: nope}")),
    "env-config-map-missing": env(value_from("A", "configMapKeyRef: {name: nope, key: k}")),
    "env-config-map-key-missing": env(value_from("A", "configMapKeyRef: {name: settings, key: nope}")),
    "env-config-map-binary-key": env(value_from("A", "configMapKeyRef: {name: settings, key: blob}")),
    "env-from-missing": env(more=", envFrom: [{secretRef: {name: nope}}]"),
    "env-nul-byte": env(value_from("A", "secretKeyRef: {name: db, key: bin}")),
    "argument-not-utf8": pod(f"{{args: [$(A)], env: [{value_from('A', 'secretKeyRef: {name: latin, key: k}')}]}}")
    + "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: latin}\ndata: {k: 4+n/gA==}\n",
    # §5.1
    "sub-path-expr-missing": pod(
        "{volumeMounts: [{name: v, mountPath: /d, subPathExpr: $(NOPE)/$(ALSO)}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    "sub-path-below-a-file": pod(
        "{volumeMounts: [{name: v, mountPath: /d, subPath: user/deeper}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    "sub-path-nul": pod(
        '{volumeMounts: [{name: v, mountPath: /d, subPath: "a\\0b"}]}', volumes="[{name: v, secret: {secretName: db}}]"
    ),
    "sub-path-expr-absolute": pod(
        "{env: [{name: A, value: /tmp}], volumeMounts: [{name: v, mountPath: /d, subPathExpr: $(A)}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    "sub-path-expr-backsteps": pod(
        "{env: [{name: A, value: ..}], volumeMounts: [{name: v, mountPath: /d, subPathExpr: $(A)}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
}

REFUSED_BY_THE_API = {
    # §1.2, §1.3, §1.4
    "key-with-a-space": OBJECTS + "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a b: c}\n",
    "secret-too-large": OBJECTS
    + f"\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: x}}\nstringData: {{a: {'x' * (1 << 20)}y}}\n",
    "tls-without-key": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ntype: kubernetes.io/tls\ndata: {tls.crt: eA==}\n",
    "docker-config-not-json": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n"
    "type: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: '['}\n",
    "config-map-key-twice": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\nbinaryData: {a: eA==}\n",
    "ssh-key-empty": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ntype: kubernetes.io/ssh-auth\n"
    'stringData: {ssh-privatekey: ""}\n',
    "basic-auth-empty": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ntype: kubernetes.io/basic-auth\n",
    "account-token-without-account": "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n"
    "type: kubernetes.io/service-account-token\n",
    # §2.1, §4.1, §4.4
    "secret-name-missing": volume("secret: {}"),
    "item-key-missing": volume("secret: {secretName: db, items: [{path: x}]}"),
    "two-types-in-one-source": volume("projected: {sources: [{secret: {name: db}, configMap: {name: settings}}]}"),
    "downward-bad-label": volume(
        """downwardAPI: {items: [{path: a, fieldRef: {fieldPath: "metadata.labels['a b']"}}]}"""
    ),
    "downward-no-container": volume("downwardAPI: {items: [{path: a, resourceFieldRef: {resource: limits.cpu}}]}"),
    "token-too-long": volume("projected: {sources: [{serviceAccountToken: {path: t, expirationSeconds: 4294967297}}]}"),
    "mode-too-high": volume("secret: {secretName: db, defaultMode: 01000}"),
    "item-backsteps": volume("secret: {secretName: db, items: [{key: user, path: a/../b}]}"),
    "item-absolute": volume("secret: {secretName: db, items: [{key: user, path: /a}]}"),
    "item-reserved": volume("secret: {secretName: db, items: [{key: user, path: ..a}]}"),
    "projected-paths-twice": volume(
        "projected: {sources: [{secret: {name: db, items: [{key: user, path: a}]}},"
        " {configMap: {name: settings, items: [{key: user, path: a}]}}]}"
    ),
    "token-too-short": volume("projected: {sources: [{serviceAccountToken: {path: t, expirationSeconds: 599}}]}"),
    "downward-status-field": volume("downwardAPI: {items: [{path: a, fieldRef: {fieldPath: status.podIP}}]}"),
    # §5.3
    "mount-without-volume": pod("{volumeMounts: [{name: nope, mountPath: /v}]}"),
    "mount-path-twice": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    "sub-path-absolute": pod(
        "{volumeMounts: [{name: v, mountPath: /v, subPath: /a}]}", volumes="[{name: v, secret: {secretName: db}}]"
    ),
    "sub-path-backsteps": pod(
        "{volumeMounts: [{name: v, mountPath: /v, subPath: a/../b}]}", volumes="[{name: v, secret: {secretName: db}}]"
    ),
    "recursive-without-read-only": pod(
        "{volumeMounts: [{name: v, mountPath: /v, recursiveReadOnly: Enabled}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    "sub-path-both": pod(
        "{volumeMounts: [{name: v, mountPath: /v, subPath: a, subPathExpr: b}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    "mount-path-missing": pod("{volumeMounts: [{name: v}]}", volumes="[{name: v, secret: {secretName: db}}]"),
    "bidirectional": pod(
        "{volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]}",
        volumes="[{name: v, emptyDir: {}}]",
    ),
    "recursive-with-propagation": pod(
        "{volumeMounts: [{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: Enabled,"
        " mountPropagation: HostToContainer}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    # §6.2
    "env-name-with-equals": env("{name: A=B, value: x}"),
    "env-value-and-source": env("{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}"),
    "env-no-source": env("{name: A, valueFrom: {}}"),
    "env-two-sources": env(
        value_from("A", "fieldRef: {fieldPath: metadata.name}, secretKeyRef: {name: db, key: user}")
    ),
    "env-key-missing": env(value_from("A", "secretKeyRef: {name: db}")),
    "env-key-bad": env(value_from("A", "secretKeyRef: {name: db, key: a b}")),
    "env-unknown-resource": env(value_from("A", "resourceFieldRef: {resource: limits.disk}")),
    "env-bad-divisor": env(value_from("A", "resourceFieldRef: {resource: limits.cpu, divisor: 2}")),
    "env-from-nothing": env(more=", envFrom: [{prefix: P_}]"),
    "env-from-two": env(more=", envFrom: [{secretRef: {name: db}, configMapRef: {name: settings}}]"),
    "env-from-bad-prefix": env(more=', envFrom: [{prefix: "a=b", secretRef: {name: db}}]'),
    "file-key-backsteps": pod(
        "{env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: ../x, key: K}}}]}",
        volumes="[{name: v, emptyDir: {}}]",
    ),
    "file-key-no-volume": env(value_from("A", "fileKeyRef: {volumeName: nope, path: x, key: K}")),
    "env-whole-labels": env(value_from("A", "fieldRef: {fieldPath: metadata.labels}")),
    "file-key-not-empty-dir": pod(
        "{env: [{name: A, valueFrom: {fileKeyRef: {volumeName: v, path: x, key: K}}}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
}

REFUSED_BY_THE_RUNTIME = {
    # §2.2 step 5, §5.4
    "file-beneath-a-volume": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /v/level, subPath: level}]}",
        volumes="[{name: v, secret: {secretName: db}}, {name: w, configMap: {name: settings}}]",
    ),
    "file-beneath-a-volume-that-has-one": pod(
        "{volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v/user, subPath: password}]}",
        volumes="[{name: v, secret: {secretName: db}}]",
    ),
    "directory-beneath-a-sub-path": pod(
        "{volumeMounts: [{name: v, mountPath: /v, subPath: a}, {name: w, mountPath: /v/new}]}",
        volumes="[{name: v, secret: {secretName: db, items: [{key: user, path: a/b}]}}, {name: w, emptyDir: {}}]",
    ),
    "file-over-a-directory": pod(
        "{volumeMounts: [{name: v, mountPath: /v/}, {name: w, mountPath: /v, subPath: level}]}",
        volumes="[{name: v, secret: {secretName: db}}, {name: w, configMap: {name: settings}}]",
    ),
}
