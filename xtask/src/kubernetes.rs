//! The product on a Kubernetes: its images, its chart, an example to try.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::build::Contents;
use crate::cluster::{ADDRESS, Borrowed, Cluster, Life, helm};
use crate::report::seconds;
use crate::server::{random_hex, users_toml};
use crate::users::User;
use crate::{build, images, paths, proc, signals};

/// The namespace of the product itself.
pub(crate) const NAMESPACE: &str = "lustre-bridge-system";
const RELEASE: &str = "lustre-bridge";

/// helm, for a cluster.
fn helm_for(kubeconfig: &Path) -> Result<Command> {
    let mut cmd = Command::new(helm()?);
    cmd.arg("--kubeconfig").arg(kubeconfig).current_dir(paths::repo());
    Ok(cmd)
}

/// Installs the chart, or brings it up to date, and waits until everything runs.
fn install(kubeconfig: &Path) -> Result<()> {
    let start = Instant::now();
    let mut cmd = helm_for(kubeconfig)?;
    cmd.args(["upgrade", "--install", RELEASE, "charts/lustre-bridge", "--namespace", NAMESPACE]);
    // Helm's newer way waits for holders that are replaced by nobody.
    cmd.args(["--create-namespace", "--wait=legacy", "--timeout", "5m"]);
    proc::output(&mut cmd)?;
    println!("chart installed after {}", seconds(start.elapsed()));
    Ok(())
}

/// A cluster that lives as long as this process, with the product on it, whose images `make` writes.
pub(crate) fn with_product(make: impl FnOnce(&Path) -> Result<Vec<PathBuf>>) -> Result<Borrowed> {
    let cluster = Cluster::here();
    if cluster.alive() {
        bail!(
            "a cluster runs already: stop it by `cargo xtask cluster down`, or use it by KUBECONFIG={}",
            cluster.kubeconfig().display()
        );
    }
    let archives = make(&paths::target().join("images"))?;
    let cluster = Borrowed(cluster);
    cluster.0.up(Life::WithUs)?;
    install_on(&cluster.0, &archives)?;
    Ok(cluster)
}

/// Gives the node the product's images and installs the chart.
pub(crate) fn install_on(cluster: &Cluster, archives: &[PathBuf]) -> Result<()> {
    archives.iter().try_for_each(|archive| cluster.import(archive))?;
    install(&cluster.kubeconfig())
}

/// `cargo xtask demo --kubernetes`: everything applied, running until `cargo xtask cluster down`.
pub(crate) fn demo() -> Result<()> {
    let stop = signals::stop_flag()?;
    let archives = images::write_ours(&paths::target().join("images"), build::MUSL, Contents::Unnamed)?;
    let cluster = Cluster::here();
    if !cluster.alive() {
        cluster.up(Life::Own)?;
    }
    install_on(&cluster, &archives)?;
    let share = paths::cache().join("demo-share");
    std::fs::create_dir_all(&share)?;
    let server = build::existing(paths::target().join(build::MUSL).join("release/object-server"))?;
    let key = demo_key(&cluster)?;
    let example = Example {
        share: &share,
        users: users_toml(&server, &[User::new("demo", "demo", &key, &[".admin"])])?,
        secret: secret(&server)?,
    };
    let start = Instant::now();
    apply(&cluster, &example.yaml())?;
    let limit = Duration::from_mins(2);
    for what in ["lustreshare/demo", "swiftbridge/demo", "pod/job"] {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let ready = ["wait", "--namespace=demo", "--for=condition=Ready", what, &timeout];
        proc::output(cluster.kubectl()?.args(ready))?;
        println!("{what} is ready after {}", seconds(start.elapsed()));
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
    }
    introduce(&cluster, &share, &key)
}

/// The demo's own, as long as its cluster lives: who runs the demo again keeps what was printed before.
fn demo_key(cluster: &Cluster) -> Result<String> {
    let file = cluster.kubeconfig().with_file_name("demo.key");
    if let Ok(key) = std::fs::read_to_string(&file) {
        return Ok(key);
    }
    let key = random_hex(12)?;
    let mut options = std::fs::OpenOptions::new();
    std::io::Write::write_all(
        &mut options.write(true).create_new(true).mode(0o600).open(&file)?,
        key.as_bytes(),
    )?;
    Ok(key)
}

/// kubectl apply of these objects.
pub(crate) fn apply(cluster: &Cluster, yaml: &str) -> Result<()> {
    use std::io::Write as _;
    let mut child =
        cluster.kubectl()?.args(["apply", "-f", "-"]).stdin(std::process::Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(yaml.as_bytes())?;
    }
    if !child.wait()?.success() {
        bail!("kubectl apply failed");
    }
    Ok(())
}

fn secret(server: &Path) -> Result<String> {
    proc::output(Command::new(server).arg("generate-secret"))
}

/// What the demo applies.
struct Example<'a> {
    share: &'a Path,
    users: String,
    secret: String,
}

impl Example<'_> {
    fn yaml(&self) -> String {
        let indented = |text: &str| text.lines().flat_map(|line| ["    ", line, "\n"]).collect::<String>();
        format!(
            "apiVersion: v1
kind: Namespace
metadata: {{name: demo, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: lustre-bridge.io/v1alpha1
kind: LustreShare
metadata: {{name: demo}}
spec:
  backend: {{directory: {{hostPath: {share:?}}}}}
  ownership: {{uid: 1000, gid: 1000}}
  access:
  - {{namespace: demo, subPath: demo}}
  provisioning: {{quota: Advisory}}
---
apiVersion: v1
kind: Secret
metadata: {{name: users, namespace: demo}}
stringData:
  users.toml: |
{users}  token.secret: |
{secret}---
apiVersion: lustre-bridge.io/v1alpha1
kind: SwiftBridge
metadata: {{name: demo, namespace: demo}}
spec:
  shareRef: {{name: demo}}
  auth: {{credentials: {{secretRef: {{name: users}}}}}}
  exposure: {{service: {{type: NodePort}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: scratch, namespace: demo}}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: demo
  resources: {{requests: {{storage: 1Gi}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: job, namespace: demo}}
spec:
  securityContext: {{runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: job
    image: localhost/busybox:1
    command: [sh, -c, 'sleep 1000000']
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
    volumeMounts:
    - {{name: share, mountPath: /share}}
    - {{name: scratch, mountPath: /scratch}}
  volumes:
  - {{name: share, persistentVolumeClaim: {{claimName: demo}}}}
  - {{name: scratch, persistentVolumeClaim: {{claimName: scratch}}}}
",
            share = self.share.display().to_string(),
            users = indented(&self.users),
            secret = indented(&self.secret),
        )
    }
}

fn introduce(cluster: &Cluster, share: &Path, key: &str) -> Result<()> {
    let port = "jsonpath={.spec.ports[0].nodePort}";
    let get = ["get", "service/demo-swift", "--namespace=demo", "-o", port];
    let url = format!("http://{ADDRESS}:{}", proc::output(cluster.kubectl()?.args(get))?);
    let programs = paths::cache().join("python/bin");
    println!(
        "\nexport KUBECONFIG={}\nexport PATH={}:$PATH\n\
         export ST_AUTH={}/auth/v1.0 ST_USER=demo:demo ST_KEY={key}\n\n\
         kubectl get lustreshares,swiftbridges -A\n\
         kubectl describe lustreshare demo\n\n\
         An upload is a file that the pod reads:\n\
         \x20 swift upload photos README.md\n\
         \x20 kubectl exec -n demo job -- ls -l /share/AUTH_demo/photos\n\
         A file that the pod writes is an object:\n\
         \x20 kubectl exec -n demo job -- sh -c 'mkdir -p /share/AUTH_demo/data && id > /share/AUTH_demo/data/id'\n\
         \x20 swift download data id -o -\n\n\
         Everything is beneath {} on this machine.\n\
         cargo xtask cluster down stops it and leaves nothing but that.",
        cluster.kubeconfig().display(),
        programs.display(),
        url,
        share.display(),
    );
    Ok(())
}
