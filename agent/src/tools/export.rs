//! `buffer export`: the readings of a range of time, as they are in the journal, to a file or to standard output.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Found;
use super::access::Access;
use super::line;
use super::parquet::Export;
use super::pick::Pick;
use super::walk::{self, Names, Reading};
use crate::buffer::reader::Fault;

/// What the readings become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One file of the columns of the table.
    Parquet,
    /// A record a reading, behind a head.
    Csv,
    /// An object a reading.
    Jsonl,
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "parquet" => Ok(Self::Parquet),
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err(format!("invalid format {word:?}: expected parquet, csv or jsonl")),
        }
    }
}

/// Writes all readings that are picked, those of other epochs once. Tells how many through `note`.
///
/// # Errors
/// The way to the buffer's, and writing. A file is there only if it is whole.
pub fn export(
    access: &mut Access,
    pick: &Pick,
    format: Format,
    to: Option<&Path>,
    out: &mut (dyn Write + Send),
    mut note: impl FnMut(&str),
) -> anyhow::Result<Found> {
    let Some(path) = to else {
        let (count, wrong) = write(access, pick, format, out)?;
        return Ok(tell(count, &wrong, &mut note));
    };
    if path.exists() {
        bail!("{} exists: name another file with --output, or remove it", path.display());
    }
    let part = part(path);
    let done = (|| {
        let file = File::create_new(&part).with_context(|| {
            format!("can't write {}: is the folder there, and may this user write there?", part.display())
        })?;
        let mut file = BufWriter::new(file);
        let (count, wrong) = write(access, pick, format, &mut file)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&part, path).with_context(|| format!("can't rename to {}", path.display()))?;
        Ok((count, wrong))
    })();
    match done {
        Ok((count, wrong)) => Ok(tell(count, &wrong, &mut note)),
        Err(e) => {
            // Ours, and of no use; where it can't be removed it says by its name that it isn't whole.
            let _ = fs::remove_file(&part);
            Err(e)
        }
    }
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".part-{}", std::process::id()));
    name.into()
}

fn tell(count: u64, wrong: &[Fault], note: &mut dyn FnMut(&str)) -> Found {
    for Fault { what, why } in wrong {
        note(&format!("{what} is left out: {why}"));
    }
    note(&format!("{count} readings"));
    if wrong.is_empty() { Found::Well } else { Found::Faults }
}

fn write(
    access: &mut Access,
    pick: &Pick,
    format: Format,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<(u64, Vec<Fault>)> {
    let gateway = access.gateway().clone();
    match format {
        Format::Csv => {
            out.write_all(line::csv_head().as_bytes())?;
            each(access, pick, |r| Ok(out.write_all(line::csv(&r, &gateway).as_bytes())?))
        }
        Format::Jsonl => each(access, pick, |r| Ok(out.write_all(line::json(&r, &gateway).as_bytes())?)),
        Format::Parquet => {
            let mut export = Export::new(out, gateway)?;
            let done = each(access, pick, |r| Ok(export.push(r)?))?;
            export.finish()?;
            Ok(done)
        }
    }
}

/// Calls `f` for each reading that is picked; those that another epoch took over stand there.
fn each(
    access: &mut Access,
    pick: &Pick,
    mut f: impl FnMut(Reading) -> anyhow::Result<()>,
) -> anyhow::Result<(u64, Vec<Fault>)> {
    let mut names = Names::default();
    let (mut count, mut unread) = (0, Vec::new());
    let mut wrong = walk::batches(access, pick, i64::MIN, |access, batch| {
        let readings = match names.readings(access, &batch)? {
            Ok((readings, 0)) => readings,
            Ok((readings, nameless)) => {
                let what = format!("{nameless} readings of batch {}", batch.id);
                unread.push(Fault::new(what, "the dictionary doesn't have their series"));
                readings
            }
            Err(why) => {
                unread.push(Fault::new(format!("batch {}", batch.id), why));
                return Ok(true);
            }
        };
        for reading in readings {
            if reading.is_in(pick) {
                f(reading)?;
                count += 1;
            }
        }
        Ok(true)
    })?;
    wrong.extend(unread);
    Ok((count, wrong))
}
