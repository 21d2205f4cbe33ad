"""rclone: a sync in and out, with its own comparison."""

import json
import os
import subprocess

import pytest
from conftest import content


@pytest.fixture
def rclone(server, tmp_path):
    program = os.environ.get("LB_RCLONE")
    if not program:
        pytest.skip("LB_RCLONE is not set")
    env = dict(
        os.environ,
        RCLONE_CONFIG=str(tmp_path / "rclone.conf"),
        RCLONE_CONFIG_LB_TYPE="swift",
        RCLONE_CONFIG_LB_AUTH=server.auth,
        RCLONE_CONFIG_LB_USER=server.user,
        RCLONE_CONFIG_LB_KEY=server.key,
    )

    def run(*args, fails=False):
        done = subprocess.run([program, *map(str, args)], env=env, capture_output=True, text=True, timeout=180)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def tree(tmp_path):
    """A directory of files, and what is in it."""
    root = tmp_path / "tree"
    names = {
        "a.txt": b"a",
        "a/below.txt": b"beside a name of its own",
        "empty": b"",
        "deep/er/and/deeper/f": content(100_000),
        "späß/ü ö.txt": b"text",
        "percent%41&?#": b"odd",
    }
    for name, data in names.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root, names


def test_sync_in_check_change_and_sync_out(rclone, container, files, tree, tmp_path):
    root, names = tree
    remote = f"lb:{container}"
    rclone("sync", root, remote)
    rclone("check", root, remote)
    for name, data in names.items():
        files.holds(container, name, data)

    (root / "a.txt").write_bytes(b"changed")
    (root / "empty").unlink()
    (root / "new").write_bytes(b"new")
    rclone("check", root, remote, fails=True)
    rclone("sync", root, remote)
    rclone("check", root, remote)
    files.lacks(container, "empty")
    files.holds(container, "new", b"new")

    rclone("sync", remote, tmp_path / "out")
    rclone("check", root, tmp_path / "out")


def test_listing_has_sizes_and_times(rclone, container, tree):
    root, names = tree
    os.utime(root / "a.txt", (1_000_000_000, 1_000_000_000))
    rclone("copy", root, f"lb:{container}")
    rows = json.loads(rclone("lsjson", "-R", "--files-only", f"lb:{container}"))
    assert {row["Path"]: row["Size"] for row in rows} == {name: len(data) for name, data in names.items()}
    time = next(row["ModTime"] for row in rows if row["Path"] == "a.txt")
    assert time.startswith("2001-09-09T01:46:40"), "rclone keeps it in X-Object-Meta-Mtime"


def test_large_file_in_chunks(rclone, container, tmp_path):
    (tmp_path / "in").mkdir()
    data = content((5 << 20) + 3)
    (tmp_path / "in" / "big").write_bytes(data)
    rclone("copy", "--swift-chunk-size", "2Mi", tmp_path / "in", f"lb:{container}")
    rclone("copy", f"lb:{container}", tmp_path / "out")
    assert (tmp_path / "out" / "big").read_bytes() == data


def test_a_large_file_goes_with_its_chunks(rclone, container, connection, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "big").write_bytes(content(3 << 20))
    rclone("copy", "--swift-chunk-size", "1Mi", tmp_path / "in", f"lb:{container}")
    # rclone deletes chunks in one request (POST ?bulk-delete), whatever /info says.
    rclone("deletefile", f"lb:{container}/big")
    assert connection.get_container(container)[1] == []
    assert connection.get_container(container + "_segments")[1] == []


def test_move_within_the_server(rclone, container, connection, files):
    connection.put_object(container, "from", b"data")
    rclone("moveto", f"lb:{container}/from", f"lb:{container}/to/here")
    files.holds(container, "to/here", b"data")
    files.lacks(container, "from")


def test_check_against_the_directory_itself(rclone, container, file_side, tree):
    root, _ = tree
    rclone("copy", root, f"lb:{container}")
    rclone("check", f"lb:{container}", file_side.path(container))
    by_hand = file_side.path(container, "by/hand")
    by_hand.parent.mkdir()
    by_hand.write_bytes(b"by hand")
    rclone("check", f"lb:{container}", file_side.path(container))
