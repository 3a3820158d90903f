//! `[bucket]`: where segments go, who we are there, and by which way.

use std::path::PathBuf;

use toml::Value;
use tributary_contract::id::GatewayId;
use tributary_contract::key::Prefix;

use super::section::Section;

/// The bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// Name of the bucket.
    pub name: String,
    /// Prefix of everything.
    pub prefix: Prefix,
    /// Endpoint, for stores other than AWS.
    pub endpoint: Option<String>,
    /// Region.
    pub region: String,
    /// Where the keys come from.
    pub credentials: Credentials,
    /// Certificates to trust at the endpoint, PEM; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// What stands between.
    pub proxy: Proxy,
    /// Objects above this many bytes are sent in parts of this size; S3 demands at least 5 MiB.
    pub part_size: u64,
}

/// Where credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The SDK's default chain: environment, profile, web identity, container (Greengrass too), instance.
    Default,
    /// A TOML file with `access_key_id`, `secret_access_key`, and perhaps `session_token`.
    File(PathBuf),
    /// The same, as a credential of that name which systemd hands to the unit.
    Systemd(String),
    /// AWS IoT gives them for the gateway's certificate.
    Iot(Box<Iot>),
}

/// The credentials provider of AWS IoT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iot {
    /// `HOST` or `HOST:PORT`.
    pub endpoint: String,
    /// The role alias.
    pub role_alias: String,
    /// The thing that the certificate belongs to. Default: the gateway's name.
    pub thing_name: String,
    /// Own certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Own private key, PEM.
    pub key_file: PathBuf,
    /// Certificates to trust at the endpoint, PEM; none: the system's.
    pub ca_file: Option<PathBuf>,
}

/// A forward proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    Environment,
    /// None, whatever the environment says.
    Off,
    /// This one, `http://HOST:PORT`; `NO_PROXY` still names what doesn't go through it.
    Url(String),
}

const KEYS_FROM: &str = "write \"default\", \"iot\", { file = \"/etc/tributary/credentials.toml\" } or \
                         { systemd = \"bucket\" }";

pub(super) fn read(root: &mut Section<'_>, gateway: Option<&GatewayId>) -> Option<Bucket> {
    let mut s = root.section("bucket");
    let url = s.required("url", "\"s3://my-lake/site-a\"");
    let parts = url.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
    let (name, prefix) = match parts {
        Some((name, prefix)) if !name.is_empty() => (name.to_owned(), prefix.to_owned()),
        _ => {
            if !url.is_empty() {
                s.problem("url", format!("got {url:?}; write s3://BUCKET or s3://BUCKET/PREFIX"));
            }
            (String::new(), String::new())
        }
    };
    let prefix = Prefix::new(&prefix).map_err(|e| s.problem("url", e.to_string())).ok();
    let endpoint = s.parsed("endpoint", |e| {
        let good = (e.starts_with("http://") || e.starts_with("https://")) && !e.contains('@');
        if good {
            Ok(e.to_owned())
        } else {
            Err(format!("got {e:?}; write http://HOST:PORT or https://HOST"))
        }
    });
    let region = s.string("region").unwrap_or_else(|| "us-east-1".into());
    let credentials = read_credentials(&mut s, gateway);
    let ca_file = s.string("ca_file").map(PathBuf::from);
    let proxy = s.parsed("proxy", read_proxy).unwrap_or(Proxy::Environment);
    let part_size = s.bytes("part_size", 5 << 20..=64 << 20, 8 << 20);
    s.finish();
    Some(Bucket { name, prefix: prefix?, endpoint, region, credentials, ca_file, proxy, part_size })
}

fn read_credentials(s: &mut Section<'_>, gateway: Option<&GatewayId>) -> Credentials {
    let has_iot = s.is_there("iot");
    let named = s.value("credentials");
    let says_iot = named.as_ref().and_then(Value::as_str) == Some("iot");
    let iot = (has_iot || says_iot).then(|| Credentials::Iot(Box::new(read_iot(s.section("iot"), gateway))));
    match (named.filter(|_| !says_iot), iot) {
        (None, None) => Credentials::Default,
        (None, Some(iot)) => iot,
        (Some(named), None) => read_named(s, &named),
        (Some(named), Some(iot)) => {
            drop(read_named(s, &named));
            s.problem(
                "credentials",
                "says something else than [bucket.iot]; write `credentials = \"iot\"`, or leave one of them out",
            );
            iot
        }
    }
}

/// Where it is wrong, its problem is noted and any will do.
fn read_named(s: &Section<'_>, named: &Value) -> Credentials {
    let problem = match named {
        Value::String(word) if word == "default" => return Credentials::Default,
        // The word may be a key that somebody put in the wrong place: it isn't shown.
        Value::String(_) => format!("is none of the words that it may be; {KEYS_FROM}"),
        Value::Table(table) => match table.iter().next() {
            Some((key, Value::String(file))) if key == "file" && !file.is_empty() && table.len() == 1 => {
                return Credentials::File(PathBuf::from(file));
            }
            Some((key, Value::String(name))) if key == "systemd" && table.len() == 1 => {
                if is_file_name(name) {
                    return Credentials::Systemd(name.clone());
                }
                "`systemd` is no name of a credential; write the one of LoadCredential=NAME:PATH in the unit"
                    .into()
            }
            _ => format!(
                "holds something else than `file` or `systemd`; {KEYS_FROM}; never the keys themselves"
            ),
        },
        _ => KEYS_FROM.into(),
    };
    s.problem("credentials", problem);
    Credentials::Default
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

fn read_iot(mut s: Section<'_>, gateway: Option<&GatewayId>) -> Iot {
    let endpoint = s.required("endpoint", "\"c0example.credentials.iot.eu-central-1.amazonaws.com\"");
    let endpoint = match read_authority(&endpoint) {
        Some(authority) => authority,
        None => {
            if !endpoint.is_empty() {
                s.problem(
                    "endpoint",
                    format!(
                        "got {endpoint:?}; write the host that `aws iot describe-endpoint --endpoint-type \
                         iot:CredentialProvider` prints"
                    ),
                );
            }
            String::new()
        }
    };
    let role_alias = s.required("role_alias", "\"tributary-gateway\"");
    if !role_alias.chars().all(|c| c.is_ascii_alphanumeric() || "_=,@-".contains(c)) || role_alias.len() > 128
    {
        s.problem(
            "role_alias",
            format!("got {role_alias:?}; a role alias is 1 to 128 of letters, digits and _ = , @ -"),
        );
    }
    let thing_name = match s.string("thing_name") {
        Some(name) => name,
        None => gateway.map(ToString::to_string).unwrap_or_default(),
    };
    let is_thing = |c: char| c.is_ascii_alphanumeric() || ":_-".contains(c);
    if !thing_name.chars().all(is_thing) || thing_name.len() > 128 {
        s.problem(
            "thing_name",
            format!(
                "got {thing_name:?}; a thing's name is 1 to 128 of letters, digits and : _ -, and without this key it \
                 is the gateway's"
            ),
        );
    } else if thing_name.is_empty() && gateway.is_some() {
        s.problem("thing_name", "is empty; write the thing that the certificate belongs to, or leave it out");
    }
    let cert_file = PathBuf::from(s.required("cert_file", "\"/etc/tributary/device.pem\""));
    let key_file = PathBuf::from(s.required("key_file", "\"/etc/tributary/device.key\""));
    let ca_file = s.string("ca_file").map(PathBuf::from);
    s.finish();
    Iot { endpoint, role_alias, thing_name, cert_file, key_file, ca_file }
}

/// `HOST` or `HOST:PORT`, out of that or of its https URL.
fn read_authority(text: &str) -> Option<String> {
    let authority = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let (host, port) = match authority.rsplit_once(':') {
        // A colon in the brackets of an IPv6 address stands before no port.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let name = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
    let host_is_right = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && name(host),
    };
    let port_is_right = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    (host_is_right && port_is_right).then(|| authority.to_owned())
}

fn read_proxy(text: &str) -> Result<Proxy, String> {
    match text {
        "environment" => Ok(Proxy::Environment),
        "off" => Ok(Proxy::Off),
        // What stands before an @ is a password, which no message may show.
        _ if text.contains('@') => Err("holds a name and a password, which this file is no place for; write \
                                        http://HOST:PORT, or put the whole into HTTPS_PROXY of the unit's environment"
            .into()),
        _ => match text.strip_prefix("http://").and_then(read_authority) {
            Some(authority) => Ok(Proxy::Url(format!("http://{authority}"))),
            None => Err(format!("got {text:?}; write \"http://HOST:PORT\", \"environment\" or \"off\"")),
        },
    }
}

impl Credentials {
    /// As they stand in the file, in one line.
    pub(super) fn show(&self) -> String {
        let quoted = |text: &str| Value::String(text.to_owned()).to_string();
        match self {
            Credentials::Default => quoted("default"),
            Credentials::File(path) => format!("{{ file = {} }}", quoted(&path.display().to_string())),
            Credentials::Systemd(name) => format!("{{ systemd = {} }}", quoted(name)),
            Credentials::Iot(_) => quoted("iot"),
        }
    }
}

impl Proxy {
    /// As it stands in the file.
    pub(super) fn word(&self) -> &str {
        match self {
            Proxy::Environment => "environment",
            Proxy::Off => "off",
            Proxy::Url(url) => url,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::{Facts, Problem, parse};

    fn bucket(lines: &str) -> Result<Bucket, Vec<Problem>> {
        let text = format!(
            "gateway = \"gw-1\"\n[[broker]]\nurl = \"mqtt://h\"\n[[source]]\nname = \"a\"\ntopics = [\"a/#\"]\n[bucket]\n\
             url = \"s3://lake\"\n{lines}"
        );
        let facts = Facts { env: &|_| None, hostname: None, serial: None, zones: &crate::config::Zone::read };
        parse(&[("agent.toml".into(), text)], &facts).map(|config| config.bucket)
    }

    const IOT: &str = "[bucket.iot]\nendpoint = \"https://c0.credentials.iot.eu-central-1.amazonaws.com/\"\n\
                       role_alias = \"lake-writer\"\ncert_file = \"/c\"\nkey_file = \"/k\"\n";

    #[test]
    fn each_source_of_keys_is_read_and_shown() {
        let read = |lines: &str| bucket(lines).unwrap().credentials;
        assert_eq!(read(""), Credentials::Default);
        assert_eq!(read("credentials = \"default\""), Credentials::Default);
        assert_eq!(read("credentials = { file = \"/f\" }"), Credentials::File("/f".into()));
        assert_eq!(read("credentials = { systemd = \"keys\" }"), Credentials::Systemd("keys".into()));
        assert_eq!(read("credentials = { systemd = \"keys\" }").show(), "{ systemd = \"keys\" }");
        let iot = Iot {
            endpoint: "c0.credentials.iot.eu-central-1.amazonaws.com".into(),
            role_alias: "lake-writer".into(),
            thing_name: "gw-1".into(),
            cert_file: "/c".into(),
            key_file: "/k".into(),
            ca_file: None,
        };
        assert_eq!(read(IOT), Credentials::Iot(Box::new(iot.clone())), "the section alone says it");
        assert_eq!(read(&format!("credentials = \"iot\"\n{IOT}")), Credentials::Iot(Box::new(iot)));
        let Credentials::Iot(named) = read(&format!("{IOT}thing_name = \"t:1\"\nca_file = \"/ca\"\n")) else {
            panic!("no iot")
        };
        assert_eq!((named.thing_name.as_str(), named.ca_file), ("t:1", Some("/ca".into())));
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once_and_no_secret_with_it() {
        let paths = |lines: &str| -> Vec<String> {
            let problems = bucket(lines).unwrap_err();
            let text: String = problems.iter().map(|p| format!("{p}\n")).collect();
            assert!(!text.contains("hush"), "{text}");
            problems.into_iter().map(|p| p.path).collect()
        };
        assert_eq!(
            paths("credentials = \"iot\""),
            ["endpoint", "role_alias", "cert_file", "key_file"].map(|key| format!("bucket.iot.{key}"))
        );
        let wrong = "[bucket.iot]\nendpoint = \"http://h\"\nrole_alias = \"a/b\"\nthing_name = \"a b\"\n\
                     cert_file = \"/c\"\nkey_fil = \"/k\"\n";
        assert_eq!(
            paths(wrong),
            ["endpoint", "role_alias", "thing_name", "key_file", "key_fil"]
                .map(|key| format!("bucket.iot.{key}"))
        );
        assert_eq!(paths(&format!("credentials = \"default\"\n{IOT}")), ["bucket.credentials"]);
        for credentials in [
            "\"hush\"",
            "{ access_key_id = \"hush\" }",
            "{ file = \"/f\", secret_access_key = \"hush\" }",
            "{ file = \"\" }",
            "{ systemd = \"../hush\" }",
            "7",
        ] {
            assert_eq!(
                paths(&format!("credentials = {credentials}")),
                ["bucket.credentials"],
                "{credentials}"
            );
        }
        for proxy in
            ["http://me:hush@h:3128", "socks5://h", "https://h", "h:3128", "http://h:0", "http://h/p"]
        {
            assert_eq!(paths(&format!("proxy = \"{proxy}\"")), ["bucket.proxy"], "{proxy}");
        }
    }

    #[test]
    fn a_proxy_is_the_environment_s_none_or_one_that_is_named() {
        let read = |lines: &str| bucket(lines).unwrap().proxy;
        assert_eq!(read(""), Proxy::Environment);
        assert_eq!(read("proxy = \"off\""), Proxy::Off);
        for url in ["http://proxy.plant:3128", "http://[::1]:3128", "http://10.0.0.1"] {
            assert_eq!(read(&format!("proxy = \"{url}\"")), Proxy::Url(url.into()));
        }
    }
}
