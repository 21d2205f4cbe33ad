"""What a tenant tries beyond its grant, with a token of its own and the role `edit` in its namespace.

Each attempt fails for the reason that is meant to stop it, and the same within its rights works.
"""

import contextlib
import json
import os
import pathlib
import uuid

import pytest
import yaml

from conftest import SYSTEM, UID, Kube, bridge, claim, directory, namespace, pod, share, wait_for

PLUGIN = "/var/lib/kubelet/plugins/csi.lustre-bridge.io"
DRIVER = "csi.lustre-bridge.io"


@pytest.fixture(scope="session")
def member(tenant, tmp_path_factory):
    """kubectl as a ServiceAccount of the tenant's, by its token."""
    user = {"kind": "ServiceAccount", "name": "member", "namespace": "tenant"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}
    tenant.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "member"}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "member"},
            "roleRef": role,
            "subjects": [user],
        },
    )
    config = json.loads(tenant("config", "view", "--raw", "--minify", "-o", "json").stdout)
    config["users"] = [{"name": "member", "user": {"token": tenant("create", "token", "member").stdout.strip()}}]
    config["contexts"] = [{"name": "member", "context": {"cluster": config["clusters"][0]["name"], "user": "member"}}]
    config["current-context"] = "member"
    file = tmp_path_factory.mktemp("member") / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    kube = Kube("tenant", str(file))
    whoami = json.loads(kube("auth", "whoami", "-o", "json").stdout)
    assert whoami["status"]["userInfo"]["username"] == "system:serviceaccount:tenant:member"
    return kube


@contextlib.contextmanager
def made(kube, *objects):
    """The objects, and afterwards none of them."""
    kube.apply(*objects)
    try:
        yield
    finally:
        for one in reversed(objects):
            kube.delete(f"{one['kind']}/{one['metadata']['name']}")


@pytest.fixture
def job(member, main_share):
    """A pod of the tenant's with its grant at /share."""
    with made(member, pod("escalation", share="main")):
        member.wait("pod/escalation")
        yield "escalation"


@pytest.fixture(scope="module")
def whole(tenant):
    """A share granted as a whole, whose uppermost directory is the tenant's to write to; its storage class."""
    path = directory("tenants-own")
    os.chown(path, UID, UID)
    kube = Kube()
    kube.apply(share("tenants-own", access=[{"namespace": "tenant"}], provisioning={"quota": "Advisory"}))
    kube.wait("lustreshare/tenants-own")
    yield path
    for volume in kube.get("pv")["items"]:
        if volume["spec"].get("storageClassName") == "tenants-own":
            kube.delete(f"pv/{volume['metadata']['name']}")
    kube.delete("lustreshare/tenants-own")


def fails(done, *words):
    assert done.returncode != 0, f"it was allowed: {done.stdout}"
    for word in words:
        assert word in done.stderr, done.stderr


def with_volume(one, source):
    """The pod with a volume of another kind at /stolen."""
    one["spec"]["volumes"].append({"name": "stolen", **source})
    one["spec"]["containers"][0]["volumeMounts"].append({"name": "stolen", "mountPath": "/stolen"})
    return one


def test_another_uid(member, job, main_share):
    root = pod("root", share="main")
    root["spec"]["securityContext"].update(runAsUser=0, runAsNonRoot=False)
    refused = member.refused(root)
    assert 'violates PodSecurity "restricted' in refused and "runAsUser=0" in refused
    capable = pod("capable", share="main")
    capable["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] = ["SETUID"]
    refused = member.refused(capable)
    assert 'violates PodSecurity "restricted' in refused and "SETUID" in refused

    others = main_share / "physics" / uuid.uuid4().hex
    others.mkdir(mode=0o700)
    (others / "file").write_text("another's")
    os.chown(others, 4242, 4242)
    fails(member.exec(job, "cat", f"/share/{others.name}/file", check=False), "Permission denied")
    # An image whose program is root's and has the set-user-id bit would gain nothing either.
    assert "NoNewPrivs:\t1" in member.exec(job, "cat", "/proc/self/status").stdout

    os.chown(others, UID, UID)
    assert member.exec(job, "cat", f"/share/{others.name}/file").stdout == "another's"


def test_another_path(member, main_share):
    upwards = pod("upwards", share="main")
    upwards["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "../.."
    assert "must not contain '..'" in member.refused(upwards)
    # What only the kubelet gets to see.
    mount = {"name": "share", "mountPath": "/share", "subPathExpr": "$(UP)"}
    upwards["spec"]["containers"][0].update(volumeMounts=[mount], env=[{"name": "UP", "value": "../.."}])
    with made(member, upwards):
        member.event("upwards", "must not contain '..'")

    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "own"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "csi": {"driver": DRIVER, "volumeHandle": "main/6f1c7d0e-0000-4000-8000-000000000000"},
        },
    }
    parameters = {"share": "main", "directoryTemplate": "physics/${pv.name}"}
    own_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "own"},
        "provisioner": DRIVER,
        "parameters": parameters,
    }
    for one, kind in (
        (volume, "persistentvolumes"),
        (own_class, "storageclasses"),
        (share("own", access=[{"namespace": "tenant"}]), "lustreshares"),
    ):
        fails(member("create", "-f", "-", stdin=yaml.safe_dump(one), check=False), "Forbidden", kind)
    more = '{"spec":{"access":[{"namespace":"tenant"}]}}'
    fails(member("patch", "lustreshare/main", "--type=merge", "-p", more, check=False), "Forbidden", "lustreshares")
    # A namespace's labels may be what a share selects by.
    fails(member("label", "namespace", "tenant", "team=chemistry", "--overwrite", check=False), "Forbidden", "namespaces")

    beneath = pod("beneath", share="main")
    beneath["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "a/b"
    with made(member, beneath):
        member.wait("pod/beneath")
        member.sh("beneath", "echo mine > /share/file")
    assert (main_share / "physics/a/b/file").read_text() == "mine\n"


def test_the_drivers_socket(member, job):
    thief = with_volume(pod("thief"), {"hostPath": {"path": f"{PLUGIN}/csi.sock"}})
    refused = member.refused(thief)
    assert 'violates PodSecurity "restricted' in refused and "hostPath" in refused
    assert member.sh(job, "ls -d /var/lib/kubelet /csi", check=False).stdout == ""
    [node] = Kube().get("nodes")["items"]
    proxy = f"/api/v1/nodes/{node['metadata']['name']}/proxy/metrics"
    fails(member("get", "--raw", proxy, check=False), "Forbidden", "nodes/proxy")
    with made(member, with_volume(pod("modest"), {"emptyDir": {}})):
        member.wait("pod/modest")


def test_a_record(member, whole):
    """The whole share, its uppermost directory included, is the tenant's; the driver's records are not."""
    records = whole / ".lb~dcsi"
    before = sorted(p.name for p in (records / "volumes").iterdir())
    assert before
    inside = pod("inside", share="tenants-own")
    mount = {"name": "share", "mountPath": "/records", "subPath": ".lb~dcsi"}
    inside["spec"]["containers"][0]["volumeMounts"].append(mount)
    with made(member, pod("above", share="tenants-own"), inside):
        member.wait("pod/above")
        assert member.sh("above", "ls -A /share/.lb~dcsi", check=False).stdout == ""
        for command, words in (
            ("busybox umount /share/.lb~dcsi", "must be superuser|Operation not permitted"),
            ("busybox umount -l /share/.lb~dcsi", "must be superuser|Operation not permitted"),
            ("busybox unshare -Urm busybox umount /share/.lb~dcsi", "Operation not permitted|Invalid argument"),
            ("busybox mv /share/.lb~dcsi /share/moved", "busy|Permission denied|Operation not permitted"),
            ("busybox rmdir /share/.lb~dcsi", "busy|Permission denied|Operation not permitted"),
            ("echo {} > /share/.lb~dcsi/volumes.json", "Permission denied|Read-only|nonexistent"),
        ):
            done = member.sh("above", command, check=False)
            assert done.returncode != 0, command
            assert any(word in done.stderr for word in words.split("|")), f"{command}: {done.stderr}"
        # A part of the volume shows no more than the whole.
        member.wait("pod/inside")
        assert member.sh("inside", "ls -A /records", check=False).stdout == ""
        member.sh("above", "echo mine > /share/beside-the-records")
    assert (whole / "beside-the-records").read_text() == "mine\n"
    assert sorted(p.name for p in (records / "volumes").iterdir()) == before
    assert records.stat().st_mode & 0o7777 == 0o700 and records.stat().st_uid == 0


def test_another_tenants_volume(member, main_share):
    kube = Kube()
    other = namespace("neighbour")
    other.apply(claim("secrets", "main"))
    wait_for(lambda: other.get("pvc/secrets")["status"]["phase"] == "Bound")
    volume = other.get("pvc/secrets")["spec"]["volumeName"]
    theft = claim("theft", "main")
    theft["spec"]["volumeName"] = volume
    with made(member, theft, pod("thief", stolen="theft")):
        member.event("theft", volume, "already bound to a different claim")
        assert member.get("pvc/theft")["status"]["phase"] == "Pending"
        assert member.get("pod/thief")["status"]["phase"] == "Pending"
    # Not its own volume either, under another name.
    own = kube.get("lustreshare/main")["status"]["grants"][0]
    again = claim("again", "")
    again["spec"]["volumeName"] = next(
        v["metadata"]["name"]
        for v in kube.get("pv")["items"]
        if v["spec"]["claimRef"]["name"] == own["claimName"] and v["spec"]["claimRef"]["namespace"] == "tenant"
    )
    with made(member, again):
        member.event("again", "already bound to a different claim")
    fails(member("get", "pv", volume, check=False), "Forbidden", "persistentvolumes")
    kube.delete("namespace/neighbour")


def test_an_inline_volume(member, main_share):
    """Pod Security lets CSI volumes pass: the driver's own declaration is what stops this."""
    attributes = {"share": "main", "volumeHandle": "main/whatever", "path": "/"}
    inline = with_volume(pod("inline"), {"csi": {"driver": DRIVER, "volumeAttributes": attributes}})
    with made(member, inline):
        member.event("inline", 'volume mode "Ephemeral" not supported by driver csi.lustre-bridge.io')
        assert member.get("pod/inline")["status"]["phase"] == "Pending"
    # A claim that lives as long as its pod is made by the storage class, as any other.
    template = {"spec": claim("unused", "main")["spec"]}
    with made(member, with_volume(pod("brief"), {"ephemeral": {"volumeClaimTemplate": template}})):
        member.wait("pod/brief")


def test_a_secret_of_another_namespace(member, stranger, main_share):
    name = f"theirs-{uuid.uuid4().hex[:8]}"
    data = {"users.toml": "stranger", "token.secret": "stranger"}
    stranger.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
    elsewhere = {"credentials": {"secretRef": {"name": name, "namespace": "stranger"}}}
    assert "unknown field" in member.refused(bridge("spy", "main", auth=elsewhere))
    done = member("create", "--validate=false", "-f", "-", stdin=yaml.safe_dump(bridge("spy", "main", auth=elsewhere)))
    assert done.returncode == 0
    try:
        assert "namespace" not in member.get("swiftbridge/spy")["spec"]["auth"]["credentials"]["secretRef"]
        assert name in member.until("swiftbridge/spy", "AuthReady", "False", seconds=90)["message"]
    finally:
        member.delete("swiftbridge/spy")
    path = {"credentials": {"secretRef": {"name": f"../stranger/{name}"}}}
    assert "the name of an object of this namespace must be" in member.refused(bridge("spy", "main", auth=path))
    fails(Kube("stranger", member.kubeconfig)("get", "secret", name, check=False), "Forbidden", "secrets")


def test_into_the_bridges_pod(member, main_bridge):
    target = "deploy/objects-swift"
    assert "object-server" in member.exec(target, "/bin/object-server", "--version").stdout
    for program in ("sh", "/bin/sh", "/bin/busybox", "cat"):
        why = "no such file" if "/" in program else "not found"
        fails(member.exec(target, program, check=False), f'exec: "{program}"', why)
    [found] = member.get("pods", "-l", "lustre-bridge.io/bridge=objects")["items"]
    volumes = found["spec"]["volumes"]
    assert not [v for v in volumes if "projected" in v or "hostPath" in v]
    assert [v["secret"]["secretName"] for v in volumes if "secret" in v] == ["users"]
    assert allowed(member, "objects-swift") == allowed(member, "default")
    system = Kube(SYSTEM, member.kubeconfig)
    for pod_of in ("deploy/lustre-bridge-operator", "ds/lustre-bridge-csi-node", "deploy/lustre-bridge-csi-controller"):
        fails(system.exec(pod_of, "/bin/sh", check=False), "Forbidden", f'in the namespace "{SYSTEM}"')
    for name in [p["metadata"]["name"] for p in Kube(SYSTEM).get("pods")["items"]]:
        fails(system.exec(name, "/bin/sh", check=False), "Forbidden", f'in the namespace "{SYSTEM}"')
    fails(system("create", "token", "lustre-bridge-csi-node", check=False), "forbidden", "serviceaccounts/token")


def allowed(kube, account):
    """What a ServiceAccount may do."""
    config = yaml.safe_load(pathlib.Path(kube.kubeconfig).read_text())
    config["users"][0]["user"] = {"token": kube("create", "token", account).stdout.strip()}
    other = pathlib.Path(f"{kube.kubeconfig}.{account}")
    other.write_text(yaml.safe_dump(config))
    return set(Kube("tenant", str(other))("auth", "can-i", "--list", "--no-headers").stdout.splitlines())


def test_uid_zero_served_by_a_bridge(member, main_share, users):
    fixed = {"identity": {"mode": "Fixed", "uid": 0, "gid": 0}}
    account = {"accounts": [{"name": "AUTH_root", "uid": 0, "gid": 0}]}
    for spec in (fixed, account):
        assert "should be greater than or equal to 1" in member.refused(bridge("root", "main", **spec))
    for uid, gid in ((4242, 4242), (UID, 4), (4, UID)):
        with made(member, bridge("root", "main", identity={"mode": "Fixed", "uid": uid, "gid": gid})):
            said = member.until("swiftbridge/root", "ShareAccepted", "False", "IdentityNotGranted")["message"]
            assert f"{uid}:{gid}" in said and "does not allow" in said
            assert member.get("deployment/root-swift") is None
    # The operator keeps what it made as it is.
    with made(member, bridge("honest", "main", identity={"mode": "Fixed", "uid": UID, "gid": UID})):
        member.wait("swiftbridge/honest", seconds=90)
        patch = '{"spec":{"template":{"spec":{"securityContext":{"runAsUser":4242,"runAsNonRoot":true}}}}}'
        member("patch", "deployment/honest-swift", "--type=strategic", "-p", patch)

        def as_before():
            spec = member.get("deployment/honest-swift")["spec"]["template"]["spec"]
            return spec["securityContext"]["runAsUser"] == UID

        wait_for(as_before)


def test_a_planted_link(member, whole, main_share, swift, job):
    outside = directory("outside-of-all")
    (outside / "secret").write_text("not the tenant's")
    with made(member, pod("gardener", share="tenants-own")):
        member.wait("pod/gardener")
        member.sh("gardener", f"busybox ln -s {outside} /share/tenant && busybox ln -s /etc /share/out")

    # Where the driver would make the directories of the tenant's claims.
    with made(member, claim("through", "tenants-own")):
        member.event("through", "tenant", "symbolic link")
        assert member.get("pvc/through")["status"]["phase"] == "Pending"
    assert [p.name for p in outside.iterdir()] == ["secret"]

    # Where the kubelet would look for a part of a volume.
    sideways = pod("sideways", share="tenants-own")
    sideways["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "out"
    with made(member, sideways):
        member.event("sideways", 'failed to prepare subPath for volumeMount "share"')

    member.sh(job, "mkdir -p /share/AUTH_physics/links && echo mine > /share/AUTH_physics/links/mine")
    plant = f"cd /share/AUTH_physics/links && busybox ln -s /etc etc; busybox ln -s /auth auth; busybox ln -s {outside} out"
    member.sh(job, f"{plant}; busybox ln -s {outside}/secret secret; busybox ln -s mine link")
    assert swift("list", "links").stdout.split() == ["link", "mine"]
    for name in ("secret", "out/secret", "auth/users.toml"):
        done = swift("download", "links", name, "-o", "-", check=False)
        assert done.returncode != 0 and "not found" in done.stderr, done.stderr
    assert swift("download", "links", "link", "-o", "-").stdout == "mine\n"

    # The link away, the claim is what it would have been.
    (whole / "tenant").unlink()
    with made(member, claim("straight", "tenants-own"), pod("straight", volume="straight")):
        member.wait("pod/straight")
        volume = member.get("pvc/straight")["spec"]["volumeName"]
        assert (whole / "tenant" / f"straight-{volume}").is_dir()
