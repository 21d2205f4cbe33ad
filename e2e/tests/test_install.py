"""How the product goes, and comes again without helm."""

import os
import pathlib

from conftest import SYSTEM, Kube, claim, directory, pod, run, share, wait_for

CHART = pathlib.Path(__file__).parents[2] / "charts/lustre-bridge"
RELEASE = ("lustre-bridge", "--namespace", SYSTEM)


def helm(command, *args, check=True):
    return run(os.environ["LB_HELM"], "--kubeconfig", os.environ["KUBECONFIG"], command, *args, check=check, timeout=300)


def test_helm_says_whether_everything_runs(system):
    helm("test", *RELEASE, "--timeout", "2m")
    controller = "deploy/lustre-bridge-csi-controller"
    system("set", "image", controller, "csi-node=localhost/nowhere:1")
    system("wait", "--for=condition=Available=False", controller, "--timeout=60s")
    broken = helm("test", *RELEASE, "--timeout", "2m", check=False)
    assert broken.returncode != 0
    assert "Deployment lustre-bridge-csi-controller has 0 of 1 pods ready" in broken.stdout + broken.stderr
    system("rollout", "undo", controller)
    system("rollout", "status", controller, "--timeout=60s")


def test_helm_does_not_leave_shares_and_bridges_alone(system, tenant, main_share, main_bridge):
    refused = helm("uninstall", *RELEASE, "--timeout", "2m", check=False)
    said = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "LustreShare main" in said and "SwiftBridge tenant/objects" in said and "kubectl delete" in said
    assert system.get("deployment/lustre-bridge-operator")
    assert tenant.condition("swiftbridge/objects", "Ready")["status"] == "True"


def test_uninstalled_it_leaves_the_definitions_and_the_data(system, tenant, main_share, main_bridge):
    kube = Kube()
    (main_share / "physics/kept").write_text("data")
    for name in [b["metadata"]["name"] for b in tenant.get("swiftbridges")["items"]]:
        tenant.delete(f"swiftbridge/{name}")
    for name in [s["metadata"]["name"] for s in kube.get("lustreshares")["items"]]:
        kube.delete(f"lustreshare/{name}", seconds=90)
    helm("uninstall", *RELEASE, "--wait")
    for kind in ("clusterroles", "clusterrolebindings", "csidrivers", "storageclasses", "pv"):
        left = [o["metadata"]["name"] for o in kube.get(kind)["items"]]
        assert not [n for n in left if "lustre" in n or n == "main"], f"{kind}: {left}"
    # Its pods take their time to stop.
    wait_for(lambda: system.get("pods,deployments,daemonsets,services")["items"] == [])
    names = {c["metadata"]["name"] for c in kube.get("crd")["items"]}
    assert {"lustreshares.lustre-bridge.io", "swiftbridges.lustre-bridge.io"} <= names
    assert (main_share / "physics/kept").read_text() == "data"


def test_plain_manifests_install_the_same(system, tenant):
    """The chart's manifests by kubectl alone. The namespace and the definitions are there from before."""
    kube = Kube()
    manifests = helm("template", *RELEASE, str(CHART), "--no-hooks").stdout
    system("apply", "--server-side", "-f", "-", stdin=manifests)
    for what in ("deploy/lustre-bridge-operator", "deploy/lustre-bridge-csi-controller", "ds/lustre-bridge-csi-node"):
        system("rollout", "status", what, "--timeout=120s", timeout=150)
    path = directory("plain")
    kube.apply(share("plain", access=[{"namespace": "tenant", "subPath": "x"}], provisioning={"reclaimPolicy": "Delete", "quota": "Advisory"}))
    kube.wait("lustreshare/plain")
    tenant.apply(claim("plain-claim", "plain"), pod("plain", granted="plain", claimed="plain-claim"))
    tenant.wait("pod/plain", seconds=90)
    tenant.sh("plain", "echo granted > /granted/file && echo claimed > /claimed/file")
    assert (path / "x/file").read_text() == "granted\n"
    assert [f.read_text() for f in path.glob("tenant/*/file")] == ["claimed\n"]
    # Once more changes nothing, and nobody else's fields are taken.
    again = system("apply", "--server-side", "-f", "-", stdin=manifests)
    assert "conflict" not in again.stderr
    for what in ("pod/plain", "pvc/plain-claim"):
        tenant.delete(what)
    kube.delete("lustreshare/plain")
    wait_for(lambda: tenant.get("pvc/plain") is None)
    gone = helm("template", *RELEASE, str(CHART), "--no-hooks", "--set", "crds.install=false").stdout
    system("delete", "-f", "-", stdin=gone)
    wait_for(lambda: system.get("pods,deployments,daemonsets")["items"] == [])
    assert kube.get("crd/lustreshares.lustre-bridge.io")
