"""python-swiftclient as a library."""

import os
import time
from urllib.parse import quote

import pytest
import swiftclient
from conftest import content, md5
from swiftclient.service import SwiftService, SwiftUploadObject


def status(call, *args, **kwargs):
    with pytest.raises(swiftclient.ClientException) as error:
        call(*args, **kwargs)
    return error.value.http_status


def test_authentication(server):
    assert server.url.startswith("http") and server.token
    assert status(swiftclient.get_auth, server.auth, server.user, "wrong") == 401
    assert status(swiftclient.get_auth, server.auth, "no:one", "x") == 401
    assert status(swiftclient.head_account, server.url, "AUTH_tk-not-a-token") == 401


def test_put_get_head_delete(connection, container, files):
    data = content(70_000)
    etag = connection.put_object(container, "o", data, content_type="text/x-own", etag=md5(data))
    assert etag == md5(data)
    files.holds(container, "o", data)
    headers, got = connection.get_object(container, "o")
    assert got == data
    assert (headers["etag"], headers["content-type"]) == (md5(data), "text/x-own")
    assert connection.head_object(container, "o")["content-length"] == "70000"
    connection.delete_object(container, "o")
    files.lacks(container, "o")
    assert status(connection.head_object, container, "o") == 404
    assert status(connection.delete_object, container, "o") == 404


def test_a_wrong_etag_is_422_and_leaves_what_was_there(connection, container, files):
    connection.put_object(container, "o", b"old")
    assert status(connection.put_object, container, "o", b"new", etag=md5(b"other")) == 422
    files.holds(container, "o", b"old")
    assert connection.get_object(container, "o")[1] == b"old"


def test_chunked_upload_of_unknown_length(connection, container, files):
    connection.put_object(container, "o", (content(10_000, n) for n in range(5)))
    data = b"".join(content(10_000, n) for n in range(5))
    files.holds(container, "o", data)
    assert connection.get_object(container, "o")[1] == data


def test_download_in_pieces_and_by_range(connection, container):
    data = content(200_000)
    connection.put_object(container, "o", data)
    _, body = connection.get_object(container, "o", resp_chunk_size=4096)
    assert b"".join(body) == data
    headers, got = connection.get_object(container, "o", headers={"Range": "bytes=100-199"})
    assert (got, headers["content-range"]) == (data[100:200], "bytes 100-199/200000")


def test_metadata_of_all_three(connection, container, files):
    connection.put_object(container, "o", b"x", headers={"X-Object-Meta-Name": "späß", "X-Object-Meta-B": "1"})
    assert connection.head_object(container, "o")["x-object-meta-name"] == "späß"
    connection.post_object(container, "o", {"X-Object-Meta-B": "2"})
    headers = connection.head_object(container, "o")
    assert headers["x-object-meta-b"] == "2" and "x-object-meta-name" not in headers, "POST replaces all of it"
    files.holds(container, "o", b"x")
    connection.post_container(container, {"X-Container-Meta-A": "1"})
    connection.post_container(container, {"X-Container-Meta-B": "2"})
    assert connection.head_container(container)["x-container-meta-a"] == "1", "a container's POST adds"
    connection.post_container(container, {"X-Remove-Container-Meta-A": "x"})
    assert "x-container-meta-a" not in connection.head_container(container)
    connection.post_account({"X-Account-Meta-A": "1"})
    assert connection.head_account()["x-account-meta-a"] == "1"
    connection.post_account({"X-Account-Meta-A": ""})
    assert "x-account-meta-a" not in connection.head_account()


def test_listings(connection, container):
    names = ["a", "a/b", "a-c", "b/1", "b/2", "é", "z z"]
    for name in names:
        connection.put_object(container, name, name.encode())
    in_order = sorted(names, key=str.encode)

    def list_names(**query):
        return [row.get("name", row.get("subdir")) for row in connection.get_container(container, **query)[1]]

    assert list_names() == in_order
    assert list_names(limit=3) == in_order[:3]
    assert list_names(marker="a/b") == in_order[in_order.index("a/b") + 1 :]
    assert list_names(end_marker="b/1") == in_order[: in_order.index("b/1")]
    assert list_names(prefix="b/") == ["b/1", "b/2"]
    assert list_names(delimiter="/") == ["a", "a-c", "a/", "b/", "z z", "é"]
    assert list_names(query_string="reverse=true") == in_order[::-1]
    row = connection.get_container(container, prefix="a/b")[1][0]
    assert (row["bytes"], row["hash"]) == (3, md5(b"a/b"))
    assert row["content_type"] == "application/octet-stream" and row["last_modified"]
    assert status(connection.delete_container, container) == 409, "it is not empty"


# Names that a path of a file system cannot hold as they stand, beside each other in one container.
HARD_NAMES = ["p//q", "./z", "w/../v", "/leading", "trailing/", "..", "n" * 300, "x/" + "y" * 255, "tab\there", "%41"]


def test_names_that_are_no_paths(server, connection, container):
    for name in HARD_NAMES:
        assert server.raw("PUT", f"{container}/{quote(name)}", name.encode())[0] == 201, name
    listed = [row["name"] for row in connection.get_container(container)[1]]
    assert listed == sorted(HARD_NAMES)
    for name in HARD_NAMES:
        assert server.raw("GET", f"{container}/{quote(name)}") == (200, name.encode())
    for name in HARD_NAMES:
        assert server.raw("DELETE", f"{container}/{quote(name)}")[0] == 204, name
    assert connection.get_container(container)[1] == []


def test_an_object_beside_objects_below_its_name(connection, container, files):
    connection.put_object(container, "a", b"one")
    connection.put_object(container, "a/b", b"two")
    assert connection.get_object(container, "a")[1] == b"one"
    files.holds(container, "a/b", b"two")
    connection.delete_object(container, "a/b")
    assert connection.get_object(container, "a")[1] == b"one"
    assert status(connection.head_object, container, "a/b") == 404


def test_copy_of_an_object(connection, container, files):
    connection.put_object(container, "from", b"data", content_type="text/x-own", headers={"X-Object-Meta-A": "1"})
    connection.copy_object(container, "from", f"/{container}/to")
    files.holds(container, "to", b"data")
    headers = connection.head_object(container, "to")
    assert (headers["content-type"], headers["x-object-meta-a"]) == ("text/x-own", "1")


def test_an_object_expires(connection, container):
    connection.put_object(container, "o", b"x", headers={"X-Delete-After": "1"})
    assert connection.head_object(container, "o")["x-delete-at"]
    time.sleep(2.1)
    assert status(connection.get_object, container, "o") == 404


def test_the_newest_timestamp_wins(connection, container, files):
    now = time.time()
    connection.put_object(container, "o", b"new", headers={"X-Timestamp": f"{now:.5f}"})
    # A client's X-Timestamp is for the servers behind it; from outside, the later request wins.
    connection.put_object(container, "o", b"newer")
    assert connection.get_object(container, "o")[1] == b"newer"
    files.holds(container, "o", b"newer")


def test_container_read_acl(server, connection, container):
    connection.put_object(container, "o", b"x")
    assert status(swiftclient.get_object, server.url, "", container, "o") == 401
    connection.post_container(container, {"X-Container-Read": ".r:*"})
    assert swiftclient.get_object(server.url, "", container, "o")[1] == b"x"
    assert status(swiftclient.put_object, server.url, "", container, "p", b"y") == 401


def test_service_uploads_segments_at_once(server, container, connection, files, tmp_path):
    data = content((3 << 20) + 5)
    path = tmp_path / "big"
    path.write_bytes(data)
    options = {"auth": server.auth, "user": server.user, "key": server.key, "segment_size": str(1 << 20), "use_slo": True}
    with SwiftService(options=options) as service:
        results = list(service.upload(container, [SwiftUploadObject(str(path), object_name="big")]))
        assert all(r["success"] for r in results), results
        down = list(service.download(container, ["big"], {"out_file": str(tmp_path / "out")}))
        assert all(r["success"] for r in down), down
    assert (tmp_path / "out").read_bytes() == data


def test_a_file_is_at_once_an_object(connection, container, file_side):
    path = file_side.path(container, "in/by/hand.txt")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"by hand")
    headers = connection.head_object(container, "in/by/hand.txt")
    assert headers["content-length"] == "7" and headers["content-type"] == "text/plain"
    headers, body = connection.get_object(container, "in/by/hand.txt")
    assert (body, headers["etag"]) == (b"by hand", md5(b"by hand"))
    assert [row["name"] for row in connection.get_container(container)[1]] == ["in/by/hand.txt"]
    assert connection.head_container(container)["x-container-object-count"] in ("0", "1")
    path.rename(path.with_name("moved"))
    assert status(connection.head_object, container, "in/by/hand.txt") == 404
    assert connection.get_object(container, "in/by/moved")[1] == b"by hand"
    os.unlink(path.with_name("moved"))
    assert connection.get_container(container)[1] == []


def test_an_append_on_the_file_side_changes_the_etag(connection, container, file_side):
    connection.put_object(container, "log", b"one\n")
    with open(file_side.path(container, "log"), "ab") as log:
        log.write(b"two\n")
    headers = connection.head_object(container, "log")
    assert headers["content-length"] == "8"
    assert headers.get("etag") in (None, md5(b"one\ntwo\n")), "never the old one"
    headers, body = connection.get_object(container, "log")
    assert (body, headers["etag"]) == (b"one\ntwo\n", md5(b"one\ntwo\n"))


def test_a_directory_made_by_hand_is_a_container(connection, file_side):
    directory = file_side.path("made-by-hand")
    directory.mkdir()
    (directory / "f").write_bytes(b"x")
    assert "made-by-hand" in [row["name"] for row in connection.get_account()[1]]
    assert connection.get_object("made-by-hand", "f")[1] == b"x"
    connection.delete_object("made-by-hand", "f")
    connection.delete_container("made-by-hand")
    assert not directory.exists()
