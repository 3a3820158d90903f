//! What a configuration promises.

use super::*;

fn parse(text: &str) -> Result<Config, Problems> {
    parse_all(&[text])
}

fn parse_all(texts: &[&str]) -> Result<Config, Problems> {
    let sources: Vec<Source> = texts
        .iter()
        .enumerate()
        .map(|(i, t)| Source { name: format!("file-{i}"), text: (*t).into() })
        .collect();
    Config::parse(&sources, &|name| (name == "BUCKET").then(|| "from-env".to_owned()))
}

const SAMPLE: &str = include_str!("../../../config/receiver.toml");

#[test]
fn the_commented_sample_shows_every_key_with_the_default_that_the_code_has() {
    let as_it_is = parse(SAMPLE).unwrap();
    let uncommented: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(k, _)| !k.contains(' ')) => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(parse(&uncommented).unwrap(), as_it_is);
    assert_eq!(parse("[bucket]\nurl = \"s3://your-bucket/tributary\"").unwrap(), as_it_is);

    let all: Table = uncommented.parse().unwrap();
    let mut keys: Vec<String> = vec!["state_dir".into()];
    for (section, value) in &all {
        if let Value::Table(t) = value {
            keys.extend(t.keys().map(|k| format!("{section}.{k}")));
        }
    }
    keys.sort();
    let expected = "arrivals.list_every arrivals.queue_url bucket.credentials bucket.endpoint bucket.region \
                    bucket.url catalog.kind catalog.uri catalog.warehouse fleet.listen fleet.token_file ledger.url \
                    register.max_files register.max_wait register.mode state_dir table.retain table.target_file_size";
    assert_eq!(keys.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
}

#[test]
fn all_problems_are_listed_at_once_each_with_its_path_and_a_hint() {
    let Problems(problems) = parse(
        r#"
        state_dir = 7
        colour = "blue"
        [bucket]
        url = "http://x"
        endpoint = "somewhere"
        credentials = "my-secret"
        [catalog]
        kind = "glue"
        uri = "sqlite:relative.db"
        [ledger]
        url = "postgres://db"
        [arrivals]
        queue_url = "https://sqs/queue"
        list_every = "soon"
        [register]
        mode = "merged"
        max_files = 0
        max_wait = "-1s"
        [table]
        retain = "90d"
        target_file_size = "0B"
        [fleet]
        listen = "0.0.0.0:80"
        "#,
    )
    .unwrap_err();
    let mut paths: Vec<&str> = problems.iter().map(|p| p.path.as_str()).collect();
    paths.sort();
    let expected = [
        "arrivals.list_every",
        "arrivals.queue_url",
        "bucket.credentials",
        "bucket.endpoint",
        "bucket.url",
        "catalog.kind",
        "catalog.uri",
        "colour",
        "fleet.listen",
        "ledger.url",
        "register.max_files",
        "register.max_wait",
        "register.mode",
        "state_dir",
        "table.retain",
        "table.target_file_size",
    ];
    assert_eq!(paths, expected);
    assert!(problems.iter().all(|p| !p.what.is_empty() && !p.hint.is_empty()));
    let text = Problems(problems).to_string();
    assert!(text.contains("16 problems"), "{text}");
    assert!(!text.contains("my-secret"), "what may be a secret isn't repeated: {text}");
    assert!(text.contains("got \"http://x\""), "{text}");
}

#[test]
fn broken_toml_names_its_file_and_the_rest_is_still_checked() {
    let problems = parse_all(&["[bucket]\nurl = 's3://lake'\nfoo = 1", "x = = 1"]).unwrap_err();
    let paths: Vec<&str> = problems.0.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(paths, ["file-1", "bucket.foo"]);
}

#[test]
fn later_files_are_laid_over_earlier_ones_and_variables_are_expanded() {
    let config = parse_all(&[
        "state_dir = '/a'\n[bucket]\nurl = 's3://${BUCKET}/p'\nregion = 'r1'",
        "[bucket]\nregion = 'r2'\n[fleet]\nlisten = '127.0.0.1:1'",
    ])
    .unwrap();
    assert_eq!((config.bucket.name.as_str(), config.bucket.region.as_str()), ("from-env", "r2"));
    assert_eq!(config.warehouse, "s3://from-env/p/lake");
    assert_eq!(config.ledger, PathBuf::from("/a/ledger.db"));
    let problems = parse("state_dir = '${NOPE}'\n[bucket]\nurl = 's3://abc'").unwrap_err();
    assert_eq!(problems.0.len(), 1);
    assert!(problems.0[0].what.contains("NOPE"));
    let config = parse("state_dir = '$${x}'\n[bucket]\nurl = 's3://abc'").unwrap();
    assert_eq!(config.state_dir, PathBuf::from("${x}"));
}

#[test]
fn sqlite_urls_take_three_or_four_slashes() {
    for url in ["sqlite:///a/c.db", "sqlite:////a/c.db"] {
        let config = parse(&format!("[bucket]\nurl = 's3://abc'\n[catalog]\nuri = '{url}'")).unwrap();
        assert_eq!(config.catalog_db, PathBuf::from("/a/c.db"));
    }
}

#[test]
fn keys_never_show_their_secret() {
    let keys =
        read_keys("access_key_id = 'id'\nsecret_access_key = 'hush'\nsession_token = 'hush2'").unwrap();
    assert!(!format!("{keys:?}").contains("hush"));
    for bad in ["access_key_id = 'id'", "secret_access_key = 'hush'", "hush", "access_key_id = 1"] {
        assert!(!read_keys(bad).unwrap_err().contains("hush"));
    }
}
