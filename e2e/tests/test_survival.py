"""What is killed comes back, and nothing acknowledged or mounted is lost. These tests disturb the others: they come last."""

import json
import os

import pytest

from conftest import Kube, claim, directory, pod, run, share, wait_for


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
        return len(pods) == 1 and pods[0]["metadata"]["uid"] != old["metadata"]["uid"] and [c["status"] for c in states] == ["True"]

    wait_for(ready)
    assert tenant.sh("steady", "cat /steady/file").stdout == "before\nduring\n"
    tenant.apply(pod("later", steady="steady"))
    tenant.wait("pod/later")
    assert tenant.sh("later", "cat /steady/file").stdout == "before\nduring\n"
    for what in ("pod/steady", "pod/later", "pvc/steady"):
        tenant.delete(what)


def test_a_disk_stays_leased_while_the_driver_is_replaced(system, tenant):
    files = directory("leased")
    provisioning = {"reclaimPolicy": "Delete", "quota": "Advisory", "virtualMachineDisks": {}}
    Kube().apply(share("leased", provisioning=provisioning))
    Kube().wait("lustreshare/leased")
    tenant.apply(claim("leased", "leased-disks", size="8Mi", mode="ReadWriteOnce"), pod("leased", disk="leased"))
    tenant.wait("pod/leased", seconds=90)

    def lease():
        [file] = (files / ".lb~dcsi/leases").iterdir()
        return json.loads(file.read_text())

    def holder():
        [found] = system.get("pods", "-l", "app.kubernetes.io/component=csi-holder")["items"]
        return found["metadata"]["uid"], [c["restartCount"] for c in found["status"]["containerStatuses"]]

    before, held_by = lease(), holder()
    assert before["node"] and before["epoch"] == 1
    for what in ("restart", "status"):
        system("rollout", what, "daemonset/lustre-bridge-csi-node", *(["--timeout=120s"] if what == "status" else []), timeout=150)
    assert (lease(), holder()) == (before, held_by)
    # The new driver finds the lease where it is: for another pod, and to give it back.
    tenant.apply(pod("leased-too", disk="leased"))
    tenant.wait("pod/leased-too", seconds=90)
    assert lease() == before
    tenant.delete("pod/leased")
    assert lease() == before
    tenant.delete("pod/leased-too")
    wait_for(lambda: lease()["node"] == "")
    tenant.delete("pvc/leased")
    Kube().delete("lustreshare/leased", seconds=90)


def restart(part):
    """Kills a part of the node, which is started again."""
    if not os.environ.get("LB_XTASK"):
        pytest.skip("not a cluster of the tests' own")
    run(os.environ["LB_XTASK"], "cluster", "restart", part)


def test_pods_keep_their_mounts_while_the_kubelet_restarts(tenant, main_share):
    tenant.apply(claim("lasting", "main"), pod("lasting", lasting="lasting", share="main"))
    tenant.wait("pod/lasting")
    tenant.sh("lasting", "echo before > /lasting/file; echo before > /share/lasting")
    before = tenant.get("pod/lasting")
    restart("kubelet")
    # It comes back to what it left: mounts, and containers that never stopped.
    wait_for(lambda: tenant.sh("lasting", "true", check=False).returncode == 0)
    assert tenant.sh("lasting", "cat /lasting/file /share/lasting && echo after >> /lasting/file").stdout == "before\n" * 2
    tenant.apply(claim("newcomer", "main"), pod("newcomer", lasting="lasting", own="newcomer"))
    tenant.wait("pod/newcomer", seconds=90)
    assert tenant.sh("newcomer", "cat /lasting/file; echo new > /own/file").stdout == "before\nafter\n"
    after = tenant.get("pod/lasting")
    for state in ("containerID", "restartCount"):
        [was], [now] = ([s[state] for s in p["status"]["containerStatuses"]] for p in (before, after))
        assert was == now
    # A volume that was published by the kubelet before is unpublished by the one after.
    for what in ("pod/lasting", "pod/newcomer", "pvc/lasting", "pvc/newcomer"):
        tenant.delete(what)


def test_an_api_server_that_restarts_is_found_again(tenant, main_share, main_bridge):
    restart("kube-apiserver")
    wait_for(lambda: tenant("get", "--raw=/readyz", check=False).returncode == 0)
    # Not the service: another one would have another node port.
    tenant("delete", "networkpolicy", "objects-swift")
    wait_for(lambda: tenant.get("networkpolicy/objects-swift"), seconds=90)
    tenant.apply(claim("afterwards", "main"), pod("afterwards", own="afterwards"))
    tenant.wait("pod/afterwards", seconds=120)
    for what in ("pod/afterwards", "pvc/afterwards"):
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
        return len(pods) == 1 and pods[0]["metadata"]["uid"] != old["metadata"]["uid"] and [c["status"] for c in states] == ["True"]

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
