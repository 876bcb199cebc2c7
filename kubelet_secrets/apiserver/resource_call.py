"""One request about one resource: body in, registry, answer out.

Called by ``routes.py`` once the request is known to be allowed. Watches leave for ``watch_route.py``.

Source: k8s.io/apiserver pkg/endpoints/handlers/{create,get,update,patch,delete}.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.api.validation.warnings import warnings_for
from kubelet_secrets.apiserver import negotiation, patch, request_body, statuses, tables
from kubelet_secrets.apiserver.attributes import DeleteOptions, User, Write
from kubelet_secrets.apiserver.authz import Authorizers
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.conform import conform
from kubelet_secrets.apiserver.delete_options import is_dry_run, parse_delete_options
from kubelet_secrets.apiserver.list_options import parse_list_options
from kubelet_secrets.apiserver.listing import Page, Stored
from kubelet_secrets.apiserver.negotiation import JSON, Answer, View
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.request_body import BodyDecoder
from kubelet_secrets.apiserver.requestinfo import RequestInfo, is_true
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.reviews import Reviews
from kubelet_secrets.apiserver.selection import Selection, select
from kubelet_secrets.apiserver.subresources import Subresources
from kubelet_secrets.apiserver.warning_headers import warning_headers
from kubelet_secrets.apiserver.watch_route import WatchResponse
from kubelet_secrets.errors import AlreadyExists, NotFound

Query = Mapping[str, str]
_PATCHES = (patch.JSON_PATCH, patch.MERGE_PATCH, patch.STRATEGIC_MERGE_PATCH, patch.APPLY)


class ResourceCall:
    """One request about one resource."""

    def __init__(
        self,
        registry: Registry,
        subresources: Subresources,
        reviews: Reviews,
        authorizers: Authorizers,
        decoder: BodyDecoder,
        row: ServedResource,
        info: RequestInfo,
        query: Query,
        user: User,
        request: Request,
    ) -> None:
        self._registry = registry
        self._subresources = subresources
        self._reviews = reviews
        self._authorizers = authorizers
        self._decoder = decoder
        self._row = row
        self._info = info
        self._query = query
        self._request = request
        self._answer = negotiation.negotiate(request.headers.get("accept", ""))
        self._write = Write(
            user=user,
            subresource=info.subresource,
            is_dry_run=_is_dry_run(query),
            field_manager=query.get("fieldManager")
            or request.headers.get("user-agent", "").partition("/")[0]
            or "unknown",
        )
        self._warnings: list[str] = []
        self._repeated: list[str] = []  # fields that the body names twice

    async def respond(self) -> ASGIApp:
        info, row = self._info, self._row
        verb_of_row = "update" if info.subresource else info.verb
        if verb_of_row not in row.verbs or (row.namespaced and not info.namespace and _needs_namespace(info.verb)):
            raise statuses.method_not_allowed(row, info.verb)
        match info.verb:
            case "get":
                return self._object(await self._registry.get(row, info.namespace_of(row), info.name))
            case "list":
                return await self._list()
            case "watch":
                return WatchResponse(self._registry, self._selection(), self._query, self._answer)
            case "create":
                return await self._create()
            case "update":
                return await self._update()
            case "patch":
                return await self._patch()
            case "delete":
                return await self._delete()
            case "deletecollection":
                return await self._delete_collection()
            case _:
                raise statuses.method_not_allowed(row, info.verb)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _selection(self) -> Selection:
        info = self._info
        return select(self._row, info.namespace_of(self._row), info.label_selector, info.field_selector)

    async def _list(self) -> Response:
        options = parse_list_options(self._query)
        page = await self._registry.list_objects(
            self._selection(),
            limit=options.limit,
            continue_token=options.continue_token,
            revision=options.revision,
            is_exact=options.is_exact,
        )
        return self._page(page)

    def _page(self, page: Page) -> Response:
        metadata: Object = {"resourceVersion": str(page.revision)}
        if page.next_token:
            metadata["continue"] = page.next_token
            if page.remaining is not None:
                metadata["remainingItemCount"] = page.remaining
        if self._answer.view is View.TABLE:
            objects = [item.object for item in page.items]
            return self._respond(tables.to_table(self._row, objects, _now(), self._table_include(), metadata))
        if self._answer.view is View.METADATA:
            items = negotiation.partial_metadata([item.object for item in page.items])
            return self._respond(
                {
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": items,
                }
            )
        head = {"kind": self._row.list_kind, "apiVersion": self._row.resource.api_version, "metadata": metadata}
        if self._answer.media_type != JSON:
            return self._respond({**head, "items": [item.object for item in page.items]})
        # The stored JSON goes out as it is: a list parses nothing.
        opening = negotiation.encode(head, JSON)[:-1]
        body = b'%s,"items":[%s]}' % (opening, b",".join(item.value for item in page.items))
        return Response(body, media_type=JSON)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def _create(self) -> Response:
        info, row = self._info, self._row
        obj = await self._read_object()
        if info.subresource:
            sub = next(each for each in row.subresources if each.name == info.subresource)
            api_version = sub.group_version or row.resource.api_version
            request_body.check_types(obj, api_version, sub.kind)
            conform(obj, api_version, sub.kind)
            made = await self._subresources.create(row, info, obj, self._write)
            return self._respond(made, 201)
        if info.name:
            raise statuses.method_not_allowed(row, info.verb)
        request_body.check_kind(row, obj)
        self._check_fields(obj)
        request_body.check_namespace(obj, info.namespace_of(row))
        if row.is_review:
            return self._respond(await self._reviews.answer(row, info.namespace, obj, self._write.user), 201)
        return self._respond_object(await self._registry.create(row, info.namespace_of(row), obj, self._write), 201)

    async def _update(self) -> Response:
        info, row = self._info, self._row
        obj = await self._read_object()
        request_body.check_kind(row, obj)
        self._check_fields(obj)
        request_body.check_namespace(obj, info.namespace_of(row))
        name = (obj.get("metadata") or {}).get("name") or info.name
        if name != info.name:
            raise statuses.bad_request(
                f"the name of the object ({name}) does not match the name on the URL ({info.name})"
            )
        may_create = row.create_on_update and not info.subresource and not (obj.get("metadata") or {}).get("uid")
        obj["metadata"] = {**(obj.get("metadata") or {}), "name": info.name}
        return await self._put(lambda _live: _copy(obj), self._write, may_create=may_create)

    async def _patch(self) -> Response:
        info, row = self._info, self._row
        media_type = self._request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await self._read_body()
        if media_type == patch.APPLY:
            return await self._apply(body)
        if media_type not in _PATCHES:
            raise statuses.unsupported_media_type(_PATCHES)
        changes = negotiation.parse(JSON, body)
        self._note_repeated(body)

        def change(live: Object) -> Object:
            if media_type == patch.JSON_PATCH:
                new = negotiation.check_depth(patch.apply_json_patch(live, changes))
            elif media_type == patch.MERGE_PATCH:
                new = patch.apply_merge_patch(live, changes)
            else:
                new = patch.apply_strategic_merge_patch(live, changes, row.resource.api_version, row.kind)
            self._check_fields(new, is_patched=True)
            return new

        return self._respond_object(
            await self._registry.update(row, info.namespace_of(row), info.name, change, self._write)
        )

    async def _apply(self, body: bytes) -> Response:
        """Server-side apply: creates what is absent."""
        info, row = self._info, self._row
        applied = await self._decode(patch.APPLY, body)
        request_body.check_kind(row, applied)
        self._check_fields(applied)
        applied.setdefault("metadata", {}).setdefault("name", info.name)
        if row.namespaced:
            applied["metadata"].setdefault("namespace", info.namespace)

        def change(live: Object | None) -> Object:
            return patch.server_side_apply(
                live,
                applied,
                self._query.get("fieldManager", ""),
                force=is_true(self._query.get("force", "")),
                api_version=row.resource.api_version,
                kind=row.kind,
                now=rfc3339(_now()),
                subresource=info.subresource,
            )

        write = replace(self._write, field_manager="")  # what applies says itself who owns what
        return await self._put(change, write, may_create=not info.subresource)

    async def _put(self, change: Callable[[Object | None], Object], write: Write, *, may_create: bool) -> Response:
        """Update the object, or create it if it is absent: whichever fits when it is stored, however many do so at once.

        Args:
            change: gets the live object, or None; may be called again.

        Source: registry/generic/registry/store.go, Update, which looks again when another write came in between.
        """
        info, row = self._info, self._row
        while True:
            try:
                return self._respond_object(
                    await self._registry.update(row, info.namespace_of(row), info.name, change, write)
                )
            except NotFound:
                if not may_create:
                    raise
            await self._check_create()
            try:
                created = await self._registry.create(row, info.namespace_of(row), change(None), write)
            except AlreadyExists:
                continue  # it has come since we looked: it is updated
            return self._respond_object(created, 201)

    async def _check_create(self) -> None:
        """What an update or an apply makes of an absent object is a creation, and takes the right to create.

        Raises: Forbidden. Source: apiserver pkg/endpoints/handlers/{update,patch}.go, withAuthorization.
        """
        await self._authorizers.check(self._write.user, replace(self._info, verb="create"))

    async def _delete(self) -> Response:
        info, row = self._info, self._row
        options = await self._delete_options()
        obj, is_gone = await self._registry.delete(row, info.namespace_of(row), info.name, options, self._write)
        if is_gone and not row.returns_deleted:
            return self._respond(statuses.success(row, info.name, obj["metadata"]["uid"]))
        return self._respond_object(obj)

    async def _delete_collection(self) -> Response:
        options = await self._delete_options()
        page = await self._registry.list_objects(self._selection())
        for item in page.items:
            metadata = item.object["metadata"]
            try:
                await self._registry.delete(
                    self._row, metadata.get("namespace", ""), metadata["name"], options, self._write
                )
            except NotFound:
                continue  # somebody else was faster: gone is what was asked for
        return self._page(page)

    async def _delete_options(self) -> DeleteOptions:
        body = await self._read_body()
        options: Object = {}
        if body:
            options = await self._decode(self._content_type, body)
            request_body.check_types(options, "v1", "DeleteOptions")
        if is_dry_run(options):
            self._write = replace(self._write, is_dry_run=True)
        return parse_delete_options(options, self._query)

    # --- bodies ------------------------------------------------------------------------------------------------------

    @property
    def _content_type(self) -> str:
        return self._request.headers.get("content-type", "")

    @property
    def _field_validation(self) -> str:
        mode = self._query.get("fieldValidation") or "Warn"
        if mode not in request_body.MODES:
            raise statuses.bad_request(f'fieldValidation: Unsupported value: "{mode}"')
        return mode

    async def _read_body(self) -> bytes:
        return await request_body.read_body(self._request)

    async def _read_object(self) -> Object:
        return await self._decode(self._content_type, await self._read_body())

    async def _decode(self, content_type: str, body: bytes) -> Object:
        obj, self._repeated = await self._decoder.decode(content_type, body, self._field_validation)
        return obj

    def _note_repeated(self, body: bytes) -> None:
        """Only for a body that has been decoded, which is to say, is well-formed."""
        self._repeated = request_body.repeated_fields(self._content_type, body, self._field_validation)

    def _check_fields(self, obj: Object, *, is_patched: bool = False) -> None:
        self._warnings = request_body.check_fields(
            self._row, obj, self._field_validation, self._repeated, is_patched=is_patched
        )

    def _table_include(self) -> str:
        return self._query.get("includeObject") or "Metadata"

    def _object(self, stored: Stored) -> Response:
        if self._answer == Answer():
            return Response(stored.value, media_type=JSON)
        return self._respond_object(stored.object)

    def _respond_object(self, obj: Object, status: int = 200) -> Response:
        # As upstream's strategies: every kind when it is created, Secrets on every write.
        rewrites_secret = self._row.kind == "Secret" and self._info.verb in ("update", "patch")
        if not self._info.subresource and (status == 201 or rewrites_secret):
            self._warnings = [*self._warnings, *warnings_for(obj)]
        if self._answer.view is View.TABLE:
            metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return self._respond(tables.to_table(self._row, [obj], _now(), self._table_include(), metadata), status)
        if self._answer.view is View.METADATA:
            return self._respond(negotiation.partial_metadata([obj])[0], status)
        return self._respond({"kind": obj["kind"], "apiVersion": obj["apiVersion"], **obj}, status)

    def _respond(self, value: Any, status: int = 200) -> Response:
        media_type = self._answer.media_type
        response = Response(negotiation.encode(value, media_type), status, media_type=media_type)
        response.raw_headers.extend((b"warning", header) for header in warning_headers(self._warnings))
        return response


def _is_dry_run(query: Query) -> bool:
    value = query.get("dryRun")
    if value not in (None, "All"):
        raise statuses.bad_request(f'dryRun: Unsupported value: "{value}": supported values: "All"')
    return value == "All"


def _needs_namespace(verb: str) -> bool:
    return verb not in ("list", "watch")


def _copy(obj: Object) -> Object:
    copied: Object = negotiation.parse(JSON, negotiation.encode(obj, JSON))
    return copied


def _now() -> datetime:
    return datetime.now(UTC)
