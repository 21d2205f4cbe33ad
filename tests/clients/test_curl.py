"""curl: what HTTP itself offers."""

import email
import os
import signal
import subprocess
import time
from urllib.parse import quote

import pytest
from conftest import content, md5


@pytest.fixture
def curl(server):
    """Runs curl with the token; returns (status, headers, body). Paths go out exactly as they are given."""

    def run(path, *args, token=True, data=None):
        url = path if path.startswith("http") else f"{server.url}/{path}"
        auth = ["-H", f"X-Auth-Token: {server.token}"] if token else []
        done = subprocess.run(
            ["curl", "-sS", "-i", "--http1.1", "--path-as-is", "--max-time", "60", *auth, *args, url],
            input=data,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head, _, body = body.partition(b"\r\n\r\n")
        first, _, lines = head.partition(b"\r\n")
        return int(first.split()[1]), email.message_from_bytes(lines), body

    return run


@pytest.fixture
def stored(connection, container):
    data = content(10_000)
    connection.put_object(container, "o", data, content_type="text/x-own")
    return data


def test_ranges(curl, container, stored):
    for spec, part in [("0-0", stored[:1]), ("100-199", stored[100:200]), ("9990-", stored[9990:]), ("-7", stored[-7:])]:
        status, headers, body = curl(f"{container}/o", "-r", spec)
        assert (status, body) == (206, part)
        assert headers["Content-Length"] == str(len(part))
        assert headers["Content-Range"].endswith("/10000")
    assert curl(f"{container}/o", "-r", "0-99999")[2] == stored
    status, headers, _ = curl(f"{container}/o", "-r", "10000-")
    assert (status, headers["Content-Range"]) == (416, "bytes */10000")


def test_several_ranges(curl, container, stored):
    status, headers, body = curl(f"{container}/o", "-r", "0-9,100-199,-5")
    assert status == 206
    kind = headers["Content-Type"]
    assert kind.startswith("multipart/byteranges;boundary=")
    message = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    parts = [(p["Content-Range"], p["Content-Type"], p.get_payload(decode=True)) for p in message.get_payload()]
    assert [p[0] for p in parts] == ["bytes 0-9/10000", "bytes 100-199/10000", "bytes 9995-9999/10000"]
    assert all(p[1] == "text/x-own" for p in parts)
    assert headers["Content-Length"] == str(len(body))
    assert stored[100:200] in body


def test_conditionals(curl, container, stored):
    etag = md5(stored)
    get = lambda *args: curl(f"{container}/o", *args)[0]  # noqa: E731
    _, headers, _ = curl(f"{container}/o")
    assert headers["ETag"].strip('"') == etag
    modified = headers["Last-Modified"]
    assert get("-H", f'If-None-Match: "{etag}"') == 304
    assert get("-H", "If-None-Match: *") == 304
    assert get("-H", 'If-None-Match: "other"') == 200
    assert get("-H", f'If-Match: "{etag}"') == 200
    assert get("-H", 'If-Match: "other"') == 412
    assert get("-H", f"If-Modified-Since: {modified}") == 304
    assert get("-H", "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT") == 200
    assert get("-H", "If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT") == 412


def test_put_only_if_it_is_new(curl, container, files):
    put = lambda data: curl(f"{container}/n", "-T", "-", "-H", "If-None-Match: *", data=data)[0]  # noqa: E731
    assert put(b"first") == 201
    assert put(b"second") == 412
    files.holds(container, "n", b"first")


def test_chunked_upload(curl, container, files):
    data = content(1_000_000)
    status, headers, _ = curl(f"{container}/o", "-T", "-", "-H", "Transfer-Encoding: chunked", data=data)
    assert status == 201 and headers["ETag"].strip('"') == md5(data)
    files.holds(container, "o", data)


def test_expect_continue(curl, container, files, tmp_path):
    data = content(300_000)
    (tmp_path / "f").write_bytes(data)
    args = ("-T", str(tmp_path / "f"), "-H", "Expect: 100-continue")
    assert curl(f"{container}/o", *args)[0] == 201
    files.holds(container, "o", data)
    assert curl(f"{container}/o", *args, token=False)[0] == 401


def test_head_has_the_headers_of_get(curl, container, stored):
    _, got, _ = curl(f"{container}/o")
    status, headers, body = curl(f"{container}/o", "-I")
    assert (status, body) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified", "Accept-Ranges", "X-Timestamp"):
        assert headers[name] == got[name], name
    assert headers["X-Trans-Id"] != got["X-Trans-Id"]


def test_copy_both_ways(curl, container, stored, files):
    assert curl(f"{container}/o", "-X", "COPY", "-H", f"Destination: {container}/by copy")[0] == 201
    files.holds(container, "by copy", stored)
    assert curl(f"{container}/put", "-X", "PUT", "-H", f"X-Copy-From: /{container}/by%20copy", "-H", "Content-Length: 0")[0] == 201
    files.holds(container, "put", stored)
    assert curl(f"{container}/nothing", "-X", "COPY", "-H", f"Destination: {container}/x")[0] == 404


def test_paths_go_through_as_they_are(curl, container, server):
    for path, name in [("a/../b", "a/../b"), ("./c", "./c"), ("d//e", "d//e"), ("%2e%2e/f", "../f"), ("g%2Fh", "g/h")]:
        assert curl(f"{container}/{path}", "-T", "-", data=path.encode())[0] == 201, path
        assert server.raw("GET", f"{container}/{quote(name)}") == (200, path.encode())


def test_listing_formats(curl, container, stored):
    status, headers, body = curl(f"{container}?format=xml")
    assert status == 200 and headers["Content-Type"].startswith("application/xml")
    assert body.startswith(b"<?xml") and b"<name>o</name>" in body
    assert curl(container)[2] == b"o\n"
    assert b'"name": "o"' in curl(container, "-H", "Accept: application/json")[2]
    assert curl(f"{container}?prefix=none")[0] == 204


def test_without_a_token(curl, container, stored):
    status, headers, _ = curl(f"{container}/o", token=False)
    assert status == 401 and headers["WWW-Authenticate"].startswith("Swift realm=")
    assert curl(f"{container}/o", "-H", "X-Auth-Token: AUTH_tkwrong", token=False)[0] == 401


def test_health_and_info(curl, server):
    assert curl(f"{server.base}/healthcheck", token=False)[2] == b"OK"
    status, headers, body = curl(f"{server.base}/info", token=False)
    assert status == 200 and headers["Content-Type"].startswith("application/json") and b'"swift"' in body


def test_a_client_that_goes_away_leaves_what_was_there(server, container, connection, files):
    connection.put_object(container, "o", b"whole")
    url = f"{server.url}/{container}/o"
    head = ["-H", f"X-Auth-Token: {server.token}", "-H", "Content-Length: 67108864", "-H", "Transfer-Encoding:"]
    child = subprocess.Popen(["curl", "-s", *head, "-T", "-", url], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    child.stdin.write(content(4 << 20))
    child.stdin.flush()
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    time.sleep(0.5)
    assert connection.get_object(container, "o")[1] == b"whole"
    assert [row["name"] for row in connection.get_container(container)[1]] == ["o"]
    if files.account:
        assert [p.name for p in files.path(container).iterdir()] == ["o"], "nothing is left behind"


def test_a_symlink_that_leads_out_is_no_object(curl, container, file_side, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    file_side.path(container, "out").symlink_to(tmp_path / "secret")
    os.mkfifo(file_side.path(container, "fifo"))
    (file_side.path(container, "in")).write_bytes(b"inside")
    file_side.path(container, "link").symlink_to("in")
    assert curl(f"{container}/out")[0] == 404
    assert curl(f"{container}/fifo")[0] == 404
    assert curl(f"{container}/link")[2] == b"inside"
    assert curl(container)[2] == b"in\nlink\n"
    for name in ("out", "fifo", "link"):
        file_side.path(container, name).unlink()
