//! The node's certificates: one authority, everything below it, kubeconfigs for those who log in by certificate.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

use super::{ADDRESS, NODE};

const API_SERVER: [&str; 8] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "127.0.0.1",
    "10.96.0.1",
    ADDRESS,
];

/// Who logs in by certificate: file, user, group.
const CLIENTS: [(&str, &str, Option<&str>); 5] = [
    ("admin", "admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
    ("kubelet", "system:node:node1", Some("system:nodes")),
];

/// Writes all of it into `dir`.
pub(super) fn make(dir: &Path) -> Result<()> {
    let authority = Authority::new()?;
    write(dir, "ca.crt", &authority.certificate)?;
    write(dir, "ca.key", &authority.key)?;
    let mut names: Vec<String> = API_SERVER.map(str::to_owned).to_vec();
    authority.issue(dir, "apiserver", "kube-apiserver", None, &names)?;
    names = vec![NODE.to_owned(), ADDRESS.to_owned()];
    authority.issue(dir, "kubelet-serving", &format!("system:node:{NODE}"), Some("system:nodes"), &names)?;
    authority.issue(dir, "apiserver-kubelet", "kube-apiserver", Some("system:masters"), &[])?;
    authority.issue(dir, "front-proxy", "front-proxy-client", None, &[])?;
    for (file, user, group) in CLIENTS {
        authority.issue(dir, file, user, group, &[])?;
        write(dir, &format!("{file}.kubeconfig"), &kubeconfig(dir, file))?;
    }
    let service_accounts = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write(dir, "sa.key", &service_accounts.serialize_pem())?;
    write(dir, "sa.pub", &service_accounts.public_key_pem())
}

struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "lustre-bridge test cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), issuer: Issuer::new(params, key) })
    }

    /// A certificate for `user` in `group`, which serves `names` or is a client.
    fn issue(&self, dir: &Path, file: &str, user: &str, group: Option<&str>, names: &[String]) -> Result<()> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        write(dir, &format!("{file}.crt"), &params.signed_by(&key, &self.issuer)?.pem())?;
        write(dir, &format!("{file}.key"), &key.serialize_pem())
    }
}

fn kubeconfig(dir: &Path, user: &str) -> String {
    let dir = dir.display();
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: lustre-bridge\n\
         \x20 cluster: {{server: 'https://{ADDRESS}:6443', certificate-authority: '{dir}/ca.crt'}}\n\
         users:\n\
         - name: {user}\n\
         \x20 user: {{client-certificate: '{dir}/{user}.crt', client-key: '{dir}/{user}.key'}}\n\
         contexts:\n\
         - name: lustre-bridge\n\
         \x20 context: {{cluster: lustre-bridge, user: {user}}}\n\
         current-context: lustre-bridge\n"
    )
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
