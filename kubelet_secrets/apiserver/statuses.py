"""The errors of the API, with upstream's words and ``details``: what a client's ``Status`` body says.

Every function *makes* an error; raising it is the caller's. Messages name resources, names and field paths, never data.

Source: k8s.io/apimachinery pkg/api/errors/errors.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubelet_secrets import errors
from kubelet_secrets.apiserver.resources import ServedResource

Object = dict[str, Any]


def status_body(error: errors.ApiError) -> Object:
    """The ``Status`` object a client receives for *error*."""
    details = {name: value for name, value in error.details.items() if value not in ("", None, [])}
    # Of an expired list: where it can go on, inconsistently. Not a detail but list metadata.
    token = details.pop("continue", None)
    body: Object = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {"continue": token} if token else {},
        "status": "Failure",
        "message": str(error),
        "reason": error.reason,
        "code": error.code,
    }
    if error.retry_after_s is not None:
        details["retryAfterSeconds"] = int(error.retry_after_s)
    if details:
        body["details"] = details
    return body


def success(row: ServedResource, name: str, uid: str) -> Object:
    """The answer to a DELETE that removed the object."""
    details = {"name": name, "kind": row.plural, "uid": uid}
    if row.resource.group:
        details["group"] = row.resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _details(row: ServedResource, name: str, **more: Any) -> Object:
    return {"name": name, "group": row.resource.group, "kind": row.plural, **more}


def not_found(row: ServedResource, name: str) -> errors.NotFound:
    message = f'{row.group_resource} "{name}" not found'
    return errors.NotFound(message, code=404, reason="NotFound", details=_details(row, name))


def path_not_found() -> errors.NotFound:
    message = "the server could not find the requested resource"
    return errors.NotFound(message, code=404, reason="NotFound", details={})


def already_exists(row: ServedResource, name: str) -> errors.AlreadyExists:
    message = f'{row.group_resource} "{name}" already exists'
    return errors.AlreadyExists(message, code=409, reason="AlreadyExists", details=_details(row, name))


OBJECT_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(row: ServedResource, name: str, cause: str = OBJECT_MODIFIED, subresource: str = "") -> errors.Conflict:
    resource = f"{row.group_resource}/{subresource}" if subresource else row.group_resource
    message = f'Operation cannot be fulfilled on {resource} "{name}": {cause}'
    return errors.Conflict(message, code=409, reason="Conflict", details=_details(row, name))


def forbidden(row: ServedResource, name: str, cause: str, causes: Sequence[Object] = ()) -> errors.Forbidden:
    subject = f'{row.group_resource} "{name}"' if name else row.group_resource
    details = _details(row, name, causes=list(causes))
    return errors.Forbidden(f"{subject} is forbidden: {cause}", code=403, reason="Forbidden", details=details)


def invalid(row: ServedResource, name: str, message: str, causes: Sequence[Object]) -> errors.Invalid:
    """Args: *message* is the whole text, ``Secret "x" is invalid: …``; *causes* one entry per field error."""
    details = {"name": name, "group": row.resource.group, "kind": row.kind, "causes": list(causes)}
    return errors.Invalid(message, code=422, reason="Invalid", details=details)


def invalid_options(kind: str, field: str, reason: str, detail: str) -> errors.Invalid:
    """Args: *kind* of the options, ``DeleteOptions``; *detail* what is wrong with *field*, with upstream's word for it."""
    causes = [{"reason": reason, "message": detail, "field": field}]
    details = {"group": "meta.k8s.io", "kind": kind, "causes": causes}
    message = f'{kind}.meta.k8s.io "" is invalid: {field}: {detail}'
    return errors.Invalid(message, code=422, reason="Invalid", details=details)


def invalid_patch(cause: str) -> errors.Invalid:
    """What a patch makes of an object cannot be one of its kind.

    Source: apiserver pkg/endpoints/handlers/patch.go, applyPatchToCurrentObject: of no kind and no name. Differs: upstream
    shows the whole object, which may be a Secret.
    """
    causes = [{"reason": "FieldValueInvalid", "message": f'Invalid value: "": {cause}', "field": "patch"}]
    message = f' "" is invalid: patch: Invalid value: "": {cause}'
    return errors.Invalid(message, code=422, reason="Invalid", details={"causes": causes})


def bad_request(message: str) -> errors.Invalid:
    return errors.Invalid(message, code=400, reason="BadRequest")


def unauthorized() -> errors.Unauthorized:
    return errors.Unauthorized("Unauthorized", code=401, reason="Unauthorized")


def expired(message: str) -> errors.Expired:
    return errors.Expired(message, code=410, reason="Expired")


def method_not_allowed(row: ServedResource | None, verb: str) -> errors.ApiError:
    message = f'the server does not allow this method on the requested resource ("{verb}")'
    details: Mapping[str, Any] = _details(row, "") if row is not None else {}
    return errors.ApiError(message, code=405, reason="MethodNotAllowed", details=details)


def unsupported_media_type(accepted: Sequence[str]) -> errors.Invalid:
    listed = ", ".join(accepted)
    message = f"the body of the request was in an unknown format - accepted media types include: {listed}"
    return errors.Invalid(message, code=415, reason="UnsupportedMediaType")


def not_acceptable(accepted: Sequence[str]) -> errors.Invalid:
    listed = ", ".join(accepted)
    message = f"only the following media types are accepted: {listed}"
    return errors.Invalid(message, code=406, reason="NotAcceptable")


def too_large(limit_bytes: int) -> errors.Invalid:
    message = f"Request entity too large: limit is {limit_bytes}"
    return errors.Invalid(message, code=413, reason="RequestEntityTooLarge")


def internal(cause: str) -> errors.ApiError:
    """Args: *cause* must not quote data."""
    message = f"Internal error occurred: {cause}"
    return errors.ApiError(message, code=500, reason="InternalError", details={"causes": [{"message": cause}]})


def generic(code: int, row: ServedResource, name: str, message: str) -> errors.ApiError:
    """What another server has answered. Source: NewGenericServerResponse."""
    reason = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 422: "Invalid", 503: "ServiceUnavailable"}
    kind = errors.NotFound if code == 404 else errors.ApiError
    return kind(message, code=code, reason=reason.get(code, "Unknown"), details=_details(row, name))


def timed_out() -> errors.ApiError:
    """Source: apiserver pkg/server/filters/timeout.go."""
    message = "Timeout: request did not complete within the allotted timeout"
    return errors.ApiError(message, code=504, reason="Timeout")


def too_large_resource_version(wanted: int, current: int) -> errors.ApiError:
    message = f"Too large resource version: {wanted}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return errors.TooManyRequests(message, code=504, reason="Timeout", retry_after_s=1, details={"causes": causes})
