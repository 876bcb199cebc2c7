"""[sig-node] Security Context: users, groups, read-only roots, privileges, seccomp.

Beyond semantics §14. Not here: user namespaces (refused by this node), allowPrivilegeEscalation, whose image has a set-user-ID
program.

Source: kubernetes test/e2e/common/node/security_context.go, test/e2e/node/security_context.go.
"""

from __future__ import annotations

from functools import partial

from tests.conformance.framework import Case, Framework, Json, busybox, pod_body, shell, unique

LINK = "ip link add dummy0 type dummy || true"


def _pod(script: str, of_pod: Json | None = None, **of_container: object) -> Json:
    fields = {"securityContext": of_container} if of_container else {}
    pod = pod_body(unique("security-context-"), [shell("test-container", script, **fields)])
    if of_pod is not None:
        pod["spec"]["securityContext"] = of_pod
    return pod


async def _prints(f: Framework, script: str, wanted: str, of_pod: Json | None = None, **of_container: object) -> None:
    f.namespace = await f.create_namespace(level="privileged")
    await f.check_output(_pod(script, of_pod, **of_container), wanted)


async def _read_only(f: Framework, read_only: bool) -> None:
    name = await f.create_pod(_pod("touch checkfile", readOnlyRootFilesystem=read_only))
    pod = await f.wait(name, lambda found: found["status"].get("phase") in ("Succeeded", "Failed"))
    assert pod["status"]["phase"] == ("Failed" if read_only else "Succeeded")


async def _privileged(f: Framework, privileged: bool) -> None:
    f.namespace = await f.create_namespace(level="privileged")
    name = await f.create_pod(_pod(LINK, privileged=privileged))
    await f.wait_success(name)
    assert ("RTNETLINK answers: Operation not permitted" in await f.logs(name)) == (not privileged)


async def _non_root(f: Framework, user: int | None) -> None:
    """The image has no user of its own: root's."""
    fields: Json = {"runAsNonRoot": True, **({} if user is None else {"runAsUser": user})}
    main = busybox("test-container", "id", "-u", securityContext=fields)
    name = await f.create_pod(pod_body(unique("explicit-nonroot-uid-"), [main]))
    if user:
        await f.wait_success(name)
        assert await f.logs(name) == f"{user}\n"
        return
    text = (
        "container's runAsUser breaks non-root policy"
        if user == 0
        else "container has runAsNonRoot and image will run as root"
    )

    async def is_told() -> bool:
        return any(each["reason"] == "Failed" and f"Error: {text}" in each["message"] for each in await f.events(name))

    await f.eventually(is_told)
    assert (await f.get(name))["status"]["phase"] == "Pending"


def _cases() -> list[Case]:
    status = "grep Seccomp: /proc/self/status"
    unconfined, default = {"seccompProfile": {"type": "Unconfined"}}, {"seccompProfile": {"type": "RuntimeDefault"}}
    off, on = "Seccomp:\t0", "Seccomp:\t2"
    return [
        Case(f"Security Context {text}", run, labels)
        for text, run, labels in (
            (
                "When creating a container with runAsUser should run the container with uid 65534",
                partial(_prints, script="test $(id -u) -eq 65534 && echo yes", wanted="yes", runAsUser=65534),
                "NC",
            ),
            (
                "When creating a container with runAsUser should run the container with uid 0",
                partial(_prints, script="test $(id -u) -eq 0 && echo yes", wanted="yes", runAsUser=0),
                "N",
            ),
            *(
                (
                    f"When creating a pod with readOnlyRootFilesystem should run the container with {what} rootfs when "
                    f"readOnlyRootFilesystem={str(value).lower()}",
                    partial(_read_only, read_only=value),
                    "NC" if not value else "N",
                )
                for what, value in (("readonly", True), ("writable", False))
            ),
            (
                "When creating a pod with privileged should run the container as unprivileged when false",
                partial(_privileged, privileged=False),
                "NC",
            ),
            (
                "When creating a pod with privileged should run the container as privileged when true",
                partial(_privileged, privileged=True),
                "",
            ),
            *(
                (f"When creating a container with runAsNonRoot {text}", partial(_non_root, user=user), "")
                for text, user in (
                    ("should run with an explicit non-root user ID", 1234),
                    ("should not run with an explicit root user ID", 0),
                    ("should not run without a specified user ID", None),
                )
            ),
            (
                "should support seccomp unconfined on the container",
                partial(_prints, script=status, wanted=off, **unconfined),
                "",
            ),
            (
                "should support seccomp unconfined on the pod",
                partial(_prints, script=status, wanted=off, of_pod=unconfined),
                "",
            ),
            ("should support seccomp runtime/default", partial(_prints, script=status, wanted=on, **default), ""),
            ("should support seccomp default which is unconfined", partial(_prints, script=status, wanted=off), ""),
            (
                "should support pod.Spec.SecurityContext.RunAsUser And pod.Spec.SecurityContext.RunAsGroup",
                partial(
                    _prints, script="id", wanted="uid=1001 gid=2002", of_pod={"runAsUser": 1001, "runAsGroup": 2002}
                ),
                "C",
            ),
            (
                "should support container.SecurityContext.RunAsUser And container.SecurityContext.RunAsGroup",
                partial(
                    _prints,
                    script="id",
                    wanted="uid=1001 gid=2002",
                    of_pod={"runAsUser": 5, "runAsGroup": 6},
                    runAsUser=1001,
                    runAsGroup=2002,
                ),
                "C",
            ),
            (
                "should support pod.Spec.SecurityContext.SupplementalGroups",
                partial(_prints, script="id -G", wanted="1234 5678", of_pod={"supplementalGroups": [1234, 5678]}),
                "",
            ),
        )
    ]


CASES = _cases()
