"""What the kubelet's HTTP API answers. Source: pkg/kubelet/server/server.go; semantics §12.2, §12.3."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
import trio

from kubelet_secrets.access.record import AuditRecord, Kind
from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import to_builtins
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.kubeletapi import healthz, metrics
from kubelet_secrets.kubeletapi.authn import Authenticator, UserInfo
from kubelet_secrets.kubeletapi.authz import Authorizer, NotAuthorizable, attributes_of, error_text, forbidden_text
from kubelet_secrets.kubeletapi.containerlogs import LogRefused, choose_run, parse_query
from kubelet_secrets.kubeletapi.diskuse import DiskUse
from kubelet_secrets.kubeletapi.http1 import Exchange
from kubelet_secrets.kubeletapi.podmetrics import is_running, pod_metrics
from kubelet_secrets.kubeletapi.portforward import answer_port_forward
from kubelet_secrets.kubeletapi.remotecommand import answer_attach, answer_exec
from kubelet_secrets.kubeletapi.resourcemetrics import cadvisor_metrics, resource_metrics
from kubelet_secrets.kubeletapi.samples import Sampler
from kubelet_secrets.kubeletapi.summary import summary
from kubelet_secrets.pod.manager import PodManager
from kubelet_secrets.pod.parts import NodeParts
from kubelet_secrets.pod.views import PodView
from kubelet_secrets.runtime.logs import copy_log

logger = logging.getLogger(__name__)


class KubeletRoutes:
    """Answers one exchange after the other; several at a time.

    Args:
        gather: asked for the node's numbers at each scrape.
        sampler: what containers use; *disk_use*: what they have written.
        configuration: the answer to ``/configz``.
        record: told of each command in a container, also of a refused one; must not wait.
    """

    def __init__(
        self,
        pods: PodManager,
        parts: NodeParts,
        *,
        authenticator: Authenticator,
        authorizer: Authorizer,
        gather: Callable[[], Iterable[metrics.Metric]],
        sampler: Sampler,
        disk_use: DiskUse,
        configuration: Mapping[str, Any],
        record: Callable[[AuditRecord], object],
    ) -> None:
        self._pods = pods
        self._parts = parts
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._gather = gather
        self._sampler = sampler
        self._disk_use = disk_use
        self._configuration = configuration
        self._record = record

    async def __call__(self, exchange: Exchange) -> None:
        """Answer. Whatever the request provokes here ends this request only."""
        try:
            await self._answer(exchange)
        except trio.BrokenResourceError:
            raise
        except Exception as error:
            # A request's border. The text of an exception may quote what a container said.
            logger.error("a request to the kubelet's API failed: %s", type(error).__name__)
            if not exchange.is_answered:
                await exchange.respond(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error\n")
            else:
                raise trio.BrokenResourceError from None

    async def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        user = await self._authenticator.authenticate(request)
        if user is None:
            await exchange.respond(HTTPStatus.UNAUTHORIZED, "Unauthorized")
            return
        attributes = attributes_of(request.method, request.path)
        try:
            is_allowed = await self._authorizer.is_allowed(user, attributes)
        except NotAuthorizable as error:
            logger.warning("%s: %s", error_text(user, attributes), error)
            await exchange.respond(HTTPStatus.INTERNAL_SERVER_ERROR, error_text(user, attributes))
            return
        if not is_allowed:
            match request.path.strip("/").split("/"):
                case ["exec" | "attach", namespace, pod, *_, container]:
                    self._note_exec(user, namespace, pod, "", container, is_allowed=False)
            await exchange.respond(HTTPStatus.FORBIDDEN, forbidden_text(user, attributes))
            return
        parts = request.path.strip("/").split("/")
        match request.method, parts:
            case "GET", _ if request.path in healthz.PATHS:
                await exchange.respond(HTTPStatus.OK, "ok")
            case "GET", ["pods"]:
                await exchange.respond_json(_pod_list([_shown_pod(view) for view in self._pods.views()]))
            case "GET", ["runningpods"]:
                views = [view for view in self._pods.views() if any(is_running(each) for each in view.containers)]
                await exchange.respond_json(_pod_list([_shown_pod(view) for view in views]))
            case "GET", ["metrics"]:
                text = metrics.render([*metrics.process_metrics(), *pod_metrics(self._pods.views()), *self._gather()])
                await exchange.respond(HTTPStatus.OK, text, content_type=metrics.CONTENT_TYPE)
            case "GET", ["metrics", "resource" | "cadvisor" as which]:
                sample = await self._sampler.look()
                text = metrics.render(resource_metrics(sample) if which == "resource" else cadvisor_metrics(sample))
                await exchange.respond(HTTPStatus.OK, text, content_type=metrics.CONTENT_TYPE)
            case "GET", ["stats", "summary"]:
                only = request.first("only_cpu_and_memory") in ("true", "1", "t", "T", "TRUE", "True")
                disk = None if only else await self._disk_use.look()
                await exchange.respond_json(summary(await self._sampler.look(), disk))
            case "GET", ["configz"]:
                await exchange.respond_json(self._configuration)
            case "GET", ["containerLogs", namespace, pod, container]:
                await self._logs(exchange, namespace, pod, container)
            case "GET" | "POST", ["exec" | "attach", namespace, pod, container]:
                await self._exec(exchange, user, namespace, pod, "", container)
            case "GET" | "POST", ["exec" | "attach", namespace, pod, uid, container]:
                await self._exec(exchange, user, namespace, pod, uid, container)
            case "GET" | "POST", ["portForward", namespace, pod]:
                await self._port_forward(exchange, user, namespace, pod, "")
            case "GET" | "POST", ["portForward", namespace, pod, uid]:
                await self._port_forward(exchange, user, namespace, pod, uid)
            case _:
                await exchange.respond(HTTPStatus.NOT_FOUND, "404 page not found\n")

    async def _logs(self, exchange: Exchange, namespace: str, pod: str, container: str) -> None:
        view = self._pods.find(namespace, pod)
        try:
            query = parse_query(exchange.request, self._parts.clock())
            if view is None:
                raise LogRefused(HTTPStatus.NOT_FOUND, f'pod "{pod}" does not exist')
            if view.container(container) is None:
                raise LogRefused(HTTPStatus.NOT_FOUND, f'container "{container}" not found in pod "{pod}"')
            attempt = choose_run(view.status, pod, container, previous=query.previous)
        except LogRefused as refused:
            await exchange.respond(refused.code, f"{refused}\n" if refused.code != 422 else str(refused))
            return
        meta = view.pod.metadata
        directory = self._parts.logs_dir / f"{meta.namespace}_{meta.name}_{meta.uid}" / container
        path = directory / f"{attempt}.log"
        if not path.exists():
            text = f'failed to try resolving symlinks in path "{path.name}": no such file or directory'
            await exchange.respond(HTTPStatus.INTERNAL_SERVER_ERROR, text)
            return
        found = view.container(container)
        instance = found.instance if found is not None else None
        is_live = instance is not None and instance.is_running and instance.attempt == attempt
        ended = partial(self._parts.runtime.wait_exit, instance.container_id) if is_live and instance else None
        options = query.options
        await exchange.begin()
        async with exchange.while_connected():
            await copy_log(path, options, exchange.write, ended=ended or trio.lowlevel.checkpoint)
            await exchange.finish()

    async def _exec(
        self, exchange: Exchange, user: UserInfo, namespace: str, pod: str, uid: str, container: str
    ) -> None:
        view = self._pods.find(namespace, pod)
        if view is None or (uid and view.pod.metadata.uid != uid):
            await exchange.respond(HTTPStatus.NOT_FOUND, "pod does not exist\n")
            return
        # Before it begins: whoever is in the container may read its secrets from then on.
        self._note_exec(user, namespace, pod, view.pod.metadata.uid, container, is_allowed=True)
        answer = answer_attach if exchange.request.path.startswith("/attach/") else answer_exec
        await answer(exchange, self._parts.runtime, view, container, user)

    async def _port_forward(self, exchange: Exchange, user: UserInfo, namespace: str, pod: str, uid: str) -> None:
        view = self._pods.find(namespace, pod)
        if view is None or (uid and view.pod.metadata.uid != uid):
            await exchange.respond(HTTPStatus.NOT_FOUND, "pod does not exist\n" if view is None else "pod not found\n")
            return
        await answer_port_forward(exchange, self._parts.sandboxes, view, user)

    def _note_exec(
        self, user: UserInfo, namespace: str, pod: str, uid: str, container: str, *, is_allowed: bool
    ) -> None:
        self._record(
            AuditRecord(
                time=self._parts.clock(),
                kind=Kind.EXEC,
                verdict="allowed" if is_allowed else "denied",
                reason="may use the node's API" if is_allowed else "may not use the node's API",
                namespace=namespace,
                pod=pod,
                pod_uid=uid,
                container=f"{namespace}/{pod}/{container}",
                user=user.name,
            )
        )


def _shown_pod(view: PodView) -> Pod:
    """Of the API's pods the status that the API has; of static pods the node's own."""
    return msgspec.structs.replace(view.pod, status=view.status) if is_static_pod(view.pod) else view.pod


def _pod_list(pods: Sequence[Pod]) -> dict[str, Any]:
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [to_builtins(pod) for pod in pods]}
