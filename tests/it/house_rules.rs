//! House rules that a compiler doesn't know: what every file says first, who may import whom, and what prose names.

use std::fs;
use std::path::PathBuf;

use tributary_tests::workspace;

fn rust_files(below: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![workspace::folder().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{below} has no Rust files");
    found
}

#[test]
fn every_file_opens_with_a_sentence_that_says_what_it_is() {
    for folder in ["contract", "agent", "cloud-receiver", "tests"] {
        for (path, text) in rust_files(folder) {
            let first = text.lines().next().unwrap_or_default();
            assert!(
                first.starts_with("//! ") && first.len() > 12,
                "{} begins with {first:?}",
                path.display()
            );
        }
    }
}

#[test]
fn the_halves_never_meet_and_the_contract_knows_neither() {
    let never = |folder: &str, names: &[&str]| {
        for (path, text) in rust_files(folder) {
            for name in names {
                assert!(!text.contains(name), "{} names {name}", path.display());
            }
        }
    };
    never(
        "contract/src",
        &["tributary_agent", "tributary_receiver", "tokio", "SystemTime", "std::fs", "std::net"],
    );
    never("agent/src", &["tributary_receiver"]);
    never("cloud-receiver/src", &["tributary_agent"]);
}

/// A file of a stage may name modules above its own in `lib.rs`, never below: imports point upstream.
#[test]
fn imports_point_upstream() {
    for program in ["agent/src", "cloud-receiver/src"] {
        let lib = fs::read_to_string(workspace::folder().join(program).join("lib.rs")).unwrap();
        let order: Vec<&str> =
            lib.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(|l| l.trim_end_matches(';')).collect();
        assert!(order.len() > 5, "{program}: {order:?}");
        for (path, text) in rust_files(program) {
            let relative =
                path.strip_prefix(workspace::folder().join(program)).unwrap().to_string_lossy().into_owned();
            let own = relative.split(['/', '.']).next().unwrap();
            let Some(place) = order.iter().position(|m| *m == own) else { continue };
            // What stands behind the first test of a file may look anywhere.
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            if relative.contains("test") || relative.contains("fixture") {
                continue;
            }
            for below in order.iter().skip(place + 1) {
                let name = format!("crate::{below}");
                let named = product.match_indices(&name).any(|(at, _)| {
                    let next = product[at + name.len()..].chars().next();
                    let comment =
                        product[..at].rsplit('\n').next().unwrap_or_default().trim_start().starts_with("//");
                    !comment && next.is_some_and(|c| !c.is_alphanumeric() && c != '_')
                });
                assert!(!named, "{program}/{relative} names {name}, which stands below {own}");
            }
        }
    }
}

#[test]
fn every_file_that_prose_names_exists() {
    for document in
        ["README.md", "ARCHITECTURE.md", "contract/FORMAT.md", "tests/README.md", "cross/README.md"]
    {
        let text = fs::read_to_string(workspace::folder().join(document)).unwrap();
        for (i, name) in text.split('`').enumerate().filter(|(i, _)| i % 2 == 1) {
            let is_path = ["contract/", "agent/", "cloud-receiver/", "tests/", "config/", "cross/"]
                .iter()
                .any(|folder| name.starts_with(folder));
            if is_path && !name.contains([' ', '*', '<', '{']) {
                assert!(
                    workspace::folder().join(name).exists(),
                    "{document} names `{name}`, which isn't there (piece {i})"
                );
            }
        }
    }
}
