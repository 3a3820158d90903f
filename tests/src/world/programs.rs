//! Finds the programs beside the test's folder, and builds them once if they aren't there.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

use crate::workspace;

/// The programs, built.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `tributary-agent`.
    pub agent: PathBuf,
    /// `tributary-receiver`.
    pub receiver: PathBuf,
    /// `tributary-s3`, the strict S3 server as a process of its own.
    pub s3: PathBuf,
}

/// The programs of the profile that this program was built with.
///
/// # Errors
/// When they aren't there and can't be built.
pub async fn programs() -> anyhow::Result<Programs> {
    let own = std::env::current_exe().context("can't tell where this program is")?;
    let mut folder = own.parent().context("this program stands in no folder")?;
    // Tests stand in `deps` below the folder of the programs.
    if folder.file_name().is_some_and(|name| name == "deps") {
        folder = folder.parent().context("this test stands in no target folder")?;
    }
    let found = Programs {
        agent: folder.join("tributary-agent"),
        receiver: folder.join("tributary-receiver"),
        s3: folder.join("tributary-s3"),
    };
    if found.are_there() {
        return Ok(found);
    }
    let target = folder.parent().context("no target folder")?;
    let mut build = Command::from(workspace::cargo());
    build.args(["build", "--release", "--workspace", "--bins", "--target-dir"]).arg(target);
    let status =
        build.stdin(Stdio::null()).status().await.context("can't run cargo to build the programs")?;
    ensure!(status.success(), "building the programs failed ({status})");
    ensure!(found.are_there(), "cargo built, but not into {}", folder.display());
    Ok(found)
}

impl Programs {
    fn are_there(&self) -> bool {
        [&self.agent, &self.receiver, &self.s3].iter().all(|program| program.is_file())
    }
}
