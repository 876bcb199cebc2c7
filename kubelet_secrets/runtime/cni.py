"""CNI: an address of the cluster's for a pod, by the plugins that a network configuration names.

The first configuration of a directory counts, as with every container runtime. Its plugins are run one after the other, each
given what the one before it answered; deletion runs them backwards with what the addition had answered in the end, kept beside
the sandbox, so that a node restarted in between undoes what it did. Called by ``sandbox.py``. Nothing here is secret.

Source: the CNI specification 1.0.0 (sections 1 to 4), containerd/go-cni, containernetworking/cni libcni; ``K8S_…`` arguments:
containerd internal/cri/server/sandbox_run.go.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from kubelet_secrets.errors import ContainerRunError

logger = logging.getLogger(__name__)

INTERFACE = "eth0"
SUFFIXES = (".conf", ".conflist", ".json")
PLUGIN_TIMEOUT_S = 60.0
_OLDEST = (0, 3, 1)  # earlier results have another shape

Json = dict[str, Any]


class NetworkFailed(ContainerRunError):
    """A pod cannot be given a network. The text names configuration or plugin, and what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """One ``hostPort`` of a pod, for a plugin with the capability ``portMappings``."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A network configuration list."""

    name: str
    version: str
    plugins: tuple[Json, ...]


class _Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, and what came of it: all that is needed to undo it."""

    container_id: str
    netns: str
    arguments: str
    config: NetworkConfig
    port_mappings: tuple[Json, ...] = ()
    result: Json | None = None


# --- pure ---------------------------------------------------------------------------------------------------------------


def parse_config(text: str, *, source: str) -> NetworkConfig:
    """Read a configuration list, or the configuration of a single plugin as a list of one.

    Raises:
        NetworkFailed: naming *source* and the field.
    """
    try:
        config = json.loads(text)
    except ValueError as error:
        raise NetworkFailed(f"{source}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise NetworkFailed(f"{source}: not a network configuration")
    plugins = config.get("plugins", [config])
    version = config.get("cniVersion", "")
    if not (name := config.get("name")) or not isinstance(name, str):
        raise NetworkFailed(f"{source}: name is missing")
    if not isinstance(version, str) or _version(version) < _OLDEST:
        raise NetworkFailed(f"{source}: cniVersion {version!r} is not supported: 0.3.1 or later is needed")
    if not isinstance(plugins, list) or not plugins:
        raise NetworkFailed(f"{source}: plugins: no plugin is named")
    for index, plugin in enumerate(plugins):
        if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str) or "/" in plugin["type"]:
            raise NetworkFailed(f"{source}: plugins[{index}].type is missing or no plain name")
    return NetworkConfig(name=name, version=version, plugins=tuple(plugins))


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def plugin_input(config: NetworkConfig, plugin: Json, ports: Sequence[Json], previous: Json | None) -> Json:
    """What a plugin reads: its own part of the configuration, the network's name, and what came before it."""
    made = {key: value for key, value in plugin.items() if key != "capabilities"}
    made |= {"name": config.name, "cniVersion": config.version}
    capabilities = plugin.get("capabilities")
    if ports and isinstance(capabilities, dict) and capabilities.get("portMappings"):
        made["runtimeConfig"] = {"portMappings": list(ports)}
    if previous is not None:
        made["prevResult"] = previous
    return made


def addresses(result: Json) -> tuple[str, ...]:
    """The pod's addresses in a plugin's result, without their prefix lengths."""
    found = result.get("ips") or ()
    return tuple(
        str(each["address"]).partition("/")[0] for each in found if isinstance(each, dict) and "address" in each
    )


# --- doing --------------------------------------------------------------------------------------------------------------


class CniNetwork:
    """The network that pods of this node are attached to.

    Args:
        conf_dir: read anew for each pod: a cluster's network often installs itself by a pod.
        bin_dirs: where plugins are, the first hit counts.
    """

    def __init__(self, conf_dir: Path, bin_dirs: Sequence[Path]) -> None:
        self._conf_dir = conf_dir
        self._bin_dirs = tuple(bin_dirs)

    def __repr__(self) -> str:
        return f"<CniNetwork {self._conf_dir}>"

    def read_config(self) -> NetworkConfig:
        """The configuration that counts: the first by name that has one of :data:`SUFFIXES`.

        Raises:
            NetworkFailed: there is none, or it is not right.
        """
        try:
            files = sorted(each for each in self._conf_dir.iterdir() if each.suffix in SUFFIXES and each.is_file())
        except OSError as error:
            raise NetworkFailed(f"cni plugin not initialized: {self._conf_dir}: {error.strerror}") from None
        if not files:
            raise NetworkFailed(f"cni plugin not initialized: no network config found in {self._conf_dir}")
        try:
            return parse_config(files[0].read_text(), source=str(files[0]))
        except (OSError, UnicodeDecodeError) as error:
            raise NetworkFailed(f"{files[0]}: {error}") from None

    def problem(self) -> str:
        """Why no pod can be attached now; empty when nothing is known against it. The text is what a kubelet's Node says.

        Source: pkg/kubelet/kubelet.go (updateRuntimeUp), containerd internal/cri/server/status.go.
        """
        try:
            self.read_config()
        except NetworkFailed as error:
            return (
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
                f"message:Network plugin returns error: {error}"
            )
        return ""

    async def add(
        self, state: Path, *, pod_uid: str, namespace: str, name: str, netns: Path, ports: Sequence[PortMapping] = ()
    ) -> tuple[str, ...]:
        """Attach a pod.

        Args:
            state: a file that will hold what :meth:`remove` needs; written before anything is done.
            netns: the pod's network namespace.

        Returns:
            The pod's addresses, the primary one first.

        Raises:
            NetworkFailed: the caller calls :meth:`remove` and may try again.
        """
        attachment = _Attachment(
            container_id=pod_uid,
            netns=str(netns),
            arguments=";".join(
                (
                    "IgnoreUnknown=1",
                    f"K8S_POD_NAMESPACE={namespace}",
                    f"K8S_POD_NAME={name}",
                    f"K8S_POD_INFRA_CONTAINER_ID={pod_uid}",
                    f"K8S_POD_UID={pod_uid}",
                )
            ),
            config=self.read_config(),
            port_mappings=tuple(
                {
                    "hostPort": port.host_port,
                    "containerPort": port.container_port,
                    "protocol": port.protocol.lower(),
                    "hostIP": port.host_ip,
                }
                for port in ports
            ),
        )
        _write(state, attachment)
        result: Json | None = None
        for plugin in attachment.config.plugins:
            result = await self._run("ADD", attachment, plugin, result)
        _write(state, msgspec.structs.replace(attachment, result=result))
        found = addresses(result or {})
        if not found:
            raise NetworkFailed(f'network "{attachment.config.name}" gave the pod no address')
        return found

    async def remove(self, state: Path) -> None:
        """Undo :meth:`add`, finished or not. What a plugin refuses is logged: a pod must be able to go."""
        try:
            attachment = msgspec.json.decode(state.read_bytes(), type=_Attachment)
        except (OSError, msgspec.DecodeError):
            return  # never attached
        for plugin in reversed(attachment.config.plugins):
            try:
                await self._run("DEL", attachment, plugin, attachment.result)
            except NetworkFailed as error:
                logger.warning("network of pod %s: %s", attachment.container_id, error)
        state.unlink(missing_ok=True)

    async def _run(self, command: str, attachment: _Attachment, plugin: Json, previous: Json | None) -> Json | None:
        config = attachment.config
        who = f'plugin type="{plugin["type"]}" name="{config.name}" failed ({command.lower()}): '
        program = next((path for each in self._bin_dirs if os.access(path := each / plugin["type"], os.X_OK)), None)
        if program is None:
            where = ", ".join(map(str, self._bin_dirs))
            raise NetworkFailed(f'{who}failed to find plugin "{plugin["type"]}" in path [{where}]')
        environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": attachment.container_id,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_ARGS": attachment.arguments,
            "CNI_PATH": os.pathsep.join(map(str, self._bin_dirs)),
        }
        given = json.dumps(plugin_input(config, plugin, attachment.port_mappings, previous)).encode()
        try:
            with trio.fail_after(PLUGIN_TIMEOUT_S):
                done = await trio.run_process(
                    [str(program)], stdin=given, capture_stdout=True, capture_stderr=True, check=False, env=environ
                )
        except trio.TooSlowError:
            raise NetworkFailed(f"{who}no answer within {PLUGIN_TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise NetworkFailed(f"{who}{error.strerror}") from None
        if done.returncode != 0:
            raise NetworkFailed(who + _complaint(done))
        return _answer(done.stdout, who) if command == "ADD" else None


def _answer(output: bytes, who: str) -> Json:
    try:
        answer = json.loads(output)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise NetworkFailed(f"{who}its answer is no result")
    return answer


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a plugin said on failing: an error object on standard output, else whatever stands on standard error."""
    try:
        error: Mapping[str, Any] = json.loads(done.stdout)
        return ": ".join(str(error[key]) for key in ("msg", "details") if error.get(key))
    except (ValueError, KeyError, TypeError, AttributeError):
        text = done.stderr.decode(errors="replace").strip()
        return text or f"exit status {done.returncode}"


def _write(state: Path, attachment: _Attachment) -> None:
    temporary = state.with_name(f"{state.name}.new")
    temporary.write_bytes(msgspec.json.encode(attachment))
    temporary.rename(state)
