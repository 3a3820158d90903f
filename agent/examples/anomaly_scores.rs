//! Scores every CSV below a folder by the chart of the alert rule `deviates`: `anomaly_scores [--over N] DATA OUT`.
//!
//! `DATA` has files `FOLDER/NAME.csv` with the columns `timestamp,value`, as the Numenta Anomaly Benchmark has them; `OUT` gets
//! the same files with `anomaly_score` beside: standard deviations from what the series was lately, 0 before enough is known.
//! `tests/nab/score.py` judges them.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use tributary_agent::alert::chart::Chart;

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut over = 1000.0;
    if let Some(at) = arguments.iter().position(|a| a == "--over") {
        over = arguments.get(at + 1).context("--over needs a number")?.parse().context("--over")?;
        arguments.drain(at..at + 2);
    }
    let [data, out] = &arguments[..] else { bail!("usage: anomaly_scores [--over N] DATA OUT") };
    let (data, out) = (PathBuf::from(data), PathBuf::from(out));
    let mut files = 0;
    for folder in fs::read_dir(&data).with_context(|| format!("can't read {}", data.display()))? {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        let to = out.join(folder.file_name().unwrap_or_default());
        fs::create_dir_all(&to)?;
        for file in fs::read_dir(&folder)? {
            let file = file?.path();
            if file.extension().is_some_and(|e| e == "csv") {
                let scored =
                    score(&fs::read_to_string(&file)?, over).with_context(|| file.display().to_string())?;
                fs::write(to.join(file.file_name().unwrap_or_default()), scored)?;
                files += 1;
            }
        }
    }
    writeln!(std::io::stdout(), "{files} files")?;
    Ok(())
}

fn score(text: &str, over: f64) -> Result<String> {
    let mut lines = text.lines();
    if lines.next() != Some("timestamp,value") {
        bail!("expected the columns timestamp,value");
    }
    let (mut chart, mut out) = (Chart::default(), String::from("timestamp,value,anomaly_score\n"));
    for line in lines {
        let (_, value) = line.split_once(',').context("expected two columns")?;
        let score = chart.take(value.parse().with_context(|| format!("{value:?} is no number"))?, over);
        out += &format!("{line},{}\n", score.map_or(0.0, |(score, _)| score));
    }
    Ok(out)
}
