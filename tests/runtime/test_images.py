"""The image store against real skopeo and umoci, and a real registry with passwords on the loopback interface."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from kubelet_secrets.errors import ImageError
from kubelet_secrets.runtime import images as images_module
from kubelet_secrets.runtime import registry as registry_module
from kubelet_secrets.runtime.imagedir import ImageDirectory
from kubelet_secrets.runtime.images import Image, ImageStore
from kubelet_secrets.runtime.keyring import CredentialSource, RegistryCredentials, parse_docker_config
from kubelet_secrets.runtime.pullprogress import PullProgress, tell_progress
from kubelet_secrets.runtime.registry import Registry
from kubelet_secrets.runtime.tools import Outcome, Tools, run_tool
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.testing.images import build_busybox_image
from tests.runtime.conftest import Node
from tests.runtime.private_registry import GOOD, PASSWORD, PrivateRegistry, SlowLine, serve_registry

pytestmark = pytest.mark.runtime

SECRET = CredentialSource(namespace="ns", name="pull", uid="1")
BAD = RegistryCredentials(username="puller", password=SensitiveBytes(b"wrong-s3cr3t-canary"))


@pytest.fixture
def store(tmp_path: Path, tools: Tools) -> Iterator[ImageStore]:
    auth = tmp_path / "auth"
    auth.mkdir()
    store = ImageStore(
        tmp_path / "store",
        tools=tools,
        registry=Registry(tools, auth_dir=auth, scratch_dir=tmp_path / "store" / "tmp"),
    )
    yield store
    assert os.listdir(auth) == [], "a credentials file stayed behind"
    assert os.listdir(tmp_path / "store" / "tmp") == []


@pytest.fixture
def layout(tmp_path: Path) -> str:
    return build_busybox_image(
        tmp_path / "layout", cmd=("sh", "-c", "true"), env={"A": "1"}, user="nobody", working_dir="/tmp"
    )


async def test_imported_image_is_found_by_any_spelling(store: ImageStore, layout: str) -> None:
    image = await store.import_image(layout, "demo:1")
    assert store.resolve("docker.io/library/demo:1") == image
    assert store.resolve("demo:2") is None
    assert store.resolve(image.repo_digests[0]) == image
    assert store.list() == (image,)
    assert image.names == ("docker.io/library/demo:1",)
    assert image.id.startswith("sha256:")
    assert image.image_id == image.repo_digests[0]
    assert image.size_bytes > 100_000
    assert (image.config.cmd, image.config.user, image.config.working_dir) == (("sh", "-c", "true"), "nobody", "/tmp")
    assert "A=1" in image.config.env
    assert (image.rootfs / "bin/busybox").stat().st_mode & 0o7777 == 0o755
    assert (image.rootfs / "tmp").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive", "dir"])
async def test_every_local_form_can_be_imported(
    store: ImageStore, layout: str, tools: Tools, tmp_path: Path, transport: str
) -> None:
    target = f"{transport}:{tmp_path / 'copy'}"
    outcome = await run_tool([tools.skopeo, "copy", "--quiet", layout, target])
    assert outcome.code == 0, outcome.stderr
    image = await store.import_image(target, "demo")
    assert (image.rootfs / "bin/sh").is_symlink()
    assert image.config.user == "nobody"


async def test_one_image_under_two_names_is_stored_once(store: ImageStore, layout: str) -> None:
    first = await store.import_image(layout, "one")
    second = await store.import_image(layout, "two")
    assert first.id == second.id
    (image,) = store.list()
    assert image.names == ("docker.io/library/one:latest", "docker.io/library/two:latest")
    await store.remove("one")
    assert store.resolve("one") is None
    assert store.resolve("two") is not None
    await store.remove("two")
    assert store.list() == ()


async def test_a_name_moves_to_a_newer_image(store: ImageStore, layout: str, tmp_path: Path) -> None:
    old = await store.import_image(layout, "app")
    new = await store.import_image(build_busybox_image(tmp_path / "new", files={"/version": b"2"}), "app")
    assert store.resolve("app") == new
    assert new.id != old.id
    assert {image.id: image.names for image in store.list()} == {new.id: new.names, old.id: ()}
    await store.remove(old.repo_digests[0])
    assert store.list() == (new,)


async def test_bad_sources_and_names_are_refused(store: ImageStore, tmp_path: Path) -> None:
    for source, name, reason in (
        (f"oci:{tmp_path / 'nothing'}:x", "demo", "ErrImagePull"),
        ("docker-daemon:x", "demo", "ErrImagePull"),
        ("oci:x", "NOT_GOOD", "InvalidImageName"),
    ):
        with pytest.raises(ImageError) as caught:
            await store.import_image(source, name)
        assert caught.value.reason == reason
    with pytest.raises(ImageError) as caught:
        await store.remove("absent")
    assert caught.value.reason == "ImageNotFound"


async def test_image_of_a_running_container_is_not_removed(node: Node, tmp_path: Path) -> None:
    image = await node.images.import_image(
        build_busybox_image(tmp_path / "own", files={"/own": node.pod_uid.encode()}), node.pod_uid
    )
    settings = node.settings("sleep", "600")
    await node.runtime.create(settings, image, log_path=node.log_path(settings))
    with pytest.raises(ImageError) as caught:
        await node.images.remove(node.pod_uid)
    assert caught.value.reason == "ImageInUse"
    assert node.images.resolve(node.pod_uid) == image
    await node.runtime.delete(settings.container_id)
    await node.images.remove(node.pod_uid)
    assert node.images.resolve(node.pod_uid) is None


async def test_cancelled_import_leaves_the_store_as_it_was(store: ImageStore, layout: str) -> None:
    with trio.move_on_after(0.03):
        await store.import_image(layout, "demo")
    image = store.resolve("demo")
    assert image is None or (image.rootfs / "bin/busybox").exists()


async def test_two_stores_on_one_directory_agree(store: ImageStore, layout: str, tools: Tools, tmp_path: Path) -> None:
    """Several nodes of one machine share it."""
    other = ImageStore(
        tmp_path / "store",
        tools=tools,
        registry=Registry(tools, auth_dir=tmp_path / "auth", scratch_dir=tmp_path / "store/tmp"),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.import_image, layout, "a")
        nursery.start_soon(other.import_image, layout, "b")
    (image,) = store.list()
    assert image.names == ("docker.io/library/a:latest", "docker.io/library/b:latest")
    assert other.list() == (image,)


# --- policies -------------------------------------------------------------------------------------------------------


async def test_present_image_is_used_without_asking_anybody(store: ImageStore, layout: str) -> None:
    image = await store.import_image(layout, "127.0.0.1:1/app:1")
    for policy in ("IfNotPresent", "Never"):
        ensured = await store.ensure("127.0.0.1:1/app:1", policy)
        assert (ensured.image, ensured.pulled) == (image, False)


@pytest.mark.parametrize(
    ("policy", "present", "reason"),
    [
        pytest.param("Never", False, "ErrImageNeverPull", id="never-and-absent"),
        pytest.param("IfNotPresent", False, "ErrImagePull", id="absent"),
        pytest.param("Always", True, "ErrImagePull", id="always"),
    ],
)
async def test_policies_that_fail(store: ImageStore, layout: str, policy: str, present: bool, reason: str) -> None:
    """Nothing listens on port 1."""
    if present:
        await store.import_image(layout, "127.0.0.1:1/app:1")
    with pytest.raises(ImageError) as caught:
        await store.ensure("127.0.0.1:1/app:1", policy)
    assert caught.value.reason == reason
    if reason == "ErrImageNeverPull":
        assert str(caught.value) == 'Container image "127.0.0.1:1/app:1" is not present with pull policy of Never'
    else:
        assert str(caught.value).startswith('failed to pull image "127.0.0.1:1/app:1": ')
        assert "connection refused" in str(caught.value)


async def test_unreadable_store_is_an_inspect_error(store: ImageStore, layout: str, tmp_path: Path) -> None:
    await store.import_image(layout, "demo")
    tmp_path.joinpath("store/names.json").write_text("{")
    with pytest.raises(ImageError) as caught:
        await store.ensure("demo", "IfNotPresent")
    assert caught.value.reason == "ImageInspectError"
    assert str(caught.value).startswith('Failed to inspect image "demo"')


# --- a registry -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def private(tmp_path: Path, layout: str, tools: Tools) -> AsyncIterator[PrivateRegistry]:
    async with serve_registry(tmp_path / "registry", layout, tools) as private:
        yield private


async def test_pull_with_the_right_password(store: ImageStore, private: PrivateRegistry) -> None:
    with trio.fail_after(60):
        ensured = await store.ensure(private.image, "IfNotPresent", [GOOD])
    assert ensured.pulled
    assert ensured.image.repo_digests == (f"{private.domain}/team/app@{private.digest}",)
    assert ensured.image.names == (private.image,)
    assert (ensured.image.rootfs / "bin/busybox").exists()


@pytest.mark.parametrize("credentials", [(), (BAD,)], ids=["none", "wrong"])
async def test_pull_without_the_right_password_fails_and_keeps_it_quiet(
    store: ImageStore, private: PrivateRegistry, credentials: tuple[RegistryCredentials, ...]
) -> None:
    with trio.fail_after(60), pytest.raises(ImageError) as caught:
        await store.ensure(private.image, "IfNotPresent", credentials)
    assert caught.value.reason == "ErrImagePull"
    assert "unauthorized" in str(caught.value) or "authentication required" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert store.list() == ()


async def test_credentials_are_tried_in_order(store: ImageStore, private: PrivateRegistry) -> None:
    with trio.fail_after(60):
        assert (await store.ensure(private.image, "Always", [BAD, GOOD])).pulled


async def test_all_failures_are_told_once(store: ImageStore, private: PrivateRegistry) -> None:
    with trio.fail_after(60), pytest.raises(ImageError) as caught:
        await store.pull(private.image, [BAD, BAD])
    assert str(caught.value).count("failed to pull image") == 1


async def test_always_asks_but_does_not_download_again(store: ImageStore, private: PrivateRegistry) -> None:
    with trio.fail_after(60):
        first = await store.pull(private.image, [GOOD])
        blobs = private.requests("/blobs/")
        assert blobs > 0
        ensured = await store.ensure(private.image, "Always", [GOOD])
    assert (ensured.image, ensured.pulled) == (first, True)
    assert private.requests("/blobs/") == blobs


async def test_present_private_image_is_not_for_pods_without_credentials(
    store: ImageStore, private: PrivateRegistry
) -> None:
    """KEP-2535. Source: e2e_node, "Ensure Credential Pulled Images"."""
    with trio.fail_after(60):
        await store.ensure(private.image, "IfNotPresent", [replace(GOOD, source=SECRET)])
        for policy, reason in (("IfNotPresent", "ErrImagePull"), ("Never", "ErrImageNeverPull")):
            for credentials in ((), (BAD,)):
                with pytest.raises(ImageError) as caught:
                    await store.ensure(private.image, policy, credentials)
                assert caught.value.reason == reason
        asked = private.requests("/manifests/")
        same_secret = await store.ensure(private.image, "Never", [replace(BAD, source=SECRET)])
        same_login = await store.ensure(private.image, "Never", [GOOD])
    assert (same_secret.pulled, same_login.pulled) == (False, False)
    assert private.requests("/manifests/") == asked


async def test_the_nodes_credentials_open_an_image_to_every_pod(
    tmp_path: Path, tools: Tools, private: PrivateRegistry
) -> None:
    document = SensitiveBytes(registry_module.auth_document(private.domain, GOOD))
    store = ImageStore(
        tmp_path / "store",
        tools=tools,
        registry=Registry(tools, auth_dir=tmp_path, scratch_dir=tmp_path / "store/tmp"),
        node_keyring=lambda: parse_docker_config(document, "config.json", legacy=False),
    )
    with trio.fail_after(60):
        assert (await store.ensure(private.image, "IfNotPresent", [BAD])).pulled
        assert not (await store.ensure(private.image, "Never")).pulled


async def test_pull_by_digest(store: ImageStore, private: PrivateRegistry) -> None:
    name = f"{private.domain}/team/app@{private.digest}"
    with trio.fail_after(60):
        image = await store.pull(name, [GOOD])
    assert image.names == ()
    assert store.resolve(name) == image
    await store.remove(name)
    assert store.list() == ()


async def test_a_long_download_is_told_of(
    store: ImageStore, private: PrivateRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the kubelet; and what two pods wait for is told to both."""
    monkeypatch.setattr(images_module, "tell_progress", partial(tell_progress, first_s=0.01, every_s=0.01))
    told: list[PullProgress] = []
    line = SlowLine(private.domain, held_bytes=300_000)

    async def pull(is_told: trio.Event) -> None:
        def tell(progress: PullProgress) -> None:
            told.append(progress)
            if progress.received_bytes > 100_000:
                is_told.set()

        ensured = await store.ensure(f"{line.domain}/team/app:1", "IfNotPresent", [GOOD], tell=tell)
        assert ensured.pulled
        assert ensured.pull_s > 0

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(line.run)
            async with trio.open_nursery() as pulls:
                heard = [trio.Event(), trio.Event()]
                for event in heard:
                    pulls.start_soon(pull, event)
                for event in heard:
                    await event.wait()
                line.release.set()
            nursery.cancel_scope.cancel()
    progress = told[-1]
    assert progress.total_bytes is not None
    assert progress.received_bytes <= progress.total_bytes + 10_000  # and the layout's own few files


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (PullProgress(0, None), "0.0 MiB so far"),
        (PullProgress(13_107_200, 105_906_176), "12.5 of 101.0 MiB"),
    ],
)
def test_progress_reads(progress: PullProgress, text: str) -> None:
    assert str(progress) == text


@pytest.mark.parametrize(
    ("manifest", "size_bytes"),
    [
        (b'{"schemaVersion":2,"config":{"size":10},"layers":[{"size":5},{"size":7}]}', 22),
        (b'{"schemaVersion":2,"manifests":[{"size":500}]}', None),
        (b'{"schemaVersion":1,"fsLayers":[]}', None),
        (b'{"layers":[{"size":"5"}]}', None),
        (b"<html>", None),
    ],
    ids=["manifest", "list", "schema-1", "broken", "no-json"],
)
def test_what_a_manifest_says_of_its_size(manifest: bytes, size_bytes: int | None) -> None:
    assert registry_module.download_size_bytes(manifest) == size_bytes


async def test_image_never_stands_without_the_record_of_its_pull(
    store: ImageStore, private: PrivateRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent killed right after an image came into the store: it would pass for preloaded, free for every pod. §9.5."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageDirectory, "write_record", die)
    with trio.fail_after(60), pytest.raises(KeyboardInterrupt):
        await store.pull(private.image, [replace(GOOD, source=SECRET)])
    image = store.resolve(private.image)
    assert image is not None
    assert not store.is_accessible(image, private.image, ())
    assert store.is_accessible(image, private.image, [replace(GOOD, source=SECRET)])


async def test_absent_image_is_told(store: ImageStore, private: PrivateRegistry) -> None:
    with trio.fail_after(60), pytest.raises(ImageError, match="manifest unknown"):
        await store.pull(f"{private.domain}/team/none:1", [GOOD])


async def test_concurrent_pulls_of_one_image_are_one(store: ImageStore, private: PrivateRegistry) -> None:
    images: list[Image] = []

    async def pull(credentials: list[RegistryCredentials]) -> None:
        images.append(await store.pull(private.image, credentials))

    with trio.fail_after(60):
        before = private.requests("/manifests/1")
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(pull, [GOOD])
    assert len({image.id for image in images}) == 1
    asked = private.requests("/manifests/1") - before
    alone = private.requests("/manifests/1")
    with trio.fail_after(60):
        await store.pull(private.image, [GOOD])
    alone = private.requests("/manifests/1") - alone
    assert asked <= 2 * alone  # the first one's, and at most one more that came too late to join


async def test_a_waiter_takes_over_when_the_puller_is_cancelled(store: ImageStore, private: PrivateRegistry) -> None:
    got: list[Image] = []

    async def pull(scope: trio.CancelScope) -> None:
        with scope:
            got.append(await store.pull(private.image, [GOOD]))

    first = trio.CancelScope()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull, first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(pull, trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
    assert len(got) == 1


async def test_password_is_in_no_command_line_and_no_file_outside_the_auth_directory(
    store: ImageStore, private: PrivateRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def spy(argv: list[str], *, env: dict[str, str]) -> Outcome:
        seen.append(" ".join(map(str, argv)) + " " + repr(env))
        auth_file = Path(env["REGISTRY_AUTH_FILE"])
        assert auth_file.parent == tmp_path / "auth"
        assert auth_file.stat().st_mode & 0o777 == 0o600
        return await run_tool(argv, env=env)

    monkeypatch.setattr(registry_module, "run_tool", spy)
    with trio.fail_after(60):
        await store.pull(private.image, [GOOD])
    assert len(seen) == 2
    assert not any(PASSWORD in line for line in seen)
    assert not any(PASSWORD.encode() in path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
