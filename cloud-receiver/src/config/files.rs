//! The files of a configuration: the main one, `conf.d/*.toml` beside it, and the files of secrets that it names.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use super::check::Problems;
use super::{Config, Credentials, Source, StaticKeys, read_keys};

/// Reads the file at `path` and what lies in `conf.d` beside it, sorted by name, and parses them as one.
pub fn load(path: &Path) -> Result<Config, Problems> {
    Config::parse(&sources(path)?, &|name| std::env::var(name).ok())
}

fn sources(path: &Path) -> Result<Vec<Source>, Problems> {
    let mut problems = Problems::default();
    let mut paths = vec![path.to_owned()];
    let beside = path.parent().unwrap_or(Path::new(".")).join("conf.d");
    if let Ok(entries) = fs::read_dir(&beside) {
        let mut more: Vec<_> = entries
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|x| x == "toml"))
            .collect();
        more.sort();
        paths.append(&mut more);
    }
    let mut sources = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        match read(&path) {
            Ok(text) => sources.push(Source { name, text }),
            Err(e) => problems.add(name, format!("can't be read: {e}"), "name a file with --config FILE"),
        }
    }
    if problems.0.is_empty() { Ok(sources) } else { Err(problems) }
}

/// None of these files is longer, bytes. What is (a device, a log named by mistake) would fill the memory.
const LONGEST: u64 = 1 << 20;

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let bytes = File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if bytes as u64 > LONGEST {
        return Err(io::Error::other("it is longer than 1 MiB, which none of these files is"));
    }
    Ok(text)
}

/// The static keys that the configuration names; `None` for the default chain.
pub fn keys(config: &Config) -> Result<Option<StaticKeys>, Problems> {
    let Credentials::File(path) = &config.bucket.credentials else { return Ok(None) };
    let read = read(path).map_err(|e| format!("can't be read: {e}")).and_then(|t| read_keys(&t));
    read.map(Some).map_err(|why| {
        let mut problems = Problems::default();
        let hint = "a TOML file with access_key_id, secret_access_key and perhaps session_token";
        problems.add("bucket.credentials.file", format!("{}: {why}", path.display()), hint);
        problems
    })
}

/// The token that callers of the fleet page must show; `None` where none is set.
pub fn token(config: &Config) -> Result<Option<String>, Problems> {
    let Some(path) = &config.fleet.token_file else { return Ok(None) };
    let what = match read(path) {
        Ok(text) if text.trim().len() >= 16 => return Ok(Some(text.trim().to_owned())),
        Ok(_) => "holds fewer than 16 characters".to_owned(),
        Err(e) => format!("can't be read: {e}"),
    };
    let mut problems = Problems::default();
    let hint = "a file with one long random text, such as `openssl rand -hex 32` prints";
    problems.add("fleet.token_file", format!("{} {what}", path.display()), hint);
    Err(problems)
}
