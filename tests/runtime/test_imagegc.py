"""Which images go when the disk fills up, on a real store with made-up images. Source: image_gc_manager_test.go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from kubelet_secrets.linux import MS_NODEV, MS_NOSUID, mount, unmount
from kubelet_secrets.runtime.imagedir import ImageConfig, ImageDirectory, StoredImage
from kubelet_secrets.runtime.imagegc import DiskSpace, ImageGarbageCollector, ImageGcPolicy, bytes_to_free
from kubelet_secrets.runtime.reference import parse_reference

NOW = 1_000_000.0
IMAGE_BYTES = 100
POLICY = ImageGcPolicy(high_threshold_percent=90, low_threshold_percent=80, minimum_age_s=120)


class Lab:
    """A store whose disk holds 1000 bytes: *other* ones, and 100 per image."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = ImageDirectory(directory)
        self.other_bytes = 0
        self.warnings: list[tuple[str, str]] = []

    def add(self, name: str, *, used_s_ago: float, pulled: bool = True) -> None:
        reference = parse_reference(name)
        image_id = f"sha256:{len(self.files.list()):064d}"
        made = self.files.scratch / "new"
        (made / "rootfs").mkdir(parents=True)
        stored = StoredImage(id=image_id, size_bytes=IMAGE_BYTES, config=ImageConfig())
        (made / "image.json").write_bytes(msgspec.json.encode(stored))
        self.files.commit(made, stored, reference)
        if pulled:
            self.files.write_record(image_id, reference.repository, None)
        os.utime(self.files.path(image_id) / "image.json", (NOW - used_s_ago, NOW - used_s_ago))

    @property
    def names(self) -> list[str]:
        return sorted(name.rpartition("/")[2] for name in self.files.names())

    def disk_space(self) -> DiskSpace:
        return DiskSpace(1000, 1000 - self.other_bytes - IMAGE_BYTES * len(os.listdir(self.directory / "images")))

    def collect(self, policy: ImageGcPolicy = POLICY) -> int:
        collector = ImageGarbageCollector(
            self.files,
            policy,
            report=lambda *warning: self.warnings.append(warning),
            disk_space=self.disk_space,
            clock=lambda: NOW,
        )
        return collector.collect()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


@pytest.mark.parametrize(
    ("available", "wanted"),
    [(1000, 0), (200, 0), (110, 0), (109, 91), (100, 100), (50, 150), (0, 200)],
)
def test_thresholds(available: int, wanted: int) -> None:
    assert bytes_to_free(DiskSpace(1000, available), POLICY) == wanted


def test_a_threshold_of_100_switches_it_off() -> None:
    assert bytes_to_free(DiskSpace(1000, 0), ImageGcPolicy(high_threshold_percent=100)) == 0
    assert bytes_to_free(DiskSpace(0, 0), POLICY) == 0


def test_longest_unused_goes_first_and_no_more_than_needed(lab: Lab) -> None:
    lab.add("old:1", used_s_ago=5000)
    lab.add("older:1", used_s_ago=9000)
    lab.add("recent:1", used_s_ago=500)
    lab.other_bytes = 620
    assert lab.collect() == 2  # 92 % full: to 80 % it is 120 bytes
    assert lab.names == ["recent:1"]
    assert lab.warnings == []
    assert lab.collect() == 0


def test_nothing_happens_below_the_threshold(lab: Lab) -> None:
    lab.add("old:1", used_s_ago=5000)
    assert lab.collect() == 0
    assert lab.names == ["old:1"]


def test_imported_and_recently_used_images_stay(lab: Lab) -> None:
    lab.add("imported:1", used_s_ago=9000, pulled=False)
    lab.add("recent:1", used_s_ago=119)
    lab.other_bytes = 800
    assert lab.collect() == 0
    assert lab.names == ["imported:1", "recent:1"]
    message = (
        "Failed to garbage collect required amount of images. "
        "Attempted to free 200 bytes, but only found 0 bytes eligible to free."
    )
    assert lab.warnings == [("FreeDiskSpaceFailed", message)]


def test_use_is_remembered(lab: Lab) -> None:
    lab.add("a:1", used_s_ago=5000)
    lab.add("b:1", used_s_ago=4000)
    image = lab.files.find(parse_reference("a:1"))
    assert image is not None
    lab.files.note_use(image)
    assert [found.names[0].rpartition("/")[2] for _, found in lab.files.pulled_images()] == ["b:1", "a:1"]


def test_image_used_since_it_was_chosen_stays(lab: Lab) -> None:
    lab.add("a:1", used_s_ago=5000)
    ((used_at, image),) = lab.files.pulled_images()
    lab.files.note_use(image)
    with pytest.raises(Exception, match="has just been used"):
        lab.files.remove_unused(image, used_at=used_at)
    shutil.rmtree(lab.files.path(image.id))
    with pytest.raises(Exception, match="not found"):
        lab.files.remove_unused(image, used_at=used_at)


@pytest.mark.runtime
def test_image_under_a_container_stays(lab: Lab, tmp_path: Path) -> None:
    lab.add("used:1", used_s_ago=9000)
    lab.add("unused:1", used_s_ago=5000)
    lab.other_bytes = 750
    image = lab.files.find(parse_reference("used:1"))
    assert image is not None
    directory = tmp_path / "mounts"
    directory.mkdir()
    mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV)
    try:
        for name in ("upper", "work", "merged"):
            (directory / name).mkdir()
        options = f"lowerdir={image.rootfs},upperdir={directory}/upper,workdir={directory}/work"
        mount("overlay", directory / "merged", "overlay", 0, options)
        try:
            assert lab.collect() == 1
        finally:
            unmount(directory / "merged")
    finally:
        unmount(directory)
    assert lab.names == ["used:1"]
