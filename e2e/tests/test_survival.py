"""What is killed comes back, and nothing acknowledged or mounted is lost. These tests disturb the others: they come last."""

import json
import os
import subprocess

from conftest import Kube, claim, pod, run, wait_for


def test_pods_keep_their_mounts_while_the_driver_restarts(system, tenant, main_share):
    tenant.apply(claim("steady", "main"), pod("steady", steady="steady"))
    tenant.wait("pod/steady")
    tenant.sh("steady", "echo before > /steady/file")
    [old] = system.get("pods", "-l", "app.kubernetes.io/component=csi-node")["items"]
    system("delete", "pod", old["metadata"]["name"], "--grace-period=0", "--force")
    assert tenant.sh("steady", "cat /steady/file; echo during >> /steady/file").stdout == "before\n"

    def ready():
        pods = system.get("pods", "-l", "app.kubernetes.io/component=csi-node")["items"]
        states = [c for p in pods for c in p["status"].get("conditions", []) if c["type"] == "Ready"]
        return len(pods) == 1 and pods[0]["metadata"]["uid"] != old["metadata"]["uid"] and states[0]["status"] == "True"

    wait_for(ready)
    assert tenant.sh("steady", "cat /steady/file").stdout == "before\nduring\n"
    tenant.apply(pod("later", steady="steady"))
    tenant.wait("pod/later")
    assert tenant.sh("later", "cat /steady/file").stdout == "before\nduring\n"
    for what in ("pod/steady", "pod/later", "pvc/steady"):
        tenant.delete(what)


def test_a_killed_bridge_lost_nothing_that_it_acknowledged(tenant, main_share, swift, tmp_path):
    for n in range(5):
        (tmp_path / str(n)).write_text(f"body {n}")
        swift("upload", "kept", str(tmp_path / str(n)), "--object-name", str(n))
    label = ("-l", "lustre-bridge.io/bridge=objects")
    [old] = tenant.get("pods", *label)["items"]
    tenant("delete", "pod", old["metadata"]["name"], "--grace-period=0", "--force")

    def back():
        pods = tenant.get("pods", *label)["items"]
        states = [c for p in pods for c in p["status"].get("conditions", []) if c["type"] == "Ready"]
        return len(pods) == 1 and pods[0]["metadata"]["uid"] != old["metadata"]["uid"] and states[0]["status"] == "True"

    wait_for(back)
    tenant.wait("swiftbridge/objects")
    assert swift("list", "kept").stdout.split() == [str(n) for n in range(5)]
    for n in range(5):
        assert swift("download", "kept", str(n), "-o", "-").stdout == f"body {n}"


def test_a_killed_operator_goes_on(system, tenant, main_bridge):
    label = ("-l", "app.kubernetes.io/component=operator")
    [old] = system.get("pods", *label)["items"]
    system("delete", "pod", old["metadata"]["name"], "--grace-period=0", "--force")
    tenant("delete", "service", "objects-swift")
    wait_for(lambda: tenant.get("service/objects-swift"), seconds=90)
    tenant.wait("swiftbridge/objects")


def test_nothing_is_written_while_nothing_happens(tenant, main_bridge):
    """Versions of our objects stand still."""
    import time

    def versions():
        kube = Kube()
        objects = [kube.get("lustreshare/main"), tenant.get("swiftbridge/objects"), tenant.get("deployment/objects-swift")]
        objects += [tenant.get("service/objects-swift"), tenant.get("pvc/main"), kube.get("storageclass/main")]
        return [o["metadata"]["resourceVersion"] for o in objects]

    wait_for(lambda: (a := versions(), time.sleep(2)) and a == versions())
    before = versions()
    time.sleep(10)
    assert versions() == before


def test_uninstalled_it_leaves_the_definitions_and_the_data(system, tenant, main_share, main_bridge):
    kube = Kube()
    (main_share / "physics/kept").write_text("data")
    for name in [b["metadata"]["name"] for b in tenant.get("swiftbridges")["items"]]:
        tenant.delete(f"swiftbridge/{name}")
    for name in [s["metadata"]["name"] for s in kube.get("lustreshares")["items"]]:
        kube.delete(f"lustreshare/{name}", seconds=90)
    helm = [os.environ["LB_HELM"], "--kubeconfig", os.environ["KUBECONFIG"]]
    run(*helm, "uninstall", "lustre-bridge", "--namespace", "lustre-bridge-system", "--wait")
    for kind in ("clusterroles", "clusterrolebindings", "csidrivers", "storageclasses", "pv"):
        left = [o["metadata"]["name"] for o in kube.get(kind)["items"]]
        assert not [n for n in left if "lustre" in n or n == "main"], f"{kind}: {left}"
    # Its pods take their time to stop.
    wait_for(lambda: system.get("pods,deployments,daemonsets,services")["items"] == [])
    names = {c["metadata"]["name"] for c in kube.get("crd")["items"]}
    assert {"lustreshares.lustre-bridge.io", "swiftbridges.lustre-bridge.io"} <= names
    assert (main_share / "physics/kept").read_text() == "data"
