"""Real clients against a running server.

The server is named by the environment: LB_AUTH (the URL of auth v1.0), LB_USER, LB_KEY, and, where the server
keeps objects as plain files, LB_ROOT (the directory that it serves). LB_RCLONE is rclone.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import urllib.parse
import uuid
from http.client import HTTPConnection

import pytest
import swiftclient


class Server:
    def __init__(self):
        self.auth = os.environ["LB_AUTH"]
        self.user = os.environ["LB_USER"]
        self.key = os.environ["LB_KEY"]
        self.url, self.token = swiftclient.get_auth(self.auth, self.user, self.key)
        self.base = self.url.split("/v1/")[0]
        self.account = self.url.rsplit("/", 1)[1]

    def raw(self, method, path, body=b"", **headers):
        """One request whose path goes out exactly as it is given below the account: python-swiftclient's HTTP
        library resolves dot segments. Returns (status, body)."""
        url = urllib.parse.urlsplit(self.url)
        http = HTTPConnection(url.hostname, url.port, timeout=60)
        http.putrequest(method, f"{url.path}/{path}", skip_accept_encoding=True)
        http.putheader("X-Auth-Token", self.token)
        http.putheader("Content-Length", str(len(body)))
        for name, value in headers.items():
            http.putheader(name.replace("_", "-"), value)
        http.endheaders(body)
        answer = http.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            http.close()

    def connection(self):
        return swiftclient.Connection(authurl=self.auth, user=self.user, key=self.key, retries=0)


class Files:
    """The file side: where an object is a plain file under its own name."""

    def __init__(self, server):
        root = os.environ.get("LB_ROOT")
        self.account = pathlib.Path(root) / server.account if root else None

    def path(self, container, name=""):
        return self.account / container / name

    def holds(self, container, name, data):
        """The object is a file of exactly this content; says nothing where there is no file side."""
        if self.account:
            assert self.path(container, name).read_bytes() == data

    def lacks(self, container, name=""):
        if self.account:
            assert not self.path(container, name).exists()


@pytest.fixture(scope="session")
def server():
    return Server()


@pytest.fixture(scope="session")
def files(server):
    return Files(server)


@pytest.fixture
def file_side(files):
    """For tests that write on the file side: skipped where there is none."""
    if not files.account:
        pytest.skip("this server keeps no plain files")
    return files


@pytest.fixture
def connection(server):
    opened = server.connection()
    yield opened
    opened.close()


@pytest.fixture
def container(server, connection):
    """A new container, emptied and deleted afterwards together with its segments."""
    name = "c-" + uuid.uuid4().hex[:12]
    connection.put_container(name)
    yield name
    for each in (name, name + "_segments"):
        remove(server, connection, each)


def remove(server, connection, container):
    try:
        _, rows = connection.get_container(container, full_listing=True)
    except swiftclient.ClientException as error:
        assert error.http_status == 404
        return
    for row in rows:
        # An expired object may still be listed.
        assert server.raw("DELETE", f"{container}/{urllib.parse.quote(row['name'])}")[0] in (204, 404)
    connection.delete_container(container)


@pytest.fixture(scope="session")
def swift(server):
    """Runs the `swift` command; returns what it printed."""
    program = pathlib.Path(sys.executable).with_name("swift")
    env = dict(os.environ, ST_AUTH=server.auth, ST_USER=server.user, ST_KEY=server.key)

    def run(*args, cwd=None, fails=False):
        done = subprocess.run(
            [program, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + (done.stderr if fails else "")

    return run


def md5(data):
    return hashlib.md5(data).hexdigest()


def content(size, seed=0):
    """Bytes that repeat nowhere near the size of a segment."""
    out = bytearray()
    n = seed * 1_000_003
    while len(out) < size:
        out += hashlib.sha256(str(n).encode()).digest()
        n += 1
    return bytes(out[:size])
