//! The configuration files of a node's parts, and the arguments they are started with.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{ADDRESS, NODE, SERVICES};

/// The node's cgroup, in every hierarchy.
pub(super) const CGROUP: &str = "lustre-bridge-cluster";

/// Writes the files into `dir`.
pub(super) fn write(dir: &Path) -> Result<()> {
    let d = dir.display();
    for (name, text) in [
        ("containerd.toml", containerd(&d)),
        ("cni/10-bridge.conflist", CNI.to_owned()),
        ("kubelet.yaml", kubelet(&d)),
        ("kube-proxy.yaml", proxy(&d)),
    ] {
        fs::write(dir.join(name), text)?;
    }
    Ok(())
}

fn containerd(d: &dyn std::fmt::Display) -> String {
    // Without CAP_SYS_RESOURCE, as in a sandbox, runc may not lower a process's oom_score_adj.
    format!(
        r#"version = 2
root = "{d}/containerd/root"
state = "{d}/containerd/state"
[grpc]
address = "{d}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{d}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "/usr/sbin/runc"
SystemdCgroup = false
"#
    )
}

const CNI: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"#;

fn kubelet(d: &dyn std::fmt::Display) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /{CGROUP}
failSwapOn: false
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix://{d}/containerd.sock
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {d}/ca.crt}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {d}/kubelet-serving.crt
tlsPrivateKeyFile: {d}/kubelet-serving.key
evictionHard: {{memory.available: 1%, nodefs.available: 1%, imagefs.available: 1%}}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
volumePluginDir: {d}/kubelet-plugins
"
    )
}

fn proxy(d: &dyn std::fmt::Display) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.244.0.0/16
hostnameOverride: {NODE}
clientConnection: {{kubeconfig: {d}/kube-proxy.kubeconfig}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"
    )
}

/// How each part is started.
pub(super) fn arguments(part: &str, dir: &Path) -> Vec<String> {
    let d = dir.display();
    let text = match part {
        "etcd" => format!(
            "--data-dir={d}/etcd --unsafe-no-fsync --log-level=warn --listen-client-urls=http://127.0.0.1:2379 \
             --advertise-client-urls=http://127.0.0.1:2379"
        ),
        "containerd" => format!("--config {d}/containerd.toml"),
        "kube-apiserver" => format!(
            "--etcd-servers=http://127.0.0.1:2379 --advertise-address={ADDRESS} --bind-address=0.0.0.0 \
             --secure-port=6443 --service-cluster-ip-range={SERVICES} --authorization-mode=Node,RBAC \
             --enable-admission-plugins=NodeRestriction --allow-privileged=true --client-ca-file={d}/ca.crt \
             --kubelet-preferred-address-types=InternalIP --tls-cert-file={d}/apiserver.crt --tls-private-key-file={d}/apiserver.key \
             --kubelet-client-certificate={d}/apiserver-kubelet.crt \
             --kubelet-client-key={d}/apiserver-kubelet.key --kubelet-certificate-authority={d}/ca.crt \
             --service-account-issuer=https://kubernetes.default.svc.cluster.local \
             --service-account-key-file={d}/sa.pub --service-account-signing-key-file={d}/sa.key \
             --requestheader-client-ca-file={d}/ca.crt --requestheader-allowed-names=front-proxy-client \
             --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
             --requestheader-username-headers=X-Remote-User --proxy-client-cert-file={d}/front-proxy.crt \
             --proxy-client-key-file={d}/front-proxy.key --enable-aggregator-routing=true"
        ),
        "kube-controller-manager" => format!(
            "--kubeconfig={d}/controller-manager.kubeconfig --leader-elect=false \
             --use-service-account-credentials --root-ca-file={d}/ca.crt \
             --service-account-private-key-file={d}/sa.key --cluster-signing-cert-file={d}/ca.crt \
             --cluster-signing-key-file={d}/ca.key --controllers=*,-node-ipam-controller \
             --allocate-node-cidrs=false"
        ),
        "kube-scheduler" => format!("--kubeconfig={d}/scheduler.kubeconfig --leader-elect=false"),
        "kubelet" => format!(
            "--config={d}/kubelet.yaml --kubeconfig={d}/kubelet.kubeconfig --hostname-override={NODE} \
             --node-ip={ADDRESS} --root-dir=/var/lib/kubelet"
        ),
        _ => format!("--config={d}/kube-proxy.yaml"),
    };
    text.split_whitespace().map(str::to_owned).collect()
}
