//! The charts of this repository, rendered by the pinned helm, which sees nothing of this machine's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use super::control_plane::tool_folder;
use super::process::Folder;

/// What `helm template RELEASE charts/CHART` prints, or what it complains of.
pub fn template(release: &str, chart: &str, arguments: &[&str]) -> Result<String, String> {
    let chart = Path::new("charts").join(chart);
    let output = helm(&[&["template", release, &chart.to_string_lossy()], arguments].concat());
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).expect("UTF-8")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// helm with these arguments, in the repository's folder.
pub fn helm(arguments: &[&str]) -> Output {
    static HELM: LazyLock<PathBuf> = LazyLock::new(|| tool_folder(&["helm"]).join("helm"));
    static HOME: LazyLock<Folder> = LazyLock::new(|| Folder::new("helm"));
    Command::new(&*HELM)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("HOME", HOME.path())
        .stdin(Stdio::null())
        .output()
        .expect("helm can be started")
}
