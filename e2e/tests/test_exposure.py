"""How a bridge is reached, and as whom it serves: certificates, Ingress, HTTPRoute, several identities."""

import os
import shutil
import ssl
import urllib.parse

import pytest

from conftest import Kube, Swift, bridge, directory, key_hash, namespace, optional_kinds, outside, run, share, wait_for


def certificate(tmp_path, name):
    """A kubernetes.io/tls Secret's data, of a certificate that says NAME."""
    key, cert = tmp_path / f"{name}.key", tmp_path / f"{name}.crt"
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-days", "2"),
        *("-keyout", str(key), "-out", str(cert)),
    )
    return {"tls.key": key.read_text(), "tls.crt": cert.read_text()}


def shown(url):
    """The certificate that a server shows, as PEM."""
    at = urllib.parse.urlparse(url)
    return ssl.get_server_certificate((at.hostname, at.port)).strip()


def test_a_certificate_is_shown_and_read_again(tenant, main_share, users, tmp_path):
    def put(data):
        metadata = {"name": "certificate"}
        tenant.apply(
            {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "stringData": data}
        )

    first, second = certificate(tmp_path, "first.example"), certificate(tmp_path, "second.example")
    put(first)
    exposure = {"service": {"type": "NodePort"}, "tls": {"secretRef": {"name": "certificate"}}}
    tenant.apply(bridge("secure", "main", subPath="secure", exposure=exposure))
    tenant.wait("swiftbridge/secure", seconds=90)
    status = tenant.get("swiftbridge/secure")["status"]
    assert status["endpoints"] == [{"protocol": "swift", "url": "https://secure-swift.tenant.svc"}]
    url = outside(tenant, "secure").replace("http:", "https:")
    assert shown(url) == first["tls.crt"].strip()
    client = Swift(url, [os.environ["LB_SWIFT"], "--insecure"])
    client("post", "box")
    [pod] = tenant.get("pods", "-l", "lustre-bridge.io/bridge=secure")["items"]
    put(second)

    def renewed():
        tenant.nudge(pod["metadata"]["name"])
        return shown(url) == second["tls.crt"].strip()

    wait_for(renewed, seconds=180, every=3)
    [after] = tenant.get("pods", "-l", "lustre-bridge.io/bridge=secure")["items"]
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    assert client("list").stdout == "box\n"
    tenant.delete("swiftbridge/secure")


def test_an_ingress_leads_to_the_service(tenant, main_share, users):
    exposure = {"ingress": {"host": "objects.example.org", "className": "public", "annotations": {"a.example/b": "c"}}}
    tenant.apply(bridge("public", "main", subPath="public", exposure=exposure))
    made = wait_for(lambda: tenant.get("ingress/public-swift"))
    assert made["metadata"]["annotations"]["a.example/b"] == "c"
    assert made["spec"]["ingressClassName"] == "public"
    [rule] = made["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert rule["host"] == "objects.example.org"
    port = tenant.get("service/public-swift")["spec"]["ports"][0]
    assert path["backend"]["service"]["name"] == "public-swift"
    assert path["backend"]["service"]["port"] in ({"name": port["name"]}, {"number": port["port"]})
    tenant.delete("swiftbridge/public")
    wait_for(lambda: tenant.get("ingress/public-swift") is None)


@pytest.fixture
def crowd():
    """A namespace whose share lets one bridge serve several identities, within bounds."""
    path = directory("crowd")
    kube = namespace("crowd", "baseline")
    within = {"uids": ["2000-2001"], "gids": ["2000-2001"]}
    access = {"namespace": "crowd", "identities": within, "bridges": "Many"}
    Kube().apply(share("crowd", access=[access]))
    Kube().wait("lustreshare/crowd")
    user = '[[user]]\naccount = "{}"\nname = "u"\nkey_hash = "{}"\ngroups = [".admin"]\n'
    hashed = key_hash("secret")
    secret = run(os.environ["LB_OBJECT_SERVER"], "generate-secret").stdout
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "users"},
            "stringData": {
                "users.toml": "".join(user.format(account, hashed) for account in ("one", "two")),
                "token.secret": secret,
            },
        }
    )
    yield kube, path
    kube("delete", "swiftbridges", "--all", "--timeout=60s")
    Kube().delete("lustreshare/crowd")
    kube.delete("namespace/crowd")
    shutil.rmtree(path)


def test_a_bridge_serves_each_account_as_its_own_identity(crowd, tmp_path):
    kube, path = crowd
    accounts = [{"name": f"AUTH_{n}", "uid": uid, "gid": uid} for n, uid in (("one", 2000), ("two", 2001))]
    kube.apply(bridge("all", "crowd", accounts=accounts))
    kube.wait("swiftbridge/all", seconds=90)
    url = outside(kube, "all")
    (tmp_path / "file").write_text("x")
    for name, uid in (("one", 2000), ("two", 2001)):
        client = Swift(url, [os.environ["LB_SWIFT"]])
        client.auth[3] = f"{name}:u"
        client("upload", "box", str(tmp_path / "file"), "--object-name", "made")
        made = (path / f"AUTH_{name}/box/made").stat()
        assert (made.st_uid, made.st_gid) == (uid, uid)
    [pod] = kube.get("pods", "-l", "lustre-bridge.io/bridge=all")["items"]
    capabilities = pod["spec"]["containers"][0]["securityContext"]["capabilities"]
    assert capabilities["drop"] == ["ALL"] and sorted(capabilities["add"]) == ["SETGID", "SETUID"]
    # Beyond the grant, nobody.
    kube.apply(bridge("beyond", "crowd", subPath="beyond", accounts=[{"name": "AUTH_x", "uid": 2002, "gid": 2000}]))
    kube.until("swiftbridge/beyond", "ShareAccepted", "False", "IdentityNotGranted")


@pytest.fixture
def optional(system):
    """What a bridge makes only where the cluster has it."""
    route = ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes", "Namespaced")
    monitor = ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors", "Namespaced")
    with optional_kinds(system, route, monitor):
        yield


def test_a_route_and_a_monitor_are_made_where_the_cluster_has_them(optional, tenant, main_share, users):
    route = {"host": "objects.example.org", "parentRefs": [{"name": "gateway", "namespace": "edge"}]}
    tenant.apply(bridge("routed", "main", subPath="routed", exposure={"httpRoute": route}))
    made = wait_for(lambda: tenant.get("httproutes.gateway.networking.k8s.io/routed-swift"), seconds=90)
    assert made["spec"]["hostnames"] == ["objects.example.org"]
    assert made["spec"]["parentRefs"][0]["name"] == "gateway"
    port = tenant.get("service/routed-swift")["spec"]["ports"][0]["port"]
    assert made["spec"]["rules"][0]["backendRefs"][0] == {"name": "routed-swift", "port": port}
    monitor = wait_for(lambda: tenant.get("servicemonitors.monitoring.coreos.com/routed-swift"))
    assert monitor["spec"]["endpoints"]
    tenant.wait("swiftbridge/routed", seconds=90)
    tenant.delete("swiftbridge/routed")
    wait_for(lambda: tenant.get("httproutes.gateway.networking.k8s.io/routed-swift") is None)
