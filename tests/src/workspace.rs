//! This workspace: where its sources are, and the cargo that builds them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the workspace whose program this is: where cargo runs it from, else where it was built. Clones share
/// a target folder, so a program may have been built in another clone, which may be gone.
pub fn folder() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let package = package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    package.parent().map_or_else(|| package.clone(), Path::to_path_buf)
}

/// Cargo in that folder, without what an outer cargo has told this program about its package: build scripts look at that
/// too (ring's does), and everything that depends on them would be built again.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder());
    for (name, _) in env::vars_os().filter(|(name, _)| is_about_a_package(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    cargo
}

fn is_about_a_package(variable: &str) -> bool {
    let families = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    let single = ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
    families.iter().any(|family| variable.starts_with(family)) || single.contains(&variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inner_cargo_hears_what_a_person_has_set_and_nothing_of_the_package_that_runs() {
        // Cargo has set this one for the test.
        assert!(env::var_os("CARGO_PKG_NAME").is_some());
        let cargo = cargo();
        assert!(cargo.get_envs().any(|change| change == ("CARGO_PKG_NAME".as_ref(), None)));
        assert!(
            ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_INCREMENTAL"]
                .iter()
                .all(|name| !is_about_a_package(name))
        );
        assert!(folder().join("Cargo.toml").is_file());
    }
}
