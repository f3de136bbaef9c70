//! The charts of this repository, rendered by helm.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use super::control_plane::tool_folder;

/// What `helm template RELEASE charts/CHART` prints, or what it complains of.
pub fn template(release: &str, chart: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(helm())
        .args(["template", release])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("charts").join(chart))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("helm can be started");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).expect("UTF-8")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn helm() -> &'static Path {
    static HELM: LazyLock<PathBuf> = LazyLock::new(|| tool_folder(&["helm"]).join("helm"));
    &HELM
}
