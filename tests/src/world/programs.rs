//! Finds the two programs beside the test's folder, and builds them once if they aren't there.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

/// Both programs, built.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `tributary-agent`.
    pub agent: PathBuf,
    /// `tributary-receiver`.
    pub receiver: PathBuf,
}

/// The programs of the profile that this test was built with.
///
/// # Errors
/// When they aren't there and can't be built.
pub async fn programs() -> anyhow::Result<Programs> {
    let own = std::env::current_exe().context("can't tell where this test is")?;
    // Tests stand in `deps` below the folder of the programs.
    let folder = own.parent().and_then(Path::parent).context("this test stands in no target folder")?;
    let found =
        Programs { agent: folder.join("tributary-agent"), receiver: folder.join("tributary-receiver") };
    if found.agent.is_file() && found.receiver.is_file() {
        return Ok(found);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace folder")?;
    let target = folder.parent().context("no target folder")?;
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(root).args(["build", "--release", "--workspace", "--bins", "--target-dir"]).arg(target);
    let status =
        build.stdin(Stdio::null()).status().await.context("can't run cargo to build the programs")?;
    ensure!(status.success(), "building the programs failed ({status})");
    ensure!(
        found.agent.is_file() && found.receiver.is_file(),
        "cargo built, but not into {}",
        folder.display()
    );
    Ok(found)
}
