"""Disks of virtual machines, and what a claim's size means."""

import pathlib
import shutil
import subprocess

import pytest

from conftest import Kube, claim, directory, namespace, optional_kinds, pod, share, wait_for

MI = 1 << 20


@pytest.fixture(scope="module")
def machines():
    """A namespace where a pod may be anybody, as one that runs virtual machines is."""
    return namespace("machines", "baseline")


@pytest.fixture(scope="module")
def files(machines):
    """The directory of a share with a class of disks; its directories are held to nothing."""
    path = directory("disks")
    provisioning = {
        "reclaimPolicy": "Delete",
        "quota": "Advisory",
        "onDelete": "Archive",
        "directoryTemplate": "${pvc.name}-${pv.name}",
        "virtualMachineDisks": {},
    }
    Kube().apply(share("disks", provisioning=provisioning))
    Kube().wait("lustreshare/disks")
    return path


def disk(name, mode="ReadWriteOnce", block=False, size="8Mi"):
    made = claim(name, "disks-disks", size=size, mode=mode)
    made["spec"]["volumeMode"] = "Block" if block else "Filesystem"
    return made


def machine(name, claim_name, block=False, user=107):
    """A pod with a disk at /disk."""
    made = pod(name, disk=claim_name)
    made["spec"]["securityContext"] = {"runAsUser": user, "runAsGroup": user}
    if block:
        container = made["spec"]["containers"][0]
        del container["volumeMounts"]
        container["volumeDevices"] = [{"name": "disk", "devicePath": "/disk"}]
    return made


def loop_devices():
    """Those of this machine, with their files."""
    return subprocess.run(["losetup", "-l"], capture_output=True, text=True, check=True).stdout


def expand(kube, name, size):
    """Of the claim that the pod of the same name uses."""
    kube("patch", f"pvc/{name}", "-p", f'{{"spec":{{"resources":{{"requests":{{"storage":"{size}"}}}}}}}}')

    def grown():
        kube.nudge(name)
        return kube.get(f"pvc/{name}")["status"]["capacity"]["storage"] == size

    wait_for(grown, seconds=90, every=1)


def test_a_disk_is_one_raw_file_that_grows(machines, files):
    machines.apply(disk("plain"), machine("plain", "plain"))
    machines.wait("pod/plain")
    [where] = files.glob("plain-*")
    assert [p.name for p in where.iterdir()] == ["disk.img"]
    is_ = (where / "disk.img").stat()
    assert (is_.st_size, is_.st_blocks, is_.st_uid, is_.st_gid) == (8 * MI, 0, 107, 107)
    machines.sh("plain", "echo written | /bin/busybox dd of=/disk/disk.img conv=notrunc,fsync")
    assert (where / "disk.img").read_bytes()[:7] == b"written"
    expand(machines, "plain", "12Mi")
    assert (where / "disk.img").stat().st_size == 12 * MI


def test_a_disk_is_a_block_device_that_grows(machines, files):
    machines.apply(disk("device", block=True))
    wait_for(lambda: machines.get("pvc/device")["status"]["phase"] == "Bound")
    machines.apply(machine("device", "device", block=True, user=0))
    machines.wait("pod/device")
    [where] = files.glob("device-*")
    size = "/bin/busybox blockdev --getsize64 /disk"
    assert machines.sh("device", size).stdout.strip() == str(8 * MI)
    machines.sh("device", "echo raw | /bin/busybox dd of=/disk bs=512 seek=4 conv=fsync,sync")
    assert (where / "disk.img").read_bytes()[2048:2051] == b"raw"
    expand(machines, "device", "16Mi")
    wait_for(lambda: machines.sh("device", size).stdout.strip() == str(16 * MI))
    machines.delete("pod/device")
    # Nothing is left of the device, and the disk is whole.
    def gone():
        return where.name not in loop_devices()

    wait_for(gone)
    assert (where / "disk.img").stat().st_size == 16 * MI


def test_a_claim_for_one_pod_has_one(machines, files):
    machines.apply(disk("alone", mode="ReadWriteOncePod"), machine("first", "alone"))
    machines.wait("pod/first")
    machines.apply(machine("second", "alone"))
    done = machines("wait", "--for=condition=Ready", "pod/second", "--timeout=3s", check=False)
    assert done.returncode != 0
    machines.delete("pod/first")
    machines.wait("pod/second", seconds=120)


def test_a_directory_grows_and_is_archived(machines, files):
    machines.apply(claim("data", "disks", size="1Gi"), machine("data", "data", user=1000))
    machines.wait("pod/data")
    machines.sh("data", "echo kept > /disk/file")
    expand(machines, "data", "2Gi")
    machines.delete("pod/data")
    machines.delete("pvc/data")
    [kept] = wait_for(lambda: list(files.glob("archived-data-*")))
    assert (kept / "file").read_text() == "kept\n"
    wait_for(lambda: not [v for v in Kube().get("pv")["items"] if v["spec"]["claimRef"]["name"] == "data"])


def test_a_size_that_nothing_holds_is_refused_unless_asked_for(machines):
    directory("strict")
    Kube().apply(share("strict", provisioning={}))
    Kube().wait("lustreshare/strict")
    machines.apply(claim("strict", "strict"))

    def said():
        events = machines.get("events")["items"]
        return [e for e in events if e["involvedObject"]["name"] == "strict" and "advisory" in e["message"]]

    assert wait_for(said)
    assert machines.get("pvc/strict")["status"]["phase"] == "Pending"
    machines.delete("pvc/strict")
    Kube().delete("lustreshare/strict")


def test_an_importer_is_told_what_claims_of_the_classes_can_be(files, system):
    if Kube().get("crd/storageprofiles.cdi.kubevirt.io"):
        pytest.skip("this cluster has an importer of its own")
    with optional_kinds(system, ("cdi.kubevirt.io", "v1beta1", "StorageProfile", "storageprofiles", "Cluster")):
        found = wait_for(lambda: Kube().get("storageprofiles.cdi.kubevirt.io/disks-disks"), seconds=90)
        modes = [(s["accessModes"], s["volumeMode"]) for s in found["spec"]["claimPropertySets"]]
        assert (["ReadWriteMany"], "Filesystem") in modes and (["ReadWriteOnce"], "Block") in modes
    Kube().wait("lustreshare/disks")


@pytest.fixture(scope="module")
def held(tenant):
    """The directory of a share with a class whose volumes are file systems of their own."""
    path = directory("held")
    provisioning = {"reclaimPolicy": "Delete", "quota": "Image"}
    Kube().apply(share("held", provisioning=provisioning))
    Kube().wait("lustreshare/held")
    yield path
    Kube().delete("lustreshare/held")


def test_a_size_is_held_by_a_file_system_of_its_own(tenant, held):
    tenant.apply(claim("sized", "held", size="32Mi", mode="ReadWriteOnce"), pod("sized", disk="sized"))
    tenant.wait("pod/sized", seconds=120)
    assert tenant.sh("sized", "ls -A /disk").stdout == ""

    def total():
        """In KiB, as df has it."""
        return int(tenant.sh("sized", "/bin/busybox df -Pk /disk | /bin/busybox tail -n 1").stdout.split()[1])

    assert 32 * 1024 <= total() < 40 * 1024
    # Nothing of it is seen on the share but the image, which is the driver's.
    [image] = (held / ".lb~dcsi/images").iterdir()
    assert image.stat().st_mode & 0o777 == 0o600
    assert not [p for p in held.iterdir() if p.name != ".lb~dcsi"]

    full = tenant.sh("sized", "/bin/busybox dd if=/dev/zero of=/disk/file bs=1M count=64 conv=fsync", check=False)
    assert full.returncode != 0 and "No space left on device" in full.stderr
    written = int(tenant.sh("sized", "/bin/busybox stat -c %s /disk/file").stdout)
    assert 31 * MI <= written <= 36 * MI

    def gone():
        """The kubelet unmounts after the pod has gone."""
        return image.name not in loop_devices()

    # A driver that may not grow what is mounted grows it when the next pod comes.
    online = may_resize()
    patch = '{"spec":{"resources":{"requests":{"storage":"160Mi"}}}}'
    tenant("patch", "pvc/sized", "-p", patch)
    if not online:
        wait_for(lambda: capacity(tenant, "sized") == "160Mi")
        tenant.delete("pod/sized")
        wait_for(gone)
        tenant.apply(pod("sized", disk="sized"))
        tenant.wait("pod/sized", seconds=180)

    def grown():
        tenant.nudge("sized")
        return total() >= 160 * 1024

    wait_for(grown, seconds=120, every=1)
    assert int(tenant.sh("sized", "/bin/busybox stat -c %s /disk/file").stdout) == written
    tenant.sh("sized", "/bin/busybox dd if=/dev/zero of=/disk/more bs=1M count=100 conv=fsync")
    tenant.delete("pod/sized")
    tenant.delete("pvc/sized")
    wait_for(lambda: not list((held / ".lb~dcsi/images").iterdir()))
    wait_for(gone)


def may_resize():
    """Whether pods of this node, the driver's too, can have CAP_SYS_RESOURCE."""
    status = pathlib.Path("/proc/self/status").read_text()
    [bounds] = [line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")]
    return int(bounds, 16) >> 24 & 1 == 1


def capacity(kube, claim_name):
    """What the volume of a claim has, as its PersistentVolume says."""
    volume = kube.get(f"pvc/{claim_name}")["spec"]["volumeName"]
    return Kube().get(f"pv/{volume}")["spec"]["capacity"]["storage"]


def test_a_file_system_of_its_own_is_for_one_node(tenant, held):
    tenant.apply(claim("shared", "held", size="32Mi"))
    assert "ReadWriteOnce" in tenant.event("shared", "one node mounts")
    assert tenant.get("pvc/shared")["status"]["phase"] == "Pending"
    tenant.delete("pvc/shared")


def test_a_file_that_is_there_becomes_a_disk_and_a_file_again(machines, files, system):
    (files / "old.img").write_bytes(b"old" + bytes(4 * MI - 3))

    def csi_node(command, *arguments):
        where = ("--host-root", "/host", "--share", f"disks=directory:{files}", "--name", "old-disk")
        driver = ("exec", "deploy/lustre-bridge-csi-controller", "-c", "csi-node", "--", "/bin/csi-node")
        return system(*driver, command, *where, *arguments, check=False)

    claimed = ("--namespace", "machines", "--claim", "old", "--storage-class", "disks-disks")
    Kube()("apply", "-f", "-", stdin=csi_node("adopt", "--path", "old.img", *claimed).stdout)
    wanted = disk("old", size="4Mi")
    wanted["spec"]["volumeName"] = "old-disk"
    machines.apply(wanted, machine("old", "old"))
    machines.wait("pod/old")
    assert machines.sh("old", "/bin/busybox head -c 3 /disk/disk.img").stdout == "old"
    machines.delete("pod/old")
    machines.delete("pvc/old")
    Kube().delete("pv/old-disk")
    # The kubelet unmounts after the pod has gone; until then it is in use.
    released = wait_for(lambda: csi_node("release").stdout)
    assert released == "machines/old-old-disk/disk.img\n"
    assert (files / "machines/old-old-disk/disk.img").stat().st_size == 4 * MI
    shutil.rmtree(files / "machines")


def test_deleted_claims_leave_nothing(machines, files):
    for name in ("plain", "second"):
        machines.delete(f"pod/{name}")
    for name in ("plain", "device", "alone"):
        machines.delete(f"pvc/{name}")
    wait_for(lambda: not [v for v in Kube().get("pv")["items"] if v["spec"].get("storageClassName") == "disks-disks"])
    assert not [p for p in files.iterdir() if not p.name.startswith(("archived-", ".lb~d"))]
    Kube().delete("lustreshare/disks")
