"""What an older release installed goes on under this one (e2e/fixtures). It comes when nothing is installed any more."""

import json
import os
import pathlib
import shutil

import pytest
import yaml

from conftest import SYSTEM, UID, Kube, Swift, directory, outside, pod, wait_for
from test_install import CHART, RELEASE, helm

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
DEFINITIONS = CHART.parents[1] / "crds/yaml"
OLDER = sorted(path for path in FIXTURES.iterdir() if path.is_dir())
# The claims of the fixture, and where a pod has them.
CLAIMS = {"granted": "older", "first": "older-first", "second": "older-second", "made": "older-made"}
# What a record of the first format had.
FIRST_FORMAT = ("kind", "name", "path", "capacity", "readOnly", "created")


def every(kind):
    """Also where the cluster does not know the kind."""
    done = Kube()("get", kind, "-A", "-o", "json", check=False)
    return [item["metadata"] for item in json.loads(done.stdout)["items"]] if done.returncode == 0 else []


def remove_the_product():
    for bridge in every("swiftbridges"):
        Kube(bridge["namespace"]).delete(f"swiftbridge/{bridge['name']}")
    for share in every("lustreshares"):
        Kube().delete(f"lustreshare/{share['name']}", seconds=90)
    helm("uninstall", *RELEASE, "--wait", "--ignore-not-found")
    wait_for(lambda: Kube(SYSTEM).get("pods")["items"] == [], seconds=90)
    names = [d["metadata"]["name"] for d in definitions()]
    Kube()("delete", "crd", *names, "--ignore-not-found", "--timeout=60s")


def definitions():
    return [yaml.safe_load(path.read_text()) for path in sorted(DEFINITIONS.glob("*.yaml"))]


def images_of_now():
    """Older charts ask for older images, which are not kept."""
    sidecars = yaml.safe_load((CHART / "values.yaml").read_text())["sidecars"]
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    values = {"image.tag": version, **{f"sidecars.{name}.image": s["image"] for name, s in sidecars.items()}}
    return [f"--set-string={name}={value}" for name, value in values.items()]


def leave_records(older, share):
    """What the older driver had written to the share, with a file in each volume."""
    driver = share / ".lb~dcsi"
    for private in (driver, driver / "volumes", driver / "trash", driver / "new"):
        private.mkdir(mode=0o700)
    for record in sorted((older / "records").glob("*.json")):
        shutil.copyfile(record, driver / "volumes" / record.name)
        volume = share / json.loads(record.read_text())["path"]
        volume.mkdir(parents=True)
        (volume / "file").write_text("from before\n")
        for path in (volume, volume / "file"):
            os.chown(path, UID, UID)


def put_grants_back_to_the_first_format(share):
    grants = 0
    for path in (share / ".lb~dcsi/volumes").glob("*.json"):
        record = json.loads(path.read_text())
        if record["kind"] == "grant":
            older = {"version": 1, **{key: record[key] for key in FIRST_FORMAT}}
            # In one step: the controller may look at it at any time.
            beside = path.with_name(".lb~tolder")
            beside.write_text(json.dumps(older))
            beside.replace(path)
            grants += 1
    assert grants == 1


def apply(kube, file, share):
    kube.apply(*yaml.safe_load_all(file.read_text().replace("/HOSTPATH", str(share))))


@pytest.fixture(scope="module", params=OLDER, ids=lambda path: path.name)
def older(request, tenant, users):
    """The share's directory, after an older release was installed and used."""
    remove_the_product()
    chart = str(request.param / "chart.tgz")
    helm("install", *RELEASE, chart, *images_of_now(), "--wait", "--timeout", "3m")
    share = directory("older")
    leave_records(request.param, share)
    apply(Kube(), request.param / "cluster.yaml", share)
    Kube().wait("lustreshare/older", seconds=90)
    apply(tenant, request.param / "tenant.yaml", share)
    tenant.apply(pod("older", **CLAIMS))
    tenant.wait("pod/older", seconds=90)
    tenant.wait("swiftbridge/older", seconds=90)
    yield share
    for what in ("pod/older", "pod/younger", "swiftbridge/older", *(f"pvc/{c}" for c in CLAIMS.values() if c != "older")):
        tenant.delete(what)
    Kube().delete("lustreshare/older", seconds=90)
    # The driver may still be clearing up.
    shutil.rmtree(share, ignore_errors=True)


def resources(tenant):
    return Kube().get("lustreshare/older"), tenant.get("swiftbridge/older")


def holds(new, old):
    """Whether all of `old` is there; a newer definition may give more fields a default."""
    if isinstance(old, dict):
        return all(key in new and holds(new[key], value) for key, value in old.items())
    if isinstance(old, list):
        return len(new) == len(old) and all(map(holds, new, old))
    return new == old


def seen(tenant):
    """What an upgrade must not touch."""
    share, bridge = resources(tenant)
    [container] = tenant.get("pod/older")["status"]["containerStatuses"]
    claims = [tenant.get(f"pvc/{name}") for name in CLAIMS.values()]
    return {
        "objects": [o["metadata"]["uid"] for o in (share, bridge)],
        "claims": [(c["metadata"]["uid"], c["spec"]["volumeName"], c["status"]["phase"]) for c in claims],
        "container": (container["containerID"], container["restartCount"]),
        # It has not been otherwise in between.
        "ready": Kube().condition("lustreshare/older", "Ready")["lastTransitionTime"],
    }


def fields(schema, path=""):
    """Every field of a definition's schema."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from fields(inner, f"{path}.{name}")
    for inner in (schema.get("items"), schema.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from fields(inner, f"{path}[]")


def of_version(definition):
    return {v["name"]: set(fields(v["schema"]["openAPIV3Schema"])) for v in definition["spec"]["versions"]}


def test_an_upgrade_leaves_everything_as_it_is(tenant, older, tmp_path):
    swift = Swift(outside(tenant, "older"), [os.environ["LB_SWIFT"]])
    local = tmp_path / "object"
    local.write_text("uploaded before\n")
    swift("upload", "kept", str(local), "--object-name", "object")
    for mount in ("first", "second"):
        assert tenant.sh("older", f"cat /{mount}/file").stdout == "from before\n"
    for mount in CLAIMS:
        tenant.sh("older", f"echo before > /{mount}/by-a-pod")
    put_grants_back_to_the_first_format(older)
    before, specified = seen(tenant), [o["spec"] for o in resources(tenant)]
    assert [phase for _, _, phase in before["claims"]] == ["Bound"] * len(CLAIMS)

    helm("upgrade", *RELEASE, str(CHART), "--wait", "--timeout", "4m")
    helm("test", *RELEASE, "--timeout", "2m")

    Kube().wait("lustreshare/older")
    tenant.wait("swiftbridge/older", seconds=90)
    assert seen(tenant) == before
    assert all(holds(now["spec"], then) for now, then in zip(resources(tenant), specified, strict=True))
    for definition in definitions():
        assert of_version(Kube().get(f"crd/{definition['metadata']['name']}")) == of_version(definition)
    # The pod of before, and one that comes after: every record is read again for it.
    for mount in CLAIMS:
        tenant.sh("older", f"echo after >> /{mount}/by-a-pod")
    tenant.apply(pod("younger", **CLAIMS))
    tenant.wait("pod/younger", seconds=90)
    for mount in CLAIMS:
        assert tenant.sh("younger", f"cat /{mount}/by-a-pod").stdout == "before\nafter\n"
    # Clients find the port again even if the service was made anew.
    swift = Swift(outside(tenant, "older"), [os.environ["LB_SWIFT"]])
    swift("download", "kept", "object", "-o", str(tmp_path / "again"))
    assert (tmp_path / "again").read_text() == "uploaded before\n"


def test_volumes_of_before_are_deleted_as_their_records_say(tenant, older):
    for name in ("older", "younger"):
        tenant.delete(f"pod/{name}")
    for name in ("older-first", "older-second"):
        tenant.delete(f"pvc/{name}")
        wait_for(lambda name=name: Kube().get(f"pv/pvc-{name}") is None, seconds=90)
    # The first format knows no other end.
    assert not (older / "tenant/first").exists()
    [archived] = (older / "tenant").glob("archived-*")
    assert (archived / "file").read_text() == "from before\n"
    assert list((older / ".lb~dcsi/volumes").glob("6f2f1c1e-*")) == []
