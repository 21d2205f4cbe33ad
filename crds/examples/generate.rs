//! Writes crds/yaml/*.yaml and docs/custom-resources.md; `cargo xtask crds` calls it.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::create_dir_all(root.join("crds/yaml"))?;
    for (name, definition) in crds::yaml::definitions() {
        std::fs::write(root.join("crds/yaml").join(name), crds::yaml::text(&definition)?)?;
    }
    std::fs::write(root.join("docs/custom-resources.md"), crds::docs::page())?;
    Ok(())
}
