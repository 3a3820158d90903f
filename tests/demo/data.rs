//! The readings to replay: CSV rows in file order, numbered, dealt out to gateways, as MQTT messages.
//!
//! Deciding is in the small functions ([`value_json`], [`level`], [`Deal`], [`Horizon`]); only [`survey`] and
//! [`readings`] open files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// Name and bytes of the file that is replayed where none is given.
pub(crate) const CARRIED: (&str, &[u8]) =
    ("surfrad-alamosa.csv.zst", include_bytes!("../data/surfrad-alamosa.csv.zst"));

const HEADER: [&str; 4] = ["ts", "device", "metric", "value"];

/// One message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Running number over all files, from 1; rows that aren't sent have none.
    pub(crate) number: u64,
    /// Index of the gateway that is to receive it, from 0.
    pub(crate) gateway: usize,
    /// `gw-1/sensors/{device}/{metric}`.
    pub(crate) topic: String,
    /// `{"ts":…,"value":…,"n":…}`.
    pub(crate) payload: String,
}

/// What the files hold, counted before anything is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Messages to send, over all files.
    pub(crate) total: u64,
    /// Of each file, in order: rows to send and the digest of what they say.
    pub(crate) files: Vec<(u64, String)>,
    /// Numeric and boolean readings so late for their device that the agent may leave them out of its windows.
    pub(crate) beyond_horizon: u64,
}

/// Reads all files once: checks every row, counts, and takes the digests by which a second start knows its data.
///
/// # Errors
/// When a file can't be read, its header isn't `ts,device,metric,value`, or a row's time isn't RFC 3339.
pub(crate) fn survey(files: &[PathBuf], gateways: usize) -> anyhow::Result<Survey> {
    let mut survey = Survey::default();
    let mut deal = Deal::new(gateways);
    let mut horizon = Horizon::default();
    for path in files {
        let (mut rows, mut digest) = (0, Sha256::new());
        for row in Rows::open(path)? {
            let row = row?;
            let time: Timestamp = row.ts.parse().map_err(|error| {
                anyhow::anyhow!(
                    "{}, line {}: {:?} is no RFC 3339 time ({error}); write 2016-01-01T00:00:00Z",
                    path.display(),
                    row.line,
                    row.ts
                )
            })?;
            rows += 1;
            for field in [&row.ts, &row.device, &row.metric, &row.value] {
                digest.update((field.len() as u64).to_le_bytes());
                digest.update(field);
            }
            let gateway = deal.gateway(&row.device, &row.metric);
            let late = horizon.is_beyond(gateway, &row.device, time);
            survey.beyond_horizon += u64::from(late && !value_json(&row.value).starts_with('"'));
        }
        survey.total += rows;
        let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        survey.files.push((rows, digest));
    }
    ensure!(survey.total > 0, "no readings to send in {files:?}: every value is empty or NA");
    Ok(survey)
}

/// The messages of all files, in file order; ends with the first error.
pub(crate) fn readings(
    files: Vec<PathBuf>,
    gateways: usize,
) -> impl Iterator<Item = anyhow::Result<Reading>> + Send {
    let mut deal = Deal::new(gateways);
    let mut number = 0;
    files
        .into_iter()
        .flat_map(|path| match Rows::open(&path) {
            Ok(rows) => Box::new(rows) as Box<dyn Iterator<Item = anyhow::Result<Row>> + Send>,
            Err(error) => Box::new(std::iter::once(Err(error))),
        })
        .map(move |row| {
            let row = row?;
            number += 1;
            let gateway = deal.gateway(&row.device, &row.metric);
            Ok(message(&row, number, gateway))
        })
}

/// Name of the gateway with this index; also its topic prefix and its MQTT client id.
pub(crate) fn gateway_name(gateway: usize) -> String {
    format!("gw-{}", gateway + 1)
}

/// The running number in a message's payload.
pub(crate) fn number_of(_topic: &str, payload: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        n: u64,
    }
    serde_json::from_slice::<Numbered>(payload).ok().map(|numbered| numbered.n)
}

fn message(row: &Row, number: u64, gateway: usize) -> Reading {
    let name = gateway_name(gateway);
    Reading {
        number,
        gateway,
        topic: format!("{name}/sensors/{}/{}", level(&row.device), level(&row.metric)),
        payload: format!(
            r#"{{"ts":{},"value":{},"n":{number}}}"#,
            json_text(&row.ts),
            value_json(&row.value)
        ),
    }
}

/// A value as JSON: numbers as they stand in the file, `true` and `false`, else a string.
fn value_json(value: &str) -> String {
    let trimmed = value.trim();
    match trimmed {
        "true" | "false" => return trimmed.to_owned(),
        _ => {}
    }
    match trimmed.parse::<f64>() {
        Ok(number) if number.is_finite() => {
            if serde_json::from_str::<f64>(trimmed).is_ok() {
                trimmed.to_owned()
            } else {
                number.to_string() // `+5`, `.5` and `5.` are numbers to people, but not to JSON
            }
        }
        _ => json_text(value),
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A name as one topic level: `/`, `+`, `#` and NUL can't stand in one and are percent-encoded. A `%` stays, unless
/// it would read as one of these codes, so that two names never become one.
fn level(name: &str) -> String {
    if name.is_empty() {
        return "%".to_owned(); // an empty level would be no name
    }
    let mut level = String::with_capacity(name.len());
    for (at, letter) in name.char_indices() {
        match letter {
            '/' => level.push_str("%2F"),
            '+' => level.push_str("%2B"),
            '#' => level.push_str("%23"),
            '\0' => level.push_str("%00"),
            '%' if name == "%" || is_code(&name[at..]) => level.push_str("%25"),
            other => level.push(other),
        }
    }
    level
}

fn is_code(text: &str) -> bool {
    ["%2F", "%2B", "%23", "%00", "%25"].iter().any(|code| text.starts_with(code))
}

/// Deals the series out among the gateways, in turn, as they first appear.
#[derive(Debug)]
struct Deal {
    gateways: usize,
    series: HashMap<(String, String), usize>,
}

impl Deal {
    fn new(gateways: usize) -> Self {
        Self { gateways: gateways.max(1), series: HashMap::new() }
    }

    fn gateway(&mut self, device: &str, metric: &str) -> usize {
        let next = self.series.len() % self.gateways;
        *self.series.entry((device.to_owned(), metric.to_owned())).or_insert(next)
    }
}

/// Finds readings that come so long after later ones of their device that no window is corrected for them.
#[derive(Debug, Default)]
struct Horizon {
    greatest: HashMap<(usize, String), Timestamp>,
}

impl Horizon {
    /// The agent's correction horizon. Lateness and window size are left out: near the edge a reading may or may not
    /// be taken, and this is a bound.
    const HOURS: i64 = 24;

    fn is_beyond(&mut self, gateway: usize, device: &str, time: Timestamp) -> bool {
        let greatest = self.greatest.entry((gateway, device.to_owned())).or_insert(time);
        if time > *greatest {
            *greatest = time;
        }
        greatest.as_second() - time.as_second() >= Self::HOURS * 3600
    }
}

/// A row that is sent, its fields as they stand in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    line: u64,
    ts: String,
    device: String,
    metric: String,
    value: String,
}

/// The rows of one file that are sent: those with an empty value or `NA` are not.
struct Rows {
    path: PathBuf,
    records: csv::StringRecordsIntoIter<Box<dyn Read + Send>>,
}

impl Rows {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
        let input: Box<dyn Read + Send> = if path
            .extension()
            .is_some_and(|ext| ext.eq_ignore_ascii_case("zst"))
        {
            Box::new(zstd::Decoder::new(file).with_context(|| format!("{} is no zstd file", path.display()))?)
        } else {
            Box::new(BufReader::new(file))
        };
        Self::read(path, input)
    }

    fn read(path: &Path, input: Box<dyn Read + Send>) -> anyhow::Result<Self> {
        let mut reader = csv::ReaderBuilder::new().from_reader(input);
        let header = reader.headers().with_context(|| format!("can't read {}", path.display()))?;
        let got: Vec<&str> = header.iter().map(|name| name.trim_start_matches('\u{feff}').trim()).collect();
        ensure!(
            got == HEADER,
            "{}: the header is {:?}; write {:?}",
            path.display(),
            got.join(","),
            HEADER.join(",")
        );
        Ok(Self { path: path.to_owned(), records: reader.into_records() })
    }
}

impl Iterator for Rows {
    type Item = anyhow::Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let record = match self.records.next()? {
                Ok(record) => record,
                Err(error) => {
                    return Some(Err(error).with_context(|| format!("can't read {}", self.path.display())));
                }
            };
            let field = |index| record.get(index).unwrap_or_default().to_owned();
            let value: String = field(3);
            if matches!(value.trim(), "" | "NA") {
                continue;
            }
            let line = record.position().map_or(0, csv::Position::line);
            return Some(Ok(Row { line, ts: field(0), device: field(1), metric: field(2), value }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn all(files: &[&tempfile::NamedTempFile], gateways: usize) -> Vec<Reading> {
        let paths = files.iter().map(|file| file.path().to_owned()).collect();
        readings(paths, gateways).map(Result::unwrap).collect()
    }

    #[test]
    fn the_numbers_run_over_all_files_and_skip_rows_without_a_value() {
        let first =
            file("ts,device,metric,value\n2016-01-01T00:00:00Z,a,t,1.50\n2016-01-01T00:01:00Z,a,t,\n");
        let second =
            file("ts,device,metric,value\n2016-01-01T00:00:00Z,b,t,NA\n2016-01-01T00:01:00Z,b,t,x\n");
        let messages = all(&[&first, &second], 1);
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].payload, r#"{"ts":"2016-01-01T00:00:00Z","value":1.50,"n":1}"#);
        assert_eq!(messages[1].payload, r#"{"ts":"2016-01-01T00:01:00Z","value":"x","n":2}"#);
        assert_eq!(messages[1].topic, "gw-1/sensors/b/t");
        assert_eq!(number_of("", messages[1].payload.as_bytes()), Some(2));
    }

    #[test]
    fn series_are_dealt_out_in_turn_and_stay_where_they_are() {
        let rows = "ts,device,metric,value\n2016-01-01T00:00:00Z,a,t,1\n2016-01-01T00:00:00Z,a,u,1\n\
                    2016-01-01T00:00:00Z,b,t,1\n2016-01-01T00:01:00Z,a,u,1\n2016-01-01T00:01:00Z,a,t,1\n";
        let gateways: Vec<usize> = all(&[&file(rows)], 2).iter().map(|message| message.gateway).collect();
        assert_eq!(gateways, [0, 1, 0, 1, 0]);
    }

    #[test]
    fn numbers_stand_as_in_the_file_and_anything_else_is_text() {
        for (value, json) in [
            ("1.50", "1.50"),
            ("-0", "-0"),
            ("1e-7", "1e-7"),
            ("75.93588199999998", "75.93588199999998"),
            ("9007199254740993", "9007199254740993"),
            ("+5", "5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("true", "true"),
            ("True", r#""True""#),
            ("NaN", r#""NaN""#),
            ("inf", r#""inf""#),
            ("1e999", r#""1e999""#),
            ("open \"wide\"", r#""open \"wide\"""#),
        ] {
            assert_eq!(value_json(value), json, "{value}");
            serde_json::from_str::<serde_json::Value>(&value_json(value)).unwrap();
        }
    }

    #[test]
    fn a_name_becomes_one_level_and_two_names_never_the_same() {
        let names = ["a/b", "a%2Fb", "a%252Fb", "a+b", "a#", "a\0", "100%", "%", "", "%25", "a%b", "é"];
        let levels: std::collections::HashSet<String> = names.iter().map(|name| level(name)).collect();
        assert_eq!(levels.len(), names.len(), "{levels:?}");
        assert!(levels.iter().all(|level| !level.is_empty() && !level.contains(['/', '+', '#', '\0'])));
        assert_eq!(level("room temperature 100%"), "room temperature 100%");
    }

    #[test]
    fn a_survey_counts_what_is_sent_and_knows_its_data_again() {
        let rows = "ts,device,metric,value\n2016-01-03T00:00:00Z,a,t,1\n2016-01-01T00:00:00Z,a,u,1\n\
                    2016-01-01T00:00:00Z,a,u,text\n2016-01-02T12:00:00Z,a,u,1\n";
        let (one, same) = (file(rows), file(rows));
        let other = file(&rows.replace("a,t,1", "a,t,2"));
        let survey_of = |file: &tempfile::NamedTempFile| survey(&[file.path().to_owned()], 1).unwrap();
        assert_eq!(survey_of(&one), survey_of(&same));
        assert_eq!((survey_of(&one).total, survey_of(&one).beyond_horizon), (4, 1));
        assert_ne!(survey_of(&one).files, survey_of(&other).files);
        // Another gateway has another device: nothing is late there.
        assert_eq!(survey(&[one.path().to_owned()], 2).unwrap().beyond_horizon, 0);
    }

    #[test]
    fn a_wrong_header_or_time_is_an_error_that_says_what_to_write() {
        let header = file("time,device,metric,value\n");
        let error = survey(&[header.path().to_owned()], 1).unwrap_err().to_string();
        assert!(error.contains("ts,device,metric,value") && error.contains("time,device"), "{error}");
        let time = file("ts,device,metric,value\n2016-01-01T00:00:00Z,a,t,1\nyesterday,a,t,1\n");
        let error = survey(&[time.path().to_owned()], 1).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("yesterday"), "{error}");
    }

    #[test]
    fn the_carried_data_is_the_whole_day() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CARRIED.0);
        std::fs::write(&path, CARRIED.1).unwrap();
        let survey = survey(&[path], 1).unwrap();
        assert_eq!((survey.total, survey.beyond_horizon), (27_360, 0));
    }
}
