"""SwiftBridge: objects from inside and outside, its conditions, and how it goes."""

import os
import uuid

from conftest import Swift, Kube, bridge, namespace, outside, pod, wait_for


def test_a_bridge_says_what_is_true(tenant, main_bridge):
    status = tenant.get("swiftbridge/objects")["status"]
    true = {c["type"] for c in status["conditions"] if c["status"] == "True"}
    assert {"Ready", "ShareAccepted", "DirectoryReady", "Available", "AuthReady"} <= true
    assert status["readyReplicas"] == 1
    assert status["endpoints"] == [{"protocol": "swift", "url": "http://objects-swift.tenant.svc"}]
    table = tenant("get", "sbridge").stdout
    assert "READY" in table and "http://objects-swift.tenant.svc" in table
    assert "tenant/objects" in Kube().get("lustreshare/main")["status"]["bridges"]


def test_an_upload_is_a_file_and_a_file_is_an_object(tenant, main_share, swift, tmp_path):
    body = uuid.uuid4().hex
    (tmp_path / "upload").write_text(body)
    swift("upload", "photos", str(tmp_path / "upload"), "--object-name", "a/b")
    assert (main_share / "physics/AUTH_physics/photos/a/b").read_text() == body

    tenant.apply(pod("job", share="main"))
    tenant.wait("pod/job")
    assert tenant.sh("job", "cat /share/AUTH_physics/photos/a/b").stdout == body
    tenant.sh("job", "mkdir -p /share/AUTH_physics/results && echo made by a job > /share/AUTH_physics/results/one")
    assert swift("list", "results").stdout == "one\n"
    assert swift("download", "results", "one", "-o", "-").stdout == "made by a job\n"
    assert "ETag: 6f4922f45568161a8cdf4ad2299f6d23" not in swift("stat", "results", "one").stdout
    tenant.delete("pod/job")


def test_swift_from_inside_the_cluster(tenant, main_bridge, main_share):
    """python-swiftclient in a pod, by the service's address. The pod borrows the node's files for Python."""
    kube = namespace("inside")
    client = pod("client")
    client["spec"]["securityContext"] = {}
    shell = client["spec"]["containers"][0]
    shell["securityContext"] = {}
    shell["volumeMounts"] = [{"name": "node", "mountPath": "/host", "readOnly": True}]
    client["spec"]["volumes"] = [{"name": "node", "hostPath": {"path": "/"}}]
    kube.apply(client)
    kube.wait("pod/client")
    service = tenant.get("service/objects-swift")["spec"]
    url = f"http://{service['clusterIP']}:{service['ports'][0]['port']}"
    (main_share / "physics/AUTH_physics/inside").mkdir(parents=True, exist_ok=True)
    os.chown(main_share / "physics/AUTH_physics/inside", 1000, 1000)
    (main_share / "physics/AUTH_physics/inside/file").write_text("seen from a pod\n")
    command = [os.environ["LB_KUBECTL"], "-n", "inside", "exec", "client", "--", "chroot", "/host"]
    inside = Swift(url, [*command, os.environ["LB_SWIFT"]])
    assert inside("download", "inside", "file", "-o", "-").stdout == "seen from a pod\n"
    kube.delete("namespace/inside")


def test_a_wrong_key_is_refused(main_bridge, swift):
    wrong = Swift(main_bridge, [os.environ["LB_SWIFT"]])
    wrong.auth[-1] = "guess"
    done = wrong("list", check=False)
    assert done.returncode != 0 and "401" in done.stderr + done.stdout


def test_the_pod_can_do_nothing_but_serve(tenant, main_bridge):
    [found] = tenant.get("pods", "-l", "lustre-bridge.io/bridge=objects")["items"]
    spec, container = found["spec"], found["spec"]["containers"][0]
    assert spec["automountServiceAccountToken"] is False
    context = {**spec["securityContext"], **container["securityContext"]}
    assert context["runAsUser"] == 1000 and context["runAsNonRoot"] is True
    assert context["capabilities"]["drop"] == ["ALL"] and context["readOnlyRootFilesystem"] is True


def test_wrong_references_are_conditions(tenant, stranger, main_share, users):
    tenant.apply(bridge("lost", "nowhere"))
    assert "nowhere" in tenant.until("swiftbridge/lost", "ShareAccepted", "False", "ShareNotFound")["message"]
    stranger.apply(bridge("thief", "main"))
    refused = stranger.until("swiftbridge/thief", "ShareAccepted", "False", "NamespaceNotGranted")
    assert "stranger" in refused["message"]
    assert stranger.get("deployments")["items"] == []
    accounts = [{"name": "AUTH_x", "uid": 4242, "gid": 4242}]
    tenant.apply(bridge("posing", "main", accounts=accounts))
    tenant.until("swiftbridge/posing", "ShareAccepted", "False", "IdentityNotGranted")
    for kube, name in ((tenant, "lost"), (stranger, "thief"), (tenant, "posing")):
        kube.delete(f"swiftbridge/{name}")


def test_a_missing_secret_is_a_condition(tenant, main_share):
    tenant.apply(bridge("keyless", "main", auth={"credentials": {"secretRef": {"name": "absent"}}}))
    assert "absent" in tenant.until("swiftbridge/keyless", "AuthReady", "False", seconds=90)["message"]
    assert tenant.condition("swiftbridge/keyless", "Ready")["status"] == "False"
    tenant.delete("swiftbridge/keyless")


def test_accounts_get_their_directories(tenant, main_share, users):
    accounts = [{"name": "AUTH_physics", "directory": "projects/physics"}]
    tenant.apply(bridge("mapped", "main", subPath="mapped", accounts=accounts))
    tenant.wait("swiftbridge/mapped", seconds=90)
    swift = Swift(outside(tenant, "mapped"), [os.environ["LB_SWIFT"]])
    swift("post", "box")
    made = main_share / "physics/mapped/projects/physics"
    assert (made / "box").is_dir() and made.stat().st_uid == 1000
    tenant.delete("swiftbridge/mapped")
    assert (made / "box").is_dir()


def test_a_deleted_bridge_leaves_nothing_but_the_data(tenant, main_share, users):
    tenant.apply(bridge("brief", "main"))
    tenant.wait("swiftbridge/brief", seconds=90)
    tenant.delete("swiftbridge/brief")
    kinds = "deployments,services,configmaps,serviceaccounts,networkpolicies,pods"
    label = ("-l", "lustre-bridge.io/bridge=brief")
    wait_for(lambda: tenant.get(kinds, *label)["items"] == [])
    assert (main_share / "physics").is_dir()


def test_wrong_specifications_are_refused_with_our_words(tenant):
    for spec, words in (
        ({"replicas": 2}, "one replica"),
        ({"auth": {}}, "credentials"),
        ({"identity": {"mode": "Fixed"}}, "uid"),
        ({"subPath": "/etc"}, "subPath must be"),
        ({"accounts": [{"name": "a/b"}]}, "must not contain '/'"),
        ({"accounts": [{"name": "a", "uid": 5}]}, "both uid and gid"),
    ):
        assert words in tenant.refused(bridge("wrong", "main", **spec)), spec
