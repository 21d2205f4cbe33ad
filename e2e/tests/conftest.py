"""The product on a Kubernetes: KUBECONFIG names the cluster, on which the chart is installed.

LB_KUBECTL, LB_HELM and LB_SWIFT are the programs, LB_OBJECT_SERVER hashes keys. LB_SHARES is a directory that the
cluster's node and these tests both see: shares are made there, so that the tests look at the files themselves.
LB_XTASK restarts parts of the node; it is empty where the cluster is not the tests' own.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest
import yaml

SYSTEM = "lustre-bridge-system"
SHARES = pathlib.Path(os.environ["LB_SHARES"])
HOST = pathlib.Path("/host")
UID = 1000


# Those that disturb the others, in this order, after all of them.
LAST = ["test_survival.py", "test_install.py", "test_upgrade.py"]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LAST.index(item.path.name) if item.path.name in LAST else -1)


def run(*command, stdin=None, check=True, env=None, timeout=120):
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=None if env is None else {**os.environ, **env},
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def wait_for(what, seconds=60, every=0.2):
    """What `what` returns once that is true."""
    end = time.monotonic() + seconds
    while True:
        last = what()
        if last:
            return last
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what.__doc__ or what}")
        time.sleep(every)


class Kube:
    """kubectl in one namespace, as the administrator or as whom `kubeconfig` says."""

    def __init__(self, namespace="default", kubeconfig=None):
        self.namespace = namespace
        self.kubeconfig = kubeconfig or os.environ["KUBECONFIG"]

    def __call__(self, *args, check=True, stdin=None, timeout=120):
        kubectl = (os.environ["LB_KUBECTL"], "--kubeconfig", self.kubeconfig, "--namespace", self.namespace)
        return run(*kubectl, *args, check=check, stdin=stdin, timeout=timeout)

    def apply(self, *objects):
        text = yaml.safe_dump_all(objects)
        return self("apply", "-f", "-", stdin=text)

    def refused(self, *objects):
        """The API server's message; it must not take them."""
        done = self("apply", "-f", "-", stdin=yaml.safe_dump_all(objects), check=False)
        assert done.returncode != 0, f"the API server took it: {done.stdout}"
        return done.stderr

    def get(self, *args):
        """KIND/NAME: the object, or None. KINDS: the list."""
        done = self("get", *args, "-o", "json", "--ignore-not-found")
        none = None if "/" in args[0] else {"items": []}
        return json.loads(done.stdout) if done.stdout.strip() else none

    def wait(self, what, condition="Ready", seconds=60):
        try:
            return self("wait", f"--for=condition={condition}", what, f"--timeout={seconds}s", timeout=seconds + 30)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self('describe', what, check=False).stdout}") from None

    def condition(self, what, name):
        found = self.get(what)
        conditions = ((found or {}).get("status") or {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == name), None)

    def until(self, what, name, status, reason=None, seconds=60):
        """The condition, once it is so."""

        def so():
            now = self.condition(what, name)
            return now if now and now["status"] == status and reason in (None, now["reason"]) else None

        try:
            return wait_for(so, seconds)
        except AssertionError:
            raise AssertionError(f"{what}: {name} is {self.condition(what, name)}, not {status} {reason}") from None

    def event(self, of, *words, seconds=90):
        """The message of an event of the object `of` (its name) that has all the words."""
        seen = []

        def said():
            seen[:] = [e["message"] for e in self.get("events")["items"] if e["involvedObject"]["name"] == of]
            return next((m for m in seen if all(w in m for w in words)), None)

        try:
            return wait_for(said, seconds)
        except AssertionError:
            raise AssertionError(f"no event of {of} says {words}: {seen}") from None

    def delete(self, what, seconds=60):
        self("delete", what, "--ignore-not-found", f"--timeout={seconds}s", timeout=seconds + 30)

    def nudge(self, pod):
        """The kubelet looks at a pod that nothing happens to once a minute: now something has happened to it."""
        self("annotate", f"pod/{pod}", f"looked={time.monotonic()}", "--overwrite")

    def exec(self, pod, *command, check=True):
        return self("exec", pod, "--", *command, check=check)

    def sh(self, pod, script, check=True):
        return self.exec(pod, "sh", "-c", script, check=check)


def namespace(name, security=None, **labels):
    """A namespace, with this level of Pod Security enforced."""
    if security:
        labels["pod-security.kubernetes.io/enforce"] = security
    kube = Kube(name)
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return kube


@contextlib.contextmanager
def optional_kinds(system, *kinds):
    """A cluster that has these kinds, each (group, version, kind, plural, scope); with them alone, nobody acts on them.

    The operator looks for what is new in a cluster once a minute, and when it starts.
    """
    kube, made = Kube(), []
    for group, version, kind, plural, scope in kinds:
        name = f"{plural}.{group}"
        if kube.get(f"crd/{name}"):
            continue
        metadata = {"name": name}
        if group.endswith("k8s.io"):
            metadata["annotations"] = {"api-approved.kubernetes.io": "unapproved, a test's own"}
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
        names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
        spec = {"group": group, "scope": scope, "names": names, "versions": [served]}
        crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata}
        kube.apply({**crd, "spec": spec})
        made.append(name)
        kube.wait(f"crd/{name}", "Established")
    try:
        system("rollout", "restart", "deployment/lustre-bridge-operator")
        yield
    finally:
        for name in made:
            kube.delete(f"crd/{name}")
        system("rollout", "status", "deployment/lustre-bridge-operator", "--timeout=60s", timeout=90)


@pytest.fixture(scope="session")
def system():
    return Kube(SYSTEM)


@pytest.fixture(scope="session")
def tenant():
    """A namespace as strict as Pod Security gets."""
    return namespace("tenant", "restricted", team="physics")


@pytest.fixture(scope="session")
def stranger():
    """A namespace that no share names."""
    return namespace("stranger")


def share(name, **spec):
    """A LustreShare in a directory of its own."""
    base = {
        "backend": {"directory": {"hostPath": str(SHARES / name)}},
        "ownership": {"uid": UID, "gid": UID},
    }
    return {
        "apiVersion": "lustre-bridge.io/v1alpha1",
        "kind": "LustreShare",
        "metadata": {"name": name},
        "spec": {**base, **spec},
    }


def bridge(name, of, **spec):
    base = {
        "shareRef": {"name": of},
        "auth": {"credentials": {"secretRef": {"name": "users"}}},
        "exposure": {"service": {"type": "NodePort"}},
    }
    return {
        "apiVersion": "lustre-bridge.io/v1alpha1",
        "kind": "SwiftBridge",
        "metadata": {"name": name},
        "spec": {**base, **spec},
    }


def claim(name, storage_class, size="1Gi", mode="ReadWriteMany"):
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": [mode],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": size}},
        },
    }


def pod(name, **claims):
    """A pod that sleeps, with claims mounted at /NAME; as restricted as its namespace asks."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsUser": UID,
                "runAsGroup": UID,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "shell",
                    "image": "localhost/busybox:1",
                    "command": ["sleep", "100000"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": n, "mountPath": f"/{n}"} for n in claims],
                }
            ],
            "volumes": [{"name": n, "persistentVolumeClaim": {"claimName": c}} for n, c in claims.items()],
        },
    }


@pytest.fixture(scope="session", autouse=True)
def shares():
    SHARES.mkdir(parents=True)
    yield
    shutil.rmtree(SHARES)


def directory(name):
    """Where a share's files are; the share's directory must be there before it is mounted."""
    path = SHARES / name
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="session")
def main_share(tenant):
    """The share that most tests use: a grant that writes, one that reads, and a storage class."""
    path = directory("main")
    kube = Kube()
    kube.apply(
        share(
            "main",
            access=[
                {"namespace": "tenant", "subPath": "physics"},
                {"namespace": "tenant", "subPath": "physics", "mode": "ReadOnlyMany", "claimName": "main-readonly"},
            ],
            provisioning={"reclaimPolicy": "Delete", "quota": "Advisory"},
        )
    )
    kube.wait("lustreshare/main")
    return path


class Swift:
    """python-swiftclient, run as `command` says."""

    def __init__(self, url, command):
        self.auth = ["-A", f"{url.rstrip('/')}/auth/v1.0", "-U", "physics:alice", "-K", "secret"]
        self.command = command

    def __call__(self, *args, check=True):
        return run(*self.command, *self.auth, *args, check=check)


def key_hash(key):
    return run(os.environ["LB_OBJECT_SERVER"], "hash-key", stdin=key).stdout.strip()


@pytest.fixture(scope="session")
def users(tenant):
    secret = run(os.environ["LB_OBJECT_SERVER"], "generate-secret").stdout
    user = f'[[user]]\naccount = "physics"\nname = "alice"\nkey_hash = "{key_hash("secret")}"\ngroups = [".admin"]\n'
    tenant.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "users"},
            "stringData": {"users.toml": user, "token.secret": secret},
        }
    )


@pytest.fixture(scope="session")
def main_bridge(tenant, main_share, users):
    """A bridge over the main share; its URL from outside."""
    tenant.apply(bridge("objects", "main"))
    tenant.wait("swiftbridge/objects", seconds=90)
    return outside(tenant, "objects")


def outside(kube, name):
    """A bridge's URL at the node's own address."""
    [node] = Kube().get("nodes")["items"]
    [address] = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    [port] = kube.get(f"service/{name}-swift")["spec"]["ports"]
    return f"http://{address}:{port['nodePort']}"


@pytest.fixture(scope="session")
def swift(main_bridge):
    """From outside the cluster."""
    return Swift(main_bridge, [os.environ["LB_SWIFT"]])
