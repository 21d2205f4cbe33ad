//! `directoryTemplate`: where a volume's directory lies beneath its share.

use std::collections::HashMap;

use crate::path::{PathError, RESERVED, SubPath};

/// What `${…}` may name, and the provisioner's parameter that says it.
const VARIABLES: [(&str, &str); 3] = [
    ("pvc.namespace", "csi.storage.k8s.io/pvc/namespace"),
    ("pvc.name", "csi.storage.k8s.io/pvc/name"),
    (VOLUME_NAME, "csi.storage.k8s.io/pv/name"),
];
const VOLUME_NAME: &str = "pv.name";
const WITH_CLAIM: &str = "${pvc.namespace}/${pvc.name}-${pv.name}";
const WITHOUT_CLAIM: &str = "${pv.name}";

/// Why there is no path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `${` without `}`.
    #[error("directoryTemplate {0:?} has a `${{` without its `}}`")]
    Open(String),
    /// Something else between `${` and `}`.
    #[error("directoryTemplate names ${{{0}}}; there are ${{pvc.namespace}}, ${{pvc.name}} and ${{pv.name}}")]
    Unknown(String),
    /// Two volumes would have the same directory.
    #[error("directoryTemplate {0:?} has no ${{pv.name}}, so that volumes would share a directory")]
    NotUnique(String),
    /// The provisioner did not say.
    #[error(
        "directoryTemplate names ${{{0}}}, which is unknown: the provisioner needs --extra-create-metadata"
    )]
    Missing(&'static str),
    /// A value that is no part of one file name.
    #[error("${{{variable}}} is {value:?}, which cannot be part of a directory's name")]
    Value {
        /// Which variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// The result.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// The directory of the volume `name`, from the parameters of its class and of the provisioner.
///
/// Without a template and without a claim (outside Kubernetes) the directory has the volume's name.
pub(crate) fn directory(name: &str, parameters: &HashMap<String, String>) -> Result<SubPath, TemplateError> {
    let default = if parameters.contains_key(VARIABLES[1].1) { WITH_CLAIM } else { WITHOUT_CLAIM };
    let template = parameters.get("directoryTemplate").map_or(default, String::as_str);
    render(template, |variable| {
        let parameter = VARIABLES.iter().find(|(known, _)| *known == variable)?.1;
        let told = parameters.get(parameter).map(String::as_str);
        told.or((variable == VOLUME_NAME).then_some(name))
    })
}

fn render<'v>(template: &str, value: impl Fn(&str) -> Option<&'v str>) -> Result<SubPath, TemplateError> {
    let mut path = String::new();
    let mut unique = false;
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once("${") {
        let (variable, after) = after.split_once('}').ok_or_else(|| TemplateError::Open(template.into()))?;
        let variable = known(variable)?;
        unique |= variable == VOLUME_NAME;
        path.push_str(literal);
        path.push_str(plain(variable, value(variable).ok_or(TemplateError::Missing(variable))?)?);
        rest = after;
    }
    path.push_str(rest);
    if !unique {
        return Err(TemplateError::NotUnique(template.into()));
    }
    Ok(SubPath::parse(&path)?)
}

fn known(variable: &str) -> Result<&'static str, TemplateError> {
    let found = VARIABLES.iter().find(|(known, _)| *known == variable);
    found.map(|(known, _)| *known).ok_or_else(|| TemplateError::Unknown(variable.into()))
}

/// A value must not bring components of its own.
fn plain<'v>(variable: &'static str, value: &'v str) -> Result<&'v str, TemplateError> {
    let bad = matches!(value, "" | "." | "..") || value.contains('/') || value.starts_with(RESERVED);
    if bad { Err(TemplateError::Value { variable, value: value.into() }) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    const CLAIM: [(&str, &str); 3] = [
        ("csi.storage.k8s.io/pvc/namespace", "team-a"),
        ("csi.storage.k8s.io/pvc/name", "data"),
        ("csi.storage.k8s.io/pv/name", "pvc-1"),
    ];

    fn with(template: &str) -> Result<String, TemplateError> {
        let mut all = parameters(&CLAIM);
        all.insert("directoryTemplate".into(), template.into());
        directory("pvc-1", &all).map(String::from)
    }

    #[test]
    fn the_default_depends_on_what_is_known() {
        assert_eq!(directory("v1", &parameters(&[])).unwrap().as_str(), "v1");
        assert_eq!(directory("pvc-1", &parameters(&CLAIM)).unwrap().as_str(), "team-a/data-pvc-1");
    }

    #[test]
    fn variables_are_replaced() {
        assert_eq!(with("x/${pvc.name}/${pv.name}.d").unwrap(), "x/data/pvc-1.d");
        assert_eq!(with("x/${pvc.name}"), Err(TemplateError::NotUnique("x/${pvc.name}".into())));
        assert_eq!(with("${pv.name"), Err(TemplateError::Open("${pv.name".into())));
        assert_eq!(with("${pv.name}/${HOME}"), Err(TemplateError::Unknown("HOME".into())));
    }

    #[test]
    fn neither_text_nor_values_lead_out() {
        for bad in ["../${pv.name}", "/${pv.name}", "a/./${pv.name}", ".lb~dcsi/${pv.name}", "${pv.name}/"] {
            assert!(matches!(with(bad), Err(TemplateError::Path(_))), "{bad}");
        }
        for bad in ["..", ".", "a/b", "../x", "/etc", ".lb~dcsi", ""] {
            let refused = directory(bad, &parameters(&[("directoryTemplate", "v-${pv.name}")]));
            assert!(matches!(refused, Err(TemplateError::Value { .. })), "{bad:?}");
        }
        assert!(matches!(directory("a\0b", &parameters(&[])), Err(TemplateError::Path(_))));
        assert!(matches!(directory(&"n".repeat(4096), &parameters(&[])), Err(TemplateError::Path(_))));
    }

    #[test]
    fn a_missing_value_says_what_to_do() {
        let refused = directory("v", &parameters(&[("directoryTemplate", "${pvc.name}/${pv.name}")]));
        assert_eq!(refused, Err(TemplateError::Missing("pvc.name")));
    }
}
