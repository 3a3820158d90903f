//! The demo's folder: who holds it, what it remembers from one start to the next, and the files in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tributary_tests::mqtt::NumberSet;
use tributary_tests::world::ports;

use crate::data::Survey;

/// A folder held by this process alone.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    _lock: File,
    /// Removes the folder at the end, unless the user named it.
    _temporary: Option<tempfile::TempDir>,
}

/// Keys of the local S3 server, drawn once per folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Credentials {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: String,
}

/// Ports on 127.0.0.1, in the order in which `--port-base` counts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) s3: u16,
    pub(crate) fleet: u16,
    /// MQTT 3.1.1 of the embedded broker; MQTT 5 is on the next one.
    pub(crate) broker: u16,
    /// Per gateway: the proxy its agent connects to, and its status page.
    pub(crate) gateways: Vec<(u16, u16)>,
}

/// How far the replay into this folder has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Number of gateways the series were dealt to.
    pub(crate) gateways: usize,
    /// Rows and digest of each data file, in order.
    pub(crate) files: Vec<(u64, String)>,
    /// Ranges of numbers seen acknowledged, both ends included.
    pub(crate) acknowledged: Vec<(u64, u64)>,
}

impl Home {
    /// Takes `dir`, making it if need be, or a folder that lasts as long as the process.
    ///
    /// # Errors
    /// When the folder can't be made, or another demo runs in it.
    pub(crate) fn open(dir: Option<&Path>) -> anyhow::Result<Self> {
        let (dir, temporary) = match dir {
            Some(dir) => {
                fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
                (dir.canonicalize()?, None)
            }
            None => {
                let made = tempfile::Builder::new().prefix("tributary-demo-").tempdir();
                let made = made.context("can't make a temporary folder; name one with --dir")?;
                (made.path().canonicalize()?, Some(made))
            }
        };
        let path = dir.join("lock");
        let lock = OpenOptions::new().create(true).append(true).open(&path);
        let lock = lock.with_context(|| format!("can't open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir, _lock: lock, _temporary: temporary }),
            Err(TryLockError::WouldBlock) => {
                bail!("another demo runs in {}; stop it, or name another --dir", dir.display())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("can't lock {}", path.display()))
            }
        }
    }

    /// The folder's absolute path.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The absolute path of `name` in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes the folder `name` and returns its path.
    pub(crate) fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(path)
    }

    /// Writes the file `name` whole, readable by its owner only.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        let fresh = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let options = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh);
            let mut file = options?;
            file.write_all(contents.as_ref())?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        write().with_context(|| format!("can't write {}", path.display()))?;
        Ok(path)
    }

    /// The S3 keys of this folder.
    pub(crate) fn credentials(&self) -> anyhow::Result<Credentials> {
        if let Some(known) = self.read("credentials.toml")? {
            return toml::from_str(&known)
                .with_context(|| format!("{} can't be read", self.path("credentials.toml").display()));
        }
        let letters = |count: usize| -> String { (0..count).map(|_| fastrand::alphanumeric()).collect() };
        let credentials = Credentials {
            access_key_id: format!("DEMO{}", letters(16).to_uppercase()),
            secret_access_key: letters(40),
        };
        self.write("credentials.toml", &toml::to_string(&credentials)?)?;
        Ok(credentials)
    }

    /// The ports to use: consecutive from `base`, else those of the last start where they are free, else free ones.
    pub(crate) fn ports(&self, base: Option<u16>, gateways: usize) -> anyhow::Result<Ports> {
        let known = self.read("ports.json")?.and_then(|text| serde_json::from_str::<Ports>(&text).ok());
        let ports = match (base, known) {
            (Some(base), _) => {
                let ports = Ports::from_base(base, gateways)?;
                if let Some(taken) = ports.all().find(|&port| !is_free(port)) {
                    bail!("port {taken} is taken; name another --port-base");
                }
                ports
            }
            (None, Some(known)) if known.gateways.len() == gateways && known.all().all(is_free) => known,
            (None, _) => Ports::free(gateways)?,
        };
        self.write("ports.json", &serde_json::to_string(&ports)?)?;
        Ok(ports)
    }

    /// What an earlier start into this folder came to, checked against what is to be replayed now.
    ///
    /// # Errors
    /// When the folder holds the replay of other data or of another number of gateways.
    pub(crate) fn kept(&self, survey: &Survey, gateways: usize) -> anyhow::Result<Kept> {
        let path = self.path("replay.json");
        let fresh = Kept { gateways, files: survey.files.clone(), acknowledged: Vec::new() };
        let Some(text) = self.read("replay.json")? else { return Ok(fresh) };
        let known: Kept =
            serde_json::from_str(&text).with_context(|| format!("{} can't be read", path.display()))?;
        known
            .check(&fresh, survey.total)
            .with_context(|| format!("{} holds another replay; name another --dir", self.dir.display()))?;
        Ok(Kept { acknowledged: known.acknowledged, ..fresh })
    }

    /// Remembers how far the replay has come.
    pub(crate) fn keep(&self, kept: &Kept, acknowledged: &NumberSet) -> anyhow::Result<()> {
        let kept = Kept { acknowledged: acknowledged.ranges(), ..kept.clone() };
        self.write("replay.json", &serde_json::to_string(&kept)?)?;
        Ok(())
    }

    fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }
}

impl Kept {
    /// Whether `now` goes on with `self`: the same gateways, and the same files with any new ones behind them.
    fn check(&self, now: &Kept, total: u64) -> anyhow::Result<()> {
        ensure!(
            self.gateways == now.gateways,
            "it was dealt to {} gateways, now to {}",
            self.gateways,
            now.gateways
        );
        ensure!(now.files.starts_with(&self.files), "its data files were others, or in another order");
        ensure!(
            self.acknowledged.iter().all(|&(first, last)| 1 <= first && first <= last && last <= total),
            "it acknowledged numbers that the data don't have"
        );
        Ok(())
    }
}

impl Ports {
    fn from_base(base: u16, gateways: usize) -> anyhow::Result<Self> {
        let last = u16::try_from(3 + 2 * gateways).ok().and_then(|more| base.checked_add(more));
        ensure!(last.is_some(), "--port-base {base} leaves no room for {gateways} gateways below 65536");
        let gateway = |index: usize| {
            // In range, as the last one is.
            let first = base + 4 + 2 * index as u16;
            (first, first + 1)
        };
        Ok(Self {
            s3: base,
            fleet: base + 1,
            broker: base + 2,
            gateways: (0..gateways).map(gateway).collect(),
        })
    }

    /// Free ports, all held until all are known; the broker's is followed by another free one.
    fn free(gateways: usize) -> anyhow::Result<Self> {
        let mut held = Vec::new();
        let mut any = || -> anyhow::Result<u16> {
            let listener = ports::held()?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let broker = loop {
            let port = any()?;
            if port.checked_add(1).is_some_and(is_free) {
                break port;
            }
        };
        // Held too, so that none of the others is given it.
        let second = TcpListener::bind((Ipv4Addr::LOCALHOST, broker + 1));
        let ports = Self {
            s3: any()?,
            fleet: any()?,
            broker,
            gateways: (0..gateways).map(|_| Ok((any()?, any()?))).collect::<anyhow::Result<_>>()?,
        };
        drop(second);
        Ok(ports)
    }

    fn all(&self) -> impl Iterator<Item = u16> {
        let gateways = self.gateways.iter().flat_map(|&(proxy, status)| [proxy, status]);
        [self.s3, self.fleet, self.broker, self.broker.saturating_add(1)].into_iter().chain(gateways)
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(files: &[&str]) -> Survey {
        let files: Vec<_> = files.iter().map(|name| (10, (*name).to_owned())).collect();
        Survey { total: 10 * files.len() as u64, files, beyond_horizon: 0 }
    }

    #[test]
    fn a_second_start_goes_on_where_the_first_one_was() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let kept = home.kept(&survey(&["a"]), 2).unwrap();
        assert_eq!(kept.acknowledged, []);
        home.keep(&kept, &NumberSet::from_ranges(&[(1, 4), (6, 6)])).unwrap();
        let again = home.kept(&survey(&["a", "b"]), 2).unwrap();
        assert_eq!(again.acknowledged, [(1, 4), (6, 6)]);
        assert_eq!(again.files.len(), 2);
    }

    #[test]
    fn a_folder_with_another_replay_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let kept = home.kept(&survey(&["a", "b"]), 2).unwrap();
        home.keep(&kept, &NumberSet::new()).unwrap();
        for (files, gateways) in [(vec!["b", "a"], 2), (vec!["a"], 2), (vec!["a", "b"], 3)] {
            let error = home.kept(&survey(&files), gateways).unwrap_err();
            assert!(format!("{error:#}").contains("another --dir"), "{error:#}");
        }
    }

    #[test]
    fn two_demos_never_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(Some(dir.path())).unwrap();
        assert!(Home::open(Some(dir.path())).unwrap_err().to_string().contains("another demo"));
        drop(first);
        Home::open(Some(dir.path())).unwrap();
    }

    #[test]
    fn secrets_stay_and_are_their_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let first = home.credentials().unwrap();
        assert_eq!(home.credentials().unwrap().secret_access_key, first.secret_access_key);
        let mode = fs::metadata(home.path("credentials.toml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_port_base_gives_consecutive_ports() {
        let ports = Ports::from_base(40_000, 2).unwrap();
        assert_eq!(
            ports.all().collect::<Vec<_>>(),
            [40_000, 40_001, 40_002, 40_003, 40_004, 40_005, 40_006, 40_007]
        );
        assert!(Ports::from_base(65_530, 1).is_ok());
        assert!(Ports::from_base(65_531, 1).is_err());
    }

    #[test]
    fn free_ports_are_free_and_distinct() {
        let ports = Ports::free(3).unwrap();
        let all: std::collections::HashSet<u16> = ports.all().collect();
        assert_eq!(all.len(), 10);
    }
}
