//! How the allocator of glibc is set. It reads its settings when a program starts, and only then. Edge: exec.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// One heap for all threads, which wait for each other seldom, instead of one each; and what is free goes back. With 10,000 series
/// that is a sixth of the agent's memory (`tests/run bench memory`).
const SETTINGS: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072")];

/// Begins this program anew, as the same process, with those settings that the environment doesn't have. Returns where it has
/// them all, or has others in `GLIBC_TUNABLES`, or where it can't be done: then the agent takes more memory, and that is all.
pub fn keep_small() {
    let missing: Vec<_> = SETTINGS.into_iter().filter(|(name, _)| env::var_os(name).is_none()).collect();
    if missing.is_empty() || !cfg!(target_env = "gnu") || env::var_os("GLIBC_TUNABLES").is_some() {
        return;
    }
    let mut arguments = env::args_os();
    if let (Ok(program), Some(name)) = (env::current_exe(), arguments.next()) {
        // It returns only if it failed.
        let _ = Command::new(program).arg0(name).args(arguments).envs(missing).exec();
    }
}
