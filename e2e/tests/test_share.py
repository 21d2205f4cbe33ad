"""LustreShare: its conditions, classes, claims and grants, and how it goes."""

import os

from conftest import SHARES, UID, Kube, claim, directory, pod, share, wait_for


def test_a_share_says_what_is_true(main_share):
    kube = Kube()
    status = kube.get("lustreshare/main")["status"]
    true = {c["type"] for c in status["conditions"] if c["status"] == "True"}
    assert {"Ready", "FilesystemReachable", "DirectoryReady", "AccessGranted"} <= true
    assert status["observedGeneration"] == 1
    grants = {g["claimName"]: g for g in status["grants"]}
    assert set(grants) == {"main", "main-readonly"}
    assert all(g["phase"] == "Bound" and g["uid"] == UID for g in grants.values())
    made = (main_share / "physics").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (UID, UID, 0o2770)
    table = kube("get", "lshare").stdout
    assert "READY" in table and str(main_share) in table


def test_a_claim_becomes_a_directory_that_two_pods_share(tenant, main_share):
    tenant.apply(claim("results", "main"), pod("writer", results="results"), pod("reader", results="results"))
    tenant.wait("pod/writer")
    tenant.wait("pod/reader")
    tenant.sh("writer", "echo from a pod > /results/file && mkdir /results/sub")
    assert tenant.sh("reader", "cat /results/file").stdout == "from a pod\n"
    volume = tenant.get("pvc/results")["spec"]["volumeName"]
    made = main_share / "tenant" / f"results-{volume}"
    assert (made / "file").read_text() == "from a pod\n"
    assert (made / "file").stat().st_uid == UID
    (made / "from-a-job").write_text("from a job\n")
    assert tenant.sh("reader", "cat /results/from-a-job").stdout == "from a job\n"

    tenant.delete("pod/writer")
    tenant.delete("pod/reader")
    tenant.delete("pvc/results")
    wait_for(lambda: not made.exists())


def test_a_grant_is_a_claim_that_is_there(tenant, main_share):
    tenant.apply(pod("granted", share="main", read="main-readonly"))
    tenant.wait("pod/granted")
    tenant.sh("granted", "echo here > /share/by-a-pod")
    assert (main_share / "physics/by-a-pod").read_text() == "here\n"
    assert tenant.sh("granted", "cat /read/by-a-pod").stdout == "here\n"
    denied = tenant.sh("granted", "echo no > /read/by-a-pod", check=False)
    assert denied.returncode != 0 and "Read-only file system" in denied.stderr
    assert not (main_share / "physics/.lb~dcsi").exists()
    tenant.delete("pod/granted")


def test_a_whole_share_does_not_show_the_drivers_records(tenant):
    path = directory("whole")
    kube = Kube()
    kube.apply(share("whole", access=[{"namespace": "tenant"}], provisioning={"quota": "Advisory"}))
    kube.wait("lustreshare/whole")
    tenant.apply(claim("in-whole", "whole"), pod("whole", whole="whole", volume="in-whole"))
    tenant.wait("pod/whole")
    assert list((path / ".lb~dcsi/volumes").iterdir())
    assert (path / ".lb~dcsi").stat().st_mode & 0o777 == 0o700
    seen = tenant.sh("whole", "ls -A /whole/.lb~dcsi", check=False)
    assert seen.stdout == "", "the records are visible"
    for what in ("pod/whole", "pvc/in-whole"):
        tenant.delete(what)
    # Retain: the volume's files outlive the claim.
    assert list((path / "tenant").iterdir())
    for volume in kube.get("pv")["items"]:
        if volume["spec"].get("storageClassName") == "whole":
            kube.delete(f"pv/{volume['metadata']['name']}")
    kube.delete("lustreshare/whole")
    assert list((path / "tenant").iterdir())


def test_a_namespace_without_a_grant_gets_nothing(stranger, main_share):
    assert stranger.get("pvc")["items"] == []


def test_labels_select_namespaces(tenant, stranger):
    directory("labelled")
    kube = Kube()
    kube.apply(
        share("labelled", access=[{"namespaceSelector": {"matchLabels": {"team": "physics"}}, "subPath": "p"}])
    )
    kube.wait("lustreshare/labelled")
    assert tenant.get("pvc/labelled")["status"]["phase"] == "Bound"
    assert stranger.get("pvc/labelled") is None
    stranger("label", "namespace", "stranger", "team=physics")
    wait_for(lambda: (stranger.get("pvc/labelled") or {}).get("status", {}).get("phase") == "Bound")
    stranger("label", "namespace", "stranger", "team-")
    wait_for(lambda: stranger.get("pvc/labelled") is None)
    kube.delete("lustreshare/labelled")
    wait_for(lambda: tenant.get("pvc/labelled") is None)


def test_a_share_in_use_stays_and_says_by_whom(tenant):
    path = directory("used")
    kube = Kube()
    kube.apply(share("used", access=[{"namespace": "tenant", "subPath": "x"}]))
    kube.wait("lustreshare/used")
    tenant.apply(pod("user", used="used"))
    tenant.wait("pod/user")
    tenant.sh("user", "echo data > /used/data")
    kube("delete", "lustreshare/used", "--wait=false")
    held = kube.until("lustreshare/used", "InUse", "True")
    assert "tenant/user" in held["message"]
    assert tenant.sh("user", "cat /used/data").stdout == "data\n"
    tenant.delete("pod/user")
    wait_for(lambda: kube.get("lustreshare/used") is None)
    wait_for(lambda: tenant.get("pvc/used") is None)
    wait_for(lambda: not [v for v in kube.get("pv")["items"] if v["metadata"]["name"].startswith("used-")])
    assert (path / "x/data").read_text() == "data\n"


def test_a_missing_directory_is_a_condition(tenant):
    kube = Kube()
    kube.apply(share("absent"))
    wrong = kube.until("lustreshare/absent", "FilesystemReachable", "False")
    assert str(SHARES / "absent") in wrong["message"]
    assert kube.condition("lustreshare/absent", "Ready")["status"] == "False"
    directory("absent")
    kube.wait("lustreshare/absent", seconds=90)
    kube.delete("lustreshare/absent")


def test_a_link_out_of_the_share_is_not_followed(tenant):
    path = directory("linked")
    outside = directory("outside")
    os.symlink(outside, path / "evil")
    kube = Kube()
    kube.apply(share("linked", access=[{"namespace": "tenant", "subPath": "evil/x"}]))
    wrong = kube.until("lustreshare/linked", "DirectoryReady", "False")
    assert "evil" in wrong["message"] and "a symbolic link is in the way" in wrong["message"]
    assert list(outside.iterdir()) == []
    kube.delete("lustreshare/linked")


def test_wrong_specifications_are_refused_with_our_words():
    kube = Kube()
    for spec, words in (
        ({"backend": {"directory": {"hostPath": "srv"}}}, "hostPath must be an absolute path"),
        ({"backend": {}}, "backend needs exactly one of"),
        ({"path": "/a/../b"}, "path must be"),
        ({"access": [{"subPath": "x"}]}, "exactly one of namespace and namespaceSelector"),
        ({"access": [{"namespace": "a", "subPath": "../x"}]}, "subPath must be"),
        ({"access": [{"namespace": "a", "subPath": ".lb~dcsi"}]}, "the driver's own"),
        ({"access": [{"namespace": "a", "identities": {"uids": ["0"]}}]}, "from 1 to"),
        ({"ownership": {"mode": "rwx"}}, "octal"),
        ({"provisioning": {"directoryTemplate": "all"}}, "${pv.name}"),
    ):
        assert words in kube.refused(share("wrong", **spec)), spec
    assert kube.get("lustreshare/wrong") is None


def test_a_share_cannot_move(main_share):
    moved = share("main", backend={"directory": {"hostPath": "/somewhere/else"}})
    assert "backend cannot be changed" in Kube().refused(moved)
