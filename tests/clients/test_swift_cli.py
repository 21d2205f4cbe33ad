"""The `swift` command of python-swiftclient."""

import json
import re
import time

import pytest
from conftest import content, md5

MIB = 1 << 20


def test_log_in_with_a_wrong_key_fails(swift):
    assert "401" in swift("-K", "wrong", "stat", fails=True) or "Unauthorized" in swift(
        "-K", "wrong", "stat", fails=True
    )


def test_upload_stat_download_delete(swift, container, files, tmp_path):
    data = content(100_000)
    (tmp_path / "in.bin").write_bytes(data)
    swift("upload", container, "in.bin", "--object-name", "dir/name.bin", cwd=tmp_path)
    files.holds(container, "dir/name.bin", data)

    stat = swift("stat", container, "dir/name.bin")
    assert re.search(r"Content Length: 100000\b", stat) and md5(data) in stat

    # The command compares the MD5 with the ETag and fails when they differ.
    swift("download", container, "dir/name.bin", "-o", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == data

    swift("delete", container, "dir/name.bin")
    files.lacks(container, "dir/name.bin")
    assert swift("list", container) == ""


def test_upload_and_download_of_a_tree(swift, container, files, tmp_path):
    tree = {"a.txt": b"a", "sub/b.txt": b"bb", "sub/deep/c": b"", "späß/ü.txt": b"text", "with space": b"x y"}
    for name, data in tree.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    swift("upload", container, ".", cwd=tmp_path / "tree")
    assert set(swift("list", container).splitlines()) == set(tree)
    for name, data in tree.items():
        files.holds(container, name, data)

    out = tmp_path / "out"
    out.mkdir()
    swift("download", container, "-D", out)
    assert {name: (out / name).read_bytes() for name in tree} == tree


def test_upload_of_what_has_not_changed_is_skipped(swift, container, connection, tmp_path):
    (tmp_path / "f").write_bytes(b"same")
    swift("upload", container, "f", cwd=tmp_path)
    before = connection.head_object(container, "f")["x-timestamp"]
    swift("upload", "--skip-identical", container, "f", cwd=tmp_path)
    assert connection.head_object(container, "f")["x-timestamp"] == before
    (tmp_path / "f").write_bytes(b"other")
    swift("upload", "--skip-identical", container, "f", cwd=tmp_path)
    assert connection.head_object(container, "f")["x-timestamp"] > before


@pytest.mark.parametrize("slo", [True, False], ids=["slo", "dlo"])
def test_segmented_upload(swift, container, connection, files, tmp_path, slo):
    data = content(5 * MIB + 17)
    (tmp_path / "big").write_bytes(data)
    kind = "--use-slo" if slo else "--use-dlo"
    swift("upload", container, "big", "-S", MIB, kind, cwd=tmp_path)

    headers = connection.head_object(container, "big")
    assert headers["content-length"] == str(len(data))
    assert headers.get("x-static-large-object" if slo else "x-object-manifest")
    segments = swift("list", container + "_segments").splitlines()
    assert len(segments) == 6
    for n, name in enumerate(segments):
        files.holds(container + "_segments", name, data[n * MIB : (n + 1) * MIB])

    swift("download", container, "big", "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    swift("delete", container, "big")
    assert swift("list", container + "_segments") == "", "the segments go with their manifest"


def test_a_segmented_upload_becomes_one_file(swift, container, connection, file_side, tmp_path):
    data = content(5 * MIB + 17, 5)
    (tmp_path / "big").write_bytes(data)
    swift("upload", container, "big", "-S", MIB, "--use-slo", "-m", "Color:Blue", cwd=tmp_path)

    def seen():
        headers = connection.head_object(container, "big")
        told = {k: v for k, v in headers.items() if k not in ("date", "x-trans-id", "x-openstack-request-id")}
        return told, connection.get_object(container, "big", query_string="multipart-manifest=get")[1]

    before = seen()
    # The server in these tests assembles once a second; the limit is there for one that never does.
    path, deadline = file_side.path(container, "big"), time.monotonic() + 120
    while path.read_bytes() != data:
        assert time.monotonic() < deadline, "the segments were not assembled"
        time.sleep(0.1)
    assert seen() == before
    assert json.loads(before[1])[5]["bytes"] == 17

    swift("download", container, "big", "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert len(swift("list", container + "_segments").splitlines()) == 6
    # Written over by a job, it is that file.
    swift("upload", container, "big", "-S", MIB, "--use-slo", "--object-name", "other", cwd=tmp_path)
    while file_side.path(container, "other").read_bytes() != data:
        assert time.monotonic() < deadline, "the segments were not assembled"
        time.sleep(0.1)
    file_side.path(container, "other").write_bytes(b"a result")
    swift("download", container, "other", "-o", tmp_path / "result")
    assert (tmp_path / "result").read_bytes() == b"a result"
    swift("delete", container, "other")

    swift("delete", container, "big")
    file_side.lacks(container, "big")
    assert not [name for name in swift("list", container + "_segments").splitlines() if name.startswith("big/")]


def test_post_sets_metadata(swift, container, tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    swift("upload", container, "f", cwd=tmp_path)
    swift("post", container, "f", "-m", "Color:Blue", "-H", "Content-Type: text/x-test")
    stat = swift("stat", container, "f")
    assert "Meta Color: Blue" in stat and "text/x-test" in stat
    swift("post", container, "-m", "Purpose:Test")
    assert "Meta Purpose: Test" in swift("stat", container)
    swift("post", "-m", "Owner:Me")
    assert "Meta Owner: Me" in swift("stat")
    swift("post", "-m", "Owner:")


def test_list_with_prefix_delimiter_and_json(swift, container, connection):
    for name in ("a/1", "a/2", "b", "c/d/e"):
        connection.put_object(container, name, b"")
    assert swift("list", container).splitlines() == ["a/1", "a/2", "b", "c/d/e"]
    assert swift("list", container, "-d", "/").splitlines() == ["a/", "b", "c/"]
    assert swift("list", container, "-p", "a/").splitlines() == ["a/1", "a/2"]
    assert [row["name"] for row in json.loads(swift("list", container, "--json"))] == ["a/1", "a/2", "b", "c/d/e"]
    assert container in swift("list").splitlines()


def test_copy(swift, container, connection, files):
    connection.put_object(container, "from", b"data", headers={"X-Object-Meta-Color": "Blue"})
    swift("copy", container, "from", "-d", f"/{container}/to/there", "-m", "Shape:Round")
    files.holds(container, "to/there", b"data")
    headers = connection.head_object(container, "to/there")
    assert (headers["x-object-meta-color"], headers["x-object-meta-shape"]) == ("Blue", "Round")


def test_delete_of_a_container_with_all_that_is_in_it(swift, connection, files, tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    swift("upload", "c-whole", "f", cwd=tmp_path)
    swift("delete", "c-whole")
    files.lacks("c-whole")
    assert "c-whole" not in swift("list").splitlines()


def test_capabilities(swift):
    assert "slo" in swift("capabilities").lower()


def test_download_right_after_a_file_side_write_passes_its_md5_check(swift, container, file_side, tmp_path):
    path = file_side.path(container, "results/run.out")
    path.parent.mkdir()
    for data in (content(300_000, 1), content(300_000, 2), content(7, 3)):
        path.write_bytes(data)
        swift("download", container, "results/run.out", "-o", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == data


def test_a_file_written_over_an_uploaded_object_is_downloaded_as_it_is(swift, container, file_side, tmp_path):
    (tmp_path / "in").write_bytes(b"from the client")
    swift("upload", container, "in", "--object-name", "o", cwd=tmp_path)
    file_side.path(container, "o").write_bytes(b"from the file side")
    swift("download", container, "o", "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"from the file side"
