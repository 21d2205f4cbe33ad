//! The wire contracts say what the specifications say, name by name.
//!
//! The specifications come from the Go module proxy; without `go`, or without the proxy, this says so and passes.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto,
};

/// Where a module's files are, if they can be had.
fn module(name: &str) -> Option<PathBuf> {
    let temporary = std::env::temp_dir();
    let run = Command::new("go")
        .args(["mod", "download", "-json", name])
        .env("GOFLAGS", "-mod=mod")
        .current_dir(temporary)
        .output();
    let output = run.ok()?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    answer["Dir"].as_str().map(PathBuf::from)
}

fn compile(directory: &Path, file: &str) -> FileDescriptorProto {
    let files = protox::compile([file], [directory]).unwrap();
    files.file.into_iter().find(|found| found.name() == file).unwrap()
}

/// Everything that is on the wire, as lines.
#[derive(Default)]
struct Contract(BTreeMap<String, String>);

impl Contract {
    fn of(file: &FileDescriptorProto) -> Contract {
        let mut contract = Contract::default();
        let package = file.package();
        contract.add("package", package.to_owned());
        file.message_type.iter().for_each(|message| contract.message(package, message));
        file.enum_type.iter().for_each(|kind| contract.enumeration(package, kind));
        file.service.iter().for_each(|service| contract.service(service));
        contract
    }

    fn add(&mut self, name: impl Into<String>, value: String) {
        let name = name.into();
        assert!(self.0.insert(name.clone(), value).is_none(), "{name} twice");
    }

    fn message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        let map = message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry);
        self.add(format!("message {name}"), format!("map {map}"));
        for field in &message.field {
            self.add(format!("field {name}.{}", field.name()), Contract::field(message, field));
        }
        message.nested_type.iter().for_each(|nested| self.message(&name, nested));
        message.enum_type.iter().for_each(|kind| self.enumeration(&name, kind));
    }

    fn field(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
        let one_of = field.oneof_index.map(|at| message.oneof_decl[at as usize].name());
        format!(
            "{} {:?} {:?} {} oneof {one_of:?}",
            field.number(),
            field.label(),
            field.r#type(),
            field.type_name()
        )
    }

    fn enumeration(&mut self, scope: &str, kind: &EnumDescriptorProto) {
        for value in &kind.value {
            self.add(format!("enum {scope}.{}.{}", kind.name(), value.name()), value.number().to_string());
        }
    }

    fn service(&mut self, service: &ServiceDescriptorProto) {
        for method in &service.method {
            let said = format!(
                "{} (stream {}) returns {} (stream {})",
                method.input_type(),
                method.client_streaming(),
                method.output_type(),
                method.server_streaming()
            );
            self.add(format!("rpc {}.{}", service.name(), method.name()), said);
        }
    }
}

fn compare(module_name: &str, folder: &str, theirs: &str, ours: &str) {
    let Some(directory) = module(module_name) else {
        eprintln!(
            "SKIPPED: {module_name} cannot be had (no go, or no module proxy): {ours} was compared with NOTHING"
        );
        return;
    };
    let theirs = Contract::of(&compile(&directory.join(folder), theirs));
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let ours = Contract::of(&compile(&own, ours));
    assert!(theirs.0.len() > 5);
    for (name, value) in &theirs.0 {
        assert_eq!(ours.0.get(name), Some(value), "{name}");
    }
    let extra: Vec<_> = ours.0.keys().filter(|name| !theirs.0.contains_key(*name)).collect();
    assert!(extra.is_empty(), "not in the specification: {extra:?}");
}

#[test]
fn the_container_storage_interface() {
    compare("github.com/container-storage-interface/spec@v1.12.0", "", "csi.proto", "csi.proto");
}

#[test]
fn the_kubelets_plugin_registration() {
    let folder = "pkg/apis/pluginregistration/v1";
    compare("k8s.io/kubelet@v0.37.1", folder, "api.proto", "pluginregistration.proto");
}
