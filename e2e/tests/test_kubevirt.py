"""Virtual machines by KubeVirt whose disks are volume files: booted, worked on, grown, moved about.

LB_GUEST is the disk of a guest (e2e/kubevirt/guest/init) that works on every disk it has and says so on its console.
"""

import json
import os
import re
import shutil

import pytest

from conftest import Kube, claim, directory, namespace, share, wait_for

pytestmark = pytest.mark.skipif(
    not os.environ.get("LB_GUEST"), reason="no KubeVirt here: cargo xtask e2e --kubevirt brings one up"
)

MI = 1 << 20
# Where the guest writes.
PATTERN = 40 * MI


@pytest.fixture(scope="module")
def machines():
    """A namespace for virtual machines, as KubeVirt's own restrictions allow it."""
    return namespace("vms", "privileged")


@pytest.fixture(scope="module")
def files(machines):
    """The directory of a share with a class of disks, and one of disks that begin as the guest's."""
    path = directory("vms")
    (path / "images").mkdir()
    shutil.copy(os.environ["LB_GUEST"], path / "images/guest.qcow2")
    provisioning = {
        "reclaimPolicy": "Delete",
        "quota": "Advisory",
        "directoryTemplate": "${pvc.name}-${pv.name}",
        "virtualMachineDisks": {},
    }
    kube = Kube()
    kube.apply(share("vms", provisioning=provisioning))
    kube.wait("lustreshare/vms")
    kube.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "guests"},
            "provisioner": "csi.lustre-bridge.io",
            "allowVolumeExpansion": True,
            "parameters": {
                "share": "vms",
                "type": "disk",
                "directoryTemplate": "${pvc.name}-${pv.name}",
                "source": "images/guest.qcow2",
                "sourceFormat": "qcow2",
            },
        }
    )
    yield path
    kube.delete("storageclass/guests")


def disk(name, block=False, size="64Mi", storage_class="vms-disks"):
    made = claim(name, storage_class, size=size, mode="ReadWriteOnce")
    made["spec"]["volumeMode"] = "Block" if block else "Filesystem"
    return made


def machine(name, **disks):
    """A VirtualMachine; of each disk the serial number is its name, the claim the value."""
    devices = [{"name": n, "serial": n, "disk": {"bus": "virtio"}} for n in disks]
    devices[0]["bootOrder"] = 1
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {
            "runStrategy": "Always",
            "template": {
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "domain": {
                        "resources": {"requests": {"memory": "128Mi", "cpu": "100m"}},
                        "devices": {
                            "autoattachPodInterface": False,
                            "autoattachGraphicsDevice": False,
                            "autoattachMemBalloon": False,
                            "logSerialConsole": True,
                            "disks": devices,
                        },
                    },
                    "volumes": [{"name": n, "persistentVolumeClaim": {"claimName": c}} for n, c in disks.items()],
                }
            },
        },
    }


class Console:
    """What a machine's guest says."""

    def __init__(self, kube, name):
        self.kube, self.name = kube, name

    def launcher(self):
        """The pod that runs the machine now."""
        pods = self.kube.get("pods", "-l", f"vm.kubevirt.io/name={self.name}")["items"]
        living = [p["metadata"]["name"] for p in pods if p["status"].get("phase") in ("Pending", "Running")]
        return living[0] if len(living) == 1 else None

    def text(self):
        launcher = self.launcher()
        if launcher is None:
            return ""
        return self.kube("logs", launcher, "-c", "guest-console-log", check=False).stdout

    def said(self, disk):
        """(sectors, round) of the last round in which the guest wrote and read a disk."""
        text = self.text()
        assert " lost " not in text, text[-2000:]
        rounds = re.findall(rf"guest: {disk} of (\d+) sectors wrote and read (\d+)", text)
        return tuple(map(int, rounds[-1])) if rounds else None

    def works_on(self, *disks, after=0, seconds=180):
        """Until it has worked on all the disks in a round later than `after`; that round."""

        def did():
            rounds = [self.said(d) for d in disks]
            return min(r[1] for r in rounds) if all(rounds) and min(r[1] for r in rounds) > after else None

        try:
            return wait_for(did, seconds, every=1)
        except AssertionError:
            launcher = self.launcher()
            state = self.kube("get", f"vmi/{self.name}", "-o", "yaml", check=False).stdout
            said = self.kube("describe", f"pod/{launcher}", check=False).stdout if launcher else ""
            raise AssertionError(f"{self.text()[-2000:]}\n{state}\n{said}") from None


@pytest.fixture(scope="module")
def guest(machines, files):
    """A machine that boots from a file and works on a block device too."""
    machines.apply(
        disk("boot", storage_class="guests"), disk("data", block=True), machine("guest", boot="boot", data="data")
    )
    console = Console(machines, "guest")
    console.works_on("boot", "data")
    yield console
    machines.delete("vm/guest")


def image(files, name):
    [where] = files.glob(f"{name}-*")
    assert [p.name for p in where.iterdir()] == ["disk.img"]
    return where / "disk.img"


def pattern(path):
    with path.open("rb") as file:
        file.seek(PATTERN)
        return file.read(512).rstrip(b"\0").decode().strip()


def test_a_machine_boots_from_a_volume_file_and_works_on_a_block_device(guest, files):
    for name in ("boot", "data"):
        round_ = guest.works_on("boot", "data")
        said = re.fullmatch(rf"lustre-bridge {name} (\d+)", pattern(image(files, name)))
        assert said and int(said[1]) >= round_
        assert image(files, name).stat().st_uid == 107


def test_a_machine_outlives_a_restart_of_the_driver(guest, system, machines):
    before = guest.works_on("boot", "data")
    launcher = guest.launcher()
    system("rollout", "restart", "daemonset/lustre-bridge-csi-node", "deployment/lustre-bridge-csi-controller")
    system("rollout", "status", "daemonset/lustre-bridge-csi-node", "--timeout=120s", timeout=150)
    system("rollout", "status", "deployment/lustre-bridge-csi-controller", "--timeout=120s", timeout=150)
    after = guest.works_on("boot", "data", after=before)
    guest.works_on("boot", "data", after=after)
    assert guest.launcher() == launcher


def grow(machines, guest, name, size):
    """The claim `name` to `size` bytes; how many of them the guest gets."""
    before = guest.said(name)[0]
    patch = {"spec": {"resources": {"requests": {"storage": str(size)}}}}
    machines("patch", f"pvc/{name}", "-p", json.dumps(patch))

    def grown():
        machines.nudge(guest.launcher())
        sectors = guest.said(name)[0]
        return sectors * 512 if sectors > before else None

    return wait_for(grown, seconds=180, every=2)


def test_the_disks_of_a_running_machine_grow(guest, machines, files):
    assert grow(machines, guest, "data", 96 * MI) == 96 * MI
    assert image(files, "data").stat().st_size == 96 * MI
    # Of a file system KubeVirt keeps 5.5 % back, and cuts the file down to what the guest gets.
    given = grow(machines, guest, "boot", 96 * MI)
    assert 0.93 * 96 * MI < given <= 96 * MI
    assert image(files, "boot").stat().st_size == given


def test_a_second_claim_is_plugged_into_a_running_machine(guest, machines, files):
    machines.apply(disk("plugged"))
    options = {
        "name": "plugged",
        "disk": {"name": "plugged", "serial": "plugged", "disk": {"bus": "scsi"}},
        "volumeSource": {"persistentVolumeClaim": {"claimName": "plugged", "hotpluggable": True}},
    }
    of = "/apis/subresources.kubevirt.io/v1/namespaces/vms/virtualmachines/guest"
    machines("replace", "--raw", f"{of}/addvolume", "-f", "-", stdin=json.dumps(options))
    guest.works_on("plugged")
    assert pattern(image(files, "plugged")).startswith("lustre-bridge plugged ")
    assert pattern(image(files, "boot")).startswith("lustre-bridge boot ")
    machines("replace", "--raw", f"{of}/removevolume", "-f", "-", stdin=json.dumps({"name": "plugged"}))
    last = guest.said("plugged")[1]
    guest.works_on("boot", after=last + 3)
    assert guest.said("plugged")[1] <= last + 2


def test_a_machine_that_is_deleted_leaves_nothing(guest, machines, files, system):
    machines.delete("vm/guest", seconds=120)
    wait_for(lambda: not machines.get("pods")["items"], seconds=120)
    machines("delete", "pvc", "--all", "--timeout=90s", timeout=120)
    wait_for(lambda: [p.name for p in files.iterdir() if not p.name.startswith(".lb~")] == ["images"], seconds=60)
