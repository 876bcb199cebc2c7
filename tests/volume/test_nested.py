"""Source: kubernetes pkg/volume/util/nested_volumes_test.go; semantics §5.4."""

from __future__ import annotations

import pytest

from kubelet_secrets.api.core import Container, Pod, PodSpec, VolumeMount
from kubelet_secrets.errors import SetUpError
from kubelet_secrets.volume.nested import hidden_names, is_in_sight, nested_mountpoints


def pod(*containers: dict[str, str]) -> Pod:
    """Each container as mount path → volume name."""
    return Pod(
        spec=PodSpec(
            containers=tuple(
                Container(
                    name=f"c{n}", volume_mounts=tuple(VolumeMount(name=v, mount_path=p) for p, v in mounts.items())
                )
                for n, mounts in enumerate(containers)
            )
        )
    )


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        pytest.param([{"/dir": "v"}], [], id="alone"),
        pytest.param([{"/dir": "v", "/dir2": "w"}], [], id="a-longer-name-is-not-nested"),
        pytest.param([{"/dir": "v", "/dir/nested": "w"}], ["nested"], id="one"),
        pytest.param([{"/dir/nested": "w", "/dir": "v"}], ["nested"], id="in-any-order"),
        pytest.param([{"/dir": "v", "/dir/nested": "v"}], ["nested"], id="itself"),
        pytest.param([{"/dir": "v", "/dir/a/b": "w", "/dir/a/c": "x"}], ["a/b", "a/c"], id="two-deep"),
        pytest.param([{"/dir": "v", "/dir/a": "w", "/dir/a/b": "x"}], ["a"], id="double-nested-is-skipped"),
        pytest.param([{"/dir": "v", "/dir/a": "w", "/dir/ab": "x"}], ["a", "ab"], id="longer-name-after-nested"),
        pytest.param(
            [{"/dir": "v", "/dir/a": "w", "/dir/a-b": "x", "/dir/a.b": "x", "/dir/a/c": "x", "/dir/a2": "x"}],
            ["a", "a-b", "a.b", "a2"],
            id="names-that-sort-between-a-directory-and-what-is-in-it",
        ),
        pytest.param([{"/d1": "v", "/d2": "v", "/d1/a": "w", "/d2/b": "w"}], ["a", "b"], id="mounted-twice"),
        pytest.param(
            [{"/dir": "v", "/dir/a": "w"}, {"/dir": "v", "/dir/a": "x", "/dir/b": "x"}], ["a", "b"], id="containers"
        ),
        pytest.param([{"/dir/": "v", "/dir//a/": "w"}], ["a"], id="unclean"),
        pytest.param([{"/dir": "v"}, {"/dir/a": "w"}], [], id="only-within-one-container"),
        pytest.param([{"/dir/..data": "w", "/dir": "v"}], ["..data"], id="strange-name"),
    ],
)
def test_nested_mountpoints(containers: list[dict[str, str]], expected: list[str]) -> None:
    assert nested_mountpoints(pod(*containers), "v") == expected


def test_a_mount_path_out_of_the_root_is_refused() -> None:
    with pytest.raises(SetUpError, match=r"^invalid container mount point \.\./dir$"):
        nested_mountpoints(pod({"../dir": "v"}), "v")


@pytest.mark.parametrize(
    ("path", "sub_path", "expected"),
    [
        pytest.param("a", "", False, id="the-name-itself"),
        pytest.param("a/b", "", False, id="what-is-in-it"),
        pytest.param("ab", "", True, id="a-longer-name"),
        pytest.param("b/a", "", True, id="deeper"),
        pytest.param("a/b", "./a/", False, id="through-a-sub-path"),
        pytest.param("a/b", "..data/a", True, id="through-the-versions-own-name"),
    ],
)
def test_what_the_directory_for_a_mount_beneath_hides(path: str, sub_path: str, expected: bool) -> None:
    """The AtomicWriter leaves a directory alone that stands where its link would; §3.2 step 10."""
    hidden = hidden_names(pod({"/dir": "v", "/dir/a/b": "w"}, {"/x": "v"}), "v")
    assert hidden == {"a"}
    assert is_in_sight(path, sub_path, hidden) is expected


def test_volume_that_is_never_set_up_hides_nothing() -> None:
    assert hidden_names(pod({"../x": "v", "../x/a": "w"}), "v") == frozenset()
