"""What kubectl does and the agent's own client does not: commands in containers (WebSocket v5), requests as somebody else."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, RejectConnection, TextMessage
from wsproto.events import Request as Handshake

from kubelet_secrets.client.kubeconfig import ClusterConfig, ssl_context


@dataclass
class Command:
    """What a client has received of a command, by channel: 1 its output, 2 its errors, 3 its status."""

    out: dict[int, bytes] = field(default_factory=dict)

    def add(self, message: bytes) -> None:
        self.out[message[0]] = self.out.get(message[0], b"") + message[1:]

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out[3])
        return found


async def websocket_exec(
    config: ClusterConfig,
    namespace: str,
    pod: str,
    command: Sequence[str],
    *,
    stdin: bytes | None = None,
    user: str = "",
    protocol: str = "v5.channel.k8s.io",
    **flags: str,
) -> Command:
    """Run *command* to its end.

    Args:
        protocol: a subprotocol; "" offers none. Only v5 can tell where the input ends.
        user: whom to impersonate.
        flags: further parameters of the URL: ``container``.
    """
    url = urlsplit(config.server)
    assert url.hostname is not None
    context = ssl_context(config)
    context.set_alpn_protocols(["http/1.1"])
    query = [*flags.items(), *(("command", each) for each in command), ("stdout", "1"), ("stderr", "1")]
    if stdin is not None:
        query.append(("stdin", "1"))
    stream = trio.SSLStream(
        await trio.open_tcp_stream(url.hostname, url.port or 443),
        context,
        server_hostname=url.hostname,
        https_compatible=True,
    )
    machine, found, message = WSConnection(ConnectionType.CLIENT), Command(), bytearray()
    target = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urlencode(query)}"
    headers = [(b"Impersonate-User", user.encode())] if user else []
    if config.token is not None:
        headers.append((b"Authorization", b"Bearer " + config.token.reveal()))
    handshake = Handshake(
        host=url.netloc, target=target, subprotocols=[protocol] if protocol else [], extra_headers=headers
    )
    with trio.fail_after(60):
        async with stream:
            await stream.send_all(machine.send(handshake))
            while True:
                for event in machine.events():
                    match event:
                        case AcceptConnection() if stdin is not None:
                            for at in range(0, len(stdin), 10_000):
                                await stream.send_all(machine.send(BytesMessage(data=b"\0" + stdin[at : at + 10_000])))
                            await stream.send_all(machine.send(BytesMessage(data=b"\xff\0")))
                        case BytesMessage():
                            message += event.data
                            if event.message_finished:
                                found.add(bytes(message))
                                message.clear()
                        case TextMessage():
                            assert event.message_finished
                            number, data = event.data[0], event.data[1:]
                            found.add(bytes([int(number)]) + base64.b64decode(data, validate=True))
                        case RejectConnection():
                            found.out[3] = json.dumps({"code": event.status_code}).encode()
                            return found
                        case CloseConnection():
                            return found
                machine.receive_data(bytes(await stream.receive_some(65536)) or None)


async def impersonate(
    config: ClusterConfig, user: str, groups: Sequence[str], method: str, path: str, body: object = None
) -> int:
    """Send one request as *user*, and return the status of its answer: ``kubectl --as``."""
    headers = [("Impersonate-User", user), *(("Impersonate-Group", each) for each in groups)]
    if config.token is not None:
        headers.append(("Authorization", f"Bearer {config.token.reveal().decode()}"))
    async with httpx2.AsyncClient(verify=ssl_context(config), base_url=config.server, timeout=120) as client:
        return (await client.request(method, path, headers=headers, json=body)).status_code
